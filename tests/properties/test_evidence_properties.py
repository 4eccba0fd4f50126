"""What holds for all evidence: round trips, an oracle, no accepted change, no exception of another's making."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import Any

import cbor2
import pytest
from attested import ES384, NOW, World, envelope, refused_by
from calm import require_calm, require_one_reading, same
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workshop_kit.errors import MalformedEvidenceError, WorkshopKitError
from workshop_kit.evidence import cbor, cose, nsm_api
from workshop_kit.evidence.document import MAX_TIMESTAMP, AttestationDocument, decode_unverified, read_document
from workshop_kit.evidence.eif_signature import read_signature
from workshop_kit.verifier import AppraisalResult

few = settings(max_examples=60, deadline=None)
many = settings(max_examples=200, deadline=None)


@cache
def world() -> World:
    return World()


@cache
def honest() -> bytes:
    return world().attest(nonce=b"challenge", public_key=b"key")


def appraised(evidence: bytes) -> AppraisalResult:
    return world().appraise(evidence, nonce=b"challenge", public_key=b"key")


# --- strategies ------------------------------------------------------------------------------------------------------

integers = st.integers(-(2**64), 2**64 - 1) | st.integers(-30, 300)
keys = integers | st.text(max_size=5)
scalars = st.none() | st.booleans() | integers | st.binary(max_size=30) | st.text(max_size=10)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
).filter(lambda value: depth(value) <= cbor.MAX_DEPTH)


def depth(value: object) -> int:
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=-1)
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    return 0


def _container(items: list[bytes], kind: str) -> bytes:
    """Encoded items as an array or a map, of definite or indefinite length. A map may have equal keys, or odd ones."""
    if kind == "array":
        return bytes([0x80 + len(items)]) + b"".join(items)
    if kind == "map":
        return bytes([0xA0 + len(items) // 2]) + b"".join(items[: len(items) // 2 * 2])
    return (b"\x9f" if kind == "open array" else b"\xbf") + b"".join(items) + b"\xff"


encodings = st.recursive(
    scalars.map(cbor2.dumps) | st.sampled_from([b"\x18\x00", b"\xf7", b"\xc0\x60", b"\xf9\x00\x00", b"\x5f\xff"]),
    lambda inner: st.builds(
        _container, st.lists(inner, max_size=6), st.sampled_from(["array", "map", "open array", "open map"])
    ),
    max_leaves=10,
)


@st.composite
def nearly(draw: st.DrawFn) -> bytes:
    """Well-formed items of which a byte was changed, or not."""
    data = bytearray(draw(encodings))
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


fields = st.none() | st.binary(max_size=1024)
documents = st.builds(
    AttestationDocument,
    module_id=st.text(min_size=1, max_size=60).filter(lambda text: "-tpm" not in text),
    timestamp=st.integers(1, MAX_TIMESTAMP),
    pcrs=st.dictionaries(st.integers(0, 31), st.binary(min_size=48, max_size=48), min_size=1, max_size=32),
    certificate=st.binary(min_size=1, max_size=1024),
    cabundle=st.lists(st.binary(min_size=1, max_size=1024), min_size=1, max_size=6).map(tuple),
    public_key=fields,
    user_data=fields,
    nonce=fields,
)


# --- round trips and an oracle ---------------------------------------------------------------------------------------


@given(values)
@many
def test_what_is_encoded_is_decoded_to_itself(value: Any) -> None:
    assert same(cbor.decode(cbor.encode(value)), value)


@given(st.dictionaries(st.text(max_size=5), scalars, max_size=5))
@few
def test_an_indefinite_map_is_decoded_to_itself(value: dict[str, Any]) -> None:
    assert same(cbor.decode(cbor.encode_indefinite_map(value)), value)


@given(documents)
@few
def test_a_document_survives_encoding_and_decoding(document: AttestationDocument) -> None:
    assert read_document(document.encode()) == document
    assert decode_unverified(envelope(ES384.protected, {}, document.encode(), b"")) == document


@given(nearly() | st.binary(max_size=20))
@settings(max_examples=500, deadline=None)
def test_what_the_strict_reader_accepts_cbor2_reads_alike_and_writes_back(data: bytes) -> None:
    """One value, and one encoding of it unless a container of indefinite length occurs."""
    with contextlib.suppress(MalformedEvidenceError):
        require_one_reading(data)


@given(nearly())
@many
def test_an_item_with_a_byte_behind_it_is_no_item(data: bytes) -> None:
    try:
        cbor.decode(data)
    except MalformedEvidenceError:
        return
    with pytest.raises(MalformedEvidenceError, match="the end of the item"):
        cbor.decode(data + b"\x00")


# --- no change is accepted -------------------------------------------------------------------------------------------


def test_the_honest_document_is_affirmed() -> None:
    """Or the refusals below would prove nothing."""
    assert appraised(honest()).affirmed


def flipped(bit: int) -> bytes:
    data = bytearray(honest())
    data[bit // 8] ^= 0x80 >> bit % 8
    return bytes(data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_flipped_bit_is_refused_by_a_gate(data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(honest()) * 8 - 1))
    result = appraised(flipped(bit))
    assert refused_by(result) is not None
    assert not result.affirmed


@pytest.mark.parametrize("where", ["first", "last"])
def test_every_flipped_bit_of_the_header_and_of_the_signature_is_refused(where: str) -> None:
    """The bytes that no payload's field covers: 7 of header and 3 of length, and the signature with its length."""
    length = len(honest()) * 8
    for bit in range(80) if where == "first" else range(length - 98 * 8, length, 5):
        assert refused_by(appraised(flipped(bit))) is not None, bit


