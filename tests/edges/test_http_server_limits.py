"""What a client of the server cannot do: hold it up, fill its memory, or keep it from ending."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from loops import LOOPS
from processes import until
from raw_http import DEADLINE, Raw, Served, request, served

from workshop_kit.edges import http_connection, http_server
from workshop_kit.edges.http_call import Call
from workshop_kit.edges.http_connection import Connection
from workshop_kit.edges.http_server import HttpServer

Serve = Callable[[Callable[[Call], Awaitable[None]]], AbstractContextManager[Served]]

MEBIBYTE = bytes(1 << 20)
CHUNKED = "Transfer-Encoding: chunked"


async def hello(call: Call) -> None:
    await call.answer(200, (), b"hello")


@pytest.fixture(params=LOOPS)
def serve(request: pytest.FixtureRequest) -> Serve:
    """Serves a handler, on each of the loops that the kit runs on."""
    return lambda handler: served(handler, LOOPS[request.param])


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets limits; those of time are seconds that a test waits for, and none depends on how exactly they are kept."""

    def set_to(**values: float) -> None:
        for name, value in values.items():
            monkeypatch.setattr(http_server if name in ("MAX_CONNECTIONS", "GRACE") else http_connection, name, value)

    return set_to


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [False, True])
def test_a_connection_without_a_request_ends(serve: Serve, limits: Any, used: bool) -> None:
    limits(IDLE=0.1)
    with serve(hello) as running, Raw(running.port) as client:
        if used:
            assert client.send(request()).answer().body == b"hello"
        assert client.ended()


def test_a_call_may_take_longer_than_a_connection_may_be_idle(serve: Serve, limits: Any) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.2)
        await call.answer(200, (), b"slow")

    limits(IDLE=0.05, HEAD=0.05, STALL=0.05)
    with serve(slow) as running, Raw(running.port) as client:
        assert client.send(request()).answer().body == b"slow"


