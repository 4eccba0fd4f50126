"""The forwarder: what the enclave proxy is given as its app where the service listens by itself, inside the enclave.

It writes a request that was decided on as HTTP/1.1, and reads the response. It decides nothing and knows no user.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Coroutine

import httptools

from workshop_kit.channel.framing import MAX_DATA, MAX_HEAD, UPGRADE, Headers
from workshop_kit.edges.asgi import Message, Receive, Scope, Send
from workshop_kit.edges.carrier import chunk
from workshop_kit.edges.message import content_length, end_to_end, has_no_body
from workshop_kit.errors import RemoteProtocolError, ServiceError

READ_SIZE = MAX_DATA
"""Bytes of a response that are read at once: as many as a record holds."""

CONNECT_TIMEOUT = 10.0
"""Seconds for the service to accept a connection: on loopback only a full queue takes longer than an instant."""

# What framing.py lets pass, once more: no field may end its line, or stand for two.
_START = re.compile(rb"[!-~]+ (?:/[!-~]*|\*) HTTP/1\.1")
_NAME = re.compile(rb"[!-9;-~]+")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")


class Forwarder:
    """An ASGI application whose answers are those of the service that listens on `host:port` (RFC 9112).

    Each request has a connection of its own, closed behind it. On one that is used again, bytes that one end counts to
    a request and the other end to the next become part of somebody else's; and where it was closed meanwhile, whoever
    sends must guess whether to send again. Here a request that fails has failed: nothing is ever repeated.

    Raises:
        ServiceError: what came is no response, or not all of it. A response that has begun stays without its end.
        RemoteProtocolError: the request has a field or a length that HTTP does not allow, or names CONNECT.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self._address = (host, port)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._forward(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        if first["type"] == "http.disconnect":
            return None
        request = _Request(scope)
        response = _Response(scope["method"].encode(), upgrade=request.upgrade)
        opening = request.start(first)
        with socket.socket(self._family, socket.SOCK_STREAM) as made:
            if not await self._connected(made):
                return await _refuse(send, self._address[1])
            connection = _Connection(made)
            asking = _ask(connection, request, opening, receive)
            return await _until_answered(asking, _answer(connection, response, send))

    async def _connected(self, made: socket.socket) -> bool:
        made.setblocking(False)
        # Nagle's algorithm would hold a piece of the body back until the service's system confirms the one before.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await asyncio.get_running_loop().sock_connect(made, self._address)
        except OSError:
            return False
        return True


async def _live(receive: Receive, send: Send) -> None:
    """The service starts and ends by itself."""
    for moment in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{moment}.complete"})


async def _refuse(send: Send, port: int) -> None:
    body = b"the service does not answer on port %d; it may be starting again\n" % port
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 502, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _until_answered(asking: Coroutine[None, None, None], answering: Coroutine[None, None, None]) -> None:
    """Run both until the response is whole, the client has gone or one of them fails; then neither goes on."""
    asked, answered = asyncio.create_task(asking), asyncio.create_task(answering)
    try:
        await asyncio.wait((asked, answered), return_when=asyncio.FIRST_COMPLETED)
        (answered if answered.done() else asked).result()
    finally:
        asked.cancel()
        answered.cancel()
        await asyncio.gather(asked, answered, return_exceptions=True)


async def _ask(connection: _Connection, request: _Request, opening: bytes, receive: Receive) -> None:
    """Send the request, then wait; returns when the client has gone."""
    await connection.send(opening)
    while (message := await receive())["type"] != "http.disconnect":
        if not request.ended:
            await connection.send(request.piece(message))
        if request.ended and request.upgrade:
            connection.end()


async def _answer(connection: _Connection, response: _Response, send: Send) -> None:
    while not response.complete:
        for message in response.receive(await connection.receive()):
            await send(message)
        await asyncio.sleep(0)  # where neither end makes it wait, others would


class _Connection:
    """A socket whose directions fail one by one: a transport of asyncio's that cannot write drops what it could read,
    and a service that answers early and closes has said what it has to say."""

    def __init__(self, made: socket.socket) -> None:
        self._socket = made
        self._loop = asyncio.get_running_loop()
        self._broken = False

    async def send(self, data: bytes) -> None:
        """Send, or let go what the service no longer takes."""
        try:
            await self._loop.sock_sendall(self._socket, data)
        except OSError:
            self._broken = True

    def end(self) -> None:
        """Say that nothing more is sent."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._broken = True

    async def receive(self) -> bytes:
        try:
            data = await self._loop.sock_recv(self._socket, READ_SIZE)
        except OSError:
            data, self._broken = b"", True
        # The system tells of a reset once: where sending was told, receiving finds an end like any other.
        if not data and self._broken:
            raise _unlike("a whole response", "a broken connection")
        return data


_WORDS = "its own words are on the console, which debug mode opens"


def _unlike(expected: str, actual: str) -> ServiceError:
    return ServiceError(f"expected {expected} from the service, got {actual}: {_WORDS}")


class _Request:
    """Writes a request, piece by piece."""

    def __init__(self, scope: Scope) -> None:
        self._method = scope["method"].encode()
        self._target: bytes = scope["target"]
        self._headers = end_to_end(scope["headers"])
        self.upgrade = UPGRADE in scope["headers"]
        self._left = content_length(self._headers)
        self._chunked = False
        self.ended = False

    def start(self, first: Message) -> bytes:
        """The head, with as much of the body as the first message has."""
        host: Headers = () if b"host" in dict(self._headers) else ((b"host", b"enclave"),)
        if self.upgrade:
            headers = (*host, *self._headers, UPGRADE, (b"connection", b"Upgrade"))
        else:
            framing = self._framing(len(first.get("body", b"")), more=first.get("more_body", False))
            headers = (*host, *self._headers, *framing, (b"connection", b"close"))
        return _head(self._method, self._target, headers) + self.piece(first)

    def _framing(self, size: int, *, more: bool) -> Headers:
        """What says where the body ends, where the client's own headers do not (RFC 9112, 6.3)."""
        if self._left is not None:
            return ()
        if more:
            self._chunked = True
            return ((b"transfer-encoding", b"chunked"),)
        self._left = size
        return ((b"content-length", b"%d" % size),) if size else ()

    def piece(self, message: Message) -> bytes:
        """A piece of the body, and its end with the last one; raises where that is not as long as announced."""
        data: bytes = message.get("body", b"")
        self.ended = not message.get("more_body", False)
        if self.upgrade:
            return data
        if self._chunked:
            return (chunk(data) if data else b"") + (chunk(b"") if self.ended else b"")
        assert self._left is not None  # a body without a length goes out in chunks
        self._left -= len(data)
        if self._left < 0 or (self.ended and self._left):
            raise RemoteProtocolError("expected a body as long as its content-length says, got another")
        return data


def _head(method: bytes, target: bytes, headers: Headers) -> bytes:
    start = b"%s %s HTTP/1.1" % (method, target)
    # CONNECT asks a service for a tunnel and not for the path that was decided on (RFC 9110, 9.3.6).
    if not _START.fullmatch(start) or method == b"CONNECT":
        raise RemoteProtocolError(f"expected a method and a path, got {method[:40]!r} and {target[:80]!r}")
    return b"\r\n".join([start, *(_field(name, value) for name, value in headers), b"", b""])


def _field(name: bytes, value: bytes) -> bytes:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise RemoteProtocolError(f"expected a header that HTTP allows, got {name[:40]!r}: {value[:40]!r}")
    return b"%s: %s" % (name, value)


class _Response:
    """Reads one response as its bytes arrive, and says it in ASGI's messages; trailers are dropped.

    Behind a 101, where `upgrade` asked for one, all is body, as it comes.
    """

    def __init__(self, method: bytes, *, upgrade: bool = False) -> None:
        self.complete = False
        self._upgrade = upgrade
        self._raw = False
        self._method = method
        self._status, self._version = 0, ""  # of the final head, once it is there
        self._headers: list[tuple[bytes, bytes]] = []
        self._room = MAX_HEAD  # interim heads take of it too: there may be any number of them
        self._told = False
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def receive(self, data: bytes) -> list[Message]:
        """What `data` adds; b"" says that no more will come. Raises ServiceError where this is no whole response."""
        if data:
            self._read(data)
        else:
            self._end()
        return self._messages() if self._status else []

    def _read(self, data: bytes) -> None:
        if not self._status:
            head, data = data[: self._room], data[self._room :]
            self._room -= len(head)
            self._feed(head)
            if data and not self._status:
                raise _unlike(f"a response head of at most {MAX_HEAD} bytes", "a longer one")
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        if self._raw:
            return self._pieces.append(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            self._raw = self._upgrade and self._status == 101
            if not self._raw:
                raise _unlike("an HTTP/1.1 response", "another protocol") from None
            self._pieces.append(data[upgraded.args[0] :])
        except httptools.HttpParserError as error:
            # Behind a whole response anything may follow (RFC 9112, 6.3), and some write a body after a 204.
            if not self.complete:
                raise _unlike("an HTTP/1.1 response", f"something else ({error})") from None

    def _end(self) -> None:
        if self._room == MAX_HEAD:
            raise _unlike("a response", "the end of its connection")
        names = {name for name, _ in self._headers}
        if not self._status or names & {b"content-length", b"transfer-encoding"}:
            raise _unlike("a whole response", "the end of its connection in the middle")
        self.complete = True

    def _messages(self) -> list[Message]:
        messages: list[Message] = [] if self._told else [self._start()]
        body, self._pieces = b"".join(self._pieces), []
        # A head whose body has no length is told at once, by b"": whoever waits for events waits for it first.
        streams = messages and content_length(self._headers) is None
        if body or self.complete or streams:
            messages.append({"type": "http.response.body", "body": body, "more_body": not self.complete})
        return messages

    def _start(self) -> Message:
        self._told = True
        if self._version not in ("1.0", "1.1") or not (200 <= self._status <= 599 or self._raw):
            raise _unlike("HTTP/1.1 and a status from 200 to 599", f"HTTP/{self._version} and {self._status}")
        codings = b", ".join(value.lower() for name, value in self._headers if name == b"transfer-encoding")
        if codings not in (b"", b"chunked"):
            raise _unlike("chunked as the one transfer coding", repr(codings[:40]))
        try:
            content_length(self._headers)
            for name, value in self._headers:
                _field(name, value)  # some versions of the parser leave a space behind a name
        except RemoteProtocolError as error:
            raise ServiceError(f"{error}: {_WORDS}") from None
        return {"type": "http.response.start", "status": self._status, "headers": end_to_end(self._headers)}

    # Called by httptools.
    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._status:
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._status and (status == 101 or status // 100 != 1):
            self._status, self._version = status, self._parser.get_http_version()
            self.complete = has_no_body(self._method, status)
        elif not self._status:
            self._headers.clear()  # an interim response (RFC 9110, 15.2): the final one follows

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        self.complete = self._status > 0 and not (self._upgrade and self._status == 101)
