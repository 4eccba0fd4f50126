"""Somebody before the parent instance who carries bytes, as a load balancer does, until a test has him do otherwise."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_PIECE = 1 << 16
_END = b"0\r\n\r\n"


class Between:
    """A port that leads to another.

    Attributes:
        says: the answer to whatever comes, in the enclave's place.
        asked: what was answered so.
        closes: end each connection behind the first that is answered on it: "announced", or not.
        closed: is released for each connection that ends.
        holds: an event before which the end of no chunked answer goes on.
    """

    def __init__(self, port: int) -> None:
        self.says = b""
        self.asked: list[bytes] = []
        self.closes = ""
        self.closed = threading.Semaphore(0)
        self.holds: threading.Event | None = None
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _start(self, run: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=run, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                inner = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += client, inner
                self._start(self._ask, client, inner)
                self._start(self._answer, inner, client)

    def _ask(self, client: socket.socket, inner: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(_PIECE):
                if self.says:
                    self.asked.append(data)
                    client.sendall(self.says)
                else:
                    inner.sendall(data)
        end(client, inner)

    def _answer(self, inner: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := inner.recv(_PIECE):
                if self.closes == "announced":
                    data = data.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
                if self.holds is not None and data.endswith(_END):
                    client.sendall(data.removesuffix(_END))
                    self.holds.wait(30)
                    data = _END
                client.sendall(data)
                if self.closes:
                    break
        end(client, inner)
        self.closed.release()

    def close(self) -> None:
        end(*self._sockets)
        for one in self._sockets:
            one.close()
        for thread in self._threads:
            thread.join(10)


def end(*sockets: socket.socket) -> None:
    """Both directions of each: whoever waits for one of them goes on."""
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def between(port: int) -> Iterator[Between]:
    opened = Between(port)
    try:
        yield opened
    finally:
        opened.close()
