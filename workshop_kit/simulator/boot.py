"""What runs first inside a simulated enclave. The hypervisor starts this very file out of the measured image.

    root/base           ramdisk 1: this package, as measured into PCR1
    root/application    ramdisk 2: service/, users.yaml, as measured into PCR2

It is given what `Devices` lists. Standard input brings what is handed in at run time; its end means that the hypervisor
is gone. While this process is small and has one thread it forks: the other confines itself and goes on in `inside`,
with the app, as a child of the hypervisor's, since this one ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple

BASE = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # The image's own modules, before any that is installed on the machine.
    sys.path.insert(0, str(BASE))

from workshop_kit.edges.nsm_socket import DEVICE, NSM  # noqa: E402
from workshop_kit.errors import LabError, WorkshopKitError  # noqa: E402
from workshop_kit.evidence.handed_in import HandedIn  # noqa: E402
from workshop_kit.simulator.container import Plan  # noqa: E402
from workshop_kit.simulator.isolation import connects, linux  # noqa: E402
from workshop_kit.simulator.isolation.levels import Confinement, Level  # noqa: E402
from workshop_kit.simulator.isolation.namespaces import Tree  # noqa: E402
from workshop_kit.simulator.layout import lay_out, read_plan  # noqa: E402
from workshop_kit.simulator.messages import FORKED, GO, ISOLATED, NETWORK  # noqa: E402
from workshop_kit.simulator.reading import begin_reading  # noqa: E402

ROOT = BASE.parent
DEFAULT_CONFIG = Path("/usr/runtime.yaml")
"""Where services look for their configuration; only a file tree of the enclave's own can have it."""

NAME_SERVER = ("127.0.0.1", 53)

_NO_PLACE_TO_LISTEN = (
    "this service listens by itself, with libraries and files of its own, which needs namespaces (here: {}); "
    "run it where `workshop doctor` finds them, or as an ASGI app on the built-in base"
)


class Devices(NamedTuple):
    """What the hypervisor gives an enclave: its devices are descriptors.

    `way_out` is where all is asked for that leaves; `visible` what its service runs on beside the enclave's own
    interpreter: an environment and its Python.
    """

    level: Level
    listener: int
    nsm: int
    nsm_of_app: int
    way_out: int
    report: int
    visible: tuple[Path, ...]

    @classmethod
    def from_arguments(cls, level: str, *more: str) -> Devices:
        listener, nsm, nsm_of_app, way_out, report = map(int, more[:5])
        return cls(Level(level), listener, nsm, nsm_of_app, way_out, report, tuple(map(Path, more[5:])))


def main(devices: Devices) -> None:
    """Receive users and configuration, fork, and go on with the app where nothing but its devices can be reached."""
    # A terminal's Ctrl-C and a notebook's interrupt reach every process of their group; this one ends with its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    message = _receive()
    way_out = socket.socket(fileno=devices.way_out)
    try:
        handed_in = HandedIn.decode(message)
        plan = read_plan(ROOT / "application")
        tree = Tree(ROOT, devices.visible, _configuration(handed_in.runtime_config), sockets={DEVICE: ROOT / "nsm"})
        confinement = Confinement(_with(tree, plan), at_most=devices.level, holds_app=plan is None)
        _become_the_hypervisors(confinement, devices.report)
        if plan is not None and confinement.level is not Level.NAMESPACES:
            raise LabError(_NO_PLACE_TO_LISTEN.format(confinement.layers["namespaces"]))
        if confinement.level is Level.NAMESPACES:
            _hand_over_network(way_out)
        rules = begin_reading(ROOT / "application", handed_in, apart=plan is not None)
        os.environ[NSM] = str(devices.nsm_of_app)
        isolation = confinement.restrict()
        if confinement.listener >= 0:
            connects.hand_over(way_out, confinement.listener)
        os.write(devices.report, ISOLATED + json.dumps(isolation.as_dict()).encode() + b"\n")
    except WorkshopKitError as error:
        os.write(devices.report, f"{error}\n".encode())
        sys.exit(1)
    from workshop_kit.simulator.inside import Inside

    inside = Inside(ROOT / "application", handed_in, rules, devices.report, way_out)
    inside.run(devices.listener, devices.nsm, plan, environment=next(iter(devices.visible), None))


def _become_the_hypervisors(confinement: Confinement, report: int) -> None:
    """Go on in a child of the hypervisor's, which the kernel ends with it: whatever an app does to its own process.

    Elsewhere than on Linux a process has to see to its end by itself, and goes on as it is.
    """
    if child := confinement.fork():
        os.write(report, FORKED + f"{child}\n".encode())
        os._exit(0)
    if sys.platform == "linux":
        _read_exactly(len(GO))  # the hypervisor is the parent now
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)


def _hand_over_network(way_out: socket.socket) -> None:
    """In the app's network, for whoever answers: a name server, and where connections arrive."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
    ):
        datagrams.bind(NAME_SERVER)
        socket.send_fds(way_out, [NETWORK], [datagrams.fileno(), listener.fileno()])


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
