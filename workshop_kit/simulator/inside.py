"""The enclave's own code once its process is confined: it measures what was handed in, loads the app, and serves it."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from workshop_kit.edges.asgi import AsgiApp, Lifespan, Receive, Scope, Send
from workshop_kit.edges.egress_client import GATE
from workshop_kit.edges.enclave_proxy import EnclaveProxy
from workshop_kit.edges.http_server import HttpServer
from workshop_kit.edges.loops import run
from workshop_kit.edges.nsm_device import SocketNsmDevice, extend_and_lock
from workshop_kit.errors import LabError, ServiceError, WorkshopKitError
from workshop_kit.evidence.handed_in import HandedIn
from workshop_kit.evidence.pcr import Pcr
from workshop_kit.service.rules import Rules
from workshop_kit.simulator.container import Plan, script_of
from workshop_kit.simulator.isolation import linux
from workshop_kit.simulator.messages import ALLOW, READY

if TYPE_CHECKING:
    from workshop_kit.simulator.supervisor import Supervisor

AUTHORITIES = "authorities.pem"


class Inside:
    """One enclave, from its confined process on.

    Args:
        application: the second ramdisk's folder.
        rules: gives what the proxy enforces, or says why there is nothing.
        report: the descriptor for one line: that it serves, or why not.
        gate: messages to the process beside this one, through which all goes that leaves.
    """

    def __init__(
        self,
        application: Path,
        handed_in: HandedIn,
        rules: Callable[[], Rules],
        report: int,
        gate: socket.socket,
    ) -> None:
        self.application = application
        self.handed_in = handed_in
        self.rules = rules
        self.report = report
        self.gate = gate

    def run(self, vsock: int, nsm: int, plan: Plan | None, *, environment: Path | None) -> None:
        """Serve until standard input ends: on the built-in base, or what a plan starts in an environment."""
        threading.Thread(target=_die_with_the_hypervisor, daemon=True).start()
        device = SocketNsmDevice(socket.socket(fileno=nsm))
        try:
            rules = self.rules()
            # Before a line of the application runs: else it could extend the PCR first.
            digest = self.handed_in.digest()
            asyncio.run(extend_and_lock(device, index=Pcr.USERS_AND_RUNTIME_CONFIG, data=digest))
            self._open_the_gate(rules)
        except WorkshopKitError as error:
            self._refuse(error)
        _trust_the_images_authorities(self.application)
        app: AsgiApp
        if plan is None:
            app, supervisor = _load_app(self.application / "service"), None
            websocket = _websocket(app)
        else:
            from workshop_kit.edges.forwarder import Forwarder  # late, as most services need neither

            app = websocket = Forwarder(rules.port)
            supervisor = self._supervisor(plan, environment)
        _look_for_garbage_again()
        proxy = EnclaveProxy(app, websocket=websocket, rules=rules, nsm=device)
        # A supervisor hears of its children's ends by a signal that uvloop keeps to itself.
        run_it = run if supervisor is None else asyncio.run
        run_it(self._serve(app, proxy, socket.socket(fileno=vsock), supervisor, rules.port))

    async def _serve(
        self,
        app: AsgiApp,
        proxy: EnclaveProxy,
        listener: socket.socket,
        services: Supervisor | None,
        port: int,
    ) -> None:
        if services is not None:
            try:
                await services.start(port)
            except LabError as error:
                print(error, flush=True)  # behind the service's own words, which say more
                os._exit(1)
        lifespan = Lifespan(app)
        try:
            await lifespan.start()
        except ServiceError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        proxy.state = lifespan.state
        await HttpServer(proxy).start(listener)
        self._say_ready()
        await asyncio.Event().wait()

    def _supervisor(self, plan: Plan, environment: Path | None) -> Supervisor:
        from workshop_kit.simulator.supervisor import Supervisor

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

    def _open_the_gate(self, rules: Rules) -> None:
        """Hand in the allowlist, once and for all, and let the app find the way out."""
        self.gate.send(ALLOW + json.dumps(rules.outbound).encode() + b"}")
        self.gate.set_inheritable(True)
        os.environ[GATE] = str(self.gate.fileno())

    def _refuse(self, error: WorkshopKitError) -> NoReturn:
        os.write(self.report, f"{error}\n".encode())
        sys.exit(1)

    def _say_ready(self) -> None:
        os.write(self.report, READY)
        os.close(self.report)


def _die_with_the_hypervisor() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _look_for_garbage_again() -> None:
    """`loader` stopped that. What has been made since counts as old: else all of it would be looked through at once."""
    gc.freeze()
    gc.unfreeze()
    gc.enable()


def _trust_the_images_authorities(application: Path) -> None:
    """Where the image brings certificates, the app's libraries trust those and none of the machine's."""
    file = application / AUTHORITIES
    if file.is_file():
        os.environ.update(dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(file)))


def _websocket(app: AsgiApp) -> AsgiApp:
    async def speak(scope: Scope, receive: Receive, send: Send) -> None:
        from workshop_kit.edges.websocket import WebSocketApp  # late, as most services never speak it

        await WebSocketApp(app)(scope, receive, send)

    return speak


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
