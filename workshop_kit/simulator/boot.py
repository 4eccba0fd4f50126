"""What runs first inside a simulated enclave. The hypervisor starts this very file out of the measured image.

    root/base           ramdisk 1: this package, as measured into PCR1
    root/application    ramdisk 2: service/, users.yaml, as measured into PCR2

It is given the level of isolation that it may have and three descriptors: the socket on which the vsock port listens,
the NSM, and where to report. Standard input brings what is handed in at run time; its end means that the hypervisor is
gone. Here the process confines itself, while it is small and has one thread; `inside` goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

BASE = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # The image's own modules, before any that is installed on the machine.
    sys.path.insert(0, str(BASE))

from workshop_kit.errors import WorkshopKitError  # noqa: E402
from workshop_kit.evidence.handed_in import HandedIn  # noqa: E402
from workshop_kit.simulator.isolation.levels import Level, isolate  # noqa: E402

DEFAULT_CONFIG = Path("/usr/runtime.yaml")
"""Where services look for their configuration; only a file tree of the enclave's own can have it."""


def main(level: Level, vsock: int, nsm: int, report: int) -> None:
    """Receive users and configuration, confine this process, then measure, load and serve."""
    # A terminal's Ctrl-C and a notebook's interrupt reach every process of their group; this one ends with its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    message = _receive()
    try:
        handed_in = HandedIn.decode(message)
        isolation = isolate(BASE.parent, at_most=level, files=_configuration(handed_in.runtime_config))
    except WorkshopKitError as error:
        os.write(report, f"{error}\n".encode())
        sys.exit(1)
    from workshop_kit.simulator.inside import Inside

    Inside(BASE.parent / "application", handed_in, isolation, report).run(vsock, nsm)


def _configuration(handed_in: bytes | None) -> dict[Path, bytes]:
    """The runtime configuration under both of its names; `inside` reads it before the application can."""
    # The variable is set in any case: an application must not find another file, of this machine's, by its default.
    file = BASE.parent / "runtime.yaml"
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
    main(Level(sys.argv[1]), *(int(descriptor) for descriptor in sys.argv[2:5]))
