"""What an enclave's process reports while it starts (`messages`), as the hypervisor reads it."""

from __future__ import annotations

import io
import select
import time
from collections.abc import Callable

LONGEST_LINE = 64 * 1024
_LOOK = 200  # milliseconds


class Report:
    """What an enclave's process reports while it starts, line by line.

    Args:
        end: when nothing more is waited for, by the monotonic clock.
    """

    def __init__(self, stream: io.FileIO, end: float) -> None:
        self._stream = stream
        self._end = end
        self._read = b""
        self._ready = select.poll()
        self._ready.register(stream, select.POLLIN)

    def line(self, ended: Callable[[], bool]) -> bytes:
        """The next one, or what there is of it where nobody says more: at the pipe's end, the time's, or a process's.

        A process that was killed may leave the pipe open, in a child that it has just forked.
        """
        while b"\n" not in self._read and len(self._read) < LONGEST_LINE:
            last = ended() or time.monotonic() > self._end
            if self._ready.poll(0 if last else _LOOK):
                if not (piece := self._stream.read(4096)):
                    break
                self._read += piece
            elif last:
                break
        line, newline, self._read = self._read.partition(b"\n")
        return line + newline
