"""A service that listens by itself is given what was decided on, once, and what it answers comes back as it was."""

from __future__ import annotations

import asyncio
import errno
import functools
import importlib.util
import json
import socket
import struct
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import h11
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from processes import DEADLINE
from proxied import Proxied

from workshop_kit.channel.framing import MAX_DATA, MAX_HEAD, ONE_HOP, Headers, Record, RequestHead, encode_record
from workshop_kit.edges import carrier, forwarder
from workshop_kit.edges.forwarder import Forwarder
from workshop_kit.edges.http_server import HttpServer
from workshop_kit.edges.message import MessageOpener, MessageSealer, end_to_end
from workshop_kit.edges.serving import LOOPBACK, BackgroundServer, bind
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError, ServiceError
from workshop_kit.service.manifest import parse_manifest

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Message = dict[str, Any]


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {"asyncio": None}
if importlib.util.find_spec("uvloop"):  # which uvicorn prefers
    LOOPS["uvloop"] = importlib.import_module("uvloop").new_event_loop


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in a loop of its own, of the kind that it names; where it would wait for ever, it fails."""

    @functools.wraps(test)
    def in_a_loop(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[kwargs.get("loop", "asyncio")]) as runner:
            runner.run(asyncio.wait_for(test(*args, **kwargs), DEADLINE))

    return in_a_loop


# --- a service, and the two ends of the forwarder --------------------------------------------------------------------


class Service:
    """A listening service of a test's own; `handle` has each connection."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.connections: list[asyncio.Task[None]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.append(task)
        try:
            await self._handle(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):  # a forwarder may close before it has read all
                await writer.wait_closed()

    async def had_no_connection(self) -> None:
        """They are accepted in their order: an honest one now is the first."""
        earlier = len(self.connections)
        await Forwarder(self.port)(scope_of(), Asking().receive, Asking().send)
        assert (earlier, len(self.connections)) == (0, 1)