@pytest.mark.parametrize("before", [b"", request()])
def test_a_head_that_never_ends_is_answered_though_a_byte_of_it_comes_now_and_then(
    serve: Serve, limits: Any, before: bytes
) -> None:
    """Its time begins with its first byte, and no byte begins it anew."""
    limits(HEAD=0.2)
    done = threading.Event()
    with serve(hello) as running, Raw(running.port) as client:

        def trickle() -> None:
            client.send(before + b"GET / HTTP/1.1\r\n")
            while not done.wait(0.01):
                try:
                    client.send(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            if before:
                assert client.answer().body == b"hello"
            assert client.answer().status == 408
        finally:
            done.set()
            thread.join()


def test_whoever_takes_nothing_of_his_answer_is_cut_off(serve: Serve, limits: Any) -> None:
    told = threading.Event()

    async def endless(call: Call) -> None:
        try:
            await call.start(200, ())
            while True:
                await call.send(MEBIBYTE)
        except ConnectionResetError:
            told.set()
            raise

    limits(STALL=0.1)
    with serve(endless) as running, Raw(running.port, receive_buffer=4096) as client:
        client.send(request())
        assert told.wait(DEADLINE)
        until(lambda: not running.open, "the end of a connection that nobody reads")


def test_whoever_takes_nothing_of_a_last_answer_is_cut_off_too(serve: Serve, limits: Any) -> None:
    """It is whole for its handler, and waits to be sent: nobody but the clock is left to end that."""

    async def large(call: Call) -> None:
        await call.answer(200, (), MEBIBYTE * 8)

    limits(STALL=0.2)
    with serve(large) as running, Raw(running.port, receive_buffer=4096) as client:
        client.send(request("/", "Connection: close"))
        until(lambda: running.open == 1, "the connection")
        until(lambda: not running.open, "the end of a connection that nobody reads")


class FakeTransport:
    """What a connection asks of its transport."""

    def __init__(self) -> None:
        self.unsent = 0
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.aborted

    def writelines(self, data: object) -> None:
        """Nothing is written here."""

    def close(self) -> None:
        """Once all is sent."""

    def abort(self) -> None:
        self.aborted = True


def test_whoever_takes_little_is_slow_and_not_gone() -> None:
    """Each time the clock looks, something must have been taken since it looked last."""

    async def look() -> None:
        transport = FakeTransport()
        connection = Connection(HttpServer(hello))
        connection.connection_made(transport)  # type: ignore[arg-type]
        transport.unsent = 1000
        connection.pause_writing()
        for unsent in (999, 500, 499):
            transport.unsent = unsent
            connection._too_long()
            assert not transport.aborted
        connection._too_long()
        assert transport.aborted
        connection.connection_lost(None)

    asyncio.run(look())


def test_a_connection_that_closes_has_its_time_for_what_is_unsent(limits: Any) -> None:
    """So little that nobody waits for it: without a time, it would be kept for ever."""
    limits(STALL=0.01)

    async def close() -> None:
        transport = FakeTransport()
        connection = Connection(HttpServer(hello))
        connection.connection_made(transport)  # type: ignore[arg-type]
        transport.unsent = 1000
        connection.finish()
        while not transport.aborted:
            await asyncio.sleep(0.001)
        connection.connection_lost(None)

    asyncio.run(asyncio.wait_for(close(), DEADLINE))


def test_a_server_that_ends_takes_no_connection_that_was_on_its_way() -> None:
    async def late() -> None:
        server, transport = HttpServer(hello), FakeTransport()
        await server.close()
        Connection(server).connection_made(transport)  # type: ignore[arg-type]
        assert transport.aborted

    asyncio.run(late())


@pytest.mark.parametrize("behind", ["an early answer", "a refusal"])
def test_whoever_never_goes_behind_a_last_answer_is_cut_off(serve: Serve, limits: Any, behind: str) -> None:
    limits(LINGER=0.1)
    data = request("/", "Content-Length: 5", method="POST") if behind == "an early answer" else b"garbage\r\n\r\n"
    with serve(hello) as running, Raw(running.port) as client:
        assert client.send(data).answer().status in (200, 400)
        until(lambda: not running.open, "the end of a connection that has had its last answer")


# --- memory ---------------------------------------------------------------------------------------------------------


def test_an_upload_that_nobody_reads_waits_at_the_client(serve: Serve) -> None:
    let_go = threading.Event()
    calls: list[Call] = []

    async def unread(call: Call) -> None:
        calls.append(call)
        await asyncio.get_running_loop().run_in_executor(None, let_go.wait)
        received = 0
        while piece := await call.receive():
            received += len(piece)
        await call.answer(200, (), b"%d" % received)

    with serve(unread) as running, Raw(running.port) as client:
        client.send(request("/", f"Content-Length: {64 << 20}", method="POST"))
        sent = fill(client.socket, 64 << 20)
        assert sent < 32 << 20  # the rest of these are the system's own buffers
        assert calls[0].waiting <= 2 * 256 * 1024
        let_go.set()
        left = (64 << 20) - sent
        client.send(bytes(left))
        assert client.answer("POST").body == b"%d" % (64 << 20)


def test_an_answer_that_nobody_takes_waits_at_its_handler(serve: Serve) -> None:
    sent: list[int] = []

    async def large(call: Call) -> None:
        await call.start(200, ())
        for _ in range(64):
            await call.send(MEBIBYTE)
            sent.append(1)
        await call.end()

    with serve(large) as running, Raw(running.port, receive_buffer=4096) as client:
        client.send(request())
        assert client.exactly(15) == b"HTTP/1.1 200 OK"
        assert len(sent) < 32
        with Raw(running.port) as other:
            other.send(request())
            assert other.answer().body == MEBIBYTE * 64  # a slow reader holds up nobody else


def fill(sender: socket.socket, most: int) -> int:
    """Send until nobody takes any more for a moment, or all has gone; the bytes that went."""
    sender.settimeout(0.3)
    sent = 0
    try:
        while sent < most:
            sent += sender.send(MEBIBYTE[: most - sent])
    except TimeoutError:
        pass
    sender.settimeout(DEADLINE)
    return sent


def test_memory_stays_flat_while_much_goes_through(serve: Serve) -> None:
    async def back(call: Call) -> None:
        await call.start(200, ((b"content-length", b"%d" % (64 << 20)),))
        while piece := await call.receive():
            await call.send(piece)
        await call.end()

    with serve(back) as running, Raw(running.port) as client:
        sending = threading.Thread(
            target=lambda: client.send(request("/", f"Content-Length: {64 << 20}", method="POST"), *[MEBIBYTE] * 64)
        )
        gc.collect()
        tracemalloc.start()
        sending.start()
        received = 0
        buffer = bytearray(1 << 16)
        while received < 64 << 20:
            received += client.socket.recv_into(buffer)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        sending.join()
    assert peak < 4 << 20


def test_requests_that_arrive_in_one_piece_are_so_many_and_no_more(serve: Serve) -> None:
    """Each that waits takes memory, many times its own bytes."""
    let_go = threading.Event()
    begun: list[bytes] = []

    async def slow(call: Call) -> None:
        begun.append(call.target)
        await asyncio.get_running_loop().run_in_executor(None, let_go.wait)
        await call.answer(200, (), b"hello")

    with serve(slow) as running, Raw(running.port) as client:
        client.send(request() * 2000)
        until(lambda: begun, "the first call")
        waiting = max(len(connection._calls) for connection in running.server._connections)
        assert waiting <= http_connection.MAX_AHEAD + 1
        let_go.set()
        received = client.rest()
    assert received.count(b" 200 OK") == waiting
    assert received.count(b" 429 ") == 1


def test_a_burst_within_the_limit_is_answered_to_its_end(serve: Serve) -> None:
    with serve(hello) as running, Raw(running.port) as client:
        client.send(request() * http_connection.MAX_AHEAD)
        for _ in range(http_connection.MAX_AHEAD):
            assert client.answer().body == b"hello"


def test_bodies_behind_the_first_call_wait_at_the_client(serve: Serve) -> None:
    let_go = threading.Event()

    async def slow(call: Call) -> None:
        await asyncio.get_running_loop().run_in_executor(None, let_go.wait)
        size = 0
        while piece := await call.receive():
            size += len(piece)
        await call.answer(200, (), b"%d" % size)

    with serve(slow) as running, Raw(running.port) as client:
        client.send(request() + request("/", f"Content-Length: {64 << 20}", method="POST"))
        sent = fill(client.socket, 64 << 20)
        assert sent < 32 << 20
        let_go.set()
        client.send(bytes((64 << 20) - sent))
        assert [client.answer().body, client.answer().body] == [b"0", b"%d" % (64 << 20)]


# --- number -----------------------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_end_at_once_and_one_that_goes_makes_room(serve: Serve, limits: Any) -> None:
    limits(MAX_CONNECTIONS=2)
    with serve(hello) as running, Raw(running.port) as first, Raw(running.port) as second:
        for client in (first, second):
            assert client.send(request()).answer().body == b"hello"
        with Raw(running.port) as third:
            assert third.ended()
        second.socket.close()
        until(lambda: running.open == 1, "the end of a connection that was closed")
        with Raw(running.port) as fourth:
            assert fourth.send(request()).answer().body == b"hello"
        assert first.send(request()).answer().body == b"hello"


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_server_that_ends_lets_running_calls_end_and_takes_no_more(serve: Serve) -> None:
    begun, let_go = threading.Event(), threading.Event()

    async def slow(call: Call) -> None:
        begun.set()
        await asyncio.get_running_loop().run_in_executor(None, let_go.wait)
        await call.answer(200, (), b"slow")

    with serve(slow) as running, Raw(running.port) as idle, Raw(running.port) as half, Raw(running.port) as client:
        half.send(b"GET / HT")
        client.send(request() + request())
        assert begun.wait(DEADLINE)
        closing = asyncio.run_coroutine_threadsafe(running.server.close(), running.loop)
        assert idle.ended()
        assert half.ended()
        let_go.set()
        answer = client.answer()
        assert (answer.body, answer["connection"]) == (b"slow", "close")
        assert client.ended()
        closing.result(DEADLINE)
        with socket.socket() as late:
            assert late.connect_ex(("127.0.0.1", running.port)) != 0


def test_a_connection_that_was_to_be_kept_ends_with_its_answer(serve: Serve, limits: Any) -> None:
    """Its head was written before the server began to end."""
    let_go = threading.Event()

    async def slow(call: Call) -> None:
        await call.start(200, ((b"content-length", b"4"),))
        await asyncio.get_running_loop().run_in_executor(None, let_go.wait)
        await call.send(b"slow")
        await call.end()

    limits(GRACE=10 * DEADLINE)
    with serve(slow) as running, Raw(running.port) as client:
        head = client.send(request()).exactly(15)
        closing = asyncio.run_coroutine_threadsafe(running.server.close(), running.loop)
        let_go.set()
        assert (head + client.rest()).endswith(b"slow")
        closing.result(DEADLINE)


@pytest.mark.parametrize("where", ["before its answer", "in its answer", "behind its answer"])
def test_a_server_that_ends_cuts_calls_that_do_not_end(serve: Serve, limits: Any, where: str) -> None:
    ended: list[str] = []

    async def endless(call: Call) -> None:
        try:
            if where == "in its answer":
                await call.start(200, (), b"part")
            if where == "behind its answer":
                await call.answer(200, (), b"whole")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(where)
            raise

    limits(GRACE=0.1)
    with serve(endless) as running, Raw(running.port) as client:
        client.send(request())
        until(lambda: running.open == 1, "the connection")
        if where == "in its answer":
            client.exactly(15)
        if where == "behind its answer":
            assert client.answer().body == b"whole"
        until(lambda: running.server.tasks, "the call")
        running.close()
        assert ended == [where]
        assert b"whole" not in client.rest()


def test_a_server_may_end_twice_and_without_having_served() -> None:
    async def ends() -> None:
        server = HttpServer(hello)
        await server.close()
        await server.close()

    asyncio.run(ends())
