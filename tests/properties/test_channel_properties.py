"""The channel for any bytes at all: what is sealed opens as it was, and nothing else raises but the kit's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given
from hypothesis import strategies as st
from pair import flip, keys, sessions

from workshop_kit.channel.framing import (
    Head,
    Record,
    RequestHead,
    ResponseHead,
    decode_request_record,
    decode_response_record,
    encode_record,
)
from workshop_kit.channel.handshake import Hello, decode_hello
from workshop_kit.channel.session import ReplayWindow
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20).map(str.encode)
VALUE = st.lists(st.sampled_from([9, *range(32, 127), *range(128, 256)]), max_size=40).map(bytes)
TARGET = st.lists(st.sampled_from(range(33, 127)), max_size=40).map(lambda path: b"/" + bytes(path))
METHOD = TOKEN.map(bytes.upper)
# No field that HTTP knows begins with ~: what must stand once, or not at all, has tests of its own.
HEADERS = st.lists(st.tuples(TOKEN.map(b"~".__add__), VALUE), max_size=6).map(tuple)
REQUEST_HEADS = st.builds(RequestHead, METHOD, TARGET, HEADERS)
RESPONSE_HEADS = st.builds(ResponseHead, st.integers(100, 599), HEADERS)
DATA = st.binary(max_size=300)

# Anything at all, and often bytes in which an injection would hide.
ANY_FIELD = st.binary(max_size=12) | st.lists(st.sampled_from(list(b"\0\r\n :/?aZ\x7f\xff")), max_size=8).map(bytes)
ANY_HEADERS = st.lists(st.tuples(TOKEN | ANY_FIELD, VALUE | ANY_FIELD), max_size=4).map(tuple)
ANY_REQUEST = st.builds(RequestHead, METHOD | ANY_FIELD, TARGET | ANY_FIELD, ANY_HEADERS)
ANY_RESPONSE = st.builds(ResponseHead, st.integers(-10, 1200), ANY_HEADERS)


def decode(record: bytes, head: Head) -> Record:
    return decode_request_record(record) if isinstance(head, RequestHead) else decode_response_record(record)


@given(REQUEST_HEADS | RESPONSE_HEADS, DATA, st.booleans())
def test_a_record_reads_back_as_it_was_written(head: Head, data: bytes, end: bool) -> None:
    record = Record(head, data, end)
    assert decode(encode_record(record), head) == record


@given(ANY_REQUEST | ANY_RESPONSE, DATA)
@example(RequestHead(b"GET", b"/", ((b"a", b"b\0c\0d"),)), b"")
@example(RequestHead(b"GET", b"/\0a\0b", ()), b"")
def test_a_head_is_refused_or_reads_back_identically(head: Head, data: bytes) -> None:
    """What an encoder lets through splits in one way only. Names alone change, to lower case."""
    try:
        encoded = encode_record(Record(head, data))
    except LocalProtocolError:
        return
    decoded = decode(encoded, head)
    fields = [part for header in head.headers for part in header]
    fields += [head.method, head.target] if isinstance(head, RequestHead) else []
    assert not any(byte in field for field in fields for byte in b"\0\r\n")
    lowered = tuple((name.lower(), value) for name, value in head.headers)
    expected: Any = (
        RequestHead(head.method, head.target, lowered)
        if isinstance(head, RequestHead)
        else ResponseHead(head.status, lowered)
    )
    assert decoded == Record(expected, data)


ANY_FIELDS = st.lists(ANY_FIELD | TOKEN | TARGET | st.sampled_from([b"GET", b"/", b"200"]), max_size=6)
ALMOST_RECORDS = st.builds(
    lambda flags, fields, data: bytes([flags]) + len(head := b"\0".join(fields)).to_bytes(4, "big") + head + data,
    st.integers(0, 4),
    ANY_FIELDS,
    DATA,
)


@given(st.binary(max_size=200) | ALMOST_RECORDS, st.sampled_from([decode_request_record, decode_response_record]))
def test_any_bytes_are_a_record_or_the_peers_fault(data: bytes, read: Callable[[bytes], Record]) -> None:
    """And what is a record can be written again: a relay in the middle of HTTP needs no second set of rules."""
    try:
        record = read(data)
    except RemoteProtocolError:
        return
    assert read(encode_record(record)) == record


@given(st.binary(max_size=400))
def test_any_bytes_are_a_hello_or_the_peers_fault(data: bytes) -> None:
    try:
        hello = decode_hello(data)
    except RemoteProtocolError:
        return
    assert decode_hello(hello.encode()) == hello


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_a_hello_reads_back_as_it_was_written(public_key: bytes, nonce: bytes, signature: bytes) -> None:
    hello = Hello(public_key=public_key, nonce=nonce, signature=signature)
    assert decode_hello(hello.encode()) == hello


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_bytes_open_no_record(pieces: list[bytes]) -> None:
    opener = sessions()[1].accept(0).opener
    with pytest.raises(RemoteProtocolError):  # at the latest when it is told that no more will come
        _open_all(opener, pieces)


def _open_all(opener: Any, pieces: list[bytes]) -> list[Record]:
    opened = [record for piece in pieces for record in opener.receive(piece)]
    opener.finish()
    return opened


@given(st.binary(max_size=120) | ALMOST_RECORDS)
def test_whatever_a_peer_seals_is_a_record_or_his_fault(plaintext: bytes) -> None:
    """A peer with the right key who seals what SPEC.md does not allow."""
    sealed = AESGCM(keys().client_to_enclave).encrypt(bytes(12), plaintext, None)
    with contextlib.suppress(RemoteProtocolError):
        list(sessions()[1].accept(0).opener.receive(len(sealed).to_bytes(4, "big") + sealed))


MESSAGES = st.tuples(REQUEST_HEADS, st.lists(DATA, min_size=1, max_size=5)).map(
    lambda message: [
        Record(message[0] if number == 0 else None, data, end=number == len(message[1]) - 1)
        for number, data in enumerate(message[1])
    ]
)


@given(MESSAGES, st.data())
def test_any_split_of_the_bytes_gives_the_same_records(records: list[Record], data: st.DataObject) -> None:
    client, enclave = sessions()
    asked = client.exchange()
    wire = b"".join(asked.sealer.seal(record) for record in records)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    pieces = [wire[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert _open_all(enclave.accept(asked.stream).opener, pieces) == records


@given(MESSAGES, st.data())
def test_a_changed_or_cut_message_never_opens_whole(records: list[Record], data: st.DataObject) -> None:
    """What opens before the fault is a beginning of what was sealed, and the fault is noticed."""
    client, enclave = sessions()
    asked = client.exchange()
    wire = b"".join(asked.sealer.seal(record) for record in records)
    place = data.draw(st.integers(0, len(wire) - 1))
    changed = data.draw(st.sampled_from([wire[:place], flip(wire, place, data.draw(st.integers(0, 7)))]))
    opener, opened = enclave.accept(asked.stream).opener, []
    with pytest.raises(RemoteProtocolError):  # noqa: PT012  the records before the fault are wanted too
        for record in opener.receive(changed):
            opened.append(record)
        opener.finish()
    assert opened == records[: len(opened)]
    assert len(opened) < len(records)


@given(st.lists(st.integers(0, 3000) | st.integers(0, 2**32 - 1), max_size=60))
def test_a_number_is_accepted_at_most_once(numbers: list[int]) -> None:
    window, accepted = ReplayWindow(), []
    for number in numbers:
        try:
            window.accept(number)
        except RemoteProtocolError:
            continue
        accepted.append(number)
    assert len(accepted) == len(set(accepted))
    assert not numbers or accepted[0] == numbers[0]