@asynccontextmanager
async def service(handle: Handle, host: str = LOOPBACK) -> AsyncIterator[Service]:
    """A service on a free port; what its connections raise fails the test."""
    made = Service(handle)
    server = await asyncio.start_server(made.serve, host, 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
    await asyncio.gather(*made.connections)


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answering(response: bytes) -> Handle:
    """Reads a head, answers with these bytes, and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(response)

    return handle


class Asking:
    """What an enclave proxy is to the forwarder: a request in pieces, a client that may go, and an answer."""

    def __init__(self, *body: bytes, ended: bool = True) -> None:
        self._pieces = list(body or (b"",))
        self._ended = ended
        self.gone = asyncio.Event()
        self.answered = asyncio.Event()
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self._pieces:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or not self._ended}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.answered.set()

    @property
    def left(self) -> int:
        return len(self._pieces)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def whole(self) -> bool:
        """Whether the answer has its end."""
        return bool(self.sent) and not self.sent[-1].get("more_body", self.sent[-1]["type"] == "http.response.start")


def scope_of(method: str = "GET", target: bytes = b"/", headers: Headers = ()) -> Message:
    raw_path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "method": method,
        "path": "/not/what/was/written",
        "raw_path": raw_path,
        "query_string": query,
        "target": target,
        "headers": list(headers),
    }


async def ask(port: int, scope: Message, asking: Asking | None = None) -> Asking:
    asking = asking or Asking()
    await Forwarder(port)(scope, asking.receive, asking.send)
    return asking


# --- requests --------------------------------------------------------------------------------------------------------

END = b"connection: close\r\n\r\n"
HOP = tuple((name, b"x-listed") for name in sorted(ONE_HOP))
# What is asked; how its body comes; what the service is to be sent, its own host besides.
REQUESTS: dict[str, tuple[Message, tuple[bytes, ...], bytes]] = {
    "no body": (scope_of(), (b"",), b"GET / HTTP/1.1\r\nHOST" + END),
    "the client's host, where it stood": (
        scope_of(headers=((b"accept", b"*/*"), (b"host", b"a.example:81"))),
        (b"",),
        b"GET / HTTP/1.1\r\naccept: */*\r\nhost: a.example:81\r\n" + END,
    ),
    "path and query as they were written": (
        scope_of("PUT", b"/a%2Fb/%C3%a4?x=%20+&&y=/?"),
        (b"",),
        b"PUT /a%2Fb/%C3%a4?x=%20+&&y=/? HTTP/1.1\r\nHOST" + END,
    ),
    "an empty query": (scope_of(target=b"/?"), (b"",), b"GET /? HTTP/1.1\r\nHOST" + END),
    "a length that the client gave": (
        scope_of("POST", headers=((b"content-length", b"4"), (b"x-a", b"1"))),
        (b"bo", b"", b"dy"),
        b"POST / HTTP/1.1\r\nHOSTcontent-length: 4\r\nx-a: 1\r\n" + END + b"body",
    ),
    "a length of nothing that the client gave": (
        scope_of("POST", headers=((b"content-length", b"0"),)),
        (b"",),
        b"POST / HTTP/1.1\r\nHOSTcontent-length: 0\r\n" + END,
    ),
    "a body that is whole at once": (
        scope_of("POST"),
        (b"body",),
        b"POST / HTTP/1.1\r\nHOSTcontent-length: 4\r\n" + END + b"body",
    ),
    "a body of unknown length": (
        scope_of("POST"),
        (b"", b"0123456789abcdef", b"", b"!"),
        b"POST / HTTP/1.1\r\nHOSTtransfer-encoding: chunked\r\n"
        + END
        + b"10\r\n0123456789abcdef\r\n1\r\n!\r\n0\r\n\r\n",
    ),
    "a body of unknown length that turns out empty": (
        scope_of("POST"),
        (b"", b""),
        b"POST / HTTP/1.1\r\nHOSTtransfer-encoding: chunked\r\n" + END + b"0\r\n\r\n",
    ),
    "fields of one hop": (
        scope_of(headers=(*HOP, (b"X-Listed", b"1"), (b"x-a", b"1"))),
        (b"",),
        b"GET / HTTP/1.1\r\nHOSTx-a: 1\r\n" + END,
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
@run
async def test_a_request_is_written_with_these_bytes_and_no_others(name: str) -> None:
    scope, body, written = REQUESTS[name]
    expected = written.replace(b"HOST", b"host: enclave\r\n")
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readexactly(len(expected)))
        writer.write(b"HTTP/1.1 204 \r\n\r\n")
        heard.append(await reader.read())

    async with service(handle) as made:
        assert (await ask(made.port, scope, Asking(*body))).sent[0]["status"] == 204
        assert len(made.connections) == 1
    assert heard == [expected, b""]


REFUSED: dict[str, tuple[Message, tuple[bytes, ...]]] = {
    "CRLF in the method": (scope_of("GET / HTTP/1.1\r\nx:"), (b"",)),
    "a space in the method": (scope_of("GET /other"), (b"",)),
    "an empty method": (scope_of(""), (b"",)),
    "a method beyond ASCII": (scope_of("GÉT"), (b"",)),
    "CONNECT": (scope_of("CONNECT"), (b"",)),
    "CRLF in the path": (scope_of(target=b"/ HTTP/1.1\r\nx-oblv-user-name: Mallory\r\n"), (b"",)),
    "LF in the path": (scope_of(target=b"/\n"), (b"",)),
    "a space in the path": (scope_of(target=b"/a b"), (b"",)),
    "an empty path": (scope_of(target=b""), (b"",)),
    "a whole URL as the path": (scope_of(target=b"http://elsewhere/"), (b"",)),
    "bytes beyond ASCII in the path": (scope_of(target="/ä".encode()), (b"",)),
    "CRLF in the query": (scope_of(target=b"/?a\r\nb"), (b"",)),
    "a space in the query": (scope_of(target=b"/?a HTTP/1.1"), (b"",)),
    "CRLF in a name": (scope_of(headers=((b"x\r\ny", b"1"),)), (b"",)),
    "a colon in a name": (scope_of(headers=((b"x: 1, y", b"1"),)), (b"",)),
    "a space behind a name": (scope_of(headers=((b"x ", b"1"),)), (b"",)),
    "an empty name": (scope_of(headers=((b"", b"1"),)), (b"",)),
    "CRLF in a value": (scope_of(headers=((b"x", b"1\r\nx-oblv-user-name: Mallory"),)), (b"",)),
    "a folded value": (scope_of(headers=((b"x", b"1\r\n 2"),)), (b"",)),
    "CR in a value": (scope_of(headers=((b"x", b"1\r2"),)), (b"",)),
    "LF at a value's end": (scope_of(headers=((b"x", b"1\n"),)), (b"",)),
    "NUL in a value": (scope_of(headers=((b"x", b"1\x002"),)), (b"",)),
    "two lengths": (scope_of(headers=((b"content-length", b"4"), (b"content-length", b"5"))), (b"body",)),
    "two equal lengths": (scope_of(headers=((b"content-length", b"4"), (b"Content-Length", b"4"))), (b"body",)),
    "a list of lengths": (scope_of(headers=((b"content-length", b"4, 4"),)), (b"body",)),
    "a signed length": (scope_of(headers=((b"content-length", b"+4"),)), (b"body",)),
    "a hexadecimal length": (scope_of(headers=((b"content-length", b"0x4"),)), (b"body",)),
    "an empty length": (scope_of(headers=((b"content-length", b""),)), (b"body",)),
    "a length too small": (scope_of(headers=((b"content-length", b"3"),)), (b"body",)),
    "a length too large": (scope_of(headers=((b"content-length", b"5"),)), (b"body",)),
}


@pytest.mark.parametrize("name", REFUSED)
@run
async def test_what_could_be_read_as_another_request_reaches_no_service(name: str) -> None:
    scope, body = REFUSED[name]
    async with service(answering(b"HTTP/1.1 204 \r\n\r\n")) as made:
        asking = Asking(*body)
        with pytest.raises(RemoteProtocolError) as caught:
            await ask(made.port, scope, asking)
        assert len(str(caught.value).splitlines()) == 1
        assert asking.sent == []
        await made.had_no_connection()


@pytest.mark.parametrize("pieces", [(b"bo", b"dyX"), (b"bo", b"d")], ids=["too long", "too short"])
@run
async def test_a_body_that_is_not_as_long_as_announced_reaches_no_service_as_a_whole(pieces: tuple[bytes, ...]) -> None:
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await read_head(reader)
        heard.append(await reader.read())

    async with service(handle) as made:
        scope = scope_of("POST", headers=((b"content-length", b"4"),))
        with pytest.raises(RemoteProtocolError, match="as long as"):
            await ask(made.port, scope, Asking(*pieces))
    assert heard == [b"bo"]


TOKENS = st.text("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12).map(str.encode)
NAMES = TOKENS | st.sampled_from([b"accept", b"Cookie", b"X-A", b"content-type", b"range", b"x_a", b"user-agent"])
VALUES = st.lists(st.sampled_from([b" ", b"\t", b",", b":", b"a", b"\x80", b"\xff", b"; q=0.5", b'"']), max_size=5)
HOSTS = st.sampled_from([(b"host", b"a.example"), (b"Host", b"[::1]:80"), (b"HOST", b"127.0.0.1:3030")])
HEADERS = st.lists(st.tuples(NAMES, VALUES.map(b"".join)) | HOSTS, max_size=6)
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
METHODS = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "M-SEARCH"]) | st.from_regex(
    r"[!#$%&'*+\-.^_`|~0-9A-Z]{1,32}", fullmatch=True
)
TARGETS = st.just("*") | st.text(VISIBLE, max_size=30).map("/{}".format)


def framing_accepts(head: RequestHead) -> bool:
    try:
        encode_record(Record(head))
    except LocalProtocolError:
        return False
    return True


class Reader:
    """An independent parser at a service's end, and what it made of all that came."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * MAX_HEAD)
        self.requests: list[h11.Request] = []
        self.body = b""
        self.rest = b""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self._h11.their_state in (h11.IDLE, h11.SEND_BODY):
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await reader.read(MAX_DATA))
            elif isinstance(event, h11.Request):
                self.requests.append(event)
            elif isinstance(event, h11.Data):
                self.body += event.data
        writer.write(b"HTTP/1.1 204 \r\n\r\n")
        self.rest = self._h11.trailing_data[0] + await reader.read()


