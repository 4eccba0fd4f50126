"""Processes as the system lists them, for tests of what is left behind. Nobody is found, or ended, by a name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DEADLINE = 30.0
"""Seconds after which a test gives up waiting; nothing here takes more than two."""

REPOSITORY = Path(__file__).resolve().parents[1]


def until(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"waited {deadline:g} s for: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Process:
    """A process; `begin` tells it from a later one with the same number, where the system says it."""

    pid: int
    parent: int
    begin: str


def processes() -> list[Process]:
    """All that run; a zombie does not."""
    listed = _from_proc() if Path("/proc/self/stat").exists() else _from_ps()
    return list(listed)


def _from_proc() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            if fields[0] not in ("Z", "X"):
                yield Process(int(entry.name), int(fields[1]), fields[19])


def _from_ps() -> Iterator[Process]:
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        pid, parent, state = line.split()
        if not state.startswith("Z"):
            yield Process(int(pid), int(parent), "")


def descendants(pid: int) -> set[Process]:
    """The processes that `pid` has started, and those that they have."""
    found: set[Process] = set()
    parents, listed = {pid}, processes()
    while parents:
        children = {each for each in listed if each.parent in parents} - found
        found |= children
        parents = {each.pid for each in children}
    return found


def running_of(recorded: set[Process]) -> set[int]:
    """Those that still run, whoever is their parent by now."""
    now = {(each.pid, each.begin) for each in processes()}
    return {each.pid for each in recorded if (each.pid, each.begin) in now}


class Program:
    """A Python program in a session of its own, with a temporary folder of its own to leave things in."""

    def __init__(self, *arguments: str, temporary: Path, cwd: Path | None = None, **more: str) -> None:
        temporary.mkdir(exist_ok=True)
        self.temporary = temporary
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=environment | more,
            cwd=cwd or temporary.parent,
        )
        self.recorded: set[Process] = set()

    @property
    def pid(self) -> int:
        return self.process.pid

    def record(self) -> set[Process]:
        """The processes below it now, kept for `all_gone`."""
        self.recorded |= descendants(self.pid)
        return self.recorded

    def await_line(self, beginning: str) -> str:
        """The rest of the line of standard output that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(beginning):
                self.record()
                return line.removeprefix(beginning).strip()
        raise AssertionError(f"ended without {beginning!r}: {self.process.communicate()[1]}")

    def go_on(self) -> None:
        """Give it the line that it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to it, or as a terminal does to its whole process group."""
        self.record()
        (os.killpg if group else os.kill)(self.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Exit code and what it still wrote, once it has ended."""
        output, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, output, errors

    def all_gone(self) -> None:
        """Wait until nothing that it started runs any more."""
        until(lambda: not running_of(self.recorded), f"the end of {self.recorded}")

    def left_behind(self) -> list[str]:
        """What is in its temporary folder."""
        return sorted(path.name for path in self.temporary.iterdir())


@contextmanager
def program(*arguments: str, temporary: Path, cwd: Path | None = None, **more: str) -> Iterator[Program]:
    """A `Program` that is ended, with all that it started, however the test ends."""
    started = Program(*arguments, temporary=temporary, cwd=cwd, **more)
    try:
        yield started
    finally:
        started.record()
        started.process.kill()
        started.process.wait()
        for stream in (started.process.stdin, started.process.stdout, started.process.stderr):
            if stream is not None:
                stream.close()
        for pid in running_of(started.recorded):
            with suppress(ProcessLookupError):  # of a tree, one may end with another
                os.kill(pid, 9)
