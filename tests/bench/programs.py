"""The programs of a bench: each in a process of its own, ended by its own number however the bench ends.

They stay in the bench's process group, so that a terminal's Ctrl-C reaches each of them as well.
"""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

DEADLINE = 30.0
"""Seconds for a program to begin or to end; none takes more than two."""


class ProgramError(Exception):
    """A program ended before it was ready, or never was; the message has its last words."""


class Program:
    """A running Python program, that may be told things and waited for, line by line."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._errors = errors

    def await_line(self, beginning: str = "") -> str:
        """The rest of its next line that begins so.

        Raises:
            ProgramError: it ended without one.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()
        raise self._failed()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def await_port(self, port: int) -> None:
        """Wait until it listens.

        Raises:
            ProgramError: it ended, or does not.
        """
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.02)
        raise self._failed()

    def _failed(self) -> ProgramError:
        self.end()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip() or "no word"
        return ProgramError(f"{' '.join(map(str, self._process.args[2:5]))} ended: {words.splitlines()[-1]}")

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def program(*arguments: str | Path, cwd: Path | None = None) -> Iterator[Program]:
    """A Python program, from `python -B`'s arguments; ended behind the block, whatever happens in it."""
    command = [sys.executable, "-B", *map(str, arguments)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        started = Program(process, errors)
        try:
            yield started
        finally:
            started.end()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as any_socket:
        port: int = any_socket.getsockname()[1]
    return port


def allow_files(wanted: int) -> None:
    """Let this process, and the programs that it starts, open so many files, as far as its own limits go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
