"""Isolation, by trying to get out: at each level that this machine has, as the user of the tests and as nobody."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import escapes
import pytest

from workshop_kit.errors import LabError
from workshop_kit.simulator.isolation import connects, landlock, levels, namespaces, seccomp
from workshop_kit.simulator.isolation.levels import OBTAINED, Isolation, Level, isolate

KIT = Path(levels.__file__).parents[2]
NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass
class Confined:
    """What a confined process said of itself."""

    isolation: Isolation
    became: dict[str, dict[str, str]]


@dataclass
class Machine:
    """What an app looks for outside: a file, two sockets, and this very process."""

    folder: Path
    port: int
    unix: str


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not below /tmp, of which an app has one of its own.
    with tempfile.TemporaryDirectory(prefix="enclave-workshop-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nobody looks for a way out, too
        (folder / "secret").write_text("of the parent's")
        unix = str(folder / "u")
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as named:
            named.bind(unix)
            named.listen()
            with socket.socket(socket.AF_UNIX) as abstract:
                abstract.bind("\0" + unix)
                abstract.listen()
                yield Machine(folder, server.getsockname()[1], unix)


def confine(machine: Machine, level: Level, *, user: int | None) -> Confined:
    """Run the attempts in a process of its own; as nobody under the system's Python, ours may be closed to nobody."""
    root, kit = machine.folder / "enclave", machine.folder / "kit"
    shutil.copytree(KIT, kit / "workshop_kit", ignore=shutil.ignore_patterns("__pycache__", "_shipped"))
    shutil.copy(escapes.__file__, kit)
    for folder in (root / "tree", root / "tmp"):
        folder.mkdir(parents=True)
    if user is not None:
        for path in (machine.folder, *machine.folder.rglob("*")):
            os.chown(path, user, user)
    python = sys.executable if user is None else SYSTEM_PYTHON
    command = [python, "-I", str(kit / "escapes.py"), str(kit), level.value, str(root), str(os.getpid())]
    command += [str(machine.folder / "secret"), str(machine.port), machine.unix]
    done = subprocess.run(command, user=user, capture_output=True, text=True, check=False, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return Confined(Isolation.from_dict(said.pop("isolation")), said)


def users() -> list[Any]:
    as_nobody = pytest.mark.skipif(
        os.geteuid() != 0 or not Path(SYSTEM_PYTHON).exists(),
        reason="only root becomes nobody, with the system's Python",
    )
    return [pytest.param(None, id="own user"), pytest.param(NOBODY, id="nobody", marks=as_nobody)]


@pytest.fixture(params=users())
def user(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.mark.parametrize("level", [Level.NAMESPACES, Level.SECCOMP])
def test_no_way_out_is_open(machine: Machine, level: Level, user: int | None) -> None:
    confined = confine(machine, level, user=user)
    if confined.isolation.level is not level:
        pytest.skip(f"this machine gives no more: {confined.isolation}")
    became = confined.became["escapes"]
    assert [name for name, what in became.items() if what == escapes.WORKED] == []
    assert set(confined.became["rights"].values()) == {escapes.WORKED}, confined.became["rights"]
    assert confined.isolation.layers["seccomp"] == OBTAINED
    assert not list(machine.folder.rglob("written-by-an-app"))


def test_in_a_tree_of_its_own_an_app_has_programs_and_port_80_and_leaves_nothing(machine: Machine) -> None:
    confined = confine(machine, Level.NAMESPACES, user=None)
    if confined.isolation.level is not Level.NAMESPACES:
        pytest.skip(f"this machine gives no more: {confined.isolation}")
    assert set(confined.became["of a tree"].values()) == {escapes.WORKED}, confined.became["of a tree"]
    assert left_behind() == []


def test_without_a_tree_of_its_own_an_app_starts_no_process(machine: Machine) -> None:
    confined = confine(machine, Level.SECCOMP, user=None)
    assert escapes.WORKED not in confined.became["of a tree"].values()
    assert left_behind() == []


def left_behind() -> list[str]:
    time.sleep(0.2)
    return [str(folder) for folder in Path("/proc").glob("[0-9]*") if _text(folder / "comm") == "left-behind"]


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def test_without_isolation_the_ways_out_are_open_and_named(machine: Machine) -> None:
    """Or the attempts above would prove nothing: the same ones work where nothing stands in their way."""
    confined = confine(machine, Level.NONE, user=None)
    assert confined.became["escapes"] == dict.fromkeys(escapes.HARMLESS, escapes.WORKED)
    assert any("every file" in text for text in confined.isolation.open)


def test_a_tree_holds_files_that_the_machine_does_not_have(tmp_path: Path) -> None:
    """Beside the machine's own in one folder, and to be read only."""
    for folder in ("tree", "tmp"):
        (tmp_path / folder).mkdir()
    program = (
        "import sys; from pathlib import Path; from workshop_kit.simulator.isolation.levels import isolate\n"
        "file = Path('/usr/runtime.yaml')\n"
        "isolation = isolate(Path(sys.argv[1]), files={file: b'greeting: hello'})\n"
        "print(isolation.level.value, file.read_text(), len(list(Path('/usr').iterdir())), sep='|')\n"
        "mounts = Path('/proc/self/mountinfo')\n"
        "assert not mounts.exists() or len(mounts.read_text().splitlines()) < 200, 'a mount for each file'\n"
        "file.write_text('')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False, cwd="/"
    )
    level, _, rest = done.stdout.partition("|")
    if level != "namespaces":
        pytest.skip(f"this machine gives no more: {level or done.stderr}")
    assert rest == f"greeting: hello|{len(list(Path('/usr').iterdir())) + 1}\n"
    assert "Read-only file system" in done.stderr
    assert not Path("/usr/runtime.yaml").exists()


def test_a_step_that_fails_half_way_in_ends_the_process_and_lowers_no_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has left some namespaces and not others is neither of the levels."""

    def fail() -> None:
        raise OSError(errno.ENOSPC, "no more namespaces")

    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setattr(namespaces, "_try_in_a_child", lambda _: None)
    monkeypatch.setattr(namespaces, "_separate", fail)
    with pytest.raises(LabError, match=r"no more namespaces; to do without them, say --isolation seccomp$"):
        isolate(tmp_path)


def test_a_child_that_tries_the_steps_never_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where it fails as nobody thought of: it would be a second process with the first one's work."""

    def fail() -> None:
        raise RuntimeError("nobody thought of it")

    monkeypatch.setattr(namespaces, "_separate", fail)
    own = os.getpid()
    with pytest.raises(OSError, match="Operation not permitted"):
        namespaces._try_in_a_child(tmp_path)
    assert os.getpid() == own


# --- what is said of it ----------------------------------------------------------------------------------------------


def test_a_level_says_what_it_leaves_open() -> None:
    layers = {"namespaces": "Operation not permitted", "landlock": "Function not implemented", "seccomp": OBTAINED}
    isolation = Isolation(Level.SECCOMP, layers)
    assert isolation.open[0].startswith("read every file")
    assert "namespaces Operation not permitted" in str(isolation)
    assert Isolation.from_dict(json.loads(json.dumps(isolation.as_dict()))) == isolation
    assert "every file" not in str(Isolation(Level.NAMESPACES, dict.fromkeys(layers, OBTAINED)))


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """The three layers replaced by ones that fail where the test says so."""
    fails = {"namespaces": False, "landlock": False, "seccomp": False, "connections": False}

    def layer(name: str) -> Any:
        def attempt(*_: object, **__: object) -> int:
            if fails[name]:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            return 0 if name == "namespaces" else -1

        return attempt

    monkeypatch.setattr(namespaces, "fork", layer("namespaces"))
    monkeypatch.setattr(levels.os, "fork", lambda: 0)
    monkeypatch.setattr(landlock, "restrict", layer("landlock"))
    monkeypatch.setattr(seccomp, "install", layer("seccomp"))
    monkeypatch.setattr(connects, "watch", layer("connections"))
    monkeypatch.setattr(levels.linux, "drop_capabilities", lambda: None)
    monkeypatch.setenv("TMPDIR", "")
    return fails


@pytest.mark.parametrize(
    ("failing", "level"),
    [
        ((), Level.NAMESPACES),
        (("namespaces",), Level.SECCOMP),
        (("landlock",), Level.NAMESPACES),
        (("connections",), Level.NAMESPACES),
    ],
)
def test_a_layer_that_is_missing_lowers_the_level_and_is_named(
    refusing: dict[str, bool], tmp_path: Path, failing: tuple[str, ...], level: Level
) -> None:
    refusing.update(dict.fromkeys(failing, True))
    isolation = isolate(tmp_path)
    assert isolation.level is level
    assert {name for name, state in isolation.layers.items() if state != OBTAINED} == set(failing)
    assert all(isolation.layers[name] == "Operation not permitted" for name in failing)


@pytest.mark.parametrize("fails", [False, True])
def test_that_connections_are_asked_about_is_tried_also_for_services_that_do_it_themselves(
    refusing: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    refusing["connections"] = fails
    monkeypatch.setattr(levels.linux, "try_in_a_child", lambda steps: steps())
    confinement = levels.Confinement(namespaces.Tree(tmp_path), holds_app=False)
    confinement.fork()
    assert confinement.restrict().layers["connections"] == ("Operation not permitted" if fails else OBTAINED)
    assert confinement.listener == -1


def test_without_seccomp_nothing_is_called_isolation(refusing: dict[str, bool], tmp_path: Path) -> None:
    refusing["seccomp"] = True
    with pytest.raises(
        LabError, match=r"no isolation is to be had here \(seccomp: Operation not permitted\).*--unisolated"
    ):
        isolate(tmp_path)


def test_who_asks_for_none_gets_none_and_nothing_is_tried(refusing: dict[str, bool], tmp_path: Path) -> None:
    refusing["seccomp"] = True
    assert isolate(tmp_path, at_most=Level.NONE).level is Level.NONE


# --- the filter, without a kernel ------------------------------------------------------------------------------------

X86, ARM = 0xC000003E, 0xC00000B7
ALLOWED = 0x7FFF0000


def run(steps: list[tuple[int, int, int, int]], number: int, *arguments: int, architecture: int = X86) -> int:
    """What the kernel's machine for classic BPF would return."""
    words = {0: number, 4: architecture, 16: (*arguments, 0, 0)[0], 24: (*arguments, 0, 0)[1]}
    place = accumulator = 0
    while True:
        code, true, false, operand = steps[place]
        place += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            accumulator = words[operand] & 0xFFFFFFFF
            continue
        holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}[code]
        place += true if holds else false


def steps(*, own_tree: bool, machine: str = "x86_64") -> list[tuple[int, int, int, int]]:
    families = seccomp.OWN_LOOPBACK if own_tree else ()
    return seccomp.program(sockets=families, own_tree=own_tree, signals=[7], machine=machine, ends_with_parent=True)


def refused(error: int) -> int:
    return 0x00050000 | error


@pytest.mark.parametrize(
    ("number", "arguments", "in_a_tree", "without"),
    [
        (0, (), ALLOWED, ALLOWED),  # read
        (41, (socket.AF_INET,), ALLOWED, refused(errno.EAFNOSUPPORT)),
        (41, (socket.AF_UNIX,), ALLOWED, refused(errno.EAFNOSUPPORT)),
        (41, (16,), refused(errno.EAFNOSUPPORT), refused(errno.EAFNOSUPPORT)),
        (53, (1,), ALLOWED, ALLOWED),  # socketpair
        (42, (), ALLOWED, refused(errno.EPERM)),  # connect
        (56, (0x00010F00,), ALLOWED, ALLOWED),  # clone of a thread
        (56, (17,), ALLOWED, refused(errno.EPERM)),  # clone of a process
        (56, (0x10010F00,), refused(errno.EPERM), refused(errno.EPERM)),  # a thread in a new user namespace
        (435, (), refused(errno.ENOSYS), refused(errno.ENOSYS)),  # clone3
        (59, (), ALLOWED, refused(errno.EPERM)),  # execve
        (62, (7,), ALLOWED, ALLOWED),  # kill itself
        (62, (8,), ALLOWED, refused(errno.EPERM)),
        (62, (0xFFFFFFFF,), ALLOWED, refused(errno.EPERM)),
        (302, (0,), ALLOWED, ALLOWED),  # prlimit64
        (302, (8,), ALLOWED, refused(errno.EPERM)),
        (90, (), ALLOWED, refused(errno.EPERM)),  # chmod
        (157, (1,), refused(errno.EPERM), refused(errno.EPERM)),  # prctl: survive the parent
        (157, (15,), ALLOWED, ALLOWED),  # prctl: a name
        (44, (), ALLOWED, ALLOWED),  # sendto
        (101, (), refused(errno.EPERM), refused(errno.EPERM)),  # ptrace
        (165, (), refused(errno.EPERM), refused(errno.EPERM)),  # mount
        (425, (), refused(errno.EPERM), refused(errno.EPERM)),  # io_uring_setup
        (0x40000000 + 41, (1,), refused(errno.EPERM), refused(errno.EPERM)),  # x32
        (999, (), refused(errno.ENOSYS), refused(errno.ENOSYS)),  # newer than the list
    ],
)
def test_the_filter_decides_by_number_and_argument(
    number: int, arguments: tuple[int, ...], in_a_tree: int, without: int
) -> None:
    assert run(steps(own_tree=True), number, *arguments) == in_a_tree
    assert run(steps(own_tree=False), number, *arguments) == without


def test_another_architectures_numbers_are_refused() -> None:
    """A 64-bit process on x86 can make 32-bit calls, whose numbers mean others."""
    assert run(steps(own_tree=True), 0, architecture=0x40000003) == refused(errno.EPERM)
    assert run(steps(own_tree=True, machine="aarch64"), 198, 16, architecture=ARM) == refused(errno.EAFNOSUPPORT)
    assert run(steps(own_tree=True, machine="aarch64"), 198, 2, architecture=ARM) == ALLOWED


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("own_tree", [True, False])
def test_every_jump_of_the_filter_lands_in_it(machine: str, own_tree: bool) -> None:
    program = steps(own_tree=own_tree, machine=machine)
    for place, (code, true, false, _) in enumerate(program):
        assert max(true, false) < 256
        assert place + 1 + max(true, false) < len(program) or code in (0x06, 0x20)
    assert len(program) < 4096


def test_a_processor_that_nobody_listed_has_no_filter() -> None:
    with pytest.raises(
        seccomp.UnsupportedProcessorError, match="expected x86_64 or aarch64, this processor is riscv64"
    ):
        steps(own_tree=True, machine="riscv64")
