"""Signed images: made here, read back, and refused for each thing that can be wrong with a signature."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from workshop_kit.errors import ImageError
from workshop_kit.evidence import cbor, cose, pcr
from workshop_kit.evidence.eif import EnclaveImage, read_image
from workshop_kit.evidence.eif_signature import ImageSignature, read_signature, sign_image

NOW = datetime(2026, 1, 15, tzinfo=UTC)
IMAGE = EnclaveImage(kernel=b"kernel", cmdline=b"command line", ramdisks=(b"one", b"two"))
CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())


def certificate_for(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an author")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(7).not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    )
    return builder.sign(key, hashes.SHA256())


KEY = ec.generate_private_key(ec.SECP384R1())
CERTIFICATE = certificate_for(KEY)
SIGNED = sign_image(IMAGE, KEY, CERTIFICATE)


def signature_of(image: EnclaveImage) -> ImageSignature:
    assert image.signature is not None
    return read_signature(image.signature)


def faults(image: EnclaveImage, *, now: datetime = NOW) -> list[str]:
    return list(signature_of(image).faults(image.measurements()[0], now=now))


def section(pem: bytes, envelope: bytes) -> bytes:
    return cbor.encode([{"signing_certificate": list(pem), "signature": list(envelope)}])


def payload(register: int, value: bytes) -> bytes:
    return cbor.encode({"register_index": register, "register_value": list(value)})


PEM = CERTIFICATE.public_bytes(Encoding.PEM)
PCR0 = IMAGE.measurements()[0]


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_a_signed_image_has_no_fault_and_survives_its_file(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    image = read_image(sign_image(IMAGE, key, certificate_for(key)).encode())
    assert faults(image) == []


def test_signing_moves_no_pcr_but_8() -> None:
    assert SIGNED.measurements() == IMAGE.measurements()
    assert signature_of(SIGNED).pcr8 == pcr.measure(CERTIFICATE.public_bytes(Encoding.DER))


def test_another_image_under_the_same_signature_is_named() -> None:
    moved = SIGNED._replace(cmdline=b"another command line")
    assert [fault.partition(":")[0] for fault in faults(moved)] == ["signature"]
    assert "this image's PCR0" in faults(moved)[0]


def test_a_signature_over_another_register_is_named() -> None:
    envelope = cose.sign1(payload(8, PCR0), KEY, cose.Algorithm.ES384)
    (fault,) = faults(IMAGE._replace(signature=section(PEM, envelope)))
    assert "register index 0" in fault


def test_a_signature_by_another_key_is_named() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    envelope = cose.sign1(payload(0, PCR0), other, cose.Algorithm.ES384)
    (fault,) = faults(IMAGE._replace(signature=section(PEM, envelope)))
    assert "does not verify" in fault


def test_the_algorithm_is_the_curves_and_not_the_messages_choice() -> None:
    envelope = cose.sign1(payload(0, PCR0), ec.generate_private_key(ec.SECP256R1()), cose.Algorithm.ES256)
    (fault,) = faults(IMAGE._replace(signature=section(PEM, envelope)))
    assert "expected ES384" in fault


@pytest.mark.parametrize(("now", "valid"), [(-1, True), (1, True), (-1.1, False), (1.1, False)])
def test_a_certificate_counts_within_its_life_ends_included(now: float, valid: bool) -> None:
    found = faults(SIGNED, now=NOW + timedelta(days=now))
    assert [fault.partition(":")[0] for fault in found] == ([] if valid else ["certificate"])


def test_a_certificate_with_an_rsa_key_is_named() -> None:
    pem = certificate_for(rsa.generate_private_key(65537, 2048)).public_bytes(Encoding.PEM)
    envelope = cose.sign1(payload(0, PCR0), KEY, cose.Algorithm.ES384)
    (fault,) = faults(IMAGE._replace(signature=section(pem, envelope)))
    assert fault.startswith("certificate: ")


def test_a_key_that_is_not_the_certificates_signs_nothing() -> None:
    with pytest.raises(ImageError, match="the one of the signing certificate"):
        sign_image(IMAGE, ec.generate_private_key(ec.SECP384R1()), CERTIFICATE)


ENVELOPE = cose.sign1(payload(0, PCR0), KEY, cose.Algorithm.ES384)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        cbor.encode([]),
        cbor.encode([{"signature": list(ENVELOPE)}]),
        cbor.encode([{"signing_certificate": PEM, "signature": ENVELOPE}]),
        cbor.encode([{"signing_certificate": list(PEM), "signature": [256]}]),
        cbor.encode([{"signing_certificate": list(PEM), "signature": [True]}]),
        section(b"no certificate", ENVELOPE),
        section(PEM, b"no envelope"),
        section(PEM, ENVELOPE) + b"\0",
    ],
)
def test_what_is_no_signature_section_is_an_error_of_ours(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"^(signature|certificate): "):
        read_signature(content)


def test_a_key_on_a_curve_that_nitro_cli_does_not_know_signs_nothing() -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    with pytest.raises(ImageError, match="expected one on P-256, P-384 or P-521, got secp256k1"):
        sign_image(IMAGE, key, CERTIFICATE)
