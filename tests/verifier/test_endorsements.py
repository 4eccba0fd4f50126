"""Check 4 on chains of our own making: one certificate deviates, everything else is right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from attested import NOW, ROLES, World, crafted, p384_key, refused_by, require_refusal
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from workshop_kit.errors import EndorsementError
from workshop_kit.evidence import cose
from workshop_kit.evidence.document import AttestationDocument, decode_unverified
from workshop_kit.verifier import AppraisalResult, TrustAnchor

SECOND = timedelta(seconds=1)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
NAMES = x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=[x509.DNSName("invalid")])


def appraised(world: World, *, now: Any = None, **deviations: dict[str, Any]) -> AppraisalResult:
    evidence, anchor = crafted(world, **deviations)
    return world.appraise(evidence, trust_anchor=anchor, now=now)


def test_a_chain_without_a_deviation_is_affirmed(world: World) -> None:
    """Or each refusal below would prove nothing."""
    assert appraised(world).affirmed


@pytest.mark.parametrize(
    "deviation",
    [
        {"regional": {"path_length": None}},
        {"instance": {"path_length": 5}},
        {"root": {"path_length": 3}},
        {"root": {"signed_by": p384_key(99)}},  # an anchor is trusted for its digest, not for its word on itself
        {"zonal": {"usage": ("key_cert_sign",)}},
        {"zonal": {"critical_usage": False}},
        {"leaf": {"critical_usage": True}},
        {"leaf": {"usage": ("digital_signature",)}},
        {"zonal": {"more": ((UNKNOWN, False),)}},
        {"leaf": {"more": ((x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False),)}},
    ],
    ids=str,
)
def test_what_the_rules_leave_open_is_affirmed(world: World, deviation: dict[str, Any]) -> None:
    assert appraised(world, **deviation).affirmed


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


DEVIATIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "root may have one authority below it, three follow": lambda: {"root": {"path_length": 1}},
    "regional may have one authority below it, two follow": lambda: {"regional": {"path_length": 1}},
    "zonal may have none below it, one follows": lambda: {"zonal": {"path_length": 0}},
    "zonal is no authority": lambda: {"zonal": {"ca": False, "path_length": None}},
    "zonal does not say what it is": lambda: {"zonal": {"ca": None}},
    "zonal says it, but not as critical": lambda: {"zonal": {"critical_constraints": False}},
    "zonal has no keyUsage": lambda: {"zonal": {"usage": None}},
    "instance may not sign certificates": lambda: {"instance": {"usage": ("digital_signature", "crl_sign")}},
    "root may not sign certificates": lambda: {"root": {"usage": ("digital_signature",)}},
    "leaf is an authority": lambda: {"leaf": {"ca": True, "usage": ("digital_signature", "key_cert_sign")}},
    "leaf is an authority with path length 0": lambda: {"leaf": {"ca": True, "path_length": 0}},
    "leaf does not say what it is": lambda: {"leaf": {"ca": None}},
    "leaf says it, but not as critical": lambda: {"leaf": {"critical_constraints": False}},
    "leaf may not sign": lambda: {"leaf": {"usage": ("content_commitment",)}},
    "leaf may sign certificates": lambda: {"leaf": {"usage": ("digital_signature", "key_cert_sign")}},
    "leaf has no keyUsage": lambda: {"leaf": {"usage": None}},
    "zonal has a critical extension that nobody knows": lambda: {"zonal": {"more": ((UNKNOWN, True),)}},
    "leaf has a critical extension that nobody knows": lambda: {"leaf": {"more": ((UNKNOWN, True),)}},
    "root has a critical extension that nobody knows": lambda: {"root": {"more": ((UNKNOWN, True),)}},
    "zonal constrains names": lambda: {"zonal": {"more": ((NAMES, True),)}},
    "zonal is signed with SHA-256": lambda: {"zonal": {"digest": hashes.SHA256}},
    "root is signed with SHA-256": lambda: {"root": {"digest": hashes.SHA256}},
    "leaf is signed with SHA-256": lambda: {"leaf": {"digest": hashes.SHA256}},
    "zonal is signed with another key": lambda: {"zonal": {"signed_by": p384_key(99)}},
    "leaf is signed with the zonal key": lambda: {"leaf": {"signed_by": p384_key(3)}},
    "zonal names another issuer": lambda: {"zonal": {"issuer": "somebody else"}},
    "leaf names another issuer": lambda: {"leaf": {"issuer": "zonal.crafted"}},
    "leaf has a P-256 key": lambda: {"leaf": {"key": ec.derive_private_key(7, ec.SECP256R1())}},
    "leaf has a P-521 key": lambda: {"leaf": {"key": ec.derive_private_key(7, ec.SECP521R1())}},
    "leaf has an RSA key": lambda: {"leaf": {"key": rsa_key()}},
    "instance has a P-256 key": lambda: {"instance": {"key": ec.derive_private_key(7, ec.SECP256R1())}},
    "zonal has an RSA key": lambda: {"zonal": {"key": rsa_key()}},
    "root has a P-256 key": lambda: {"root": {"key": ec.derive_private_key(7, ec.SECP256R1())}},
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_one_deviating_certificate_is_refused_by_check_4(world: World, name: str) -> None:
    require_refusal(appraised(world, **DEVIATIONS[name]()), 4)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
@pytest.mark.parametrize("role", ROLES)
def test_a_key_on_another_curve_is_named_with_its_place(world: World, role: str, curve: ec.EllipticCurve) -> None:
    """What it signed verifies, with the right algorithm: an authority's curve is the only fault."""
    result = appraised(world, **{role: {"key": ec.derive_private_key(7, curve)}})
    require_refusal(result, 4)
    assert result[4].expected.startswith("a P-384 key ")
    assert result[4].actual == curve.name


