"""The parent instance's relay: each connection that comes gets one to the enclave, and bytes go both ways.

It reads no message, and knows neither HTTP nor records. It works on readiness alone, without tasks, streams and
transports: every request passes here twice, and a connection that is closed is closed at once, not some turns of a loop
later.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

_PIECE = 256 * 1024
_SMALL_PIECE = 64 * 1024  # asked for until one is full: malloc maps a large one by itself, which costs a message dear
_REMEMBERED = 1024 * 1024
_BESIDE = 128  # bytes that a piece takes by itself: many small ones must not fill the memory either
_DIRECTIONS = ("the client", "the enclave")
TO_CLIENT, TO_ENCLAVE = 0, 1


@dataclass(frozen=True)
class Seen:
    """Bytes that passed, `towards` the enclave or the client."""

    towards: str
    data: bytes


class Witness:
    """What somebody who carries bytes remembers of them: the last 1 MiB."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, bytes]] = deque()
        self._remembered = 0

    def note(self, towards: int, data: bytes) -> None:
        """Remember a piece. In one thread only."""
        self._pieces.append((towards, data))
        self._remembered += len(data) + _BESIDE
        while self._remembered > _REMEMBERED:
            self._remembered -= len(self._pieces.popleft()[1]) + _BESIDE

    def seen(self) -> list[Seen]:
        """What passed last, the newest at the end. Any thread may ask."""
        return [Seen(_DIRECTIONS[towards], data) for towards, data in tuple(self._pieces)]


class ByteRelay:
    """Carries connections to a Unix socket, on the loop in whose thread it is called.

    A direction that ends is half-closed, and the other goes on. Whoever does not read is waited for, with at most one
    piece of 256 KiB in memory for each direction; no time-out ends that.

    Args:
        target: the enclave's socket.
        note: is called with each piece before it goes on, and with where it goes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Path, note: Callable[[int, bytes], None]) -> None:
        self._loop = loop
        self._target = str(target)
        self._note = note
        self._open: set[_Pair] = set()

    def carry(self, connection: socket.socket) -> None:
        """Relay `connection`, which belongs to the relay from now on; where the enclave cannot be had, it is closed."""
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            enclave = _dial(self._target)
        except OSError:
            connection.close()
        else:
            self._open.add(_Pair(self._loop, connection, enclave, self._note, self._open.discard))

    def cut(self) -> None:
        """Close every connection, whatever waits to be sent."""
        for pair in tuple(self._open):
            pair.close()


def _dial(target: str) -> socket.socket:
    enclave = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        enclave.setblocking(False)
        # A Unix socket's buffer does not grow by itself, and a piece should go in one call.
        enclave.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)
        enclave.connect(target)  # at once or, where nobody listens or the queue is full, not at all
    except OSError:
        enclave.close()
        raise
    return enclave


class _Pair:
    """A client's connection and the enclave's that belongs to it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: socket.socket,
        enclave: socket.socket,
        note: Callable[[int, bytes], None],
        on_close: Callable[[_Pair], None],
    ) -> None:
        self.loop = loop
        self.client = client
        self._both = (client, enclave)
        self._on_close = on_close
        self._ways = 2
        _Way(self, client, enclave, partial(note, TO_ENCLAVE))
        _Way(self, enclave, client, partial(note, TO_CLIENT))

    def way_ended(self) -> None:
        self._ways -= 1
        if not self._ways:
            self.close()

    def close(self) -> None:
        for connection in self._both:
            self.loop.remove_reader(connection)
            self.loop.remove_writer(connection)
            connection.close()
        self._on_close(self)


class _Way:
    """One direction of a pair. While a piece waits for the sink, nothing is read from the source."""

    def __init__(self, pair: _Pair, source: socket.socket, sink: socket.socket, note: Callable[[bytes], None]) -> None:
        self._pair = pair
        self._loop = pair.loop
        self._source = source
        self._sink = sink
        self._note = note
        self._size = _SMALL_PIECE
        self._waiting = memoryview(b"")
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        try:
            data = self._source.recv(self._size)
        except BlockingIOError:
            return
        except OSError:  # nothing can go back there either
            self._pair.close()
            return
        if data:
            self._size = _PIECE if len(data) >= _SMALL_PIECE else _SMALL_PIECE
            self._note(data)
            self._send(memoryview(data))
        else:
            self._end()

    def _flush(self) -> None:
        self._send(self._waiting)

    def _send(self, piece: memoryview) -> None:
        try:
            left = piece[self._sink.send(piece) :]
        except BlockingIOError:
            left = piece
        except OSError:
            if self._sink is self._pair.client:
                self._pair.close()  # an enclave that sends, and does not read meanwhile, would wait for it for ever
            else:
                self._end()  # an enclave that reads no more may have said why: that still goes to its client
            return
        if left and not self._waiting:
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._flush)
        elif self._waiting and not left:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._read)
        self._waiting = left

    def _end(self) -> None:
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        with suppress(OSError):  # it is gone
            self._sink.shutdown(socket.SHUT_WR)
        self._pair.way_ended()
