"""How far an enclave's app is kept from the machine: three levels, tried and never assumed.

    namespaces   its own network, process tree and file tree, and the two layers below: any service runs, and each of
                 its connections is asked about
    seccomp      the machine's, without sockets and without new processes; Landlock where the kernel has it
    none         an ordinary process, only where its operator says so

A layer that cannot be had is named with the reason. Python's audit hooks are no layer: a call by ctypes passes them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from workshop_kit.errors import LabError
from workshop_kit.simulator.isolation import connects, landlock, linux, namespaces, seccomp

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
_TO_DO_WITHOUT = "to run without, say --unisolated (a lab: unisolated=True)"
_WITHOUT_LANDLOCK = "read every file of whoever runs it, and write there"


class Isolation(NamedTuple):
    """What was obtained.

    Attributes:
        level: the level in force.
        layers: each layer with "in force", or why not.
    """

    level: Level
    layers: Mapping[str, str] = MappingProxyType({})

    @property
    def open(self) -> tuple[str, ...]:
        """What the app can still do, in plain words."""
        files = self.level is Level.SECCOMP and self.layers.get("landlock") != OBTAINED
        return ((_WITHOUT_LANDLOCK,) if files else ()) + _OPEN[self.level]

    def as_dict(self) -> dict[str, Any]:
        return {"level": self.level.value, "layers": dict(self.layers)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Isolation:
        return cls(Level(data["level"]), data["layers"])

    def __str__(self) -> str:
        layers = "; ".join(f"{name} {state}" for name, state in self.layers.items())
        return (
            f"isolation {self.level.value}{f' ({layers})' if layers else ''}. The app can still {'; '.join(self.open)}."
        )


class Confinement:
    """The steps on the way in, and what came of each.

    `fork` first, then `restrict` in the process of the app. Between them that process is as free as its tree.
    """

    def __init__(self, tree: namespaces.Tree, *, at_most: Level = Level.NAMESPACES, holds_app: bool = True) -> None:
        """`tree.root` has the empty folders `tree` and `tmp` in it; it stays to be read, `tmp` to be written.

        `holds_app` says that the app will run in this very process, and not in ones that it starts.
        """
        self._tree = tree
        self._at_most = at_most
        self._holds_app = holds_app
        self.layers: dict[str, str] = {}
        self.level = at_most
        self.listener = -1
        """Of the filter that asks about connections (`connects`), once they are asked about."""

    def fork(self) -> int:
        """0 in the process for the app, in namespaces where they are wanted and to be had; its number in this one.

        It does not end with this one, unless it asks for that (PR_SET_PDEATHSIG). Elsewhere than on Linux there is no
        other process.

        Raises:
            LabError: namespaces failed half-way in.
        """
        self.layers["namespaces"] = "not asked for"
        if self._at_most is Level.NAMESPACES:
            tree = self._tree._replace(
                root=self._tree.root / "tree", visible=[*interpreter(), self._tree.root, *self._tree.visible]
            )
            try:
                child = namespaces.fork(tree)
            except OSError as error:
                self.layers["namespaces"] = error.strerror or str(error)
                self.level = Level.SECCOMP
            else:
                self.layers["namespaces"] = OBTAINED
                return child
        return os.fork() if sys.platform == "linux" else 0

    def restrict(self) -> Isolation:
        """The other layers, on this process, which has one thread.

        Raises:
            LabError: not even seccomp is to be had here, and no isolation was not asked for.
        """
        own = self.level is Level.NAMESPACES
        os.environ["TMPDIR"] = "/tmp" if own else str(self._tree.root / "tmp")
        if self.level is Level.NONE:
            return Isolation(Level.NONE, dict.fromkeys(("namespaces", "landlock", "seccomp"), "not asked for"))
        self.layers["landlock"] = _try(self._restrict_files)
        self.layers["seccomp"] = _try(self._filter)
        if self.layers["seccomp"] != OBTAINED:
            raise LabError(f"no isolation is to be had here (seccomp: {self.layers['seccomp']}); {_TO_DO_WITHOUT}")
        if own:
            self.layers["connections"] = _try(self._watch)
        return Isolation(self.level, self.layers)

    def _watch(self) -> None:
        """Or, where the app is in processes that bring the filter themselves, try it in one that ends."""
        if self._holds_app:
            self.listener = connects.watch()
        else:
            linux.try_in_a_child(connects.watch)

    def _restrict_files(self) -> None:
        own = self.level is Level.NAMESPACES
        write = [Path(os.environ["TMPDIR"]), *map(Path, ("/dev",) if own else ("/dev/null", "/dev/zero"))]
        read = [Path("/")] if own else [*namespaces.SYSTEM, *namespaces.SETTINGS, *interpreter(), self._tree.root]
        landlock.restrict(read=[*read, *_RANDOM], write=[*write, *self._tree.copies], network=own)

    def _filter(self) -> None:
        """What the filter lets through is then without any capability, too."""
        linux.drop_capabilities()
        own = self.level is Level.NAMESPACES
        steps = seccomp.program(
            sockets=seccomp.OWN_LOOPBACK if own else (),
            own_tree=own,
            signals=[os.getpid()],
            machine=linux.machine(),
            ends_with_parent=self._holds_app,
        )
        seccomp.install(steps)


def isolate(
    root: Path, *, at_most: Level = Level.NAMESPACES, files: Mapping[Path, bytes] = MappingProxyType({})
) -> Isolation:
    """Confine this process, which has one thread, as far as this machine allows and `at_most` asks.

    It goes on in a child; this one waits and ends as it does. No way out is there, nor a connection of any kind.

    Args:
        root: as `Confinement` wants it.
        files: which the app finds under names that the machine does not have, in a tree of its own.

    Raises:
        LabError: as `Confinement` does.
    """
    confinement = Confinement(namespaces.Tree(root, files=files), at_most=at_most)
    if child := confinement.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status if status >= 0 else 128 - status)
    if sys.platform == "linux":
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    isolation = confinement.restrict()
    if confinement.listener >= 0:
        os.close(confinement.listener)  # nobody answers: a connection fails instead of waiting
    return isolation


def confine_neighbour(level: Level, root: Path) -> None:
    """Take from this process what it has no use for: it stands beside the app's and hears what that one says.

    Raises:
        LabError: it cannot be taken.
    """
    if level is Level.NONE:
        return
    if level is Level.SECCOMP:
        _try(lambda: landlock.restrict(read=[*interpreter(), root], write=(), network=False))
    # The app's own sockets are connected from here, in a network that has no other end.
    spared = ("connect", "pidfd_getfd", "process_vm_readv") if level is Level.NAMESPACES else ()
    signals = [os.getpid()]
    steps = seccomp.program(sockets=(), own_tree=False, signals=signals, machine=linux.machine(), spared=spared)
    if (refused := _try(lambda: seccomp.install(steps))) != OBTAINED:
        raise LabError(f"no isolation is to be had here (seccomp: {refused}); {_TO_DO_WITHOUT}")


_RANDOM = (Path("/dev/urandom"), Path("/dev/random"))


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
