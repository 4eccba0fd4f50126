"""An enclave's process before it has an image: Python, started ahead of what it is to run (`loader`).

A good part of an enclave's start is Python's own, and the libraries that every enclave has from the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_LOADER = Path(__file__).with_name("loader.py")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}


class Interpreter:
    """A process that waits to be told what to run.

    Attributes:
        process: its own; standard input is a pipe from here.
        console: the descriptor where all can be read that it and its like write; closed by whoever reads.
    """

    def __init__(self) -> None:
        self._orders, orders = socket.socketpair()
        self.console, self._console_end = os.pipe()
        with orders:
            self.process = self.start(
                str(_LOADER), str(orders.fileno()), stdin=subprocess.PIPE, pass_fds=[orders.fileno()]
            )

    def run(self, script: Path, first: str, descriptors: Sequence[int], more: Sequence[str], *, folder: Path) -> None:
        """Have it run `script`, with `first`, the descriptors as it knows them, and `more`."""
        told = {"script": str(script), "folder": str(folder), "first": first, "more": list(more)}
        # It may have ended, which whoever waits for its answer learns.
        with self._orders, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._orders, [json.dumps(told).encode()], list(descriptors))

    def start(self, *command: str, stdin: int, pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
        """Another process of Python's, with the same console."""
        return subprocess.Popen(
            [sys.executable, "-I", "-u", *command],
            stdin=stdin,
            stdout=self._console_end,
            stderr=self._console_end,
            pass_fds=pass_fds,
            env=_ENVIRONMENT,
        )

    def close_console(self) -> None:
        """Start nothing more: who reads the console learns when all have ended."""
        os.close(self._console_end)

    def end(self) -> None:
        """End it, where it was told nothing."""
        self._orders.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.close_console()
        os.close(self.console)
