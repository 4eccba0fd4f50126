"""The enclave's own code once its process is confined: it measures what was handed in, loads the app, and serves it."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn, cast

from workshop_kit.edges.egress_client import GATE
from workshop_kit.edges.enclave_proxy import AsgiApp, EnclaveProxy
from workshop_kit.edges.forwarder import Forwarder
from workshop_kit.edges.nsm_device import SocketNsmDevice, extend_and_lock
from workshop_kit.edges.serving import Server
from workshop_kit.errors import LabError, ManifestError, WorkshopKitError
from workshop_kit.evidence.handed_in import READY, HandedIn
from workshop_kit.evidence.pcr import Pcr
from workshop_kit.service.access import Users
from workshop_kit.service.manifest import MANIFEST_PATH, Manifest, parse_manifest
from workshop_kit.service.strict_yaml import read_document, text_of
from workshop_kit.simulator.container import Plan, script_of
from workshop_kit.simulator.isolation import linux
from workshop_kit.simulator.isolation.levels import Isolation
from workshop_kit.simulator.supervisor import Supervisor

USERS, AUTHORITIES = "users.yaml", "authorities.pem"


class Inside:
    """One enclave, from its confined process on.

    Args:
        application: the second ramdisk's folder.
        report: the descriptor for one line: that it serves, or why not.
        gate: messages to the process beside this one, through which all goes that leaves.
    """

    def __init__(
        self, application: Path, handed_in: HandedIn, isolation: Isolation, report: int, gate: socket.socket
    ) -> None:
        self.application = application
        self.handed_in = handed_in
        self.isolation = isolation
        self.report = report
        self.gate = gate

    def run(self, vsock: int, nsm: int, plan: Plan | None, *, environment: Path | None) -> None:
        """Serve until standard input ends: on the built-in base, or what a plan starts in an environment."""
        threading.Thread(target=_die_with_the_hypervisor, daemon=True).start()
        device = SocketNsmDevice(socket.socket(fileno=nsm))
        try:
            manifest = _manifest(self.application)
            users = _users(self.application, manifest, self.handed_in.users)
            _check_configuration(self.handed_in.runtime_config)
            # Before a line of the application runs: else it could extend the PCR first.
            digest = self.handed_in.digest()
            asyncio.run(extend_and_lock(device, index=Pcr.USERS_AND_RUNTIME_CONFIG, data=digest))
            self._open_the_gate(manifest)
        except WorkshopKitError as error:
            self._refuse(error)
        _trust_the_images_authorities(self.application)
        port = manifest.traffic.inbound[0].port
        app = _load_app(self.application / "service") if plan is None else Forwarder(port)
        proxy = EnclaveProxy(app, manifest=manifest, users=users, nsm=device)
        supervisor = None if plan is None else self._supervisor(plan, environment)
        asyncio.run(self._serve(proxy, socket.socket(fileno=vsock), supervisor, port))

    async def _serve(
        self, proxy: EnclaveProxy, listener: socket.socket, services: Supervisor | None, port: int
    ) -> None:
        if services is not None:
            try:
                await services.start(port)
            except LabError as error:
                print(error, flush=True)  # behind the service's own words, which say more
                os._exit(1)
        await Server(proxy, on_ready=self._say_ready, lifespan="on").serve(sockets=[listener])

    def _supervisor(self, plan: Plan, environment: Path | None) -> Supervisor:
        # Other processes of the same user would read this one's memory, with the sessions' keys in it.
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        service = self.application / "service"
        commands = {
            name: command if (script := script_of(command)) is None else (str(service / script),)
            for name, command in plan.services.items()
        }
        own = {"HOME": os.environ["TMPDIR"], "PYTHONUNBUFFERED": "1", "VIRTUAL_ENV": str(environment)}
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", **os.environ, **own, **plan.environment}
        variables["PATH"] = f"{environment}/bin:{variables['PATH']}"
        return Supervisor(commands, environment=variables, folder=Path(plan.workdir), gate=self.gate)

    def _open_the_gate(self, manifest: Manifest) -> None:
        """Hand in the allowlist, once and for all, and let the app find the way out."""
        pairs = [(entry.domain, entry.port) for entry in manifest.traffic.outbound]
        self.gate.send(json.dumps({"allow": pairs}).encode())
        self.gate.set_inheritable(True)
        os.environ[GATE] = str(self.gate.fileno())

    def _refuse(self, error: WorkshopKitError) -> NoReturn:
        os.write(self.report, f"{error}\n".encode())
        sys.exit(1)

    def _say_ready(self) -> None:
        os.write(self.report, READY + json.dumps(self.isolation.as_dict()).encode() + b"\n")
        os.close(self.report)


def _die_with_the_hypervisor() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _manifest(application: Path) -> Manifest:
    file = application / "service" / MANIFEST_PATH
    if not file.exists():
        raise ManifestError(f"expected {MANIFEST_PATH} in the image's second ramdisk, got none; build it again")
    return parse_manifest(file.read_text())


def _trust_the_images_authorities(application: Path) -> None:
    """Where the image brings certificates, the app's libraries trust those and none of the machine's."""
    file = application / AUTHORITIES
    if file.is_file():
        os.environ.update(dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(file)))


def _users(application: Path, manifest: Manifest, handed_in: bytes | None) -> Users:
    """Those measured into the image, or else those handed in: never both, or an operator could add one of his own."""
    file = application / USERS
    if handed_in is None:
        return Users.from_yaml(file.read_text(), manifest) if file.exists() else Users(())
    if file.exists():
        raise ManifestError(
            "expected no users at run time, since this image has its own, measured; got some: "
            "leave them out, or build the image without users",
            file=USERS,
        )
    return Users.from_yaml(text_of(handed_in, file=USERS), manifest)


def _check_configuration(handed_in: bytes | None) -> None:
    if handed_in is not None:
        read_document(text_of(handed_in, file="runtime.yaml"), file="runtime.yaml")


def _load_app(service: Path) -> AsgiApp:
    """`app` of `src/app.py`, the convention of the built-in base."""
    sys.path.insert(0, str(service / "src"))
    os.chdir(service)
    try:
        return cast(AsgiApp, importlib.import_module("app").app)
    except Exception as error:  # noqa: BLE001  the app's own, whatever it is
        # The author's traceback begins in the author's files.
        trace = error.__traceback__
        while trace and not trace.tb_frame.f_code.co_filename.startswith(str(service)):
            trace = trace.tb_next
        traceback.print_exception(error.with_traceback(trace))
        sys.exit(1)
