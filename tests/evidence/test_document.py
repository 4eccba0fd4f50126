"""The document's fields and limits, each broken alone; who signed is not asked here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from attested import ES384, INSTANCE, NOW, World, envelope

from workshop_kit.errors import MalformedEvidenceError
from workshop_kit.evidence import cbor, cose
from workshop_kit.evidence.document import (
    AttestationDocument,
    decode_unverified,
    read_document,
    read_envelope,
    require_es384,
)

FIELDS: dict[str, Any] = {
    "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
    "digest": "SHA384",
    "timestamp": 1_768_478_400_000,
    "pcrs": {index: bytes(48) for index in range(16)},
    "certificate": b"\x30",
    "cabundle": [b"\x30", b"\x30"],
    "public_key": None,
    "user_data": None,
    "nonce": None,
}


def payload(**changes: Any) -> bytes:
    return cbor.encode(FIELDS | changes)


def without(*names: str) -> bytes:
    return cbor.encode({name: value for name, value in FIELDS.items() if name not in names})


# --- accepted --------------------------------------------------------------------------------------------------------


def test_the_fields_are_read_as_they_stand() -> None:
    document = read_document(payload(public_key=b"key", user_data=b"", nonce=b"n"))
    assert document.module_id == FIELDS["module_id"]
    assert document.instance_id == "i-0123456789abcdef0"
    assert document.time == datetime(2026, 1, 15, 12, tzinfo=UTC)
    assert document.pcrs == FIELDS["pcrs"]
    assert (document.certificate, document.cabundle) == (b"\x30", (b"\x30", b"\x30"))
    assert (document.public_key, document.user_data, document.nonce) == (b"key", b"", b"n")
    assert not document.is_simulated


def test_an_absent_field_and_a_null_one_are_absent_and_an_empty_one_is_empty() -> None:
    """Genuine documents write null; the CDDL allows to leave the field out; both differ from empty."""
    names = ("public_key", "user_data", "nonce")
    assert read_document(without(*names)) == read_document(payload())
    for name in names:
        assert getattr(read_document(payload()), name) is None
        assert getattr(read_document(payload(**{name: b""})), name) == b""


@pytest.mark.parametrize(
    "changes",
    [
        {"module_id": "x"},
        {"timestamp": 1},
        {"timestamp": 253_402_300_799_999},
        {"pcrs": {31: bytes(48)}},
        {"pcrs": {index: bytes(48) for index in range(32)}},
        {"pcrs": {2: bytes(48), 0: bytes(48)}},
        {"certificate": bytes(1024)},
        {"cabundle": [b"\0"]},
        {"cabundle": [bytes(1024)] * 5},
        {"public_key": bytes(1024)},
        {"user_data": bytes(1024)},
        {"nonce": bytes(1024)},
    ],
    ids=lambda changes: f"{next(iter(changes))}-{str(next(iter(changes.values())))[:20]}",
)
def test_a_field_at_its_limit_is_read(changes: dict[str, Any]) -> None:
    document = read_document(payload(**changes))
    for name, value in changes.items():
        assert getattr(document, name) == (tuple(value) if isinstance(value, list) else value)


def test_the_order_of_fields_and_the_form_of_maps_carry_no_meaning() -> None:
    """Definite maps until June 2025, indefinite ones since; arrays may follow."""
    expected = read_document(payload())
    assert read_document(cbor.encode(dict(reversed(FIELDS.items())))) == expected
    assert read_document(cbor.encode_indefinite_map(FIELDS)) == expected
    inner = FIELDS | {"pcrs": None, "cabundle": None}
    pcrs = cbor.encode_indefinite_map(FIELDS["pcrs"])  # type: ignore[arg-type]
    indefinite = b"".join(
        cbor.encode(name) + {"pcrs": pcrs, "cabundle": b"\x9f\x41\x30\x41\x30\xff"}.get(name, cbor.encode(value))
        for name, value in inner.items()
    )
    assert read_document(b"\xa9" + indefinite) == expected


# --- refused ---------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[bytes, str]] = {
    **{f"no {name}": (without(name), f"expected {name}, got absent") for name in list(FIELDS)[:6]},
    **{f"{name} is null": (payload(**{name: None}), f"expected {name}, got null") for name in list(FIELDS)[:6]},
    "an array": (b"\x80", "a map as document, got list"),
    "null": (b"\xf6", "a map as document, got NoneType"),
    "text": (b"\x60", "a map as document, got str"),
    "an empty map": (b"\xa0", "expected module_id, got absent"),
    "an unknown field": (payload(x=1), "the nine fields of a document, got the unknown field ['x']"),
    "an unknown field that is a number": (cbor.encode(FIELDS | {0: 1}), "the unknown field ['0']"),  # type: ignore[operator]
    "a field twice": (b"\xaa" + payload()[1:] + cbor.encode("nonce") + b"\x40", "each key once"),
    "a byte behind the map": (payload() + b"\0", "the end of the item"),
    "the last byte missing": (payload()[:-1], "1 more bytes"),
    "module_id empty": (payload(module_id=""), "non-empty text as module_id"),
    "module_id as bytes": (payload(module_id=b"i-0"), "non-empty text as module_id"),
    "digest SHA256": (payload(digest="SHA256"), "the digest SHA384, got 'SHA256'"),
    "digest sha384": (payload(digest="sha384"), "the digest SHA384"),
    "digest as bytes": (payload(digest=b"SHA384"), "the digest SHA384"),
    "timestamp 0": (payload(timestamp=0), "milliseconds since 1970 as timestamp, got 0"),
    "timestamp negative": (payload(timestamp=-1), "milliseconds since 1970 as timestamp"),
    "timestamp true": (payload(timestamp=True), "milliseconds since 1970 as timestamp, got True"),
    "timestamp as text": (payload(timestamp="1768478400000"), "milliseconds since 1970 as timestamp"),
    "timestamp in the year 10000": (payload(timestamp=253_402_300_800_000), "milliseconds since 1970 as timestamp"),
    "timestamp of 64 bits": (payload(timestamp=2**64 - 1), "milliseconds since 1970 as timestamp"),
    "no PCRs": (payload(pcrs={}), "a map of 1 to 32 PCRs, got 0 entries"),
    "33 PCRs": (payload(pcrs={index: bytes(48) for index in range(33)}), "a map of 1 to 32 PCRs, got 33 entries"),
    "PCRs as array": (payload(pcrs=[bytes(48)]), "a map of 1 to 32 PCRs"),
    "PCR32": (payload(pcrs={32: bytes(48)}), "PCR indices from 0 to 31, got 32"),
    "PCR-1": (payload(pcrs={-1: bytes(48)}), "PCR indices from 0 to 31, got -1"),
    "PCR0 in text": (payload(pcrs={"0": bytes(48)}), "PCR indices from 0 to 31, got '0'"),
    "PCR true": (payload(pcrs={True: bytes(48)}), "PCR indices from 0 to 31, got True"),
    "a PCR of 47 bytes": (payload(pcrs={0: bytes(47)}), "48 bytes as PCR0, got 47"),
    "a PCR of 49 bytes": (payload(pcrs={3: bytes(49)}), "48 bytes as PCR3, got 49"),
    "a PCR of 32 bytes": (payload(pcrs={0: bytes(32)}), "48 bytes as PCR0, got 32"),
    "a PCR of 64 bytes": (payload(pcrs={0: bytes(64)}), "48 bytes as PCR0, got 64"),
    "a PCR of no bytes": (payload(pcrs={0: b""}), "48 bytes as PCR0, got 0"),
    "a PCR as text": (payload(pcrs={0: "0" * 48}), "48 bytes as PCR0, got str"),
    "a PCR that is null": (payload(pcrs={0: None}), "48 bytes as PCR0, got NoneType"),
    "certificate empty": (payload(certificate=b""), "1 to 1024 bytes as certificate, got 0"),
    "certificate of 1025 bytes": (payload(certificate=bytes(1025)), "1 to 1024 bytes as certificate, got 1025"),
    "certificate as text": (payload(certificate="0"), "1 to 1024 bytes as certificate, got str"),
    "cabundle empty": (payload(cabundle=[]), "an array of certificates as cabundle, got an empty one"),
    "cabundle as map": (payload(cabundle={0: b"\x30"}), "an array of certificates as cabundle, got dict"),
    "cabundle as bytes": (payload(cabundle=b"\x30"), "an array of certificates as cabundle, got bytes"),
    "an empty certificate in cabundle": (payload(cabundle=[b"0", b""]), "1 to 1024 bytes as cabundle[1], got 0"),
    "a long certificate in cabundle": (payload(cabundle=[bytes(1025)]), "1 to 1024 bytes as cabundle[0], got 1025"),
    "null in cabundle": (payload(cabundle=[None]), "1 to 1024 bytes as cabundle[0], got NoneType"),
    **{
        f"{name} of 1025 bytes": (payload(**{name: bytes(1025)}), f"0 to 1024 bytes as {name}, got 1025")
        for name in ("public_key", "user_data", "nonce")
    },
    **{
        f"{name} as text": (payload(**{name: ""}), f"0 to 1024 bytes as {name}, got str")
        for name in ("public_key", "user_data", "nonce")
    },
    "nonce undefined": (payload()[:-1] + b"\xf7", "bytes as nonce, got UndefinedType"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_field_out_of_its_limits_is_refused_by_check_3(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(MalformedEvidenceError) as caught:
        read_document(data)
    assert message in str(caught.value)
    assert caught.value.check == 3
    assert f"expected {caught.value.expected}"[:40] in str(caught.value) or "at byte" in caught.value.expected


@pytest.mark.parametrize(
    "data",
    [
        payload(nitrotpm_pcrs={0: bytes(48)}),
        payload(nitrotpm_pcrs=None),
        cbor.encode({name: value for name, value in FIELDS.items() if name != "pcrs"} | {"nitrotpm_pcrs": {}}),
        payload(module_id="i-0123456789abcdef0-tpm0000000000000000"),
        payload(module_id="i-0123456789abcdef0-tpm"),
    ],
)
def test_a_nitrotpms_document_is_refused_by_3a(data: bytes) -> None:
    """An ordinary instance's, under the same root: whether or not it has `pcrs` as well."""
    with pytest.raises(MalformedEvidenceError) as caught:
        read_document(data)
    assert caught.value.check == "3a"
    assert caught.value.expected in ("an enclave's document", "an enclave's module_id")


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (envelope(ES384.protected, {4: b""}, payload(), b""), 1),
        (envelope(ES384.protected, {}, b"", b""), 1),
        (envelope(ES384.protected, {}, bytes(16385), b""), 1),
        (envelope(ES384.protected, {}, bytes(16384), b""), 3),
        (envelope(cose.Algorithm.ES256.protected, {}, payload(), b""), 2),
        (envelope(b"", {}, payload(), b""), 2),
        (envelope(b"\xa0", {}, payload(), b""), 2),
        (envelope(b"\xa1\x18\x01\x38\x22", {}, payload(), b""), 2),
        (envelope(b"\xa1\x01\x38\x22\x00", {}, payload(), b""), 2),
        (envelope(b"\xbf\x01\x38\x22\xff", {}, payload(), b""), 2),
        (envelope(b"\xa2\x01\x38\x22\x01\x38\x22", {}, payload(), b""), 2),
        (envelope(ES384.protected, {}, payload(pcrs={}), b""), 3),
    ],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else None,
)
def test_the_checks_come_in_their_order(data: bytes, check: int) -> None:
    """Two faults in one document are reported as the first: the envelope before the header, that before the fields."""
    with pytest.raises(MalformedEvidenceError) as caught:
        decode_unverified(data)
    assert caught.value.check == check


