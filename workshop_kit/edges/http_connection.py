"""One client's connection to a server of HTTP/1.1: when its calls are handled, how long it may wait, how it ends.

It knows neither how requests are read nor what is answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from workshop_kit.channel.framing import Headers
from workshop_kit.edges.http_call import PHRASES, Call
from workshop_kit.edges.http_reader import BadRequestError, RequestReader
from workshop_kit.edges.stream import READ_AHEAD, Alarm

IDLE = 75.0
"""Seconds that a connection may wait for a request: longer than clients keep one, so that they are who closes it."""
HEAD = 10.0
"""Seconds from the first byte of a request's head to the last."""
STALL = 60.0
"""Seconds that a client may take nothing of what is sent to it."""
LINGER = 5.0
"""Seconds in which the rest of a request is read, and let go, that was answered before its end."""
AHEAD = 16
"""Requests of one connection that are read while the first is answered."""
MAX_AHEAD = 256
"""Requests that may arrive at once, in one piece: the end of a client that sends so many is not seen meanwhile."""


class Owner(Protocol):
    """The server that a connection belongs to."""

    ending: bool
    tasks: set[asyncio.Task[Any]]
    handle: Callable[[Call], Awaitable[None]]

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for it."""

    def forget(self, connection: Connection) -> None: ...

    def forget_task(self, task: asyncio.Task[Any] | None) -> None: ...


class Connection(asyncio.Protocol):
    """One client's connection: its calls come one after the other, those behind the first wait."""

    def __init__(self, server: Owner) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._too_long)
        self._reader = RequestReader(self)
        self._transport: Any = None
        self._send: Callable[[tuple[bytes, ...]], None] = lambda _: None
        self._calls: deque[Call] = deque()  # the first one's handler runs
        self._answered = False  # the first one's response is whole and has gone
        self._refused: BadRequestError | None = None  # what is behind these calls: nothing more is read
        self._writer: asyncio.Future[None] | None = None
        self._unsent = 0  # bytes, when the alarm was set
        self._closing = False
        self._lost = False
        self._paused = False

    # --- what calls ask for ---

    @property
    def ending(self) -> bool:
        return self._server.ending

    def write(self, *data: bytes) -> None:
        if not self._transport.is_closing():
            self._send(data)

    async def drain(self) -> None:
        while self._writer is not None and not self._lost:
            await self._writer
        if self._transport.is_closing():
            raise ConnectionResetError("the client has gone")

    def balance(self) -> None:
        """Let the client send, or make it wait."""
        wait = not self._closing and self._crowded
        if wait is not self._paused and not self._transport.is_closing():
            self._paused = wait
            (self._transport.pause_reading if wait else self._transport.resume_reading)()

    @property
    def _crowded(self) -> bool:
        """Bodies behind the first call's wait outside; heads do not, else nobody would see that the client goes."""
        calls = self._calls
        first = bool(calls) and calls[0].waiting > READ_AHEAD
        return first or (len(calls) > 1 and (calls[-1].waiting > 0 or len(calls) > AHEAD))

    async def answered(self, call: Call) -> None:
        """The response is whole. Its handler may go on, and nobody waits for that."""
        await self.drain()
        self._answered = True
        if call.complete:
            self._next()
        elif call.upgrade:
            self._close()
        else:
            self._linger()

    # --- one call after the other ---

    def _begin(self) -> None:
        self._alarm.clear()
        self._server.tasks.add(self._loop.create_task(self._serve(self._calls[0])))

    async def _serve(self, call: Call) -> None:
        try:
            await self._server.handle(call)
        except ConnectionResetError:
            pass  # nobody is there to be told
        except Exception as error:  # noqa: BLE001  a mistake of ours, or of an app's behind us
            self._loop.call_exception_handler({"message": f"a request was left without an answer: {_place(error)}"})
        finally:
            self._server.forget_task(asyncio.current_task())
            if self._calls and self._calls[0] is call and not self._answered:
                self._leave(call)

    def _leave(self, call: Call) -> None:
        """Its handler has ended without an answer, or in the middle of it: so the client knows that it is cut."""
        if self._refused is not None and not call.status and not self._transport.is_closing():
            self._say(self._refused)
        else:
            self._transport.abort()

    def _next(self) -> None:
        """A call that is answered, and whose request is here to the end, makes room for the one behind it."""
        if not self._answered or not self._calls[0].complete:
            return
        call = self._calls.popleft()
        self._answered = False
        if not call.keeps or self.ending:
            self._close()
        elif self._calls:
            self._begin()
        elif self._refused is not None:
            self._say(self._refused)
        else:
            self._expect(HEAD if self._reader.in_head else IDLE)
        self.balance()

    def _refuse(self, error: BadRequestError) -> None:
        """Listen no more; say why, once all that came before is answered."""
        self._refused = error
        if not self._calls:
            self._say(error)
        elif not self._calls[-1].complete:
            if len(self._calls) == 1:
                self._calls[0].go()
            else:
                self._calls.pop()  # nobody has heard of it

    def _say(self, error: BadRequestError) -> None:
        body = str(error).encode("ascii", "replace") + b"\n"
        fields = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close" % len(body)
        self._transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n\r\n%s" % (error.status, PHRASES[error.status], fields, body))
        self._linger()

    def _linger(self) -> None:
        """Read on, and let go: whoever is cut off while he still sends may lose our last words."""
        self._closing = True
        self._transport.write_eof()
        self._expect(LINGER)
        self.balance()

    def _close(self) -> None:
        """Close once all is sent."""
        self._closing = True
        self._transport.close()
        self._expect(STALL)

    def _expect(self, seconds: float) -> None:
        """Within these seconds something is to happen."""
        if not self._lost:
            self._unsent = self._transport.get_write_buffer_size()
            self._alarm.set(seconds)

    def _too_long(self) -> None:
        if self._transport.get_write_buffer_size() < self._unsent:
            self._expect(STALL)  # slow, but alive
        elif self._reader.in_head and not self._calls and not self._closing:
            words = f"expected a request's head within {HEAD:g} s, got a part of one"
            self._refuse(BadRequestError(HTTPStatus.REQUEST_TIMEOUT, words))
        else:
            self._transport.abort()

    def finish(self) -> None:
        """Close once nothing is under way."""
        if not self._calls:
            self._close()

    def abort(self) -> None:
        self._transport.abort()

    # --- called by asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        # asyncio's own, from 3.12 on, takes any number of lines without a word that it is full (cpython 136234).
        joins = type(transport).__module__.startswith("asyncio.")
        self._send = (lambda data: self._transport.write(b"".join(data))) if joins else self._transport.writelines
        if self._server.admit(self):
            self._expect(IDLE)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
            return
        waited = self._reader.in_head
        try:
            self._reader.read(data)
        except BadRequestError as error:
            if not self._closing:
                self._refuse(error)
        if self._reader.in_head and not (waited or self._calls or self._closing):
            self._expect(HEAD)
        self.balance()

    def eof_received(self) -> bool:
        # A client that has closed and one that only ends its sending look alike; most have closed.
        self._close()
        self._go()
        return False

    def connection_lost(self, _: Exception | None) -> None:
        self._lost = self._closing = True
        self._alarm.close()
        self.resume_writing()
        self._server.forget(self)
        self._go()

    def _go(self) -> None:
        """The client has gone; calls that wait for their turn never begin."""
        if self._calls:
            self._calls[0].go()

    def pause_writing(self) -> None:
        self._writer = self._loop.create_future()
        if not self._closing:
            self._expect(STALL)

    def resume_writing(self) -> None:
        if not self._closing:
            self._alarm.clear()
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        self._writer = None

    # --- called by the reader ---

    def begun(self, head: tuple[bytes, bytes, Headers], *, modern: bool, keeps: bool, upgrade: bool) -> None:
        if len(self._calls) > MAX_AHEAD or (self._closing and not self._calls):
            words = f"expected at most {MAX_AHEAD} requests ahead of their answers, got more"
            raise BadRequestError(HTTPStatus.TOO_MANY_REQUESTS, words)
        self._calls.append(Call(self, head, modern=modern, keeps=keeps, upgrade=upgrade))
        if len(self._calls) == 1:
            self._begin()

    def body(self, data: bytes) -> None:
        self._calls[-1].take(data)

    def ended(self) -> None:
        self._calls[-1].end_of_request()
        self._next()


def _place(error: BaseException) -> str:
    """Class and line of an error; its words may hold what was asked."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" in {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else ""
    return type(error).__name__ + where
