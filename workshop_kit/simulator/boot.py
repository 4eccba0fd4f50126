"""What runs first inside a simulated enclave. The hypervisor starts this very file out of the measured image.

    root/base           ramdisk 1: this package, as measured into PCR1
    root/application    ramdisk 2: service/, users.yaml, as measured into PCR2

It is given three descriptors: standard input, whose end means that the hypervisor is gone; the socket on which the
vsock port listens; the NSM.
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
import signal  # noqa: E402
import socket  # noqa: E402
import traceback  # noqa: E402
from typing import cast  # noqa: E402

from workshop_kit.edges.enclave_proxy import AsgiApp, EnclaveProxy  # noqa: E402
from workshop_kit.edges.nsm_device import SocketNsmDevice  # noqa: E402
from workshop_kit.edges.serving import Server  # noqa: E402
from workshop_kit.service.access import Users  # noqa: E402
from workshop_kit.service.manifest import MANIFEST_PATH, Manifest, parse_manifest  # noqa: E402

READY = b"ready\n"


def main(vsock: int, nsm: int, report: int) -> None:
    """Serve the application of this image until standard input ends."""
    # A terminal's Ctrl-C and a notebook's interrupt reach every process of their group; this one ends with its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_hypervisor, daemon=True).start()
    application = BASE.parent / "application"
    manifest = parse_manifest((application / "service" / MANIFEST_PATH).read_text())
    app = _load_app(application / "service")
    asyncio.run(_serve(app, manifest, _users(application, manifest), vsock, nsm, report))


def _die_with_the_hypervisor() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _users(application: Path, manifest: Manifest) -> Users:
    file = application / "users.yaml"
    return Users.from_yaml(file.read_text(), manifest) if file.exists() else Users(())


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


async def _serve(app: AsgiApp, manifest: Manifest, users: Users, vsock: int, nsm: int, report: int) -> None:
    def say_ready() -> None:
        os.write(report, READY)
        os.close(report)

    device = SocketNsmDevice(socket.socket(fileno=nsm))
    proxy = EnclaveProxy(app, manifest=manifest, users=users, nsm=device)
    await Server(proxy, on_ready=say_ready, lifespan="on").serve(sockets=[socket.socket(fileno=vsock)])


if __name__ == "__main__":
    main(*(int(descriptor) for descriptor in sys.argv[1:4]))