@given(METHODS, TARGETS, HEADERS, st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.booleans())
@example("GET", "/", [(b"x", b" \t a \t ")], [b""], False)
@example("GET", "/" + "a" * 60_000, [], [b""], False)
@settings(deadline=None)
@run
async def test_an_independent_parser_reads_one_request_and_that_is_the_one_which_framing_accepted(
    method: str, target: str, headers: list[tuple[bytes, bytes]], body: list[bytes], announced: bool
) -> None:
    """But for CONNECT, which the forwarder refuses."""
    if announced:
        headers = [*headers, (b"content-length", b"%d" % len(b"".join(body)))]
    given_headers = tuple(headers)
    if method == "CONNECT" or not framing_accepts(RequestHead(method.encode(), target.encode(), given_headers)):
        reject()
    reader = Reader()
    async with service(reader.handle) as made:
        assert (await ask(made.port, scope_of(method, target.encode(), given_headers), Asking(*body))).whole
        assert len(made.connections) == 1
    (request,) = reader.requests
    assert (request.method, request.target) == (method.encode(), target.encode())
    lowered = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    host = [] if b"host" in dict(lowered) else [(b"host", b"enclave")]
    framing = [] if announced or body == [b""] else [(b"content-length", b"%d" % len(body[0]))]
    if len(body) > 1 and not announced:
        framing = [(b"transfer-encoding", b"chunked")]
    assert list(request.headers) == [*host, *lowered, *framing, (b"connection", b"close")]
    assert (reader.body, reader.rest) == (b"".join(body), b"")


@run
async def test_two_requests_have_a_connection_each_and_neither_outlives_its_response() -> None:
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nhi")
        heard.append(await reader.read())  # to the connection's end

    async with service(handle) as made:
        for number in (1, 2):
            assert (await ask(made.port, scope_of(target=b"/%d" % number))).body == b"hi"
            assert len(made.connections) == number
            await made.connections[-1]
    assert [line.partition(b" HTTP")[0] for line in heard] == [b"GET /1", b"", b"GET /2", b""]


