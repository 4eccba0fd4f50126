"""How a document with one deviation is made. Chance is seeded and time stands still: the same bytes everywhere.

Each function gives a `Make`: a document of an infrastructure that nobody has asked before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from attested import ES384, MEASUREMENTS, NOW, World, envelope, raw_signature, signed_over
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from workshop_kit.evidence import cbor, cose
from workshop_kit.verifier.ledger import Number

Make = Callable[[World], bytes]
Row = tuple[str, str, str, Make]
"""A vector's name, words of the ledger's line that refuses it, its reason, and its bytes."""


@dataclass(frozen=True, kw_only=True)
class Vector:
    """Bytes, the circumstances in which they are appraised, and what must come of it.

    Attributes:
        file: the document's; several vectors may appraise one, each in other circumstances.
        check: the check that refuses, or None where the document is affirmed.
        ledger: words of that check's line.
        root: DER of the trust anchor.
        reference_values: None where any image may run.
    """

    name: str
    file: str
    check: Number | None
    ledger: str
    why: str
    evidence: bytes
    root: bytes
    at: datetime = NOW
    nonce: bytes | None = None
    public_key: bytes | None = None
    user_data: bytes | None = None
    max_age: timedelta = timedelta(minutes=5)
    reference_values: Mapping[int, bytes] | None = None


def made(check: Number | None, rows: tuple[Row, ...], **circumstances: Any) -> list[Vector]:
    """A table's vectors, under the simulator's root and the usual demands unless `circumstances` has others."""
    usual = {"root": World().pki.root, "reference_values": MEASUREMENTS} | circumstances
    return [
        Vector(name=name, file=name, check=check, ledger=ledger, why=why, evidence=make(World()), **usual)
        for name, ledger, why, make in rows
    ]


# --- changed on the way ----------------------------------------------------------------------------------------------


def sent(change: Callable[[bytes], bytes]) -> Make:
    """An honest document's bytes, changed."""
    return lambda world: change(world.attest())


def parts(**others: object) -> Make:
    """An honest document of which one of the four parts is another."""

    def make(world: World) -> bytes:
        sign1 = cose.read_sign1(world.attest())
        own = {"protected": sign1.protected, "unprotected": {}, "payload": sign1.payload, "signature": sign1.signature}
        return envelope(**(own | others))

    return make


def altered(change: Callable[[World], Mapping[str, Any]]) -> Make:
    """An honest document with other fields under its old signature."""
    return lambda world: parts(payload=world.document()._replace(**change(world)).encode())(world)


def resigned(change: Callable[[bytes], bytes]) -> Make:
    """An honest document with another signature, made from its own."""
    return lambda world: parts(signature=change(cose.read_sign1(world.attest()).signature))(world)


def as_der(raw: bytes) -> bytes:
    """COSE's r || s as X.509 has it."""
    return encode_dss_signature(int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big"))


# --- well signed -----------------------------------------------------------------------------------------------------


def attested(**asked: bytes | None) -> Make:
    """What the NSM signs."""
    return lambda world: world.attest(**asked)


def header(protected: str) -> Make:
    """A document whose signature covers another protected header."""
    return lambda world: signed_over(bytes.fromhex(protected), world.document().encode(), world.leaf_key)


def signed(message: Callable[[bytes], bytes]) -> Make:
    """An honest document whose signature covers something else, made from its payload."""

    def make(world: World) -> bytes:
        der = world.leaf_key.sign(message(world.document().encode()), ES384.ecdsa)
        return parts(signature=raw_signature(der))(world)

    return make


def payload(change: Callable[[bytes], bytes]) -> Make:
    """A document whose payload is an honest one's bytes, changed."""
    return lambda world: world.sign(change(world.document().encode()))


def spelt(*changes: tuple[bytes, bytes]) -> Make:
    """A document in whose payload some bytes, each found once, are others."""

    def change(data: bytes) -> bytes:
        for old, new in changes:
            assert data.count(old) == 1, old
            data = data.replace(old, new)
        return data

    return payload(change)


def key(name: str) -> bytes:
    """A field's name as a payload spells it."""
    return cbor.encode(name)


def fields(*without: str, **others: object) -> Make:
    """A document, its map of definite length, with some fields left out and others in their place."""
    return lambda world: world.with_fields(without=without, **others)


def edited(change: Callable[[World], Mapping[str, Any]]) -> Make:
    """A document with other fields that `AttestationDocument` can say."""
    return lambda world: world.edited(**change(world))


def registers(change: Callable[[dict[int, bytes]], Mapping[int, bytes]]) -> Make:
    """A document with other PCRs."""
    return edited(lambda world: {"pcrs": change(dict(world.document().pcrs))})


def measuring(measurements: Mapping[int, bytes]) -> Make:
    """An honest document of an enclave whose image has other measurements."""
    return lambda _: World(measurements=measurements).attest()


def later(milliseconds: int) -> Make:
    """A document signed so much later than its leaf's life begins, as it says."""
    return edited(lambda world: {"timestamp": world.document().timestamp + milliseconds})


def of_size(size: int, length: Callable[[bytes], int]) -> Make:
    """A document that user_data fills up to `size`."""

    def make(world: World) -> bytes:
        without = length(world.edited(user_data=bytes(1024))) - 1024
        return world.edited(user_data=bytes(size - without))

    return make


def leaf_of(module_id: str, *, speaking_for: str = "") -> Make:
    """A document of the world's enclave, or of the one named, under the leaf that `module_id` was given."""

    def make(world: World) -> bytes:
        signer = world.pki.signer(module_id, now=world.now)
        speaker = speaking_for or world.nsm.module_id
        document = world.document()._replace(module_id=speaker, certificate=signer.certificate)
        return cose.sign1(document.encode(), signer.key, ES384)

    return make
