"""The simulated infrastructure's certificates: the shape of genuine ones, under names that no one takes for genuine."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise

import pytest
from attested import INSTANCE, NOW, ROLES, World
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import NameOID
from vectors_location import entries, read

from workshop_kit.evidence.document import decode_unverified
from workshop_kit.simulator.pki import Pki, Signer
from workshop_kit.verifier.policy import MAX_AGE

MILLISECOND = timedelta(milliseconds=1)
MODULE = f"{INSTANCE}-enc0123456789abcdef"
AUTHORITY = ("digital_signature", "key_cert_sign", "crl_sign")
IDENTIFIERS = {("subjectKeyIdentifier", False), ("authorityKeyIdentifier", False)}
BASIC, USAGE = ("basicConstraints", True), ("keyUsage", True)

SHAPES = {
    "root": ({BASIC, USAGE, ("subjectKeyIdentifier", False)}, True, None, AUTHORITY),
    "regional": ({BASIC, USAGE, *IDENTIFIERS, ("cRLDistributionPoints", False)}, True, 2, AUTHORITY),
    "zonal": ({BASIC, USAGE, *IDENTIFIERS, ("cRLDistributionPoints", False)}, True, 1, AUTHORITY),
    "instance": ({BASIC, USAGE, *IDENTIFIERS}, True, 0, ("key_cert_sign",)),
    "leaf": ({BASIC, ("keyUsage", False)}, False, None, ("digital_signature", "content_commitment")),
}
"""Extensions with their criticality, authority or not, path length, key usages: as observed on genuine chains."""

LIVES = {
    "root": (timedelta(days=30 * 365), timedelta(days=30 * 366)),
    "regional": (timedelta(hours=481),) * 2,
    "zonal": (timedelta(hours=133), timedelta(hours=145)),
    "instance": (timedelta(hours=24),) * 2,
    "leaf": (timedelta(hours=3, seconds=3),) * 2,
}


def pki(seed: int = 1) -> Pki:
    return Pki(now=NOW, random=random.Random(seed).randbytes)


def chain(signer: Signer) -> dict[str, x509.Certificate]:
    return by_role((*signer.cabundle, signer.certificate))


def by_role(ders: Iterable[bytes]) -> dict[str, x509.Certificate]:
    return {role: x509.load_der_x509_certificate(der) for role, der in zip(ROLES, ders, strict=True)}


def usages(certificate: x509.Certificate) -> tuple[str, ...]:
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return tuple(name for name in (*names, "key_cert_sign", "crl_sign") if getattr(usage, name))


def shape(certificate: x509.Certificate) -> tuple[object, ...]:
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    extensions = {(extension.oid._name, extension.critical) for extension in certificate.extensions}
    return extensions, basic.ca, basic.path_length, usages(certificate)


def life(certificate: x509.Certificate) -> timedelta:
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc


# --- the shape of a chain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_certificate_has_exactly_the_extensions_of_a_genuine_one(role: str) -> None:
    assert shape(chain(pki().signer(MODULE, now=NOW))[role]) == SHAPES[role]


def test_the_shapes_are_those_of_a_genuine_document(shared_vectors: object) -> None:
    """The table above against AWS's own certificates; of genuine instance authorities half have no identifiers."""
    del shared_vectors
    genuine = [entry["file"] for entry in entries("nitro/MANIFEST.json") if entry["category"] == "real"]
    documents = [decode_unverified(read(f"nitro/{file}")) for file in genuine]
    chains = [by_role((*document.cabundle, document.certificate)) for document in documents]
    for certificates in chains:
        for role, certificate in certificates.items():
            extensions, *rest = shape(certificate)
            wanted, *others = SHAPES[role]
            assert (extensions, rest) in ((wanted, others), (wanted - IDENTIFIERS, others))
            shortest, longest = LIVES[role]
            # Some lives are a second shorter or longer; leaves of 2021 lived three hours without the three seconds.
            assert shortest - timedelta(seconds=3) <= life(certificate) <= longest + timedelta(seconds=3)
    assert any(shape(certificates["instance"]) == SHAPES["instance"] for certificates in chains)


