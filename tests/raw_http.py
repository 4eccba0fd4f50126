"""An `HttpServer` in a thread, and clients that write bytes; what they read, h11 reads, which shares no code with it.

Whatever goes wrong without a word to the client fails the test: an exception in the loop, a task or a connection left.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
from loops import LOOPS

from workshop_kit.edges.http_call import Call
from workshop_kit.edges.http_server import HttpServer
from workshop_kit.edges.serving import bind, port_of

DEADLINE = 20.0
"""Seconds after which a test gives up waiting."""


@dataclass
class Served:
    """A running server.

    Attributes:
        faults: what the loop's exception handler was told.
    """

    port: int
    server: HttpServer
    loop: asyncio.AbstractEventLoop
    faults: list[str] = field(default_factory=list)

    def do(self, coroutine: Any) -> Any:
        """Run it in the server's thread."""
        done: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return done.result(DEADLINE)

    def close(self) -> None:
        self.do(self.server.close())

    @property
    def open(self) -> int:
        """Connections that the server has."""
        return len(self.server._connections)


@contextmanager
def served(
    handle: Callable[[Call], Awaitable[None]], new_loop: Callable[[], asyncio.AbstractEventLoop] = LOOPS["asyncio"]
) -> Iterator[Served]:
    """Serve `handle`; at the end nothing is left, and nothing has been said to the loop."""
    ready: Future[Served] = Future()
    stop = threading.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_serve(handle, ready, stop))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        running = ready.result(DEADLINE)
        yield running
    finally:
        stop.set()
        running.loop.call_soon_threadsafe(lambda: None)
        thread.join(DEADLINE)
        assert not thread.is_alive()
    gc.collect()  # a task that nobody asked for its error says so as it goes
    assert not running.faults


async def _serve(handle: Callable[[Call], Awaitable[None]], ready: Future[Served], stop: threading.Event) -> None:
    loop = asyncio.get_running_loop()
    with bind(0) as listener:
        server = HttpServer(handle)
        running = Served(port_of(listener), server, loop)
        loop.set_exception_handler(lambda _, context: running.faults.append(_words(context)))
        before = asyncio.all_tasks()
        await server.start(listener)
        ready.set_result(running)
        await loop.run_in_executor(None, stop.wait)
        await server.close()
        assert not server._connections
        assert not asyncio.all_tasks() - before
        # Only timers of this loop's own shutdown may be left.
        assert not [timer for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()]


def _words(context: dict[str, Any]) -> str:
    return f"{context['message']}: {context.get('exception')!r}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    interim: tuple[int, ...] = ()

    def __getitem__(self, name: str) -> str | None:
        values = [value.decode("latin-1") for key, value in self.headers if key == name.encode()]
        return ", ".join(values) if values else None


class Raw:
    """A client's connection."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._kept = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> Raw:
        for piece in pieces:
            self.socket.sendall(piece)
        return self

    def some(self) -> bytes:
        """What has come, at least a byte of it; b"" at the end."""
        if self._kept:
            kept, self._kept = self._kept, b""
            return kept
        return self.socket.recv(1 << 16)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.some()
            assert piece, f"ended after {data!r}"
            data += piece
        self._kept = data[size:]
        return data[:size]

    def answer(self, method: str = "GET") -> Answer:
        """The next answer, as h11 reads it; raises where it is none, or cut."""
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        reader.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        reader.send(h11.EndOfMessage())
        interim: list[int] = []
        head: h11.Response | None = None
        body = bytearray()
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                reader.receive_data(self.some())
            elif isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise AssertionError(f"expected an answer, got {event!r}")
        assert head is not None
        self._kept = reader.trailing_data[0]
        return Answer(head.status_code, tuple(head.headers), bytes(body), tuple(interim))

    def rest(self) -> bytes:
        """All that still comes, to the end; also where the end is a reset."""
        data = b""
        try:
            while piece := self.some():
                data += piece
        except ConnectionError:
            pass
        return data

    def ended(self) -> bool:
        """Whether nothing comes but the end."""
        return self.rest() == b""

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection: the server is told at once."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def request(target: str = "/", *fields: str, method: str = "GET", body: bytes = b"", version: str = "1.1") -> bytes:
    """A request as text, with a Host unless `fields` has one; a content-length where there is a body."""
    lines = [f"{method} {target} HTTP/{version}"]
    if not any(each.lower().startswith("host:") for each in fields):
        lines.append("Host: a")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join([*lines, *fields, "", ""])).encode("latin-1") + body