@given(st.data())
@many
def test_any_truncation_is_refused_by_check_1(data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(honest()) - 1))
    assert refused_by(appraised(honest()[:length])) == 1


@given(st.binary(min_size=1, max_size=40))
@few
def test_anything_behind_a_document_is_refused_by_check_1(more: bytes) -> None:
    assert refused_by(appraised(honest() + more)) == 1


@given(st.data())
@few
def test_two_documents_cannot_be_spliced(data: st.DataObject) -> None:
    """The begin of one and the end of another of the same enclave, cut anywhere between their first and last byte."""
    other = world().attest(nonce=b"challenge", public_key=b"kez")
    differing = [place for place, (one, two) in enumerate(zip(honest(), other, strict=True)) if one != two]
    cut = data.draw(st.integers(differing[0] + 1, differing[-1]))
    assert refused_by(appraised(honest()[:cut] + other[cut:])) == 5


# --- any bytes at all ------------------------------------------------------------------------------------------------


def appraise_calmly(evidence: bytes) -> None:
    require_calm(evidence, appraised(evidence))


@given(st.binary(max_size=200))
@many
def test_any_bytes_are_appraised_without_an_exception(evidence: bytes) -> None:
    appraise_calmly(evidence)


@given(nearly(), nearly())
@many
def test_any_header_and_payload_are_appraised_without_an_exception(unprotected: bytes, payload: bytes) -> None:
    appraise_calmly(envelope(ES384.protected, {}, payload, bytes(96)))
    appraise_calmly(b"\x84\x44\xa1\x01\x38\x22" + unprotected + b"\x41\x00\x40")


names = st.sampled_from(
    ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce"]
)


@given(st.dictionaries(names, values | st.text(max_size=80), min_size=1, max_size=3))
@many
def test_any_field_under_the_right_signature_is_appraised_without_an_exception(changes: dict[str, Any]) -> None:
    """Signed by the leaf, so that the values reach the claims where the limits let them."""
    appraise_calmly(world().with_fields(**changes))


