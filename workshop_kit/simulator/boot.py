"""What runs first inside a simulated enclave. The hypervisor starts this very file out of the measured image.

    root/base           ramdisk 1: this package, as measured into PCR1
    root/application    ramdisk 2: service/, users.yaml, as measured into PCR2

It is given four descriptors. Standard input: one message behind its length in 4 bytes, users and runtime configuration
(`evidence.handed_in`), then nothing until its end, which means that the hypervisor is gone. The socket on which the
vsock port listens. The NSM. A pipe for one line: `READY`, or why this enclave does not start.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

BASE = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # The image's own modules, before any that is installed on the machine.
    sys.path.insert(0, str(BASE))

import asyncio  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import traceback  # noqa: E402
from typing import NoReturn, cast  # noqa: E402

from workshop_kit.edges.enclave_proxy import AsgiApp, EnclaveProxy  # noqa: E402
from workshop_kit.edges.nsm_device import SocketNsmDevice, extend_and_lock  # noqa: E402
from workshop_kit.edges.serving import Server  # noqa: E402
from workshop_kit.errors import ManifestError, WorkshopKitError  # noqa: E402
from workshop_kit.evidence.handed_in import READY, HandedIn  # noqa: E402
from workshop_kit.evidence.pcr import Pcr  # noqa: E402
from workshop_kit.service.access import Users  # noqa: E402
from workshop_kit.service.manifest import MANIFEST_PATH, Manifest, parse_manifest  # noqa: E402
from workshop_kit.service.strict_yaml import read_document, text_of  # noqa: E402
from workshop_kit.simulator.isolation.levels import Isolation, Level, isolate  # noqa: E402

USERS, RUNTIME_CONFIG = "users.yaml", "runtime.yaml"
DEFAULT_CONFIG = Path("/usr/runtime.yaml")
"""Where services look for their configuration; only a file tree of the enclave's own can have it."""


def main(level: Level, vsock: int, nsm: int, report: int) -> None:
    """Receive users and configuration, measure them, confine this process, then load the application and serve it."""
    # A terminal's Ctrl-C and a notebook's interrupt reach every process of their group; this one ends with its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    message = _receive()
    application = BASE.parent / "application"
    device = SocketNsmDevice(socket.socket(fileno=nsm))
    try:
        handed_in = HandedIn.decode(message)
        manifest = parse_manifest((application / "service" / MANIFEST_PATH).read_text())
        users = _users(application, manifest, handed_in.users)
        _configure(BASE.parent / RUNTIME_CONFIG, handed_in.runtime_config)
        # Before a line of the application runs: else it could extend the PCR first.
        asyncio.run(extend_and_lock(device, index=Pcr.USERS_AND_RUNTIME_CONFIG, data=handed_in.digest()))
        # What is the machine's must be out of reach when the application's first line runs.
        isolation = isolate(BASE.parent, at_most=level, files={DEFAULT_CONFIG: handed_in.runtime_config or b""})
    except WorkshopKitError as error:
        _refuse(report, error)
    threading.Thread(target=_die_with_the_hypervisor, daemon=True).start()
    app = _load_app(application / "service")
    asyncio.run(_serve(EnclaveProxy(app, manifest=manifest, users=users, nsm=device), isolation, vsock, report))


def _receive() -> bytes:
    return _read_exactly(int.from_bytes(_read_exactly(4), "big"))


def _read_exactly(count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = os.read(0, count - len(parts))
        if not part:
            os._exit(0)
        parts += part
    return parts


def _die_with_the_hypervisor() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _refuse(report: int, error: WorkshopKitError) -> NoReturn:
    os.write(report, f"{error}\n".encode())
    sys.exit(1)


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


def _configure(file: Path, handed_in: bytes | None) -> None:
    # The name is set in any case: an application must not find another file, of this machine's, by its default.
    os.environ["WORKSHOP_RUNTIME_CONFIG"] = str(file)
    if handed_in is not None:
        read_document(text_of(handed_in, file=RUNTIME_CONFIG), file=RUNTIME_CONFIG)
        file.write_bytes(handed_in)


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


async def _serve(proxy: EnclaveProxy, isolation: Isolation, vsock: int, report: int) -> None:
    def say_ready() -> None:
        os.write(report, READY + json.dumps(isolation.as_dict()).encode() + b"\n")
        os.close(report)

    await Server(proxy, on_ready=say_ready, lifespan="on").serve(sockets=[socket.socket(fileno=vsock)])


if __name__ == "__main__":
    main(Level(sys.argv[1]), *(int(descriptor) for descriptor in sys.argv[2:5]))