@pytest.mark.parametrize("role", ROLES)
def test_a_certificate_lives_as_long_as_a_genuine_one(role: str) -> None:
    certificate = chain(pki().signer(MODULE, now=NOW))[role]
    assert LIVES[role][0] <= life(certificate) <= LIVES[role][1]
    assert certificate.not_valid_before_utc == (NOW - timedelta(days=1) if role == "root" else NOW)


def test_a_clock_that_is_set_back_gets_certificates_of_its_own_time() -> None:
    infrastructure = pki()
    infrastructure.signer(MODULE, now=NOW)
    earlier = NOW - timedelta(hours=1)
    certificates = chain(infrastructure.signer(MODULE, now=earlier))
    assert all(certificate.not_valid_before_utc <= earlier for certificate in certificates.values())


@pytest.mark.parametrize("role", ROLES)
def test_a_certificate_has_the_algorithms_and_the_size_of_a_genuine_one(role: str) -> None:
    certificate = chain(pki().signer(MODULE, now=NOW))[role]
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    assert certificate.signature_algorithm_oid == x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384
    assert certificate.version is x509.Version.v3
    assert 0 < certificate.serial_number < 2**160
    assert 500 < len(certificate.public_bytes(Encoding.DER)) <= 1024


def test_each_certificate_is_issued_by_the_one_before_it() -> None:
    """`verify_directly_issued_by` is the library's own: names and signature."""
    certificates = list(chain(pki().signer(MODULE, now=NOW)).values())
    certificates[0].verify_directly_issued_by(certificates[0])
    for issuer, certificate in pairwise(certificates):
        certificate.verify_directly_issued_by(issuer)
    keys = [certificate.public_key().public_numbers() for certificate in certificates]  # type: ignore[union-attr]
    assert len({(key.x, key.y) for key in keys}) == 5


def test_key_identifiers_point_at_the_issuers_key() -> None:
    certificates = list(chain(pki().signer(MODULE, now=NOW)).values())
    for issuer, certificate in pairwise(certificates[:4]):
        wanted = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert authority.key_identifier == wanted


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_every_subject_names_the_simulator_and_none_names_amazon(role: str) -> None:
    subject = chain(pki().signer(MODULE, now=NOW))[role].subject
    values = {attribute.oid: attribute.value for attribute in subject}
    assert values[NameOID.ORGANIZATION_NAME] == "Enclave Workshop"
    assert values[NameOID.ORGANIZATIONAL_UNIT_NAME] == "Simulator"
    assert values[NameOID.COUNTRY_NAME] == "ZZ"
    assert "simulated" in str(values[NameOID.COMMON_NAME])
    assert not any(word in subject.rfc4514_string().lower() for word in ("aws", "amazon", "seattle"))


def test_common_names_are_built_as_genuine_ones_are() -> None:
    certificates = chain(pki().signer(MODULE, now=NOW))
    names = {role: _common_name(certificate) for role, certificate in certificates.items()}
    assert names["root"] == "simulated.nitro-enclaves"
    assert names["regional"].endswith(".local-1.simulated.nitro-enclaves")
    assert names["zonal"].endswith(".zonal.local-1.simulated.nitro-enclaves")
    assert names["instance"] == f"{INSTANCE}.local-1.simulated.nitro-enclaves"
    assert names["leaf"] == f"{MODULE}.local-1.simulated"


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_revocation_lists_are_at_an_address_that_never_resolves() -> None:
    """`.invalid`, RFC 2606: whoever ignores AWS's advice and looks there reaches nobody."""
    for role in ("regional", "zonal"):
        certificate = chain(pki().signer(MODULE, now=NOW))[role]
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        addresses = [name.value for point in points for name in point.full_name or ()]
        assert addresses == [f"http://crl.simulated.invalid/{role}.crl"]


