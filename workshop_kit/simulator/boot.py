"""What runs first inside a simulated enclave. The hypervisor starts this very file out of the measured image.

    root/base           ramdisk 1: this package, as measured into PCR1
    root/application    ramdisk 2: service/, users.yaml, as measured into PCR2

It is given what `Devices` lists. Standard input brings what is handed in at run time; its end means that the hypervisor
is gone. While it is small and has one thread it becomes two processes: one confines itself and goes on in `inside`,
with the app; this one stays beside it as its `gate`, and they end together.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

BASE = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # The image's own modules, before any that is installed on the machine.
    sys.path.insert(0, str(BASE))

from workshop_kit.edges.nsm_device import DEVICE, NSM  # noqa: E402
from workshop_kit.edges.vsock import EGRESS_PORT, VsockAddress, VsockDevice  # noqa: E402
from workshop_kit.errors import LabError, WorkshopKitError  # noqa: E402
from workshop_kit.evidence.handed_in import HandedIn  # noqa: E402
from workshop_kit.simulator.container import Plan  # noqa: E402
from workshop_kit.simulator.gate import NAME_SERVER, Gate  # noqa: E402
from workshop_kit.simulator.isolation import connects, linux  # noqa: E402
from workshop_kit.simulator.isolation.levels import Confinement, Level, confine_neighbour  # noqa: E402
from workshop_kit.simulator.isolation.namespaces import Tree  # noqa: E402
from workshop_kit.simulator.layout import lay_out, read_plan  # noqa: E402

ROOT = BASE.parent
DEFAULT_CONFIG = Path("/usr/runtime.yaml")
"""Where services look for their configuration; only a file tree of the enclave's own can have it."""


_NO_PLACE_TO_LISTEN = (
    "this service listens by itself, with libraries and files of its own, which needs namespaces (here: {}); "
    "run it where `workshop doctor` finds them, or as an ASGI app on the built-in base"
)


class Devices(NamedTuple):
    """What the hypervisor gives an enclave: its devices are descriptors.

    `visible` is what its service runs on beside the enclave's own interpreter: an environment and its Python.
    """

    level: Level
    listener: int
    nsm: int
    nsm_of_app: int
    vsock: int
    report: int
    parent_cid: int
    visible: tuple[Path, ...]

    @classmethod
    def from_arguments(cls, level: str, *more: str) -> Devices:
        listener, nsm, nsm_of_app, vsock, report, parent_cid = map(int, more[:6])
        return cls(Level(level), listener, nsm, nsm_of_app, vsock, report, parent_cid, tuple(map(Path, more[6:])))


def main(devices: Devices) -> None:
    """Receive users and configuration, become two, and be the gate beside the app."""
    # A terminal's Ctrl-C and a notebook's interrupt reach every process of their group; this one ends with its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    message = _receive()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    alive, dead = os.pipe()  # the app's process reads from it, and ends when this one does
    processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY) if Path("/proc").is_dir() else -1
    try:
        handed_in = HandedIn.decode(message)
        plan = read_plan(ROOT / "application")
        tree = Tree(ROOT, devices.visible, _configuration(handed_in.runtime_config), sockets={DEVICE: ROOT / "nsm"})
        confinement = Confinement(_with(tree, plan), at_most=devices.level, holds_app=plan is None)
        gc.freeze()
        if child := confinement.fork():
            os.close(alive)
            theirs.close()
            _be_the_gate(devices, confinement.level, child, ours, processes)
        if plan is not None and confinement.level is not Level.NAMESPACES:
            raise LabError(_NO_PLACE_TO_LISTEN.format(confinement.layers["namespaces"]))
        ours.close()
        os.close(processes) if processes >= 0 else None
        _follow(alive, dead, devices)
        isolation = confinement.restrict()
        if confinement.listener >= 0:
            connects.hand_over(theirs, confinement.listener)
    except WorkshopKitError as error:
        os.write(devices.report, f"{error}\n".encode())
        sys.exit(1)
    from workshop_kit.simulator.inside import Inside

    inside = Inside(ROOT / "application", handed_in, isolation, devices.report, theirs)
    inside.run(devices.listener, devices.nsm, plan, environment=next(iter(devices.visible), None))


def _with(tree: Tree, plan: Plan | None) -> Tree:
    """The tree, with a container's files where its plan puts them."""
    if plan is None:
        return tree
    staging = ROOT / "container"
    staging.mkdir()
    copies, files = lay_out(plan, ROOT / "application" / "service", staging)
    return tree._replace(copies=copies, files={**files, **tree.files})


def _configuration(handed_in: bytes | None) -> dict[Path, bytes]:
    """The runtime configuration under both of its names; `inside` reads it before the application can."""
    # The variable is set in any case: an application must not find another file, of this machine's, by its default.
    file = ROOT / "runtime.yaml"
    os.environ["WORKSHOP_RUNTIME_CONFIG"] = str(file)
    if handed_in is None:
        return {}
    file.write_bytes(handed_in)
    return {DEFAULT_CONFIG: handed_in}


def _follow(alive: int, dead: int, devices: Devices) -> None:
    """End with the gate: by the kernel's doing where it offers that, and by reading from a pipe that it holds."""
    if sys.platform == "linux":
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(alive, 0)
    for descriptor in (alive, dead, devices.vsock):
        os.close(descriptor)
    os.environ[NSM] = str(devices.nsm_of_app)


# --- the gate's side -------------------------------------------------------------------------------------------------


def _be_the_gate(devices: Devices, level: Level, child: int, channel: socket.socket, processes: int) -> NoReturn:
    """Serve the way out until the hypervisor goes or the app's process ends, and end as that one did."""
    for descriptor in (devices.listener, devices.nsm, devices.nsm_of_app, devices.report):
        os.close(descriptor)
    network = _network() if level is Level.NAMESPACES else None
    with contextlib.suppress(WorkshopKitError):  # the app's process finds the same, and says so
        confine_neighbour(level, ROOT, child)
    code = asyncio.run(_serve(devices, child, channel, processes, network))
    with contextlib.suppress(OSError):
        os.kill(child, signal.SIGKILL)
    os._exit(code)


def _network() -> tuple[socket.socket, socket.socket]:
    """In the app's network: a name server, and where its connections arrive."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(NAME_SERVER)
    return datagrams, socket.create_server(("127.0.0.1", 0), backlog=1024)


async def _serve(
    devices: Devices,
    child: int,
    channel: socket.socket,
    processes: int,
    network: tuple[socket.socket, socket.socket] | None,
) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    loop.add_signal_handler(signal.SIGCHLD, _notice, child, ended)
    loop.add_reader(0, _hear, ended)
    device = VsockDevice(socket.socket(fileno=devices.vsock))
    gate = Gate(channel, device, VsockAddress(devices.parent_cid, EGRESS_PORT), processes=processes)
    await gate.open(network)
    _notice(child, ended)  # it may have ended before anybody listened
    return await ended


def _notice(child: int, ended: asyncio.Future[int]) -> None:
    found, status = (0, 0) if ended.done() else os.waitpid(child, os.WNOHANG)
    if found:
        code = os.waitstatus_to_exitcode(status)
        ended.set_result(code if code >= 0 else 128 - code)


def _hear(ended: asyncio.Future[int]) -> None:
    if not os.read(0, 4096) and not ended.done():
        ended.set_result(0)


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


if __name__ == "__main__":
    main(Devices.from_arguments(*sys.argv[1:]))