def test_decoding_unverified_asks_nobody_who_signed() -> None:
    """Hence its name."""
    assert decode_unverified(envelope(ES384.protected, {}, payload(), b"no signature")) == read_document(payload())


def test_the_three_steps_of_decoding_are_usable_alone() -> None:
    sign1 = read_envelope(envelope(ES384.protected, {}, payload(), b""))
    require_es384(sign1)
    assert read_document(sign1.payload).module_id == FIELDS["module_id"]


@pytest.mark.parametrize(
    "data",
    [
        payload(module_id="i-0\x1b[2J\n" + "x" * 9000 + "-tpm0"),
        payload(digest="\x1b[2J\n" + "x" * 9000),
        payload(pcrs=b"\n" * 9000),
        payload(pcrs={"\x1b\n" * 4000: b""}),
        payload(timestamp="\x1b\n" * 4000),
        payload(**{"\x1b\n" * 4000: b""}),
        payload(module_id=b"\x1b\n" * 4000),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_a_message_is_one_short_printable_line_whatever_the_document_says(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError) as caught:
        read_document(data)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


# --- what a document says of itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zero", "debug"), [((), False), ((0,), True), ((1,), True), ((2,), True), ((3, 4, 8), False), ((0, 1, 2), True)]
)
def test_debug_mode_shows_in_the_first_three_pcrs_only(zero: tuple[int, ...], debug: bool) -> None:
    pcrs = {index: bytes(48) if index in zero else b"\1" * 48 for index in range(16)}
    assert read_document(payload(pcrs=pcrs)).is_debug is debug


def test_a_simulated_document_says_so(world: World) -> None:
    document = world.document()
    assert document.is_simulated
    assert document.instance_id == INSTANCE
    assert document.time == NOW


def test_the_encoding_is_the_one_of_todays_genuine_documents(world: World) -> None:
    """An indefinite map of nine keys in AWS's order, PCRs ascending, absent fields null."""
    document = read_document(payload(nonce=b""))
    shuffled = document._replace(pcrs=dict(reversed(document.pcrs.items())))
    assert shuffled.encode() == cbor.encode_indefinite_map(FIELDS | {"nonce": b""})
    assert world.document().encode() == cose.read_sign1(world.attest()).payload


def test_a_document_cannot_be_edited_in_place() -> None:
    document: AttestationDocument = read_document(payload())
    with pytest.raises(AttributeError):
        document.nonce = b""  # type: ignore[misc]
