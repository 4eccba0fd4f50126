"""The parent instance's relay over real sockets: whole both ways, half-closed, bounded, and gone when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loops import LOOPS

from workshop_kit.edges.vsock import listen_at
from workshop_kit.simulator.relay import TO_CLIENT, ByteRelay, Seen, Witness

DEADLINE = 20.0
MEBIBYTE = 1 << 20


class Carried:
    """A relay in a thread of its own, the enclave's listener and the sockets of a test, all closed at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self.loop = loop
        self.witness = Witness()
        self.relay = ByteRelay(loop, folder / "enclave", self.witness.note)
        self.enclave = listen_at(folder / "enclave")
        self.enclave.settimeout(DEADLINE)
        self.errors: list[dict[str, object]] = []
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._open: list[socket.socket] = [self.enclave]
        self._thread = threading.Thread(target=loop.run_forever)
        self._thread.start()

    def call(self, function: Callable[[], object]) -> None:
        """Run `function` in the relay's thread, to its end."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (function(), done.set()))
        assert done.wait(DEADLINE)

    def client(self) -> socket.socket:
        """A client's end of a connection that the relay carries from now on."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            outer = socket.create_connection(listener.getsockname(), DEADLINE)
            carried, _ = listener.accept()
        self._open.append(outer)
        self.call(lambda: self.relay.carry(carried))
        return outer

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A client's end and the enclave's."""
        outer = self.client()
        inner, _ = self.enclave.accept()
        inner.settimeout(DEADLINE)
        self._open.append(inner)
        return outer, inner

    def require_none_open(self) -> None:
        """After a turn of the loop: what a test did is with the relay already, which is on this machine."""
        end = threading.Event()
        for _ in range(1000):
            self.call(lambda: None if self.relay._open else end.set())
            if end.is_set():
                return
        raise AssertionError(f"{len(self.relay._open)} pairs are open still")

    def close(self) -> None:
        self.call(self.relay.cut)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()
        for each in self._open:
            each.close()


@pytest.fixture(params=LOOPS)
def carried(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Carried]:
    made = Carried(LOOPS[request.param](), tmp_path)
    yield made
    made.close()
    assert made.errors == []


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side ends."""
    parts = []
    while part := connection.recv(MEBIBYTE):
        parts.append(part)
    return b"".join(parts)


def sending(connection: socket.socket, data: bytes) -> threading.Thread:
    """A thread that sends `data` and ends its direction."""

    def run() -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_bytes_pass_whole_in_both_directions_at_once(carried: Carried) -> None:
    """Sixteen mebibytes each way, so that both directions wait, for readers that begin late."""
    outer, inner = carried.pair()
    up, down = os.urandom(16 * MEBIBYTE), os.urandom(16 * MEBIBYTE)
    senders = [sending(outer, up), sending(inner, down)]
    assert all_of(inner) == up
    assert all_of(outer) == down
    for sender in senders:
        sender.join(DEADLINE)
    carried.require_none_open()


@pytest.mark.parametrize("first", ["client", "enclave"])
def test_a_direction_that_ends_leaves_the_other_open(carried: Carried, first: str) -> None:
    outer, inner = carried.pair()
    one, other = (outer, inner) if first == "client" else (inner, outer)
    one.sendall(b"all I have")
    one.shutdown(socket.SHUT_WR)
    assert all_of(other) == b"all I have"
    for number in range(3):
        other.sendall(bytes([number]))
        assert one.recv(10) == bytes([number])
    other.shutdown(socket.SHUT_WR)
    assert all_of(one) == b""
    carried.require_none_open()


def fill(connection: socket.socket) -> bytes:
    """Send until the sockets up to who does not read are full; what was sent."""
    connection.setblocking(False)
    sent, piece = bytearray(), bytes(range(251)) * 1024
    while len(sent) < 64 * MEBIBYTE and select.select([], [connection], [], 0.3)[1]:
        sent += piece[: connection.send(piece)]
    connection.settimeout(DEADLINE)
    return bytes(sent)


