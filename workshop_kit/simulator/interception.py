"""The parent instance's other relay: it reads the carrier's messages one by one and lets an attack do as it likes.

It knows HTTP and not the records inside. Messages go on when they are whole, so one that streams without end does not
pass. An honest parent instance carries bytes with `relay` and loads nothing of this.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httptools

from workshop_kit.edges.carrier import HELLO_PATH, parse_exchange_path
from workshop_kit.edges.tunnel import close
from workshop_kit.simulator.misbehaving import Attack, Fields, Request, Response
from workshop_kit.simulator.relay import TO_CLIENT, TO_ENCLAVE

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of a message's body; the connection of a larger one ends."""

_PIECE = 256 * 1024
_FRAMING = (b"connection", b"content-length", b"keep-alive", b"transfer-encoding")

Message = TypeVar("Message", Request, Response)


class Interception:
    """Serves clients' connections, a message at a time.

    Args:
        enclave: its socket.
        attack: what is done with messages; another may take its place at any time.
        note: is called with the bytes that come, and with where they want to go.
    """

    def __init__(self, enclave: Path, attack: Attack, note: Callable[[int, bytes], None]) -> None:
        self.attack = attack
        self._enclave = enclave
        self._note = note

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends, and close it. Raises nothing but CancelledError."""
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, httptools.HttpParserError):
            pass  # whoever asked is gone or speaks no HTTP, or whom he asked
        except Exception:  # noqa: BLE001  a mistake in an attack: seen, and the end of one connection only
            traceback.print_exc(file=sys.stderr)
        await close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = _Requests(lambda data: self._note(TO_ENCLAVE, data))
        while True:
            request = await requests.next(reader)
            response = await self._carry(request)
            writer.write(_head(f"HTTP/1.1 {response.status} ", response))
            writer.write(response.body[: response.cut_after])
            await writer.drain()
            if response.cut_after is not None or (b"connection", b"close") in request.headers:
                return

    async def _carry(self, request: Request) -> Response:
        if request.method == "POST" and request.path == HELLO_PATH:
            return await self.attack.hello(request, self._ask)
        if request.method == "POST" and parse_exchange_path(request.path):
            return await self.attack.exchange(request, self._ask)
        return await self._ask(request)

    async def _ask(self, request: Request) -> Response:
        """What an enclave answers, on a connection of its own."""
        reader, writer = await self._dial(request.to)
        try:
            writer.write(_head(f"{request.method} {request.path} HTTP/1.1", request))
            writer.write(request.body)
            await writer.drain()
            return await _Responses(lambda data: self._note(TO_CLIENT, data)).next(reader)
        finally:
            writer.transport.abort()

    async def _dial(self, to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not to:
            return await asyncio.open_unix_connection(str(self._enclave))
        where = urlsplit(to)
        return await asyncio.open_connection(where.hostname, where.port)


def _head(first: str, message: Request | Response) -> bytes:
    lines = [b"%s: %s" % field for field in message.headers if field[0] not in _FRAMING]
    return b"\r\n".join([first.encode("latin-1"), *lines, b"content-length: %d\r\n\r\n" % len(message.body)])


class _Messages(Generic[Message]):
    """Reads a connection's messages, each when it is whole."""

    kind: Any

    def __init__(self, note: Callable[[bytes], None]) -> None:
        self._note = note
        self._whole: deque[Message] = deque()
        self.parser = self.kind(self)
        self.on_message_begin()

    async def next(self, reader: asyncio.StreamReader) -> Message:
        """Raises EOFError where none comes or a larger one, HttpParserError where something else comes."""
        while not self._whole:
            data = await reader.read(_PIECE)
            if not data or len(self.body) > MAX_MESSAGE:
                raise EOFError
            self._note(data)
            self.parser.feed_data(data)
        return self._whole.popleft()

    def made(self) -> Message:
        raise NotImplementedError

    # Called by httptools.
    def on_message_begin(self) -> None:
        self.url = b""
        self.headers: Fields = ()
        self.body = bytearray()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers += ((name.lower(), value),)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self._whole.append(self.made())


class _Requests(_Messages[Request]):
    kind = httptools.HttpRequestParser

    def made(self) -> Request:
        return Request(self.parser.get_method().decode(), self.url.decode("latin-1"), self.headers, bytes(self.body))


class _Responses(_Messages[Response]):
    kind = httptools.HttpResponseParser

    def made(self) -> Response:
        return Response(self.parser.get_status_code(), self.headers, bytes(self.body))