@run
async def test_a_piece_is_not_held_back_until_the_one_before_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nagle's algorithm is off on the connection that the request went out on."""
    seen: list[int] = []
    answer = forwarder._answer

    async def looking(connection: Any, *more: Any) -> None:
        seen.append(connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await answer(connection, *more)

    monkeypatch.setattr(forwarder, "_answer", looking)

    async with service(answering(b"HTTP/1.1 204 \r\n\r\n")) as made:
        await ask(made.port, scope_of())
    assert len(seen) == 1
    assert seen[0] != 0


# --- responses -------------------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n"
FOUR = ((b"content-length", b"4"),)
BODY = b"content-length: 4\r\n\r\nbody"
ONE = ((b"x-a", b"1"),)
# What was asked; the bytes that answer; status, headers and body of what they say.
RESPONSES: dict[str, tuple[str, bytes, int, Headers, bytes]] = {
    "a length": ("GET", OK + b"Content-Length: 4\r\n\r\nbody", 200, FOUR, b"body"),
    "no length": ("GET", OK + b"x-a: 1\r\n\r\nbody", 200, ONE, b"body"),
    "no length and no body": ("GET", OK + b"\r\n", 200, (), b""),
    "HTTP/1.0": ("GET", b"HTTP/1.0 200 OK\r\n\r\nbody", 200, (), b"body"),
    "no reason": ("GET", b"HTTP/1.1 299\r\n" + BODY, 299, FOUR, b"body"),
    "an error": ("GET", b"HTTP/1.1 500 No\r\n" + BODY, 500, FOUR, b"body"),
    "chunks": ("GET", CHUNKED + b"\r\n3\r\nbod\r\n1;ext=1\r\ny\r\n0\r\n\r\n", 200, (), b"body"),
    "no chunk but the last": ("GET", CHUNKED + b"\r\n0\r\n\r\n", 200, (), b""),
    "trailers": ("GET", CHUNKED + b"trailer: x-t\r\n\r\n4\r\nbody\r\n0\r\nx-t: 1\r\n\r\n", 200, (), b"body"),
    "100 before it": ("GET", b"HTTP/1.1 100 Continue\r\n\r\n" + OK + BODY, 200, FOUR, b"body"),
    "103 and 102 before it": (
        "GET",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK + b"x-a: 1\r\n\r\nbody",
        200,
        ONE,
        b"body",
    ),
    "HEAD with a length": ("HEAD", OK + b"content-length: 4\r\n\r\n", 200, FOUR, b""),
    "HEAD with chunks announced": ("HEAD", CHUNKED + b"\r\n", 200, (), b""),
    "HEAD without a length": ("HEAD", OK + b"x-a: 1\r\n\r\n", 200, ONE, b""),
    "HEAD with a body all the same": ("HEAD", OK + b"x-a: 1\r\n\r\nbody", 200, ONE, b""),
    "HEAD, and other responses behind it": (
        "HEAD",
        OK + b"x-a: 1\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.0 500 No\r\nx-b: 1\r\n\r\n",
        200,
        ONE,
        b"",
    ),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n", 204, ONE, b""),
    "204 with a body, as FastAPI once wrote it": ("GET", b"HTTP/1.1 204 No Content\r\n" + BODY, 204, FOUR, b""),
    "304 with the length of what it spares": (
        "GET",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\nx-a: 1\r\n\r\n",
        304,
        FOUR + ONE,
        b"",
    ),
    "bytes behind its end": ("GET", OK + BODY + b" and more", 200, FOUR, b"body"),
    "a response behind its end": ("GET", OK + BODY + OK + b"\r\nmore", 200, FOUR, b"body"),
    "fields of one hop": (
        "GET",
        OK + b"Connection: close, X-Listed, upgrade\r\nX-Listed: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n"
        b"TE: trailers\r\nProxy-Connection: x\r\nx-a: 1\r\n" + BODY,
        200,
        ONE + FOUR,
        b"body",
    ),
    "fields twice, in order, with what stands around their values taken off": (
        "GET",
        OK + b"Set-Cookie:  a=1 \t\r\nx-a:\r\nSet-Cookie:b=\xff\t2\r\n\r\n",
        200,
        ((b"set-cookie", b"a=1"), (b"x-a", b""), (b"set-cookie", b"b=\xff\t2")),
        b"",
    ),
}


@pytest.mark.parametrize("size", [None, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", RESPONSES)
@run
async def test_a_response_comes_back_as_it_was(name: str, size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    method, response, status, headers, body = RESPONSES[name]
    if size:
        monkeypatch.setattr(forwarder, "READ_SIZE", size)
    async with service(answering(response)) as made:
        asking = await ask(made.port, scope_of(method))
    assert asking.sent[0] == {"type": "http.response.start", "status": status, "headers": headers}
    assert {message["type"] for message in asking.sent[1:]} == {"http.response.body"}
    assert asking.body == body
    assert [message["more_body"] for message in asking.sent[1:]].count(False) == 1
    assert asking.whole


CUT: dict[str, tuple[str, bytes]] = {
    "nothing": ("GET", b""),
    "half a status line": ("GET", b"HTTP/1.1 20"),
    "half a head": ("GET", OK + b"x-a: 1\r\n"),
    "half a head of a 204": ("GET", b"HTTP/1.1 204 \r\n"),
    "an interim response alone": ("GET", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a length and no body": ("GET", OK + b"content-length: 4\r\n\r\n"),
    "a length and half the body": ("GET", OK + b"content-length: 4\r\n\r\nbo"),
    "a length in capitals and half the body": ("GET", OK + b"CONTENT-LENGTH: 4\r\n\r\nbo"),
    "half a chunk": ("GET", CHUNKED + b"\r\n4\r\nbo"),
    "no last chunk": ("GET", CHUNKED + b"\r\n4\r\nbody\r\n"),
    "no end of the trailers": ("GET", CHUNKED + b"\r\n4\r\nbody\r\n0\r\nx-t: 1\r\n"),
}
NOT_HTTP: dict[str, tuple[str, bytes]] = {
    "words": ("GET", b"hello, who is there?\r\n\r\n"),
    "words for a HEAD": ("HEAD", b"hello, who is there?\r\n\r\n"),
    "TLS": ("GET", b"\x15\x03\x01\x00\x02\x02\x28"),
    "a request": ("GET", b"GET / HTTP/1.1\r\nhost: enclave\r\n\r\n"),
    "HTTP/2's preface": ("GET", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    "HTTP/2 in HTTP/1's spelling": ("GET", b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n"),
    "HTTP/0.9": ("GET", b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n"),
    "lines without CR": ("GET", b"HTTP/1.1 200 OK\ncontent-length: 4\n\nbody"),
    "NUL in a value": ("GET", OK + b"x-a: 1\x002\r\n\r\n"),
    "a space behind a name": ("GET", OK + b"x-a : 1\r\n\r\n"),
    "a status of two digits": ("GET", b"HTTP/1.1 20 OK\r\n\r\n"),
    "status 000": ("GET", b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n"),
    "status 099": ("GET", b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n"),
    "status 600": ("GET", b"HTTP/1.1 600 OK\r\ncontent-length: 0\r\n\r\n"),
    "other protocols": ("GET", b"HTTP/1.1 101 \r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nframes"),
    "other protocols without their name": ("GET", b"HTTP/1.1 101 \r\n\r\n" + OK + b"content-length: 0\r\n\r\n"),
    "two lengths": ("GET", OK + b"content-length: 4\r\ncontent-length: 5\r\n\r\nbody"),
    "two equal lengths": ("GET", OK + b"content-length: 4\r\ncontent-length: 4\r\n\r\nbody"),
    "a list of lengths": ("GET", OK + b"content-length: 4, 4\r\n\r\nbody"),
    "a negative length": ("GET", OK + b"content-length: -1\r\n\r\nbody"),
    "a length of nineteen digits": ("GET", OK + b"content-length: 0000000000000000004\r\n\r\nbody"),
    "a length beside chunks": ("GET", CHUNKED + b"content-length: 4\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    "a compressed transfer": ("GET", OK + b"transfer-encoding: gzip\r\n\r\nbody"),
    "a compressed transfer in chunks": ("GET", OK + b"transfer-encoding: gzip, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    "chunks twice": ("GET", CHUNKED + b"transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    "a chunk whose size is no number": ("GET", CHUNKED + b"\r\nbody\r\n0\r\n\r\n"),
    "a chunk longer than its size": ("GET", CHUNKED + b"\r\n3\r\nbody\r\n0\r\n\r\n"),
    "a head without end": ("GET", OK + b"x-a: " + b"a" * MAX_HEAD),
    "interim responses without end": ("GET", b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD // 25 + 1)),
}


@pytest.mark.parametrize("size", [None, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", [*CUT, *NOT_HTTP])
@run
async def test_what_is_no_whole_response_does_not_look_like_one(
    name: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, response = (CUT | NOT_HTTP)[name]
    if size:
        monkeypatch.setattr(forwarder, "READ_SIZE", size)
    asking = Asking()
    async with service(answering(response)) as made:
        with pytest.raises(ServiceError) as caught:
            await ask(made.port, scope_of(method), asking)
        assert len(made.connections) == 1  # it is not asked again
    assert not asking.whole
    assert b"body".startswith(asking.body)
    assert len(str(caught.value).splitlines()) == 1
    expected = "the end of its connection" if name in CUT else "expected"
    assert expected in str(caught.value)


@pytest.mark.parametrize("response", [b"", OK + b"\r\nbody", CHUNKED + b"\r\n4\r\nbody\r\n"], ids=repr)
@run
async def test_a_connection_that_is_reset_ends_no_response(response: bytes) -> None:
    """Not even one whose end would be the connection's."""
    asking = Asking()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(response)
        if response:
            await asking.answered.wait()
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)

    async with service(handle) as made:
        with pytest.raises(ServiceError, match="broken connection"):
            await ask(made.port, scope_of(), asking)
        assert len(made.connections) == 1
    assert not asking.whole


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["alone", "with an interim one"])
@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize("size", [MAX_DATA, 1000], ids=["at once", "in pieces"])
@run
async def test_a_response_has_a_head_of_at_most_64_kib(
    before: bytes, excess: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder, "READ_SIZE", size)
    start, end = before + OK + b"x-a: ", b"\r\n\r\n"
    value = b"a" * (MAX_HEAD - len(start) - len(end) + excess)
    asking = Asking()
    async with service(answering(start + value + end + b"body" * 1000)) as made:
        if excess:
            with pytest.raises(ServiceError, match="at most 65536 bytes"):
                await ask(made.port, scope_of(), asking)
        else:
            await ask(made.port, scope_of(), asking)
            assert asking.sent[0]["headers"] == ((b"x-a", value),)
            assert asking.body == b"body" * 1000
    assert bool(asking.sent) != bool(excess)


# --- as it comes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [OK, CHUNKED], ids=["to the end", "chunks"])
@run
async def test_an_event_is_passed_on_before_the_service_writes_the_next(head: bytes) -> None:
    """The head too: whoever subscribes may cause the first event only when it knows that it listens."""

    def written(event: bytes) -> bytes:
        return carrier.chunk(event) if head is CHUNKED else event

    asking = Asking()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(head + b"content-type: text/event-stream\r\n\r\n")
        await asking.answered.wait()
        for number in range(3):
            asking.answered.clear()
            writer.write(written(b"data: %d\n\n" % number))
            await asking.answered.wait()
            assert asking.sent[-1]["body"] == b"data: %d\n\n" % number
        writer.write(written(b""))

    async with service(handle) as made:
        await ask(made.port, scope_of(), asking)
    assert asking.sent[1] == {"type": "http.response.body", "body": b"", "more_body": True}
    assert asking.whole


@run
async def test_a_whole_response_is_one_piece_though_its_head_comes_first() -> None:
    """So it is sealed in one record."""
    asking = Asking()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(OK + b"content-length: 4\r\n\r\n")
        await asking.answered.wait()
        writer.write(b"body")

    async with service(handle) as made:
        await ask(made.port, scope_of(), asking)
    assert asking.sent[1:] == [{"type": "http.response.body", "body": b"body", "more_body": False}]


@run
async def test_others_have_their_turn_between_two_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the service has written more than is read at once, and the client takes all that comes."""
    monkeypatch.setattr(forwarder, "READ_SIZE", 100)
    turns, at_piece = 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    asking = Asking()

    async def send(message: Message) -> None:
        at_piece.append(turns)
        await asking.send(message)

    async with service(answering(OK + b"\r\n" + b"a" * 10_000)) as made:
        busy = asyncio.create_task(others())
        await Forwarder(made.port)(scope_of(), asking.receive, send)
        busy.cancel()
    assert len(asking.body) == 10_000
    pieces = at_piece[2:]  # the start and the first piece come together
    assert len(pieces) > 90
    assert len(set(pieces)) == len(pieces)


@pytest.mark.parametrize("known", [True, False], ids=["a length", "chunks"])
@run
async def test_an_answer_before_the_body_is_read_ends_the_sending(known: bool) -> None:
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 413 \r\ncontent-length: 8\r\n\r\ntoo much")
        heard.append(await reader.read())

    asking = Asking(b"first", ended=False)
    headers = ((b"content-length", b"1000"),) if known else ()
    async with service(handle) as made:
        await ask(made.port, scope_of("POST", headers=headers), asking)
    assert asking.sent[0]["status"] == 413
    assert asking.body == b"too much"
    assert asking.whole
    assert heard == [b"first" if known else b"5\r\nfirst\r\n"]  # and no end


class Late(Asking):
    """A client that sends the rest of its body once the service has closed, and reads once all of that is sent."""

    def __init__(self) -> None:
        super().__init__(b"first", *[b"piece"] * 100)
        self.closed, self.sent_all = asyncio.Event(), asyncio.Event()

    async def receive(self) -> Message:
        if self.left == 100:
            await self.closed.wait()
        if self.left == 0:
            self.sent_all.set()
        return await super().receive()

    async def send(self, message: Message) -> None:
        await self.sent_all.wait()
        await super().send(message)

    def unread(self, response: bytes) -> Handle:
        """Answers and closes without having read all that came: so the next piece is met by a reset."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(1)
            writer.write(response)
            await writer.drain()
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.close()
            await writer.wait_closed()
            self.closed.set()

        return handle


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a reset discards what was received before it")
@run
async def test_an_answer_from_a_service_that_stops_listening_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "READ_SIZE", 100)
    asking = Late()
    response = b"HTTP/1.1 413 \r\ncontent-length: 10000\r\n\r\n" + b"a" * 10_000
    async with service(asking.unread(response)) as made:
        await ask(made.port, scope_of("POST"), asking)
    assert asking.sent[0]["status"] == 413
    assert asking.body == b"a" * 10_000
    assert asking.whole


@run
async def test_a_reset_of_which_sending_was_told_ends_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of it once; receiving then finds an end like any other."""
    monkeypatch.setattr(forwarder, "READ_SIZE", 100)
    asking = Late()
    async with service(asking.unread(OK + b"\r\n" + b"a" * 10_000)) as made:
        with pytest.raises(ServiceError, match="broken connection"):
            await ask(made.port, scope_of("POST"), asking)
    assert not asking.whole


# --- ends ------------------------------------------------------------------------------------------------------------


@run
async def test_a_service_that_is_not_there_is_a_502_with_one_line() -> None:
    with bind(0) as listener:
        port = listener.getsockname()[1]
    asking = await ask(port, scope_of())
    text = b"the service does not answer on port %d; it may be starting again\n" % port
    assert asking.sent[0]["status"] == 502
    assert (b"content-length", b"%d" % len(text)) in asking.sent[0]["headers"]
    assert asking.body == text
    assert asking.whole


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue is another thing elsewhere")
@run
async def test_a_service_that_accepts_no_more_connections_is_a_502_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "CONNECT_TIMEOUT", 0)
    with socket.create_server((LOOPBACK, 0), backlog=0) as listener, ExitStack() as waiting:
        code = 0
        while code != errno.EINPROGRESS:
            queued = waiting.enter_context(socket.socket())
            queued.setblocking(False)
            code = queued.connect_ex(listener.getsockname())
        asking = await ask(listener.getsockname()[1], scope_of())
        assert asking.sent[0]["status"] == 502


def listens_on(host: str) -> bool:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not listens_on("::1"), reason="this machine has no IPv6")
@run
async def test_a_service_may_listen_on_the_other_loopback() -> None:
    asking = Asking()
    async with service(answering(OK + b"\r\nhere"), "::1") as made:
        await Forwarder(made.port, host="::1")(scope_of(), asking.receive, asking.send)
    assert asking.body == b"here"


@run
async def test_a_client_that_went_before_it_asked_is_not_asked_for() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    asking = Asking()
    async with service(answering(OK + b"\r\n")) as made:
        await Forwarder(made.port)(scope_of(), receive, asking.send)
        assert asking.sent == []
        await made.had_no_connection()


@run
async def test_what_a_server_says_behind_the_end_of_a_request_adds_nothing_to_it() -> None:
    """Uvicorn says that there is no more of it, as often as it is asked."""
    asking, heard = Asking(b"", b"body"), []
    more: list[Message] = [{"type": "http.request", "body": b"more", "more_body": False}] * 2

    async def receive() -> Message:
        if asking.left:
            return await asking.receive()
        return more.pop() if more else {"type": "http.disconnect"}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        heard.append((await reader.read()).partition(b"\r\n\r\n")[2])

    async with service(handle) as made:
        await Forwarder(made.port)(scope_of("POST"), receive, asking.send)
    assert heard == [b"4\r\nbody\r\n0\r\n\r\n"]


def listening(asked: asyncio.Event, heard: list[bytes], response: bytes = b"") -> Handle:
    """Reads a head, may begin to answer, and reads to the connection's end."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(response)
        asked.set()
        try:
            heard.append(await reader.read())
        except ConnectionResetError:
            heard.append(b"")  # what it wrote was not all read

    return handle


ENDLESS = {"nothing yet": b"", "half a response": CHUNKED + b"\r\n4\r\nbody\r\n"}


@pytest.mark.parametrize("response", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("body", [True, False], ids=["in its body", "behind its request"])
@run
async def test_a_client_that_goes_ends_the_connection_to_the_service(response: bytes, body: bool) -> None:
    heard: list[bytes] = []
    asked, asking = asyncio.Event(), Asking(b"", ended=not body)
    async with service(listening(asked, heard, response)) as made:
        running = asyncio.create_task(ask(made.port, scope_of("POST"), asking))
        await asked.wait()
        asking.gone.set()
        await running
    assert not asking.whole
    assert heard == [b""]


@pytest.mark.parametrize("response", ENDLESS.values(), ids=ENDLESS)
@run
async def test_cancelling_ends_the_connection_to_the_service(response: bytes) -> None:
    heard: list[bytes] = []
    asked, asking = asyncio.Event(), Asking(b"", ended=False)
    async with service(listening(asked, heard, response)) as made:
        running = asyncio.create_task(ask(made.port, scope_of("POST"), asking))
        await asked.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not asking.whole
    assert heard == [b""]


@run
async def test_a_request_that_does_not_open_ends_the_connection_to_the_service() -> None:
    """As the enclave proxy says it: `receive` raises."""
    heard: list[bytes] = []
    asked, asking = asyncio.Event(), Asking(b"first", ended=False)

    async def receive() -> Message:
        if asking.left:
            return await asking.receive()
        await asked.wait()
        raise RemoteProtocolError("record 1 does not open")

    async with service(listening(asked, heard)) as made:
        with pytest.raises(RemoteProtocolError, match="record 1"):
            await Forwarder(made.port)(scope_of("POST"), receive, asking.send)
    assert heard == [b"5\r\nfirst\r\n"]


@run
async def test_a_client_that_cannot_be_answered_ends_the_connection_to_the_service() -> None:
    heard: list[bytes] = []

    async def send(message: Message) -> None:
        raise ZeroDivisionError(message["type"])

    asked = asyncio.Event()
    async with service(listening(asked, heard, CHUNKED + b"\r\n")) as made:
        with pytest.raises(ZeroDivisionError):
            await Forwarder(made.port)(scope_of(), Asking().receive, send)
    assert heard == [b""]


@run
async def test_the_forwarder_is_ready_and_done_at_once_and_takes_no_websocket() -> None:
    told = iter(["lifespan.startup", "lifespan.shutdown", "websocket.connect"])
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": next(told)}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await Forwarder(1)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    await Forwarder(1)({"type": "websocket"}, receive, send)
    assert sent[2:] == ["websocket.close"]


# --- behind an enclave proxy -----------------------------------------------------------------------------------------

MANIFEST = parse_manifest(
    """\
auth: [{auth_name: users, auth_type: signed_headers}]
base_image: workshop_asgi
paths:
  - {path: /, access: reader}
  - {path: "/gr\u00fc\u00dfe", access: reader}
  - {path: /write, access: writer}
roles:
  - {role_name: reader, role_auth: users, role_cardinality: 2}
  - {role_name: writer, role_auth: users, role_cardinality: 1}
traffic: {inbound: [{name: http, port: 80, type: tcp}]}
"""
)


class Forwarding(Proxied):
    """An enclave proxy whose app is a forwarder to `port`."""

    port = 0

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await Forwarder(self.port)(scope, receive, send)


@pytest.fixture(scope="module")
def proxy() -> Forwarding:
    return Forwarding(MANIFEST, "reader")


@dataclass(frozen=True)
class Heard:
    status: int
    headers: Headers
    body: bytes


class Talk:
    """One exchange with the enclave proxy, over a connection of its own."""

    def __init__(self, proxy: Forwarding, head: RequestHead, *, length: int | None = None) -> None:
        exchange = proxy._session.exchange()
        self._sealer = MessageSealer(exchange.sealer, head, length=length)
        self._opener = MessageOpener(exchange.opener, method=head.method)
        self._response = carrier.CarrierResponse()
        self._records: list[Record] = []
        path = carrier.exchange_path(proxy._session.session_id, exchange.stream)
        self._connected = asyncio.create_task(self._connect(proxy, path))

    async def _connect(self, proxy: Forwarding, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._server = HttpServer(proxy._proxy)
        listener = bind(0)
        await self._server.start(listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(carrier.request_head(path, "enclave", carrier.RECORDS_TYPE, None))
        return reader, writer

    async def say(self, data: bytes, *, end: bool = False) -> None:
        _, writer = await self._connected
        writer.write(carrier.chunk(self._sealer.seal(data, end=end)) + (carrier.chunk(b"") if end else b""))
        await writer.drain()

    async def hear(self) -> Record:
        """The next record; RemoteProtocolError where the answer is cut."""
        reader, _ = await self._connected
        while not self._records:
            self._records += self._opener.receive(self._response.receive(await reader.read(MAX_DATA)))
        return self._records.pop(0)

    async def end(self) -> None:
        _, writer = await self._connected
        writer.close()
        await self._server.close()

    async def hear_all(self) -> Heard:
        records = [await self.hear()]
        while not records[-1].end:
            records.append(await self.hear())
        await self.end()
        head: Any = records[0].head
        return Heard(head.status, head.headers, b"".join(record.data for record in records))


async def through(proxy: Forwarding, head: RequestHead, *body: bytes) -> Heard:
    talk = Talk(proxy, head)

    async def say() -> None:
        for piece in body[:-1]:
            await talk.say(piece)
        await talk.say(body[-1] if body else b"", end=True)

    said = asyncio.create_task(say())
    heard = await talk.hear_all()
    said.cancel()
    return heard


async def mirror(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app that says what it was asked, in two pieces."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    asked = {key: scope[key] for key in ("method", "path")}
    asked |= {key: scope[key].decode() for key in ("raw_path", "query_string")}
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    answer = json.dumps(asked | {"headers": headers, "body": body.hex()}).encode()
    fields = [(b"content-type", b"application/json"), (b"x-mine", b"1")]
    await send({"type": "http.response.start", "status": 201, "headers": fields})
    await send({"type": "http.response.body", "body": answer[:10], "more_body": True})
    await send({"type": "http.response.body", "body": answer[10:]})


@pytest.fixture(scope="module")
def uvicorn_port() -> Iterator[int]:
    server = BackgroundServer(mirror, bind(0))
    yield server.port
    server.close()


TRUE = [["x-oblv-user-name", "Alice"], ["x-oblv-user-role", "reader"]]


@pytest.mark.parametrize("body", [(b"body",), (b"", b"bo", b"dy")], ids=["in one record", "in three"])
@pytest.mark.parametrize("headers", [(), FOUR], ids=["no length", "a length"])
@run
async def test_a_request_reaches_a_server_of_its_own_as_it_was_decided_on(
    uvicorn_port: int, proxy: Forwarding, body: tuple[bytes, ...], headers: Headers
) -> None:
    proxy.port = uvicorn_port
    mallory = (b"x_oblv_user_name", b"Mallory")
    head = RequestHead(b"PUT", b"/gr%C3%BC%c3%9fe?a=%2F&b", ((b"host", b"enclave:3030"), *headers, mallory))
    added = [] if headers else [["content-length", "4"] if len(body) == 1 else ["transfer-encoding", "chunked"]]
    heard = await through(proxy, head, *body)
    asked = json.loads(heard.body)
    assert heard.status == 201
    assert (b"x-mine", b"1") in heard.headers
    assert heard.headers == end_to_end(heard.headers)
    assert (asked["method"], asked["path"], asked["body"]) == ("PUT", "/grüße", b"body".hex())
    assert (asked["raw_path"], asked["query_string"]) == ("/gr%C3%BC%c3%9fe", "a=%2F&b")
    given_headers = [[name.decode(), value.decode()] for name, value in head.headers if (name, value) != mallory]
    assert asked["headers"] == [*given_headers, *TRUE, *added, ["connection", "close"]]


@run
async def test_a_server_of_its_own_answers_head_without_a_body(uvicorn_port: int, proxy: Forwarding) -> None:
    proxy.port = uvicorn_port
    heard = await through(proxy, RequestHead(b"HEAD", b"/", ()))
    assert (heard.status, heard.body) == (201, b"")


@pytest.mark.parametrize("path", [b"/write", b"/other", b"/%2e/"])
@run
async def test_what_the_enclave_proxy_refuses_reaches_no_service(proxy: Forwarding, path: bytes) -> None:
    async with service(answering(OK + b"\r\n")) as made:
        proxy.port = made.port
        assert (await through(proxy, RequestHead(b"GET", path, ()))).status in (403, 404)
        await made.had_no_connection()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each piece of a body whose length is known as it comes."""
    head = await read_head(reader)
    left = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    writer.write(OK + b"\r\n")
    while left:
        data = await reader.read(MAX_DATA)
        writer.write(data)
        await writer.drain()
        left -= len(data)


@pytest.mark.parametrize("loop", LOOPS)
@run
async def test_the_first_piece_of_the_answer_comes_before_the_last_of_the_question(
    proxy: Forwarding, loop: str
) -> None:
    del loop
    async with service(echo) as made:
        proxy.port = made.port
        talk = Talk(proxy, RequestHead(b"POST", b"/", FOUR), length=4)
        await talk.say(b"")
        assert (await talk.hear()).head is not None  # though nothing of the body was sent
        for piece in (b"1", b"2", b"3", b"4"):
            await talk.say(piece)
            record = await talk.hear()
            assert record.data == piece
        assert record.end or (await talk.hear()).end
        await talk.end()


@pytest.mark.parametrize("loop", LOOPS)
@run
async def test_an_answer_before_the_end_of_the_question_ends_the_exchange(proxy: Forwarding, loop: str) -> None:
    del loop
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 413 \r\n\r\ntoo much")
        writer.write_eof()
        heard.append(await reader.read())

    async with service(handle) as made:
        proxy.port = made.port
        talk = Talk(proxy, RequestHead(b"POST", b"/", ((b"content-length", b"1000"),)), length=1000)
        await talk.say(b"first")
        answer = await talk.hear_all()
        assert (answer.status, answer.body) == (413, b"too much")
    assert heard == [b"first"]


@run
async def test_a_response_that_is_cut_is_seen_to_be_cut_by_the_client(proxy: Forwarding) -> None:
    async with service(answering(CHUNKED + b"\r\n4\r\nbody\r\n")) as made:
        proxy.port = made.port
        talk = Talk(proxy, RequestHead(b"GET", b"/", ()))
        await talk.say(b"", end=True)
        with pytest.raises(RemoteProtocolError, match="cut"):
            await talk.hear_all()
        await talk.end()


@pytest.mark.parametrize("name", ["nothing", "half a head", "words", "a head without end", "two lengths"])
@run
async def test_what_is_no_response_is_a_sealed_502_with_one_line(proxy: Forwarding, name: str) -> None:
    """The service's fault, and neither the client's (400) nor the enclave proxy's (500)."""
    _, response = (CUT | NOT_HTTP)[name]
    async with service(answering(response)) as made:
        proxy.port = made.port
        heard = await through(proxy, RequestHead(b"GET", b"/", ()))
    assert heard.status == 502
    assert heard.body.startswith(b"expected ")
    assert len(heard.body.splitlines()) == 1


@run
async def test_a_service_that_is_not_there_is_a_sealed_502(proxy: Forwarding) -> None:
    with bind(0) as listener:
        proxy.port = listener.getsockname()[1]
    heard = await through(proxy, RequestHead(b"GET", b"/", ()))
    assert heard.status == 502
    assert heard.body == b"the service does not answer on port %d; it may be starting again\n" % proxy.port


@run
async def test_fifty_megabytes_each_way_pass_through_a_few(proxy: Forwarding) -> None:
    """Both directions at once; the bound holds the service and the client too."""
    piece, count, got = bytes(MAX_DATA), 200, 0
    length = len(piece) * count
    async with service(echo) as made:
        proxy.port = made.port
        talk = Talk(proxy, RequestHead(b"POST", b"/", ((b"content-length", b"%d" % length),)), length=length)

        async def say() -> None:
            for _ in range(count):
                await talk.say(piece)

        tracemalloc.start()
        try:
            said = asyncio.create_task(say())
            while not (record := await talk.hear()).end:
                got += len(record.data)
            await said
            await talk.end()
            assert tracemalloc.get_traced_memory()[1] < 10 * 1024 * 1024
        finally:
            tracemalloc.stop()
    assert got + len(record.data) == length