def test_who_does_not_read_is_waited_for_and_fills_no_memory(carried: Carried) -> None:
    """The sender is stopped, and what it sent arrives once somebody reads."""
    outer, inner = carried.pair()
    sent = fill(outer)
    assert len(sent) < 64 * MEBIBYTE
    outer.shutdown(socket.SHUT_WR)
    assert all_of(inner) == sent


def test_messages_that_fill_the_socket_to_its_brim_arrive_whole(carried: Carried) -> None:
    """One by one, so that a send may find no room at all, where larger ones find some."""
    outer, inner = carried.pair()
    messages = [os.urandom(4000) for _ in range(300)]
    for message in messages:
        outer.sendall(message)
        carried.call(lambda: None)  # a turn of the loop, in which the relay reads it
    outer.shutdown(socket.SHUT_WR)
    assert all_of(inner) == b"".join(messages)


def test_an_answer_to_a_request_that_nobody_reads_arrives(carried: Carried) -> None:
    """Whoever refuses a request may close without reading it, and the reason must not be lost on the way."""
    outer, inner = carried.pair()
    fill(outer)
    inner.sendall(b"too long")
    inner.close()
    assert outer.recv(100) == b"too long"


@pytest.mark.parametrize("who", ["client", "enclave"])
def test_a_connection_that_breaks_ends_its_other_half(carried: Carried, who: str) -> None:
    outer, inner = carried.pair()
    gone, left = (outer, inner) if who == "client" else (inner, outer)
    left.sendall(b"unread")
    assert gone.recv(1)
    if who == "client":
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    gone.close()
    assert all_of(left) == b""
    left.close()
    carried.require_none_open()


def test_a_client_that_breaks_off_while_both_directions_wait_is_known_to_the_enclave(carried: Carried) -> None:
    """An enclave that reads nothing while it sends would wait for the client, and the relay for the enclave."""
    outer, inner = carried.pair()
    fill(outer)
    fill(inner)
    outer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    outer.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        inner.sendall(bytes(MEBIBYTE))
    inner.close()
    carried.require_none_open()


def test_where_no_enclave_listens_a_client_is_hung_up_on(carried: Carried) -> None:
    carried.enclave.close()
    outer = carried.client()
    assert all_of(outer) == b""
    carried.require_none_open()


def test_cutting_closes_what_waits_too(carried: Carried) -> None:
    outer, inner = carried.pair()
    fill(outer)
    carried.call(carried.relay.cut)
    assert carried.relay._open == set()
    assert all_of(inner)
    with contextlib.suppress(ConnectionResetError):
        assert outer.recv(1) == b""


def test_what_passed_is_seen_with_where_it_went(carried: Carried) -> None:
    outer, inner = carried.pair()
    outer.sendall(b"question")
    assert inner.recv(100) == b"question"
    inner.sendall(b"answer")
    assert outer.recv(100) == b"answer"
    assert carried.witness.seen() == [Seen("the enclave", b"question"), Seen("the client", b"answer")]


def test_the_last_mebibyte_is_remembered_and_no_more(carried: Carried) -> None:
    outer, inner = carried.pair()
    data = os.urandom(3 * MEBIBYTE)
    sender = sending(outer, data)
    assert all_of(inner) == data
    sender.join(DEADLINE)
    seen = b"".join(each.data for each in carried.witness.seen())
    assert MEBIBYTE - 300_000 < len(seen) <= MEBIBYTE
    assert data.endswith(seen)


def test_small_pieces_are_counted_with_what_they_take() -> None:
    """A byte at a time, a mebibyte of bytes would take a hundred in memory."""
    witness = Witness()
    for _ in range(20_000):
        witness.note(TO_CLIENT, b"x")
    assert 1000 < len(witness.seen()) < 10_000
