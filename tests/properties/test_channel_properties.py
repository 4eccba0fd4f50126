"""The channel for any bytes at all: what is sealed opens as it was, and nothing else raises but the kit's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pair import Pair, flip, keys, sessions, understand

from workshop_kit.channel.framing import (
    Head,
    Record,
    RequestHead,
    ResponseHead,
    decode_request_record,
    decode_response_record,
    encode_record,
)
from workshop_kit.channel.handshake import Answer, Hello, Profile, decode_answer, decode_hello, signed_part
from workshop_kit.channel.hybrid import Offer, Response
from workshop_kit.channel.session import ReplayWindow
from workshop_kit.errors import AccessDeniedError, AppraisalError, LocalProtocolError, RemoteProtocolError
from workshop_kit.evidence import cbor

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


def of_size(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size) | st.integers(0, 255).map(lambda value: bytes([value]) * size)


OFFERS = st.none() | st.builds(Offer, of_size(32), of_size(1184))
HELLOS = st.builds(
    Hello, public_key=st.binary(max_size=300), nonce=of_size(32), signature=st.binary(max_size=300), offer=OFFERS
)
ANSWERS = st.builds(Answer, st.binary(max_size=300), st.builds(Response, of_size(32), of_size(1088)))
NAMES = st.sampled_from(["profile", "public_key", "nonce", "signature", "x25519", "ml_kem_768", "document", "more"])
ALMOST_FIELDS = st.sampled_from(["seed", "modern", "", None, 0, True]) | st.sampled_from([0, 31, 32, 1088, 1184]).map(
    bytes
)
ALMOST_MESSAGES = st.dictionaries(NAMES, ALMOST_FIELDS, max_size=8).map(cbor.encode)


@given(st.binary(max_size=400) | ALMOST_MESSAGES)
def test_any_bytes_are_a_hello_or_the_peers_fault(data: bytes) -> None:
    try:
        hello = decode_hello(data)
    except RemoteProtocolError:
        return
    assert decode_hello(hello.encode()) == hello


@given(st.binary(max_size=400) | ALMOST_MESSAGES, st.sampled_from(Profile))
def test_any_bytes_are_an_answer_or_the_peers_fault(data: bytes, profile: Profile) -> None:
    """In `seed` whatever came is a document still to be appraised."""
    try:
        answer = decode_answer(data, profile)
    except RemoteProtocolError:
        assert profile is Profile.MODERN
        return
    assert decode_answer(answer.encode(), profile) == answer
    assert (answer.response is None) == (profile is Profile.SEED)


@given(HELLOS)
def test_a_hello_reads_back_as_it_was_written(hello: Hello) -> None:
    assert decode_hello(hello.encode()) == hello


@given(ANSWERS)
def test_an_answer_reads_back_as_it_was_written(answer: Answer) -> None:
    assert decode_answer(answer.encode(), Profile.MODERN) == answer


@given(st.lists(HELLOS, min_size=2, max_size=2))
def test_two_hellos_that_differ_are_signed_over_different_bytes(hellos: list[Hello]) -> None:
    """Profiles among them: no field of one can be taken for another's, whatever is in it."""
    one, two = (signed_part(each.public_key, each.nonce, each.offer) for each in hellos)
    fields = [(each.public_key, each.nonce, each.offer) for each in hellos]
    assert (one == two) == (fields[0] == fields[1])


# --- whole handshakes ------------------------------------------------------------------------------------------------

profiles = pytest.mark.parametrize("profile", Profile, ids=lambda profile: profile.value)


def both_understand(pair: Pair, **changes: Callable[[bytes], bytes]) -> bool:
    """Whether a handshake with changed messages ends in a session of both; any refusal must be the kit's."""
    try:
        client, enclave = pair.roundtrip(**changes)
    except (AccessDeniedError, AppraisalError, RemoteProtocolError):
        return False
    return understand(client, enclave)


@profiles
@settings(deadline=None)
@given(st.data())
def test_any_flipped_bit_of_a_message_leaves_no_session_that_both_understand(
    profile: Profile, data: st.DataObject
) -> None:
    message, place, bit = data.draw(
        st.tuples(st.sampled_from(["on_hello", "on_answer"]), st.floats(0, 1), st.integers(0, 7))
    )

    def flipped(whole: bytes) -> bytes:
        return flip(whole, min(int(place * len(whole)), len(whole) - 1), bit)

    assert not both_understand(Pair(profile=profile), **{message: flipped})


@profiles
@settings(deadline=None)
@given(st.sampled_from(["on_hello", "on_answer"]), st.binary(max_size=200) | ALMOST_MESSAGES)
def test_any_bytes_in_a_messages_place_raise_the_kits_errors_alone(
    profile: Profile, message: str, instead: bytes
) -> None:
    assert not both_understand(Pair(profile=profile), **{message: lambda _: instead})


@profiles
def test_the_handshakes_above_succeed_where_nobody_changes_them(profile: Profile) -> None:
    assert both_understand(Pair(profile=profile))


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
