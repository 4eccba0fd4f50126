"""How requests are read, without a socket: cut into any pieces they are the same requests, and h11 reads them alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_kit.channel.framing import MAX_HEAD, Headers
from workshop_kit.edges.http_reader import BadRequestError, RequestReader


@dataclass
class Read:
    """One request as it was read."""

    method: bytes
    target: bytes
    headers: Headers
    modern: bool
    keeps: bool
    upgrade: bool = False
    body: bytes = b""
    ended: bool = False


@dataclass
class Taker:
    """Notes what a reader tells."""

    requests: list[Read] = field(default_factory=list)

    def begun(self, head: tuple[bytes, bytes, Headers], *, modern: bool, keeps: bool, upgrade: bool) -> None:
        self.requests.append(Read(*head, modern, keeps, upgrade))

    def body(self, data: bytes) -> None:
        assert not self.requests[-1].ended
        self.requests[-1].body += data

    def ended(self) -> None:
        assert not self.requests[-1].ended
        self.requests[-1].ended = True


def read(pieces: Iterable[bytes]) -> list[Read | int]:
    """The requests, and at the end the status of a refusal."""
    taker = Taker()
    reader = RequestReader(taker)
    try:
        for piece in pieces:
            reader.read(piece)
    except BadRequestError as error:
        return [*taker.requests, error.status.value]
    return list(taker.requests)


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """`data` in pieces, none of them empty."""
    edges = sorted({0, len(data), *(each % (len(data) + 1) for each in at)})
    return [data[begin:end] for begin, end in pairwise(edges)]


# --- requests that HTTP allows --------------------------------------------------------------------------------------

tokens = st.text("abcXYZ09!#$%&'*+-.^_`|~", min_size=1, max_size=12)
values = st.text([chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0x100), 0x20)], max_size=20)
targets = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=20).map(lambda text: "/" + text)
spaces = st.sampled_from(["", " ", "\t", " \t "])
methods = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PURGE"])
TAKEN = ("host", "content-length", "transfer-encoding", "connection", "upgrade", "expect")
chunk_extensions = st.sampled_from(["", ";a", ";a=b", ';a="b c"', ";a=b;c"])


@st.composite
def fields(draw: st.DrawFn) -> list[str]:
    names = draw(st.lists(tokens.filter(lambda name: name.lower() not in TAKEN), max_size=4))
    return [f"{name}:{draw(spaces)}{draw(values).strip()}{draw(spaces)}" for name in names]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that HTTP allows, as text."""
    lines = [f"{draw(methods)} {draw(targets)} HTTP/1.1", f"Host:{draw(spaces)}a", *draw(fields())]
    if draw(st.booleans()) and draw(st.booleans()):
        lines += ["Connection: Upgrade", "Upgrade: h2c"]
    body = draw(st.binary(max_size=60))
    kind = draw(st.sampled_from(["none", "measured", "chunked"]))
    if kind == "measured":
        lines.insert(draw(st.integers(1, len(lines))), f"Content-Length: {len(body)}")
    elif kind == "chunked":
        lines.insert(draw(st.integers(1, len(lines))), "Transfer-Encoding: Chunked")
        body = b"".join(
            b"%x%s\r\n%s\r\n" % (len(piece), draw(chunk_extensions).encode(), piece)
            for piece in cut(body, draw(st.lists(st.integers(0, 60), max_size=3)))
        )
        body += "\r\n".join(["0", *draw(fields()), "", ""]).encode("latin-1")
    else:
        body = b""
    return draw(st.sampled_from(["", "\r\n"])).encode() + "\r\n".join([*lines, "", ""]).encode("latin-1") + body


streams = st.lists(requests(), min_size=1, max_size=4)
places = st.lists(st.integers(0, 10_000), max_size=12)


@settings(max_examples=150, deadline=None)
@given(streams, places)
def test_any_cut_of_a_stream_gives_the_same_requests(stream: list[bytes], at: list[int]) -> None:
    data = b"".join(stream)
    whole = read([data])
    assert len(whole) == len(stream)
    assert all(isinstance(each, Read) and each.ended for each in whole)
    assert read(cut(data, at)) == whole
    assert read(bytes([byte]) for byte in data) == whole


@settings(max_examples=150, deadline=None)
@given(streams)
def test_another_implementation_reads_the_same(stream: list[bytes]) -> None:
    assert [as_h11(each) for each in read([b"".join(stream)]) if isinstance(each, Read)] == [by_h11(e) for e in stream]


def as_h11(found: Read) -> tuple[bytes, bytes, Headers, bytes]:
    """It writes the one coding in small letters."""
    coding = b"transfer-encoding"
    headers = tuple((name, value.lower() if name == coding else value) for name, value in found.headers)
    return found.method, found.target, headers, found.body


def by_h11(data: bytes) -> tuple[bytes, bytes, Headers, bytes]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data.lstrip(b"\r\n"))
    head, body = connection.next_event(), b""
    assert isinstance(head, h11.Request)
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data[0] == b""
    return bytes(head.method), bytes(head.target), tuple(head.headers), body


@settings(max_examples=150, deadline=None)
@given(streams, st.data())
def test_a_changed_stream_is_read_in_one_way_or_refused(stream: list[bytes], data: st.DataObject) -> None:
    """Whatever is made of it, it is the same for any cut, and what came whole before the refusal is the same too."""
    changed = bytearray(b"".join(stream))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        instead = data.draw(st.sampled_from([b"", b"\0", b"\r", b"\n", b" ", b"\r\n", b":", b"0", b"\xff", b"a"]))
        changed[at : at + data.draw(st.integers(0, 2))] = instead
    whole, bytewise = read([bytes(changed)]), read(bytes([byte]) for byte in changed)
    assert bytewise == whole


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_request_or_refused(data: bytes) -> None:
    assert read([data]) in ([], [400], [431], [505])


# --- limits -----------------------------------------------------------------------------------------------------------

LINE = b"GET / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize("step", [1000, 4096, 100_000, 1_000_000])
@pytest.mark.parametrize("before", [b"", LINE + b"\r\n"])
@pytest.mark.parametrize("beyond", [False, True])
def test_a_head_is_refused_by_its_own_size_however_it_is_cut(step: int, before: bytes, beyond: bool) -> None:
    """Its size is that of its fields, a separator of two bytes behind each part; where it never ends, of its bytes."""
    value = b"x" * (MAX_HEAD - len("/Hostax") - 8 + beyond)
    data = before + LINE + b"x: %s\r\n\r\n" % value
    found = read(data[at : at + step] for at in range(0, len(data), step))
    assert (found[-1] == 431) is beyond


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory(end: bytes) -> None:
    reader = RequestReader(Taker())
    reader.read(LINE)
    pieces = [b"a: " + b"x" * 1000 + end] * 100
    taken = [read_more(reader, piece) for piece in pieces]
    assert MAX_HEAD // 1010 <= taken.count(None) <= MAX_HEAD // 1000
    assert set(taken) == {None, 431}


def read_more(reader: RequestReader, piece: bytes) -> int | None:
    """The status of a refusal."""
    try:
        reader.read(piece)
    except BadRequestError as error:
        return error.status.value
    return None
