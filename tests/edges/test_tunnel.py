"""How a tunnel is asked for and answered, and that it carries bytes both ways, all of them and no more than wait."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workshop_kit.edges.tunnel import (
    MAX_HEAD,
    Ends,
    answer,
    close,
    join,
    read_answer,
    read_request,
    request,
)
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

Result = TypeVar("Result")
Read = Callable[[asyncio.StreamReader], Awaitable[Result]]


def read(what: Read[Result], *pieces: bytes, end: bool = True) -> tuple[Result, bytes]:
    """What a reader makes of pieces that come one by one, and what it leaves in the stream."""

    async def run() -> tuple[Result, bytes]:
        reader = asyncio.StreamReader()
        reading = asyncio.ensure_future(what(reader))
        for piece in pieces:
            reader.feed_data(piece)
            await asyncio.sleep(0)
        if end:
            reader.feed_eof()
        result = await asyncio.wait_for(reading, 5)
        reader.feed_eof()
        return result, await reader.read()

    return asyncio.run(run())


def refusal(what: Read[Any], data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        read(what, data)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("expected ")
    assert ", got " in message
    return message


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_request_has_the_agreed_bytes() -> None:
    assert request("example.com", 443) == b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n"
    assert request("::1", 80).startswith(b"CONNECT [::1]:80 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("name", "port"),
    [("example.com", 443), ("EXAMPLE.com.", 1), ("a_b.de", 65535), ("127.0.0.1", 80), ("fe80::1%a", 1)],
)
def test_what_was_asked_for_is_read(name: str, port: int) -> None:
    assert read(read_request, request(name, port)) == ((name, port), b"")


def test_an_address_comes_without_its_brackets() -> None:
    assert read(read_request, request("[::1]", 80))[0] == ("::1", 80)


@pytest.mark.parametrize(
    ("name", "port"),
    [
        ("", 443),
        ("example.com\r\nx: y", 443),
        ("example.com:80 HTTP/1.1\r\n\r\n", 443),
        ("example.com HTTP/1.1", 443),
        ("a b", 443),
        ("b\u00fccher.de", 443),
        ("\ud800", 443),
        ("a/b", 443),
        ("a@b", 443),
        ("a" * 301, 443),
        ("example.com", 0),
        ("example.com", 65536),
        ("example.com", -1),
    ],
)
def test_a_name_that_would_be_read_otherwise_is_not_written(name: str, port: int) -> None:
    with pytest.raises(LocalProtocolError, match="expected a name and a port") as caught:
        request(name, port)
    assert str(caught.value).isprintable()


@given(st.text(max_size=20) | st.text("exampl.com:0123456789[]\r\n /@", max_size=30), st.integers(-1, 70000))
@settings(deadline=None, max_examples=50)
def test_any_name_is_read_as_it_was_written_or_not_written(name: str, port: int) -> None:
    try:
        written = request(name, port)
    except LocalProtocolError:
        return
    bare = name[1:-1] if name.startswith("[") else name
    assert read(read_request, written) == ((bare, port), b"")


def test_requests_of_other_clients_are_read() -> None:
    old = b"CONNECT example.com:443 HTTP/1.0\r\n\r\n"  # http.client before Python 3.12
    curl = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nUser-Agent: curl/8\r\n\r\n"
    assert read(read_request, old) == read(read_request, curl) == (("example.com", 443), b"")


BEHIND = st.binary(max_size=9) | st.sampled_from([b"\r\n", b"\r\n\r\n", b"\n"])


@given(BEHIND, st.integers(1, 9))
@settings(deadline=None, max_examples=50)
@example(b"\r\n\r\n", 1)
def test_bytes_behind_the_head_stay_in_the_stream_however_they_are_cut(behind: bytes, size: int) -> None:
    for what, head, expected in (
        (read_request, request("example.com", 443), ("example.com", 443)),
        (read_answer, answer(403, "no"), (403, "no")),
    ):
        sent = head + behind
        pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
        result: Any = read(what, *pieces)
        assert result == (expected, behind)


def test_a_request_is_read_while_nothing_comes_behind_it() -> None:
    assert read(read_request, request("example.com", 443), end=False)[0] == ("example.com", 443)


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1",
        b"connect example.com:443 HTTP/1.1",
        b"CONNECT example.com HTTP/1.1",
        b"CONNECT example.com: HTTP/1.1",
        b"CONNECT :443 HTTP/1.1",
        b"CONNECT example.com:0 HTTP/1.1",
        b"CONNECT example.com:65536 HTTP/1.1",
        b"CONNECT example.com:0443 HTTP/1.1",
        b"CONNECT example.com:+443 HTTP/1.1",
        b"CONNECT example.com:4_3 HTTP/1.1",
        b"CONNECT example.com:443 HTTP/2",
        b"CONNECT example.com:443",
        b"CONNECT  example.com:443 HTTP/1.1",
        b"CONNECT example.com:443 HTTP/1.1 ",
        b" CONNECT example.com:443 HTTP/1.1",
        b"CONNECT http://example.com:443 HTTP/1.1",
        b"CONNECT user@example.com:443 HTTP/1.1",
        b"CONNECT a:b:443 HTTP/1.1",
        b"CONNECT ::1:443 HTTP/1.1",
        b"CONNECT [::1:443 HTTP/1.1",
        b"CONNECT b\xc3\xbccher.de:443 HTTP/1.1",
        b"CONNECT exa\0mple.com:443 HTTP/1.1",
        b"\x16\x03\x01\x02\0",
        b"",
    ],
)
def test_what_is_no_request_for_a_tunnel_is_refused(line: bytes) -> None:
    assert "CONNECT name:port HTTP/1.1" in refusal(read_request, line + b"\r\n\r\n")


@pytest.mark.parametrize(
    "field", [b"no colon", b" folded: x", b"name : x", b": x", b"a: b\nc: d", b"a: b\rc", b"a: \0"]
)
def test_a_field_that_two_parsers_read_differently_is_refused(field: bytes) -> None:
    refusal(read_request, b"CONNECT example.com:443 HTTP/1.1\r\n" + field + b"\r\n\r\n")
    refusal(read_answer, b"HTTP/1.1 200 open\r\n" + field + b"\r\n\r\n")


@pytest.mark.parametrize("what", [read_request, read_answer])
@pytest.mark.parametrize("data", [b"", b"CONNECT example.com:443 HTTP/1.1\r\n\r", b"HTTP/1.1 200 open\r\nx: y\r\n"])
def test_a_head_that_is_cut_is_refused(what: Read[Any], data: bytes) -> None:
    assert "the connection's end" in refusal(what, data)


def test_a_head_has_at_most_1024_bytes() -> None:
    start, end = b"CONNECT example.com:443 HTTP/1.1\r\nx: ", b"\r\n\r\n"
    longest = start + b"y" * (MAX_HEAD - len(start + end)) + end
    assert read(read_request, longest) == (("example.com", 443), b"")
    assert "at most 1024 bytes" in refusal(read_request, longest.replace(b"y", b"yy", 1))


def test_of_a_head_without_end_no_more_is_read_than_a_head_may_have() -> None:
    async def run() -> int:
        reader = asyncio.StreamReader()
        reader.feed_data(b"x" * 9999)
        with pytest.raises(RemoteProtocolError):
            await read_request(reader)
        reader.feed_eof()
        return 9999 - len(await reader.read())

    assert asyncio.run(run()) <= MAX_HEAD


@given(st.binary(max_size=60), st.sampled_from([read_request, read_answer]))
@settings(deadline=None, max_examples=50)
def test_any_bytes_are_a_head_or_a_remote_protocol_error(data: bytes, what: Read[Any]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        read(what, data + b"\r\n\r\n")


# --- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_has_the_agreed_bytes() -> None:
    assert answer(200, "open") == b"HTTP/1.1 200 open\r\n\r\n"
    assert answer(403, "no") == b"HTTP/1.1 403 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@given(st.text(), st.sampled_from([200, 400, 403, 502]))
@settings(deadline=None, max_examples=50)
@example("a\r\n\r\nHTTP/1.1 200 open", 403)
@example("x" * 9999, 502)
@example("", 200)
def test_any_reason_is_one_line_of_a_head_that_is_read_again(reason: str, status: int) -> None:
    (got, words), behind = read(read_answer, answer(status, reason))
    assert (got, behind) == (status, b"")
    assert words.isprintable()
    assert words.isascii()
    assert words == reason[:800] or not (reason.isascii() and reason.isprintable())


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 Connection established"])
def test_answers_of_other_proxies_are_read(line: bytes) -> None:
    assert read(read_answer, line + b"\r\n\r\n")[0][0] == 200


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"200 open",
        b"HTTP/2 200 open",
        b"HTTP/1.1 20 open",
        b"HTTP/1.1 2000",
        b"HTTP/1.1 600 x",
        b"HTTP/1.1 403 \x1b[2K",
    ],
)
def test_what_is_no_answer_is_refused(line: bytes) -> None:
    refusal(read_answer, line + b"\r\n\r\n")


# --- tunnels ---------------------------------------------------------------------------------------------------------


def within_time(run: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    async def limited() -> Result:
        return await asyncio.wait_for(run(), 20)

    return asyncio.run(limited())


async def connection() -> tuple[Ends, Ends]:
    """Both sides of a TCP connection over the loopback."""
    accepted: asyncio.Queue[Ends] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), "127.0.0.1", 0)
    dialled = await asyncio.open_connection(*server.sockets[0].getsockname())
    ends = await accepted.get()
    server.close()
    return dialled, ends


class Tunnel:
    """Alice and Bob with a tunnel between them; `seen` is what it saw."""

    def __init__(self, alice: Ends, one: Ends, other: Ends, bob: Ends) -> None:
        self.alice, self.bob = alice, bob
        self.one, self.other = one, other
        self.seen: list[tuple[int, bytes]] = []
        self.joined = asyncio.ensure_future(join(one, other, lambda *piece: self.seen.append(piece)))

    @classmethod
    async def open(cls) -> Tunnel:
        return cls(*await connection(), *await connection())

    async def stalls(self) -> None:
        """Return when nothing more passes, since somebody does not read."""
        before = 0
        while len(self.seen) > before or not before:
            before = len(self.seen)
            await asyncio.sleep(0.2)

    def towards(self, index: int) -> bytes:
        return b"".join(data for towards, data in self.seen if towards == index)

    async def is_closed(self) -> None:
        """Its ends are; closes those of Alice and Bob."""
        assert self.joined.done()
        assert self.one[1].transport.is_closing()
        assert self.other[1].transport.is_closing()
        await asyncio.gather(close(self.alice[1]), close(self.bob[1]))


def test_a_tunnel_carries_both_ways_at_once_and_says_what_it_carries() -> None:
    async def run() -> None:
        tunnel = await Tunnel.open()
        tunnel.alice[1].write(b"from alice")
        tunnel.bob[1].write(b"from bob")
        assert await tunnel.bob[0].readexactly(10) == b"from alice"
        assert await tunnel.alice[0].readexactly(8) == b"from bob"
        assert (tunnel.towards(1), tunnel.towards(0)) == (b"from alice", b"from bob")
        tunnel.alice[1].write_eof()
        tunnel.bob[1].write_eof()
        await tunnel.joined
        await tunnel.is_closed()

    within_time(run)


def test_a_direction_that_ends_is_half_closed_and_the_other_goes_on() -> None:
    async def run() -> None:
        tunnel = await Tunnel.open()
        tunnel.alice[1].write(b"question")
        tunnel.alice[1].write_eof()
        assert await tunnel.bob[0].read() == b"question"
        assert not tunnel.joined.done()
        tunnel.bob[1].write(b"answer")
        assert await tunnel.alice[0].readexactly(6) == b"answer"
        assert not tunnel.alice[0].at_eof()
        tunnel.bob[1].write_eof()
        assert await tunnel.alice[0].read() == b""
        await tunnel.joined
        await tunnel.is_closed()

    within_time(run)


def test_where_a_connection_cannot_be_half_closed_it_is_closed() -> None:
    async def run() -> None:
        tunnel = await Tunnel.open()
        tunnel.other[1].transport.can_write_eof = lambda: False  # type: ignore[method-assign]  # as TLS says
        tunnel.alice[1].write(b"all")
        tunnel.alice[1].write_eof()
        assert await tunnel.bob[0].read() == b"all"
        await tunnel.joined
        await tunnel.is_closed()

    within_time(run)


def reset(ends: Ends) -> None:
    """Break a connection, as a peer does that is killed."""
    sock = ends[1].get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends[1].transport.abort()


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_where_one_side_breaks_the_other_ends_with_all_that_was_sent_to_it(who: str) -> None:
    async def run() -> None:
        tunnel = await Tunnel.open()
        broken, whole = (tunnel.alice, tunnel.bob) if who == "alice" else (tunnel.bob, tunnel.alice)
        broken[1].write(b"last words")
        while not tunnel.seen:
            await asyncio.sleep(0)
        reset(broken)
        await tunnel.joined
        assert await whole[0].read() == b"last words"
        await tunnel.is_closed()

    within_time(run)


def test_what_waits_in_memory_is_bounded_though_bob_does_not_read() -> None:
    async def run() -> None:
        tunnel = await Tunnel.open()
        total = 64 * 1024 * 1024
        sending = asyncio.ensure_future(send(tunnel.alice[1], total))
        await tunnel.stalls()
        waiting = tunnel.other[1].transport.get_write_buffer_size()  # type: ignore[attr-defined]
        assert waiting < 1024 * 1024
        assert len(tunnel.towards(1)) < total // 2  # the kernel's buffers are some MiB
        received = 0
        while data := await tunnel.bob[0].read(1024 * 1024):
            received += len(data)
        assert received == total
        await sending
        tunnel.bob[1].write_eof()
        await tunnel.joined
        await tunnel.is_closed()

    async def send(writer: asyncio.StreamWriter, total: int) -> None:
        for _ in range(0, total, 65536):
            writer.write(bytes(65536))
            await writer.drain()
        writer.write_eof()

    within_time(run)


def test_a_tunnel_that_is_cancelled_is_closed_though_bytes_wait() -> None:
    async def run() -> None:
        tunnel = await Tunnel.open()
        tunnel.alice[1].write(bytes(64 * 1024 * 1024))
        await tunnel.stalls()
        assert tunnel.other[1].transport.get_write_buffer_size()  # type: ignore[attr-defined]
        tunnel.joined.cancel()
        # Not `await`: the time limit's own cancelling would pass for the one that is meant.
        await asyncio.wait({tunnel.joined}, timeout=5)
        assert tunnel.joined.cancelled()
        tunnel.alice[1].transport.abort()
        await tunnel.is_closed()

    within_time(run)


@pytest.mark.parametrize("turns", range(1, 9))
def test_a_tunnel_is_closed_whenever_everything_is_cancelled_while_it_ends(turns: int) -> None:
    """Also in the turn in which it has just begun to close: what closes it is cancelled before it has begun itself."""

    async def run() -> None:
        (alice, one), (other, bob) = await connection(), await connection()
        others = asyncio.all_tasks()
        joined = asyncio.ensure_future(join(one, other))
        alice[1].write_eof()
        bob[1].write_eof()
        for _ in range(turns):
            await asyncio.sleep(0)
        ending = asyncio.all_tasks() - others
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        assert joined.done()
        assert one[1].transport.is_closing()
        assert other[1].transport.is_closing()
        for _, writer in (alice, bob):
            writer.close()
        await asyncio.sleep(0)

    within_time(run)


def test_a_tunnel_whose_watcher_fails_is_closed_and_says_so() -> None:
    async def run() -> None:
        (alice, one), (other, bob) = await connection(), await connection()

        def fail(_towards: int, _data: bytes) -> None:
            raise RuntimeError("watcher")

        joined = asyncio.ensure_future(join(one, other, fail))
        alice[1].write(b"x")
        with pytest.raises(RuntimeError, match="watcher"):
            await joined
        assert await bob[0].read() == b""
        await asyncio.gather(close(alice[1]), close(bob[1]))

    within_time(run)


def test_a_connection_may_be_closed_twice_and_after_it_broke() -> None:
    async def run() -> None:
        one, other = await connection()
        reset(one)
        await asyncio.sleep(0.05)
        for _ in range(2):
            await close(one[1])
            await close(other[1])

    within_time(run)


PIECES = st.lists(st.binary(max_size=100_000), max_size=5)


@given(PIECES, PIECES)
@settings(deadline=None, max_examples=20)
def test_whatever_both_send_arrives_whole_and_in_order(forth: list[bytes], back: list[bytes]) -> None:
    async def run() -> None:
        tunnel = await Tunnel.open()

        async def send(ends: Ends, pieces: list[bytes]) -> None:
            for piece in pieces:
                ends[1].write(piece)
                await ends[1].drain()
            ends[1].write_eof()

        _, _, received, answered = await asyncio.gather(
            send(tunnel.alice, forth), send(tunnel.bob, back), tunnel.bob[0].read(), tunnel.alice[0].read()
        )
        assert (received, answered) == (b"".join(forth), b"".join(back))
        await tunnel.joined
        assert (tunnel.towards(1), tunnel.towards(0)) == (received, answered)
        await tunnel.is_closed()

    within_time(run)
