"""The documents, a table for each check. Those whose certificates deviate are in `chains`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from attested import ES384, INSTANCE, MEASUREMENTS, NOW, World, twin
from vectors.chains import chain_vectors
from vectors.crafting import (
    Row,
    Vector,
    altered,
    as_der,
    attested,
    fields,
    header,
    key,
    later,
    leaf_of,
    made,
    measuring,
    of_size,
    parts,
    payload,
    registers,
    resigned,
    sent,
    signed,
    spelt,
)

from workshop_kit.evidence import cbor, cose, pcr
from workshop_kit.verifier.ledger import Number

NONCE, KEY, BOUND = bytes(range(32)), bytes(range(64, 96)), bytes(range(128, 160))
HANDSHAKE = {"nonce": NONCE, "public_key": KEY}
TRANSCRIPT = HANDSHAKE | {"user_data": BOUND}
MINUTE, SECOND, MILLISECOND = timedelta(minutes=1), timedelta(seconds=1), timedelta(milliseconds=1)
LEAF_ENDS = NOW + timedelta(hours=3, seconds=4)  # after its last second
OTHER_ENCLAVE = f"{INSTANCE}-enc{'0' * 16}"
NITROTPM = f"{INSTANCE}-tpm{'0' * 16}"
ONE_RAMDISK = MEASUREMENTS | {0: MEASUREMENTS[1], 2: pcr.measure()}
DEBUG = dict.fromkeys((0, 1, 2), pcr.ZERO)
SOMETHING = pcr.measure(b"something else")

# Bytes of a payload, to be spelt otherwise.
MODULE, DIGEST, TIME = key("module_id") + b"\x78\x27", key("digest"), key("timestamp") + b"\x1b"
PCRS, PCR15 = key("pcrs") + b"\xb0", b"\x0f\x58\x30" + pcr.ZERO
CERTIFICATE, CABUNDLE = key("certificate"), key("cabundle")
NONCE_IS, NO_NONCE, NO_KEY = key("nonce"), key("nonce") + b"\xf6", key("public_key") + b"\xf6"


def backwards(world: World) -> bytes:
    return world.sign(cbor.encode(dict(reversed(world.fields().items()))))


def with_pcr16(world: World) -> bytes:
    world.ask("ExtendPCR", index=16, data=b"users")
    world.ask("LockPCR", index=16)
    return world.attest()


def dressed_up(_: World) -> bytes:
    """A document of another image, changed on its way to show what is demanded."""
    other = World(measurements=dict.fromkeys((0, 1, 2), SOMETHING))
    return altered(lambda world: {"pcrs": {**world.document().pcrs, **MEASUREMENTS}})(other)


AFFIRMED: tuple[Row, ...] = (
    ("ok_null_fields", "", "the optional fields are null, as the NSM writes them", attested()),
    ("ok_empty_fields", "", "the optional fields are empty", attested(nonce=b"", public_key=b"", user_data=b"")),
    ("ok_omitted_fields", "", "the optional fields are left out", fields("public_key", "user_data", "nonce")),
    ("ok_definite_map", "", "the payload is a map of definite length, as until June 2025", fields()),
    (
        "ok_indefinite_inside",
        "",
        "pcrs and cabundle are of indefinite length, as the payload is",
        spelt(
            (PCRS, key("pcrs") + b"\xbf"),
            (CERTIFICATE, b"\xff" + CERTIFICATE),
            (CABUNDLE + b"\x84", CABUNDLE + b"\x9f"),
            (NO_KEY, b"\xff" + NO_KEY),
        ),
    ),
    ("ok_tag_18", "", "the envelope bears the tag of COSE_Sign1", sent(lambda data: b"\xd2" + data)),
    ("ok_twin", "", "ok_null_fields, whose s is above n/2, with n - s: other bytes, as good a signature", sent(twin)),
    ("ok_other_order", "", "the fields stand in another order", backwards),
    (
        "ok_sparse_pcrs",
        "",
        "four PCRs alone, PCR4 not among them",
        registers(lambda _: {**MEASUREMENTS, 31: SOMETHING}),
    ),
    ("ok_32_pcrs", "", "all 32 PCRs are there", registers(lambda own: dict.fromkeys(range(32), pcr.ZERO) | own)),
    (
        "ok_1024_bytes",
        "",
        "each optional field has the 1024 bytes that it may have",
        attested(nonce=bytes(1024), public_key=bytes(1024), user_data=bytes(1024)),
    ),
)

NO_ENVELOPE: tuple[Row, ...] = (
    ("empty", "no bytes", "there are no bytes", lambda _: b""),
    ("tag_17", "an array of 4", "the tag is COSE_Mac0's", sent(lambda data: b"\xd1" + data)),
    ("array_indefinite", "an array of 4", "the array has no length", sent(lambda data: b"\x9f" + data[1:] + b"\xff")),
    ("trailing_byte", "the end of the item", "a byte follows the envelope", sent(lambda data: data + b"\0")),
    ("truncated", "96 more bytes", "the last byte is missing", sent(lambda data: data[:-1])),
    (
        "payload_in_chunks",
        "a string in one piece",
        "the payload is a string in chunks",
        sent(lambda data: data[:7] + b"\x5f" + data[7:-98] + b"\xff" + data[-98:]),
    ),
    ("protected_map", "a byte string as protected", "the protected header is a map", parts(protected={1: -35})),
    ("payload_null", "a byte string as payload", "the payload is detached", parts(payload=None)),
    ("unprotected_label", "1 labels", "the header that nobody signs holds a label", parts(unprotected={4: b"kid"})),
    (
        "unprotected_open",
        "a0 as empty unprotected header",
        "the header that nobody signs is an empty map without a length",
        sent(lambda data: data[:6] + b"\xbf\xff" + data[7:]),
    ),
    ("payload_empty", "0 bytes", "the payload is empty", payload(lambda _: b"")),
    (
        "payload_16385_bytes",
        "16385 bytes",
        "the payload is a byte longer than the NSM's limit",
        of_size(16385, lambda data: len(cose.read_sign1(data).payload)),
    ),
    ("envelope_32769_bytes", "at most 32768 bytes", "the envelope is a byte longer than 32 KiB", of_size(32769, len)),
)

NOT_ES384: tuple[Row, ...] = (
    ("header_es256", "a10126", "the protected header names ES256", header("a10126")),
    ("header_empty", "an empty one", "the protected header is empty", header("")),
    ("header_second_label", "a201", "the protected header has a label beside the algorithm", header("a2013822044100")),
    ("header_long_label", "a11801", "the algorithm's label takes a byte more than it needs", header("a118013822")),
    ("header_trailing_byte", "a101382200", "a byte follows in the protected header", header("a101382200")),
)

INCOMPLETE: tuple[Row, ...] = (
    ("document_array", "a map as document", "the payload is an array", payload(lambda _: b"\x80")),
    ("document_trailing_byte", "the end of the item", "a byte follows the map", payload(lambda data: data + b"\0")),
    ("no_pcrs", "pcrs", "pcrs is left out", fields("pcrs")),
    ("digest_null", "null", "digest, a mandatory field, is null", fields(digest=None)),
    ("digest_sha256", "the digest SHA384", "the digest is another", fields(digest="SHA256")),
    ("unknown_field", "the unknown field", "there is a tenth field", fields(comment="")),
    ("module_id_empty", "non-empty text", "module_id is empty", fields(module_id="")),
    ("timestamp_0", "as timestamp", "the timestamp is 0", fields(timestamp=0)),
    ("timestamp_true", "as timestamp", "the timestamp is true, in some languages a 1", fields(timestamp=True)),
    ("timestamp_year_10000", "as timestamp", "the time is in the year 10000", fields(timestamp=253402300800000)),
    ("pcrs_0", "0 entries", "there is no PCR", fields(pcrs={})),
    ("pcrs_33", "33 entries", "there is a PCR too many", fields(pcrs=dict.fromkeys(range(33), pcr.ZERO))),
    ("pcr_32", "indices from 0 to 31", "a PCR has the index 32", fields(pcrs={**MEASUREMENTS, 32: pcr.ZERO})),
    ("pcr_text", "indices from 0 to 31", "a PCR's index is text", fields(pcrs={**MEASUREMENTS, "3": pcr.ZERO})),
    ("pcr_32_bytes", "48 bytes as PCR3", "a PCR is as long as SHA-256", fields(pcrs={**MEASUREMENTS, 3: bytes(32)})),
    ("cabundle_empty", "an empty one", "cabundle is empty", fields(cabundle=[])),
    ("user_data_1025_bytes", "bytes as user_data", "user_data is a byte too long", fields(user_data=bytes(1025))),
    ("public_key_1025_bytes", "bytes as public_key", "public_key is a byte too long", fields(public_key=bytes(1025))),
    ("nonce_1025_bytes", "bytes as nonce", "nonce is a byte too long", fields(nonce=bytes(1025))),
    ("nonce_undefined", "undefined", "nonce is undefined, not null", spelt((NO_NONCE, NONCE_IS + b"\xf7"))),
    (
        "nonce_reserved",
        "well-formed",
        "nonce begins with a byte that means nothing",
        spelt((NO_NONCE, NONCE_IS + b"\x1c")),
    ),
    ("nonce_deep", "nesting", "nonce is nested too deep", spelt((NO_NONCE, NONCE_IS + b"\x81" * 8 + b"\xf6"))),
    ("nonce_twice", "each key once", "nonce is there twice, null both times", spelt((NO_NONCE, NO_NONCE * 2))),
    (
        "pcr0_twice",
        "each key once",
        "PCR0 is there twice, first as zero",
        spelt((PCRS, key("pcrs") + b"\xb1\x00\x58\x30" + pcr.ZERO)),
    ),
    ("pcr_true", "number or text as key", "PCR15's index is true", spelt((PCR15, b"\xf5" + PCR15[1:]))),
    ("pcr_index_long", "the shortest form", "PCR0's index takes two bytes", spelt((PCRS + b"\0", PCRS + b"\x18\0"))),
    (
        "module_id_in_chunks",
        "a string in one piece",
        "module_id is text in chunks",
        spelt((MODULE, key("module_id") + b"\x7f\x78\x27"), (DIGEST, b"\xff" + DIGEST)),
    ),
    ("timestamp_tagged", "a tag", "the timestamp bears a tag", spelt((TIME, key("timestamp") + b"\xc1\x1b"))),
    ("digest_no_utf8", "text in UTF-8", "digest is text that is none", spelt((b"SHA384", b"SHA38\xff"))),
)

A_NITROTPMS: tuple[Row, ...] = (
    ("nitrotpm_field", "nitrotpm_pcrs", "a NitroTPM's PCRs are there too", fields(nitrotpm_pcrs={0: pcr.ZERO})),
    ("nitrotpm_module", "-tpm", "a NitroTPM speaks, under a leaf of its own", leaf_of(NITROTPM, speaking_for=NITROTPM)),
)

WRONG = "does not verify"
WRONGLY_SIGNED: tuple[Row, ...] = (
    ("signature_zero", WRONG, "r and s are 0", resigned(lambda _: bytes(96))),
    ("signature_97_bytes", WRONG, "s has a zero in front", resigned(lambda raw: raw[:48] + b"\0" + raw[48:])),
    ("signature_der", WRONG, "the signature is DER, as in X.509", resigned(as_der)),
    ("signature_bare", WRONG, "the signature covers the payload alone", signed(lambda data: data)),
    (
        "signature_other_key",
        WRONG,
        "the key of another infrastructure's leaf signed",
        lambda world: cose.sign1(world.document().encode(), World(seed=2).leaf_key, ES384),
    ),
    ("pcrs_changed", WRONG, "another image's PCRs were changed on the way to the demanded ones", dressed_up),
)

ANOTHERS_LEAF: tuple[Row, ...] = (
    ("leaf_of_another", OTHER_ENCLAVE, "the leaf is another enclave's of the same instance", leaf_of(OTHER_ENCLAVE)),
)

ANOTHERS_PCR4: tuple[Row, ...] = (("pcr4_zero", "zero", "PCR4 is zero", registers(lambda own: {**own, 4: pcr.ZERO})),)

UNTIMELY: tuple[Row, ...] = (
    ("signed_too_early", "11:59:59", "signed a millisecond before its leaf's life", later(-1)),
)

# Documents whose deviation needs other demands than usual, or that answer to them.
UNUSUAL: tuple[tuple[Number | None, Row, dict[str, Any]], ...] = (
    (
        None,
        ("ok_handshake", "", "nonce and key are the handshake's", attested(nonce=NONCE, public_key=KEY)),
        HANDSHAKE,
    ),
    (
        None,
        ("ok_transcript", "", "nonce, key and user_data are the handshake's", attested(**TRANSCRIPT)),
        TRANSCRIPT,
    ),
    (
        None,
        ("ok_one_ramdisk", "", "an image with one ramdisk: PCR0 equals PCR1", measuring(ONE_RAMDISK)),
        {"reference_values": ONE_RAMDISK},
    ),
    (
        None,
        ("ok_users_pcr", "", "PCR16 is locked, and demanded", with_pcr16),
        {"reference_values": MEASUREMENTS | {16: pcr.extend(pcr.ZERO, b"users")}},
    ),
    (
        None,
        (
            "ok_last_millisecond",
            "",
            "signed and appraised in the last millisecond of its leaf's life",
            later(10_803_999),
        ),
        {"at": LEAF_ENDS - MILLISECOND},
    ),
    (
        "5c",
        (
            "signed_too_late",
            "15:00:04",
            "signed a millisecond after its leaf's life, appraised before",
            later(10_804_000),
        ),
        {"at": LEAF_ENDS - MILLISECOND},
    ),
    (8, ("debug", "PCR0 zero", "debug mode: PCR0, 1 and 2 are zero", measuring({})), {"reference_values": DEBUG}),
    (
        8,
        ("debug_pcr1", "PCR1 zero", "PCR1, and only it, is zero", measuring(MEASUREMENTS | {1: pcr.ZERO})),
        {"reference_values": MEASUREMENTS | {1: pcr.ZERO}},
    ),
    (
        8,
        ("one_pcr", "PCR1 absent", "PCR0 alone is there", registers(lambda own: {0: own[0]})),
        {"reference_values": None},
    ),
)

# A document from above in other circumstances: name, whose bytes, check, words, reason, circumstances.
CIRCUMSTANCES: tuple[tuple[str, str, Number | None, str, str, dict[str, Any]], ...] = (
    (
        "ok_last_second",
        "ok_null_fields",
        None,
        "",
        "appraised in the last millisecond of the leaf's life",
        {"at": LEAF_ENDS - MILLISECOND, "max_age": 240 * MINUTE},
    ),
    (
        "second_after",
        "ok_null_fields",
        4,
        "life of i-simulated",
        "appraised in the second after the leaf's life",
        {"at": LEAF_ENDS, "max_age": 240 * MINUTE},
    ),
    ("ok_empty", "ok_empty_fields", None, "", "an empty nonce and key are demanded", {"nonce": b"", "public_key": b""}),
    ("ok_empty_user_data", "ok_empty_fields", None, "", "an empty user_data is demanded", {"user_data": b""}),
    ("nonce_other", "ok_handshake", 6, "32 others", "the nonce is another", HANDSHAKE | {"nonce": NONCE[::-1]}),
    ("nonce_begins", "ok_handshake", 6, "32 others", "the nonce is cut short", HANDSHAKE | {"nonce": NONCE + b"!"}),
    ("nonce_null", "ok_null_fields", 6, "none", "the nonce is null", {"nonce": NONCE}),
    ("nonce_null_not_empty", "ok_null_fields", 6, "none", "the nonce is null, not empty", {"nonce": b""}),
    ("nonce_empty", "ok_empty_fields", 6, "0 others", "the nonce is empty", {"nonce": NONCE}),
    ("ok_oldest", "ok_null_fields", None, "", "the document is as old as it may be", {"at": NOW + 5 * MINUTE}),
    (
        "too_old",
        "ok_null_fields",
        7,
        "5:00",
        "the document is a millisecond too old",
        {"at": NOW + 5 * MINUTE + MILLISECOND},
    ),
    (
        "ok_older",
        "ok_null_fields",
        None,
        "",
        "ten minutes are allowed",
        {"at": NOW + 10 * MINUTE, "max_age": 10 * MINUTE},
    ),
    ("ok_clock_ahead", "ok_chain", None, "", "the signer's clock is 30 seconds ahead", {"at": NOW - 30 * SECOND}),
    (
        "from_the_future",
        "ok_chain",
        7,
        "-30.0 s",
        "the clock is 30.001 seconds ahead",
        {"at": NOW - 30 * SECOND - MILLISECOND},
    ),
    (
        "other_application",
        "ok_null_fields",
        9,
        "PCR2",
        "PCR0 and PCR2 are another application's",
        {"reference_values": MEASUREMENTS | {0: SOMETHING, 2: SOMETHING}},
    ),
    (
        "other_boundary",
        "ok_null_fields",
        9,
        "PCR1",
        "PCR1 and PCR2 are others, though PCR0 agrees",
        {"reference_values": MEASUREMENTS | {1: SOMETHING, 2: SOMETHING}},
    ),
    (
        "pcr4_not_zero",
        "ok_null_fields",
        9,
        "PCR4 zero",
        "PCR4 is demanded to be zero, which is compared as any value",
        {"reference_values": MEASUREMENTS | {4: pcr.ZERO}},
    ),
    (
        "pcr16_absent",
        "ok_null_fields",
        9,
        "PCR16 absent",
        "PCR16 is demanded to be zero, and absent",
        {"reference_values": MEASUREMENTS | {16: pcr.ZERO}},
    ),
    ("key_other", "ok_handshake", 10, "the key with", "the key is another", HANDSHAKE | {"public_key": KEY[::-1]}),
    ("key_null", "ok_null_fields", 10, "none", "the key is null", {"public_key": KEY}),
    ("key_null_not_empty", "ok_null_fields", 10, "none", "the key is null, not empty", {"public_key": b""}),
    ("key_empty", "ok_empty_fields", 10, "the key with", "the key is empty", {"public_key": KEY}),
    ("user_data_other", "ok_transcript", "10a", "32 others", "user_data is another", TRANSCRIPT | {"user_data": NONCE}),
    (
        "user_data_begins",
        "ok_transcript",
        "10a",
        "32 others",
        "user_data is cut short",
        TRANSCRIPT | {"user_data": BOUND + b"!"},
    ),
    (
        "user_data_alone",
        "ok_transcript",
        "10a",
        "32 others",
        "user_data is another, and no key is demanded",
        {"user_data": NONCE},
    ),
    ("user_data_null", "ok_null_fields", "10a", "none", "user_data is null", {"user_data": BOUND}),
    ("user_data_null_not_empty", "ok_null_fields", "10a", "none", "user_data is null, not empty", {"user_data": b""}),
    ("user_data_empty", "ok_empty_fields", "10a", "0 others", "user_data is empty", {"user_data": BOUND}),
)


def vectors() -> list[Vector]:
    """All of them, by name each once."""
    tables = (
        (None, AFFIRMED),
        (1, NO_ENVELOPE),
        (2, NOT_ES384),
        (3, INCOMPLETE),
        ("3a", A_NITROTPMS),
        (5, WRONGLY_SIGNED),
        ("5a", ANOTHERS_LEAF),
        ("5b", ANOTHERS_PCR4),
        ("5c", UNTIMELY),
    )
    whole = [vector for check, rows in tables for vector in made(check, rows)] + chain_vectors()
    whole += [made(check, (row,), **demands)[0] for check, row, demands in UNUSUAL]
    known = {vector.name: vector for vector in whole}
    for name, file, check, ledger, why, others in CIRCUMSTANCES:
        plain = {"nonce": None, "public_key": None, "user_data": None} | others
        whole.append(replace(known[file], name=name, check=check, ledger=ledger, why=why, **plain))
    assert len({vector.name for vector in whole}) == len(whole)
    return whole
