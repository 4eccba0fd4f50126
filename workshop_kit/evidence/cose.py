"""COSE_Sign1, the signed envelope of an attestation document (RFC 9052, 4.2; RFC 9053, 2.1 for ECDSA).

This file takes the algorithm from its caller. The message names one too, but a verifier that believes the message lets
the sender choose how he is checked.
"""

from __future__ import annotations

from enum import Enum
from functools import cached_property
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from workshop_kit.errors import MalformedEvidenceError
from workshop_kit.evidence import cbor

MAX_SIZE = 32 * 1024
"""Bytes of an envelope that are still read: twice the largest payload that the NSM allows (NSM API 3.1: 16384)."""

_TAG_18 = 0xD2
_ARRAY_OF_FOUR = 0x84
_EMPTY_MAP = 0xA0
_PARTS = (
    ("protected header", bytes, "byte string"),
    ("unprotected header", dict, "map"),
    ("payload", bytes, "byte string"),
    ("signature", bytes, "byte string"),
)


class Algorithm(Enum):
    """ECDSA in COSE: identifier, the curve that RFC 9053, 2.1 recommends, digest. The curve in use is the key's."""

    ES256 = (-7, ec.SECP256R1(), hashes.SHA256())
    ES384 = (-35, ec.SECP384R1(), hashes.SHA384())
    ES512 = (-36, ec.SECP521R1(), hashes.SHA512())

    def __init__(self, identifier: int, curve: ec.EllipticCurve, digest: hashes.HashAlgorithm) -> None:
        self.curve = curve
        self.digest = digest
        self.protected = cbor.encode({1: identifier})

    @cached_property
    def ecdsa(self) -> ec.ECDSA:
        """Deterministic (RFC 6979), so that equal inputs give equal documents. Its making loads much: not at import."""
        return ec.ECDSA(self.digest, deterministic_signing=True)


class Sign1(NamedTuple):
    """A COSE_Sign1 as received. Nothing has been verified; `unprotected` never will be, the signature leaves it out."""

    protected: bytes
    unprotected: dict[cbor.Key, cbor.Value]
    payload: bytes
    signature: bytes

    def verifies(self, key: ec.EllipticCurvePublicKey, algorithm: Algorithm, *, external_aad: bytes = b"") -> bool:
        """Whether `signature` is `key`'s over the protected header and the payload, under the caller's `algorithm`.

        Not guaranteed: that the protected header names that algorithm, compare it with `algorithm.protected` first; nor
        that `key` lies on the recommended curve.
        There is no low-S rule: half of all genuine documents have s > n/2, so (r, n - s) verifies as well and a
        document's bytes are no identifier.
        """
        der = signature_to_der(self.signature, key.curve)
        if der is None:
            return False
        try:
            key.verify(der, to_be_signed(self.protected, self.payload, external_aad), algorithm.ecdsa)
        except InvalidSignature:
            return False
        return True


def read_sign1(data: bytes) -> Sign1:
    """Read a COSE_Sign1, tagged with 18 or untagged (RFC 9052, 2).

    Raises:
        MalformedEvidenceError: with `.check` 1; the bytes are no COSE_Sign1, or not in the accepted encoding.
    """
    try:
        return _read_sign1(data)
    except MalformedEvidenceError as error:
        error.check = 1
        raise


def _read_sign1(data: bytes) -> Sign1:
    if len(data) > MAX_SIZE:
        raise _no_sign1(f"at most {MAX_SIZE} bytes", "more")
    body = data[1:] if data[:1] == bytes([_TAG_18]) else data
    if not body:
        raise _no_sign1("a COSE_Sign1", "no bytes")
    if body[0] != _ARRAY_OF_FOUR:
        raise _no_sign1("an array of 4 (0x84), untagged or under tag 18", f"0x{body[0]:02x}")
    # The quick reader says nothing of the types inside; an empty map has none.
    parts = cbor.decode_quickly(body)
    if isinstance(parts, list) and parts[1] == {} and type(parts[0]) is type(parts[2]) is type(parts[3]) is bytes:
        return Sign1(*parts)
    parts = cbor.decode(body)
    assert isinstance(parts, list)  # its first byte said so
    for part, (name, kind, wanted) in zip(parts, _PARTS, strict=True):
        if not isinstance(part, kind):
            raise _no_sign1(f"a {wanted} as {name}", type(part).__name__)
    sign1 = Sign1(*parts)
    # An empty header is spelt in one way only: what nobody signs must not vary.
    if not sign1.unprotected and body[1 + len(cbor.encode(sign1.protected))] != _EMPTY_MAP:
        raise _no_sign1("a0 as empty unprotected header", "an indefinite map")
    return sign1


def _no_sign1(expected: str, actual: str) -> MalformedEvidenceError:
    message = f"not a COSE_Sign1: expected {expected}, got {actual}"
    return MalformedEvidenceError(message, check=1, expected=expected, actual=actual)


def to_be_signed(protected: bytes, payload: bytes, external_aad: bytes = b"") -> bytes:
    """The Sig_structure that the signature covers, with `protected` as received and not re-encoded (RFC 9052, 4.4)."""
    return cbor.encode(["Signature1", protected, external_aad, payload])


def sign1(payload: bytes, key: ec.EllipticCurvePrivateKey, algorithm: Algorithm) -> bytes:
    """`payload` signed, untagged and with an empty unprotected header: the form of genuine attestation documents."""
    der = key.sign(to_be_signed(algorithm.protected, payload), algorithm.ecdsa)
    r, s = decode_dss_signature(der)
    width = _width(key.curve)
    signature = r.to_bytes(width, "big") + s.to_bytes(width, "big")
    return cbor.encode([algorithm.protected, {}, payload, signature])


def signature_to_der(signature: bytes, curve: ec.EllipticCurve) -> bytes | None:
    """`r || s` (RFC 9053, 2.1) as the DER that OpenSSL reads; None where the length or a number's range is wrong."""
    width = _width(curve)
    r, s = int.from_bytes(signature[:width], "big"), int.from_bytes(signature[width:], "big")
    in_range = 0 < r < curve.group_order and 0 < s < curve.group_order
    return encode_dss_signature(r, s) if in_range and len(signature) == 2 * width else None


def _width(curve: ec.EllipticCurve) -> int:
    """Bytes of a number below the curve's order: 66 for P-521, whose order has 521 bits."""
    return (curve.key_size + 7) // 8
