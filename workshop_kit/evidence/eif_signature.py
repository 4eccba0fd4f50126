"""The signature section of an enclave image: who built it, as PCR8 will say (nitro-cli, "Image signing").

The section is CBOR, an array of one map with the certificate in PEM and a COSE_Sign1 over `{register_index: 0,
register_value: PCR0}`, every byte string written as an array of integers. PCR8 is the measured certificate in DER.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from workshop_kit.errors import ImageError, MalformedEvidenceError
from workshop_kit.evidence import cbor, cose
from workshop_kit.evidence.certificates import UNREADABLE
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.evidence.pcr import Pcr, measure

_ALGORITHMS = {type(algorithm.curve): algorithm for algorithm in cose.Algorithm}
_FIELDS = {"signing_certificate", "signature"}


@dataclass(frozen=True)
class ImageSignature:
    """A signature section as read. `certificate` is nobody's word until `faults` has none to name."""

    certificate: x509.Certificate
    envelope: cose.Sign1

    @property
    def pcr8(self) -> bytes:
        """The measured signing certificate, which a policy can ask for in place of PCR0."""
        return measure(self.certificate.public_bytes(Encoding.DER))

    def faults(self, pcr0: bytes, *, now: datetime) -> Iterator[str]:
        """What keeps this from being its certificate's signature over an image that measures `pcr0`, at `now`."""
        key = self.certificate.public_key()
        algorithm = _ALGORITHMS.get(type(key.curve)) if isinstance(key, ec.EllipticCurvePublicKey) else None
        if algorithm is None or not isinstance(key, ec.EllipticCurvePublicKey):
            yield "certificate: expected a key on P-256, P-384 or P-521, got another"
            return
        if self.envelope.protected != algorithm.protected or self.envelope.unprotected:
            yield f"signature: expected {algorithm.name} and nothing else in its headers, got another"
        elif not self.envelope.verifies(key, algorithm):
            yield "signature: expected one by the certificate's key, it does not verify"
        if self.envelope.payload != _payload(pcr0):
            yield "signature: expected one over this image's PCR0, under register index 0, got one over something else"
        begin, end = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        if not begin <= now <= end:
            life = f"{begin:%Y-%m-%d} to {end:%Y-%m-%d}"
            yield f"certificate: expected one valid at {now:%Y-%m-%d}, got one valid from {life}"


def _payload(pcr0: bytes) -> bytes:
    return cbor.encode({"register_index": int(Pcr.IMAGE), "register_value": list(pcr0)})


def sign_image(image: EnclaveImage, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> EnclaveImage:
    """`image` with a signature section; its PCR0, 1 and 2 stay.

    Raises:
        ImageError: the key is not the certificate's, or lies on a curve that nitro-cli does not know.
    """
    algorithm = _ALGORITHMS.get(type(key.curve))
    if algorithm is None:
        raise ImageError(f"signing key: expected one on P-256, P-384 or P-521, got {key.curve.name}")
    if key.public_key() != certificate.public_key():
        raise ImageError("signing key: expected the one of the signing certificate, got another")
    envelope = cose.sign1(_payload(image.measurements()[Pcr.IMAGE]), key, algorithm)
    pem = certificate.public_bytes(Encoding.PEM)
    return image._replace(signature=cbor.encode([{"signing_certificate": list(pem), "signature": list(envelope)}]))


def read_signature(section: bytes) -> ImageSignature:
    """The content of a signature section; nothing is verified.

    Raises:
        ImageError: it is none; the message begins with the part that is not.
    """
    try:
        item = cbor.decode(section)
        if not isinstance(item, list) or len(item) != 1 or not isinstance(item[0], dict) or item[0].keys() != _FIELDS:
            raise ImageError("signature: expected an array of one map with signing_certificate and signature")
        pem, envelope = _octets(item[0]["signing_certificate"]), _octets(item[0]["signature"])
        return ImageSignature(_certificate(pem), cose.read_sign1(envelope))
    except MalformedEvidenceError as error:
        raise ImageError(f"signature: {error}") from None


def _octets(value: cbor.Value) -> bytes:
    """serde writes a Vec<u8> as an array of integers."""
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < 256 for each in value):
        raise ImageError("signature: expected bytes as an array of integers, got something else")
    return bytes(each for each in value if isinstance(each, int))


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        _ = certificate.public_key(), certificate.subject
    except UNREADABLE:
        raise ImageError("certificate: expected one in PEM, got something else") from None
    return certificate
