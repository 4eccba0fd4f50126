"""A connection of asyncio's whose bytes are asked for, and a time-out that costs nothing while it does not go off.

asyncio's own streams copy each piece through a buffer and start a task for each time-out. A hop that carries every
request of somebody else's feels both.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any

READ_AHEAD = 256 * 1024
"""Bytes that wait here to be asked for before the other end is made to wait: about as many as one read gives."""


class NotTakenError(TimeoutError):
    """The other end takes nothing of what is sent to it."""


class Alarm:
    """Calls `action` once the time that was set last has passed. Setting it anew mostly touches no timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
        self._loop = loop
        self._action = action
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        self._at = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._at, self._look)

    def clear(self) -> None:
        self._at = math.inf

    def close(self) -> None:
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._at <= self._loop.time():
            self._at = math.inf
            self._action()
        elif self._at < math.inf:
            self._timer = self._loop.call_at(self._at, self._look)


class Stream(asyncio.Protocol):
    """One connection: `receive` gives what has come, `send` waits until what was given can be taken.

    One task may receive while another sends.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading = Alarm(self._loop, self._nothing_came)
        self._writing = Alarm(self._loop, self._nothing_went)
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None
        self._transport: Any = None

    @property
    def quiet(self) -> bool:
        """Whether it is open and nothing waits to be received."""
        return not (self._ended or self._pieces or self._transport.is_closing())

    async def receive(self, silence: float | None = None) -> bytes:
        """What has come, or b"" at the end; waits for at most `silence` seconds.

        Raises:
            OSError: the connection broke, or nothing came (TimeoutError).
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._reader = self._loop.create_future()
            await self._until(self._reader, self._reading, silence)
        piece = self._pieces.popleft()
        if self._waiting > READ_AHEAD >= self._waiting - len(piece):
            self._transport.resume_reading()
        self._waiting -= len(piece)
        return piece

    async def send(self, data: bytes, silence: float | None = None) -> None:
        """Give `data` on; waits for at most `silence` seconds where the other end is slow.

        Raises:
            OSError: the connection broke, or the other end takes nothing (TimeoutError).
        """
        self._transport.write(data)
        while self._writer is not None and self._error is None:
            await self._until(self._writer, self._writing, silence)
        if self._error is not None:
            raise self._error

    async def _until(self, done: asyncio.Future[None], alarm: Alarm, silence: float | None) -> None:
        if silence is not None:
            alarm.set(silence)
        try:
            await done
        finally:
            alarm.clear()

    def end(self) -> None:
        """Say that nothing more is sent, behind what waits to be."""
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close at once; what waits to be sent is let go."""
        self._ended = True
        self._reading.close()
        self._writing.close()
        self._transport.abort()

    def _nothing_came(self) -> None:
        self._fail(TimeoutError("the other end is silent"))

    def _nothing_went(self) -> None:
        self._fail(NotTakenError("the other end takes nothing"))

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        for waiting in (self._reader, self._writer):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    # Called by asyncio.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._waiting += len(data)
        if self._waiting > READ_AHEAD >= self._waiting - len(data):
            self._transport.pause_reading()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        can_write: bool = self._transport.can_write_eof()
        return can_write  # what waits to be sent still goes: whoever owns this stream closes it. TLS has no such half

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("the connection is gone"))
        self._reading.close()
        self._writing.close()

    def pause_writing(self) -> None:
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        self._writer = None
