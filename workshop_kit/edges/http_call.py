"""One HTTP/1.1 request, and the response that a handler gives to it, piece by piece (RFC 9112).

It writes heads, chunks and ends; whose connection that is, `http_server` knows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Protocol

from workshop_kit.channel.framing import Headers
from workshop_kit.edges.message import has_no_body

PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Line(Protocol):
    """The connection that a call came on."""

    @property
    def ending(self) -> bool:
        """Whether no further request is taken."""

    def write(self, *data: bytes) -> None: ...

    async def drain(self) -> None:
        """Wait until more can be written; raises ConnectionResetError where nothing can."""

    def balance(self) -> None:
        """Let the client send, or make it wait."""

    async def answered(self, call: Call) -> None:
        """The response is whole."""


class Call:
    """One request, and the response that its handler gives.

    Attributes:
        method, target: as they came.
        headers: names in lower case, in order.
        has_body: a body follows, by the rule of HTTP (RFC 9112, 6.3).
        upgrade: the client asks to go on in WebSocket (RFC 6455, 4.1); after a 101 bodies are that connection's bytes.
        gone: the client has closed its connection, or broken it; `on_gone` is called as it does.
        complete: all of the request is here.
        status: of the response, once it has begun.
        answered: the response is whole.
        waiting: bytes of its body that are here and were not received.
        keeps: another request may follow on this connection.
    """

    def __init__(
        self, connection: Line, head: tuple[bytes, bytes, Headers], *, modern: bool, keeps: bool, upgrade: bool
    ) -> None:
        self.method, self.target, self.headers = head
        self.upgrade = upgrade
        names = dict(self.headers)
        self.has_body = b"transfer-encoding" in names or names.get(b"content-length", b"0") != b"0"
        self.gone = False
        self.complete = False
        self.status = 0
        self.answered = False
        self._expects = modern and names.get(b"expect", b"").lower() == b"100-continue"  # RFC 9110, 10.1.1
        self._connection = connection
        self._modern = modern  # HTTP/1.1 on the client's side too
        self.keeps = keeps
        self._pieces: deque[bytes] = deque()
        self.waiting = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._chunked = False
        self.on_gone: Callable[[], None] = lambda: None

    async def receive(self) -> bytes:
        """The next piece of the request's body, or b"" at its end.

        Raises:
            ConnectionResetError: the client has gone before.
        """
        while not self._pieces:
            if self.complete:
                return b""
            if self.gone:
                raise ConnectionResetError("the client has gone")
            if self._expects and not self.status:
                self._connection.write(_CONTINUE)
            self._expects = False
            await self._change()
        return self.at_hand()

    @property
    def listening(self) -> bool:
        """Whether somebody waits in `receive` or `disconnected`, who learns by himself that the client has gone."""
        return bool(self._waiters)

    def at_hand(self) -> bytes:
        """A piece of the body that is here already, or b""."""
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        self.waiting -= len(piece)
        self._connection.balance()
        return piece

    async def body(self, limit: int) -> bytes:
        """The whole body, or more than `limit` bytes of it.

        Raises:
            ConnectionResetError: the client has gone.
        """
        body = await self.receive()
        while len(body) <= limit and (piece := await self.receive()):
            body += piece
        return body

    async def disconnected(self) -> None:
        """Wait until the client has gone, or has its answer; what it still sends of its request is let go."""
        while not (self.gone or self.answered):
            self._pieces.clear()
            self.waiting = 0
            self._connection.balance()
            await self._change()

    async def _change(self) -> None:
        """Until something is new; several tasks of an app's may wait for that."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """The whole response, with a content-length where it lacks one."""
        fields = tuple(headers)
        if not (has_no_body(self.method, status) or any(name == b"content-length" for name, _ in fields)):
            fields += ((b"content-length", b"%d" % len(body)),)
        self._connection.write(self._head(status, fields), *self._framed(body))
        await self._whole()

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """The head of a response, and the first piece of its body. Without a content-length it goes in chunks."""
        self._connection.write(self._head(status, tuple(headers)), *self._framed(body))
        await self._connection.drain()

    async def send(self, body: bytes) -> None:
        """A further piece of its body.

        Raises:
            ConnectionResetError: the client has gone.
        """
        self._connection.write(*self._framed(body))
        await self._connection.drain()

    async def end(self) -> None:
        """The end of a response that `start` began. One that is left without is known to be cut."""
        if self._chunked and not has_no_body(self.method, self.status):
            self._connection.write(b"0\r\n\r\n")
        await self._whole()

    async def _whole(self) -> None:
        self.answered = True
        self.wake()
        await self._connection.answered(self)

    def _framed(self, body: bytes) -> tuple[bytes, ...]:
        """In pieces: to put a large one between two small ones would copy it."""
        if not body or has_no_body(self.method, self.status):
            return ()
        return (b"%x\r\n" % len(body), body, b"\r\n") if self._chunked else (body,)

    def _head(self, status: int, headers: Headers) -> bytes:
        self.status = status
        lines = [b"HTTP/1.1 %d %s" % (status, PHRASES.get(status, b""))]
        lines += [b"%s: %s" % field for field in headers]
        lines += self._framing(headers)
        return b"\r\n".join([*lines, b"", b""])

    def _framing(self, headers: Headers) -> list[bytes]:
        if self.status == HTTPStatus.SWITCHING_PROTOCOLS:
            self.keeps = False
            return [b"connection: Upgrade"]
        measured = has_no_body(self.method, self.status) or any(name == b"content-length" for name, _ in headers)
        self._chunked = not measured and self._modern
        # Where the request still comes, its rest is not waited for.
        self.keeps = self.keeps and self.complete and (measured or self._chunked) and not self._connection.ending
        lines = [b"transfer-encoding: chunked"] if self._chunked else []
        if not self.keeps:
            return [*lines, b"connection: close"]
        return lines if self._modern else [*lines, b"connection: keep-alive"]

    # Called by the connection.
    def take(self, data: bytes) -> None:
        if not self.answered:
            self._pieces.append(data)
            self.waiting += len(data)
            self.wake()

    def end_of_request(self) -> None:
        self.complete = True
        self.wake()

    def go(self) -> None:
        """The client has gone; behind a 101 that is how its bytes end."""
        if not self.gone:
            self.gone = True
            self.complete = self.complete or self.upgrade
            self.wake()
            self.on_gone()

    def wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