def test_a_name_that_shows_as_unreadable_only_in_a_refusal_is_refused_by_check_4(world: World) -> None:
    """The library reads a name late, for the text of its own error about the keyUsage: two faults."""
    certificate = bytearray(world.document().certificate)
    certificate[certificate.rindex(b"\x03\x02\x06\xc0") + 1] = 0xDC
    certificate[certificate.rindex(b"i-simulated") + 1] = 0xFF
    result = world.appraise(world.edited(certificate=bytes(certificate)))
    require_refusal(result, 4)
    assert result[4].expected == "certificates that can be read to their end"


@pytest.mark.parametrize("role", ROLES)
def test_each_certificate_and_only_it_is_outside_its_life_at_the_time(world: World, role: str) -> None:
    """The anchor too; both ends are in. A verifier that looks at the leaf alone passes four of the five."""
    for edge in ({"end": NOW}, {"begin": NOW}):
        assert refused_by(appraised(world, **{role: edge})) is None
    for beyond in ({"end": NOW - SECOND}, {"begin": NOW + SECOND}):
        result = appraised(world, **{role: beyond})
        require_refusal(result, 4)
        assert ("leaf" if role == "leaf" else role) in result[4].expected or role == "leaf"


def test_a_certificate_missing_doubled_or_added_is_refused_by_check_4(world: World) -> None:
    evidence, anchor = crafted(world)
    document = world.document()
    root, regional, zonal, instance = _cabundle(evidence)
    other = document.cabundle[1]
    for cabundle in (
        (root, regional, instance),
        (root, root, regional, zonal, instance),
        (root, regional, zonal, zonal, instance),
        (root, zonal, regional, instance),
        (root, regional, zonal, instance, other),
        (root, other, regional, zonal, instance),
        (regional, zonal, instance),
        (instance, zonal, regional, root),
        (root,),
    ):
        changed = decode_unverified(evidence)._replace(cabundle=cabundle)
        result = world.appraise(_sign(changed), trust_anchor=anchor)
        require_refusal(result, 4)


def test_an_anchor_is_known_by_its_digest_and_not_by_its_place(world: World) -> None:
    """The regional certificate as anchor endorses the rest of the chain, but only where the caller named it."""
    evidence, anchor = crafted(world)
    shorter = _sign(decode_unverified(evidence)._replace(cabundle=_cabundle(evidence)[1:]))
    assert refused_by(world.appraise(shorter, trust_anchor=anchor)) == 4
    assert refused_by(world.appraise(evidence, trust_anchor=TrustAnchor.from_certificate(_cabundle(evidence)[1]))) == 4


@pytest.mark.parametrize("place", range(1, 5))
def test_bytes_that_are_no_certificate_are_refused_by_check_4(world: World, place: int) -> None:
    for junk in (b"\0", b"\x30\x00", b"\x30\x82\xff\xff", bytes(1024)):
        document = world.document()
        ders = [*document.cabundle, document.certificate]
        ders[place] = junk
        result = world.appraise(world.edited(cabundle=tuple(ders[:-1]), certificate=ders[-1]))
        require_refusal(result, 4)


def test_a_byte_behind_a_certificate_is_refused_by_check_4(world: World) -> None:
    document = world.document()
    require_refusal(world.appraise(world.edited(certificate=document.certificate + b"\0")), 4)
    regional = document.cabundle[1] + b"\0"
    require_refusal(world.appraise(world.edited(cabundle=(document.cabundle[0], regional, *document.cabundle[2:]))), 4)


@pytest.mark.parametrize(
    ("found", "other"),
    [
        (b"\x02\x0f\x01", b"\x02\x0f\x81"),  # a negative serial number
        (b"\x06\x03\x55\x04\x07", b"\x06\x03\x55\x04\x06"),  # a locality that calls itself a country
    ],
    ids=["serial number", "country"],
)
def test_a_certificate_of_which_the_library_only_warns_is_refused_by_check_4(
    world: World, found: bytes, other: bytes
) -> None:
    """A warning is an exception where the program runs with `-W error`, as these tests do; appraisal raises nothing."""
    certificate = world.document().certificate
    assert found in certificate
    evidence = world.edited(certificate=certificate.replace(found, other))
    require_refusal(world.appraise(evidence), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        require_refusal(world.appraise(evidence), 4)


def test_an_anchor_is_read_from_pem_and_from_der(world: World) -> None:
    certificate = x509.load_der_x509_certificate(world.pki.root)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    assert TrustAnchor.from_certificate(pem) == TrustAnchor.from_certificate(world.pki.root) == world.anchor
    assert TrustAnchor.from_certificate(b"\n" + pem) == world.anchor
    assert world.anchor.name == "simulated.nitro-enclaves"
    assert world.anchor.sha256 == certificate.fingerprint(hashes.SHA256())


@pytest.mark.parametrize("data", [b"", b"-----BEGIN CERTIFICATE-----", b"\x30\x00", bytes(100)])
def test_an_anchor_is_not_read_from_anything_else(data: bytes) -> None:
    with pytest.raises(EndorsementError) as caught:
        TrustAnchor.from_certificate(data)
    assert caught.value.expected == "a certificate in PEM or DER"


def _cabundle(evidence: bytes) -> tuple[bytes, ...]:
    return decode_unverified(evidence).cabundle


def _sign(document: AttestationDocument) -> bytes:
    return cose.sign1(document.encode(), p384_key(5), cose.Algorithm.ES384)