# --- chance ----------------------------------------------------------------------------------------------------------


def test_equal_seeds_make_the_same_infrastructure_and_other_seeds_another() -> None:
    one, same, other = (pki(seed).signer(MODULE, now=NOW) for seed in (1, 1, 2))
    assert (one.certificate, one.cabundle) == (same.certificate, same.cabundle)
    assert not {one.certificate, *one.cabundle} & {other.certificate, *other.cabundle}


def test_two_enclaves_of_an_instance_share_authorities_and_no_key() -> None:
    infrastructure = pki()
    one = infrastructure.signer(MODULE, now=NOW)
    two = infrastructure.signer(f"{INSTANCE}-enc{'f' * 16}", now=NOW)
    assert one.cabundle == two.cabundle
    assert one.certificate != two.certificate
    assert one.key.private_numbers() != two.key.private_numbers()


def test_two_instances_share_the_zone_and_no_authority_of_their_own() -> None:
    infrastructure = pki()
    one = infrastructure.signer(MODULE, now=NOW)
    two = infrastructure.signer(f"i-simulated89abcdef-enc{'f' * 16}", now=NOW)
    assert one.cabundle[:3] == two.cabundle[:3]
    assert one.cabundle[3] != two.cabundle[3]


# --- renewal ---------------------------------------------------------------------------------------------------------


def test_a_leaf_is_used_again_until_forty_minutes_before_its_end() -> None:
    infrastructure = pki()
    first = infrastructure.signer(MODULE, now=NOW)
    end = chain(first)["leaf"].not_valid_after_utc
    assert infrastructure.signer(MODULE, now=end - timedelta(minutes=40, seconds=1)) == first
    renewed = infrastructure.signer(MODULE, now=end - timedelta(minutes=40))
    assert renewed.certificate != first.certificate
    assert renewed.key.private_numbers() != first.key.private_numbers(), "a new key, as on Nitro"
    assert renewed.cabundle == first.cabundle


def test_evidence_is_affirmed_throughout_a_thousand_hours() -> None:
    """At irregular times, at once and as late as the policy allows; every authority outlives the leaf below it."""
    world, steps = World(), random.Random(7)
    now, seen = NOW, {role: set[bytes]() for role in ROLES}
    while now < NOW + timedelta(hours=1000):
        document = world.document(now=now)
        evidence = world.attest(now=now)
        assert world.appraise(evidence, now=now).affirmed, now
        assert world.appraise(evidence, now=now + MAX_AGE - MILLISECOND).affirmed, now
        ders = (*document.cabundle, document.certificate)
        certificates = by_role(ders)
        ends = [certificate.not_valid_after_utc for certificate in certificates.values()]
        assert min(ends) == ends[-1] >= now + timedelta(minutes=40)
        for role, der in zip(ROLES, ders, strict=True):
            seen[role].add(der)
        now += timedelta(
            minutes=steps.choice((1, 13, 40, 139, 180, 200, 300, 600)), microseconds=steps.randrange(10**6)
        )
    renewals = {role: len(ders) for role, ders in seen.items()}
    assert renewals["root"] == 1
    assert renewals["regional"] == 3, "every 481 hours"
    assert 8 <= renewals["zonal"] <= 10, "every 136 hours, and with its issuer"
    assert 42 <= renewals["instance"] <= 52, "every 24 hours, less three"
    assert renewals["leaf"] > 150


def test_evidence_recorded_before_a_renewal_is_affirmed_after_it(world: World) -> None:
    """Renewal replaces what comes next and revokes nothing."""
    world.attest()
    before = world.attest(now=NOW + timedelta(hours=2, minutes=20))
    later = NOW + timedelta(hours=2, minutes=24)
    after = world.attest(now=later)
    assert decode_unverified(before).certificate != decode_unverified(after).certificate
    assert world.appraise(before, now=later).affirmed
    assert world.appraise(after, now=later).affirmed