@given(st.integers(0, 4), st.data())
@many
def test_any_damaged_certificate_is_appraised_without_an_exception(place: int, data: st.DataObject) -> None:
    """Well signed, so that nothing refuses before the certificates are read; `-W error` is on, as in all tests."""
    document = world().document()
    ders = [*document.cabundle, document.certificate]
    damaged = bytearray(ders[place])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assume(bytes(damaged) != ders[place])
    ders[place] = bytes(damaged)
    evidence = world().edited(cabundle=tuple(ders[:-1]), certificate=ders[-1])
    appraise_calmly(evidence)
    assert refused_by(appraised(evidence)) == 4


@given(documents)
@few
def test_any_document_within_limits_is_appraised_without_an_exception(document: AttestationDocument) -> None:
    evidence = world().sign(document.encode())
    appraise_calmly(evidence)
    assert refused_by(appraised(evidence)) == 4


# --- bombs -----------------------------------------------------------------------------------------------------------

HUGE = (b"\x1b" + b"\xff" * 8)[1:]
CLAIMS = {f"major type {major} claims 2^64 - 1": bytes([major << 5 | 27]) + HUGE for major in (2, 3, 4, 5)}
DEPTHS = {
    "arrays": b"\x81" * 30_000,
    "open arrays": b"\x9f" * 30_000,
    "maps": b"\xa1\x00" * 15_000,
    "open maps": b"\xbf\x00" * 15_000,
    "tags": b"\xc1" * 30_000,
    "maps as keys": b"\xa1" * 30_000,
    "many empty arrays": b"\x9f" + b"\x80" * 30_000,
    "many keys": b"\xbf" + b"".join(b"\x19" + key.to_bytes(2, "big") + b"\x00" for key in range(256, 7000)),
}


@pytest.mark.parametrize("name", [*CLAIMS, *DEPTHS])
def test_a_bomb_costs_little(name: str) -> None:
    """Neither recursion nor an allocation of the claimed size: peak memory stays near the evidence's own."""
    bomb = (CLAIMS | DEPTHS)[name]
    tracemalloc.start()
    try:
        with pytest.raises(MalformedEvidenceError):
            cbor.decode(bomb)
        for evidence in (bomb, b"\x84" + bomb, b"\x84\x40\xa0" + bomb, cose.sign1(bomb, world().leaf_key, ES384)):
            appraise_calmly(evidence)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


MEGABYTES = 10_000_000
HOSTILE = {
    "empty arrays without an end": b"\x9f" + b"\x80" * MEGABYTES,
    "an array of zeros": b"\x9a" + MEGABYTES.to_bytes(4, "big") + bytes(MEGABYTES),
    "more items than there are": b"\x9b" + b"\xff" * 8 + bytes(MEGABYTES),
    "many keys": b"\xbf" + b"".join(b"\x1a%b\x00" % key.to_bytes(4, "big") for key in range(1 << 17, 1 << 20)),
    "one string": b"\x5a" + MEGABYTES.to_bytes(4, "big") + bytes(MEGABYTES),
}
READERS: dict[str, Callable[[bytes], object]] = {
    "a document": decode_unverified,
    "an item": cbor.decode,
    "an NSM's request": nsm_api.decode_request,
    "an NSM's response": lambda data: nsm_api.decode_response(data, "Attestation"),
    "an image's signature": read_signature,
}


@pytest.mark.parametrize("bomb", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_megabytes_are_refused_by_their_length(reader: str, bomb: str) -> None:
    """Ten of them would become six hundred in memory if read: an item of one byte is an object of sixty."""
    data = HOSTILE[bomb]
    tracemalloc.start()
    try:
        with pytest.raises(WorkshopKitError):
            READERS[reader](data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_an_appraisal_of_megabytes_says_that_they_are_too_many() -> None:
    result = world().appraise(honest() + bytes(MEGABYTES), now=NOW)
    assert refused_by(result) == 1
    assert "32768" in result[1].expected
