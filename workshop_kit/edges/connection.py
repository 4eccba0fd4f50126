"""A TCP connection for programs that call and wait: it sends while it receives, and its errors are httpx's."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from workshop_kit.edges.dialogue import Endpoint

READ_SIZE = 256 * 1024
SILENCE = 30.0
"""Seconds that the other end may neither send nor take anything, unless the program says otherwise."""

_WOULD_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(frozen=True)
class TimeOuts:
    """Seconds, or None for ever."""

    connect: float | None = SILENCE
    read: float | None = SILENCE
    write: float | None = SILENCE

    @classmethod
    def of(cls, request: httpx.Request) -> TimeOuts:
        """Those that the program gave to httpx."""
        given = request.extensions.get("timeout", {})
        return cls(*(given.get(name, SILENCE) for name in ("connect", "read", "write")))

    @property
    def for_handshake(self) -> TimeOuts:
        """The same, but not for ever: whoever waits as long as an app likes does not mean the enclave's silence."""
        return TimeOuts(*(SILENCE if each is None else each for each in (self.connect, self.read, self.write)))


def broken(error: OSError) -> str:
    return f"the connection to the enclave broke ({error})"


def silent(seconds: float | None) -> str:
    return f"expected an answer from the enclave{_within(seconds)}, got none"


def not_taken(seconds: float | None) -> str:
    return f"expected the enclave to take what is sent{_within(seconds)}, it takes nothing"


def _within(seconds: float | None) -> str:
    return "" if seconds is None else f" within {seconds:g} s"  # systems have time-outs of their own


class Connection:
    """One connection to the endpoint.

    `feed` says what is to be sent, piece by piece; `receive` sends of that what the other end takes until something
    comes back. So an answer that begins before the request has ended is read, and neither end waits for the other.

    Raises:
        httpx.ConnectError, httpx.ConnectTimeout: nothing answers.
    """

    def __init__(self, endpoint: Endpoint, time_outs: TimeOuts) -> None:
        self.time_outs = time_outs
        self._pieces: Iterator[bytes] | None = None
        self._rest = memoryview(b"")
        self._broken: OSError | None = None
        try:
            self._socket = socket.create_connection((endpoint.host, endpoint.port), time_outs.connect)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if endpoint.tls:
                context = ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=endpoint.host)
        except TimeoutError:
            raise httpx.ConnectTimeout(f"nothing answers at {endpoint.authority}") from None
        except OSError as error:
            raise httpx.ConnectError(f"nothing answers at {endpoint.authority} ({error})") from None
        self._socket.setblocking(False)

    def feed(self, pieces: Iterable[bytes]) -> None:
        """What `receive` is to send."""
        self._pieces = iter(pieces)

    @property
    def sent(self) -> bool:
        """Whether all that was taken of what `feed` was given has gone."""
        return not self._rest and self._broken is None

    def receive(self) -> bytes:
        """What has come, b"" at the end.

        Raises:
            httpx.NetworkError, httpx.TimeoutException: the connection broke, or the other end is silent.
        """
        while True:
            takes = self._send_some()
            data = self._read()
            if data is not None:
                return data
            if not takes:
                self._wait()

    def _send_some(self) -> bool:
        """Whether the other end would take more, and there is more."""
        if self._pieces is None:
            return False
        if not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
                return False
            self._rest = memoryview(piece)
        try:
            self._rest = self._rest[self._socket.send(self._rest) :]
        except _WOULD_WAIT:
            return False
        except OSError as error:
            # It takes no more, and may have said why: what came before this is still read.
            self._pieces, self._rest, self._broken = None, memoryview(b""), error
            return False
        return True

    def _read(self) -> bytes | None:
        try:
            data = self._socket.recv(READ_SIZE)
        except _WOULD_WAIT:
            return None
        except OSError as error:
            raise httpx.ReadError(broken(error)) from None
        if not data and self._broken is not None:
            raise httpx.WriteError(broken(self._broken))
        return data

    def _wait(self) -> None:
        """Until something comes, or goes on going."""
        sending = self._pieces is not None
        seconds = self.time_outs.write if sending else self.time_outs.read
        poll = select.poll()  # select() itself knows no descriptor beyond 1023
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if sending else 0))
        if not poll.poll(None if seconds is None else seconds * 1000):
            if sending:
                raise httpx.WriteTimeout(not_taken(seconds))
            raise httpx.ReadTimeout(silent(seconds))

    @property
    def quiet(self) -> bool:
        """Whether it is idle and the other end has not closed: then there is nothing to read."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise
