"""HTTP/1.1 as a server speaks it (RFC 9112): requests in, responses out, bodies of both as they come.

Both proxies are built on it: the client proxy faces curl and browsers, the enclave proxy whoever carries its messages.
It knows no path, no user and no key. Handlers get a `Call` each and may answer while the request still comes.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeAlias

import httptools

from workshop_kit.channel.framing import MAX_HEAD
from workshop_kit.edges.http_call import PHRASES, Call
from workshop_kit.edges.stream import Alarm

IDLE = 75.0
"""Seconds that a connection may wait for a request: longer than clients keep one, so that they are who closes it."""
HEAD = 10.0
"""Seconds from the first byte of a request's head to the last."""
STALL = 60.0
"""Seconds that a client may take nothing of what is sent to it."""
LINGER = 5.0
"""Seconds in which the rest of a request is read, and let go, that was answered before its end."""
MAX_CONNECTIONS = 4096
GRACE = 2.0
"""Seconds for running calls when the server ends."""

Handler: TypeAlias = Callable[[Call], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client's connection: its calls come one after the other, those behind the first wait."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._too_long)
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._calls: deque[Call] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._lost = False
        self._paused = False
        self._raw = False  # behind a 101
        self._deaf = False  # behind what is no HTTP
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._in_head = True

    # --- what calls ask for ---

    @property
    def ending(self) -> bool:
        return self._server.ending

    def write(self, data: bytes) -> None:
        if not self._lost:
            self._transport.write(data)

    async def drain(self) -> None:
        while self._writer is not None and not self._lost:
            await self._writer
        if self._lost:
            raise ConnectionResetError("the client has gone")

    def balance(self) -> None:
        """Let the client send, or make it wait."""
        wait = len(self._calls) > 1 or (bool(self._calls) and self._calls[0].crowded)
        if wait is not self._paused and not self._lost:
            self._paused = wait
            (self._transport.pause_reading if wait else self._transport.resume_reading)()

    async def answered(self, call: Call) -> None:
        """The response is whole. Where the client still sends, its rest is read: else it might lose our last words."""
        await self.drain()
        if call.keeps or self._lost:
            return
        if call.complete:
            self._transport.close()
        else:
            self._transport.write_eof()
            self._alarm.set(LINGER)

    def close(self, *, at_once: bool) -> asyncio.Task[None] | None:
        """Close, now or if it is idle; gives what still has to end."""
        if at_once:
            self._transport.abort()
            if self._task is not None:
                self._task.cancel()
        elif not self._calls:
            self._transport.close()
        return self._task

    # --- one call after the other ---

    def _begin(self) -> None:
        if self._task is None and self._calls:
            self._alarm.clear()
            self._task = self._loop.create_task(self._serve(self._calls[0]))

    async def _serve(self, call: Call) -> None:
        try:
            await self._server.handle(call)
        except ConnectionResetError:
            pass  # nobody is there to be told
        finally:
            self._task = None
            if call.answered:
                self._next()
            else:
                self._transport.abort()  # what is left without its end is known to be cut

    def _next(self) -> None:
        """A call that is answered, and whose request is here to the end, makes room for the one behind it."""
        call = self._calls[0]
        if self._task is None and call.answered and call.complete and not call.upgrade:
            self._calls.popleft()
            if call.keeps and not self._deaf:
                self.balance()
                self._alarm.set(IDLE)
                self._begin()
            else:
                self._transport.close()

    def _too_long(self) -> None:
        self._transport.abort()

    # --- called by asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._server.admit(self):
            self._alarm.set(IDLE)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return None
        if self._raw:
            return self.on_body(data)
        if self._in_head:
            self._head_size += len(data)
            if not self._calls:
                self._alarm.set(HEAD)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            return self._upgrade(data[upgraded.args[0] :])
        except httptools.HttpParserError as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, f"expected a request in HTTP/1.1, got another: {error}")
        if self._in_head and self._head_size > MAX_HEAD + len(data):
            return self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"expected at most {MAX_HEAD} bytes, got more"
            )
        return self.balance()

    def _upgrade(self, rest: bytes) -> None:
        if self._calls[-1].upgrade:
            self._raw = True
            return self.on_body(rest) if rest else None
        # Another protocol was offered, which is not taken up (RFC 9110, 7.8): what follows is HTTP.
        self._parser = httptools.HttpRequestParser(self)
        return self.data_received(rest) if rest else self.balance()

    def _refuse(self, status: HTTPStatus, words: str) -> None:
        """Say what was wrong, where no response is under way, and listen no more."""
        self._deaf = True
        if self._calls:
            call = self._calls[-1]
            call.keeps, call.gone = False, not call.complete
            return call.wake()
        body = words.encode("ascii", "replace") + b"\n"
        fields = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close" % len(body)
        self._transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n\r\n%s" % (status, PHRASES[status], fields, body))
        self._transport.write_eof()
        return self._alarm.set(LINGER)

    def eof_received(self) -> bool:
        # A client that has closed and one that only ends its sending look alike; most have closed.
        self._go()
        return False

    def connection_lost(self, _: Exception | None) -> None:
        self._lost = True
        self._alarm.close()
        self.resume_writing()
        self._server.forget(self)
        self._go()

    def _go(self) -> None:
        for call in self._calls:
            if not call.gone:
                call.gone = True
                call.complete = call.complete or self._raw
                call.wake()
                call.on_gone()

    def pause_writing(self) -> None:
        self._alarm.set(STALL)
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        self._alarm.clear()
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        self._writer = None

    # --- called by httptools ---

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, tuple(self._headers)
        upgrade = parser.should_upgrade() and any(
            name == b"upgrade" and value.lower() == b"websocket" for name, value in headers
        )
        head = parser.get_method(), self._url, headers
        modern = parser.get_http_version() == "1.1"
        self._calls.append(Call(self, head, modern=modern, keeps=parser.should_keep_alive(), upgrade=upgrade))
        self._url, self._headers, self._head_size, self._in_head = b"", [], 0, False
        self._begin()

    def on_body(self, data: bytes) -> None:
        call = self._calls[-1]
        if not call.answered:  # else nobody asks for it any more
            call.take(data)
        if self._raw:
            self.balance()

    def on_message_complete(self) -> None:
        call = self._calls[-1]
        self._in_head = True
        if not call.upgrade:
            call.complete = True
            call.wake()
            self._next()


class HttpServer:
    """Serves `handle` on sockets that are listening already."""

    def __init__(self, handle: Handler) -> None:
        self.handle = handle
        self.ending = False
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []

    async def start(self, *listeners: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for listener in listeners:
            self._servers.append(await loop.create_server(lambda: Connection(self), sock=listener, backlog=1024))

    async def close(self) -> None:
        """Take no more; running calls have two seconds to end."""
        self.ending = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close(at_once=False)
        end = asyncio.get_running_loop().time() + GRACE
        while self._connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)
        left = [connection.close(at_once=True) for connection in list(self._connections)]
        await asyncio.gather(*filter(None, left), return_exceptions=True)
        await asyncio.sleep(0)  # a transport closes its socket in the loop's next turn

    # Called by connections.
    def admit(self, connection: Connection) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
