"""How far an enclave's app is kept from the machine: three levels, tried and never assumed.

    namespaces   its own network, process tree and file tree, and the two layers below: any service runs
    seccomp      the machine's, without sockets and without new processes; Landlock where the kernel has it
    none         an ordinary process, only where its operator says so

A layer that cannot be had is named with the reason. Python's audit hooks are no layer: a call by ctypes passes them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workshop_kit.errors import LabError
from workshop_kit.simulator.isolation import landlock, linux, namespaces, seccomp

OBTAINED = "in force"


class Level(Enum):
    """From the strongest to none."""

    NAMESPACES = "namespaces"
    SECCOMP = "seccomp"
    NONE = "none"


_OPEN: dict[Level, tuple[str, ...]] = {
    Level.NAMESPACES: (
        "use the processor and memory of this machine without a limit",
        "read the interpreter and the libraries of this machine",
        "use flaws of the kernel, which it shares with this machine",
    ),
    Level.SECCOMP: (
        "see which processes this machine runs, where it can read /proc",
        "use the processor and memory of this machine without a limit",
        "use flaws of the kernel, which it shares with this machine",
    ),
    Level.NONE: (
        "read and write every file of whoever runs it",
        "reach every network that this machine reaches, past the outbound allowlist",
        "signal and trace the other processes of whoever runs it, and leave some behind",
    ),
}
_WITHOUT_LANDLOCK = "read every file of whoever runs it, and write there"


@dataclass(frozen=True)
class Isolation:
    """What was obtained.

    Attributes:
        level: the level in force.
        layers: each layer with "in force", or why not.
    """

    level: Level
    layers: Mapping[str, str] = field(default_factory=dict)

    @property
    def open(self) -> tuple[str, ...]:
        """What the app can still do, in plain words."""
        files = self.level is Level.SECCOMP and self.layers.get("landlock") != OBTAINED
        return ((_WITHOUT_LANDLOCK,) if files else ()) + _OPEN[self.level]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "level": self.level.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Isolation:
        return cls(Level(data["level"]), data["layers"])

    def __str__(self) -> str:
        layers = "; ".join(f"{name} {state}" for name, state in self.layers.items())
        return (
            f"isolation {self.level.value}{f' ({layers})' if layers else ''}. The app can still {'; '.join(self.open)}."
        )


def isolate(
    root: Path, *, at_most: Level = Level.NAMESPACES, files: Mapping[Path, bytes] = MappingProxyType({})
) -> Isolation:
    """Confine this process, which has one thread, as far as this machine allows and `at_most` asks.

    Args:
        root: the enclave's folder, with the empty folders `tree` and `tmp` in it; it stays to be read, `tmp` to be
            written.
        files: which the app finds under names that the machine does not have, in a tree of its own.

    Raises:
        LabError: not even seccomp is to be had here, and `at_most` is not NONE; or namespaces failed half-way in.
    """
    os.environ["TMPDIR"] = str(root / "tmp")
    if at_most is Level.NONE:
        return Isolation(Level.NONE, dict.fromkeys(("namespaces", "landlock", "seccomp"), "not asked for"))
    layers = {"namespaces": "not asked for"}
    if at_most is Level.NAMESPACES:
        layers["namespaces"] = _try(
            lambda: namespaces.enter(root / "tree", visible=[*interpreter(), root], files=files)
        )
    level = Level.NAMESPACES if layers["namespaces"] == OBTAINED else Level.SECCOMP
    own = level is Level.NAMESPACES
    if own:
        os.environ["TMPDIR"] = "/tmp"
    write = [Path(os.environ["TMPDIR"]), *map(Path, ("/dev",) if own else ("/dev/null", "/dev/zero"))]
    read = [Path("/")] if own else [*namespaces.SYSTEM, *namespaces.SETTINGS, *interpreter(), root, *_RANDOM]
    layers["landlock"] = _try(lambda: landlock.restrict(read=read, write=write, network=own))
    layers["seccomp"] = _try(lambda: _filter(own_tree=own))
    if layers["seccomp"] != OBTAINED:
        raise LabError(
            f"no isolation is to be had here (seccomp: {layers['seccomp']}); to run without, say --unisolated"
        )
    return Isolation(level, layers)


_RANDOM = (Path("/dev/urandom"), Path("/dev/random"))


def _filter(*, own_tree: bool) -> None:
    """What the filter lets through is then without any capability, too."""
    linux.drop_capabilities()
    seccomp.install(sockets=seccomp.OWN_LOOPBACK if own_tree else (), own_tree=own_tree)


def _try(layer: Callable[[], object]) -> str:
    try:
        layer()
    except OSError as error:
        return error.strerror or str(error)
    return OBTAINED


def interpreter() -> list[Path]:
    """What this Python needs of the machine's files: its installation and its libraries, and no other folder."""
    prefixes = {Path(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)}
    libraries = {Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    return sorted(path for path in prefixes | libraries if path.is_absolute() and path != Path("/"))
