"""Endorsements: the certificates that lead from a trust anchor to the key that signed a document (check 4).

The caller names the anchor by its SHA-256. The certificate's bytes may come with the document; being first in
`cabundle`, or bearing the right name, makes nothing an anchor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from workshop_kit.errors import EndorsementError
from workshop_kit.evidence.document import AttestationDocument

# What `cryptography` raises on certificates that it cannot read: the last four are no ValueErrors. It warns of negative
# serial numbers and of overlong names, which raises where the program runs with `-W error`.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
    Warning,
)
_UNDERSTOOD = {x509.BasicConstraints.oid, x509.KeyUsage.oid}
"""Extensions that may be critical. Any other critical one is refused (RFC 5280, 4.2)."""


@dataclass(frozen=True)
class TrustAnchor:
    """A root certificate that the verifier's owner trusts, known by the SHA-256 of its DER."""

    name: str
    sha256: bytes

    @classmethod
    def from_certificate(cls, data: bytes) -> TrustAnchor:
        """The anchor in a file, PEM or DER.

        Raises:
            EndorsementError: `data` is no certificate.
        """
        pem = data.lstrip().startswith(b"-----BEGIN")
        try:
            certificate = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
        except _UNREADABLE:
            raise EndorsementError(expected="a certificate in PEM or DER", actual=f"{len(data)} other bytes") from None
        der = certificate.public_bytes(serialization.Encoding.DER)
        return cls(common_name(certificate), hashlib.sha256(der).digest())


AWS_NITRO_ROOT_G1 = TrustAnchor(
    "aws.nitro-enclaves", bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")
)
"""The root of the aws partition, valid to 2049 (AWS Nitro Enclaves User Guide, "Verifying the root of trust")."""


@dataclass(frozen=True, kw_only=True)
class Endorsement:
    """A key for which the anchor vouches, through certificates that are all valid at one time."""

    key: ec.EllipticCurvePublicKey
    leaf_name: str
    not_before: datetime
    not_after: datetime


def endorse(document: AttestationDocument, anchor: TrustAnchor, *, now: datetime) -> Endorsement:
    """Follow the certificates of `document` from `anchor` to the leaf, all valid at `now`, ends included.

    The profile is the one that all genuine Nitro chains have (attestation process, 3.2.3): P-384 keys, ECDSA with
    SHA-384, basicConstraints and keyUsage everywhere, no critical extension but these two, each certificate issued by
    the one before it. Revocation lists are not consulted: AWS says that CRL checking must be disabled.

    Raises:
        EndorsementError: with `.expected` and `.actual`.
    """
    ders = (*document.cabundle, document.certificate)
    actual = hashlib.sha256(ders[0]).digest()
    if actual != anchor.sha256:
        raise EndorsementError(
            expected=f"{anchor.name}, SHA-256 {anchor.sha256.hex()[:16]}…, first in cabundle",
            actual=f"a certificate with SHA-256 {actual.hex()[:16]}…",
        )
    chain = [_load(der, place) for place, der in enumerate(ders)]
    for place, certificate in enumerate(chain):
        _check_profile(certificate, place)
    _check_validity(chain, now)
    _check_path(chain, now)
    leaf = chain[-1]
    return Endorsement(
        key=_p384_key(leaf, len(chain) - 1),
        leaf_name=common_name(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, or "" where there is none."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _load(der: bytes, place: int) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        # These parse lazily: ask now, so that nothing below meets an unreadable part.
        _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.signature_algorithm_oid
    except _UNREADABLE as error:
        reason = str(error).split("\n")[0][:80] or type(error).__name__
        raise EndorsementError(expected=f"a certificate {_place(place)}", actual=f"none ({reason})") from None
    return certificate


def _place(place: int) -> str:
    return "as anchor" if place == 0 else f"at place {place} of the chain"


def _check_profile(certificate: x509.Certificate, place: int) -> None:
    _p384_key(certificate, place)
    if certificate.signature_algorithm_oid != x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        actual = certificate.signature_algorithm_oid.dotted_string
        raise EndorsementError(expected=f"ecdsa-with-SHA384 {_place(place)}", actual=actual)
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise EndorsementError(
                expected=f"no critical extension but basicConstraints and keyUsage {_place(place)}",
                actual=extension.oid.dotted_string,
            )


def _p384_key(certificate: x509.Certificate, place: int) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except _UNREADABLE:
        raise EndorsementError(expected=f"a P-384 key {_place(place)}", actual="an unreadable one") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
        raise EndorsementError(expected=f"a P-384 key {_place(place)}", actual=kind)
    return key


def _check_validity(chain: Sequence[x509.Certificate], now: datetime) -> None:
    """Both ends included, for every certificate, the anchor too (RFC 5280, 4.1.2.5)."""
    for place, certificate in enumerate(chain):
        # Certificates count whole seconds: notAfter names a second that still belongs to the life.
        if not certificate.not_valid_before_utc <= now.replace(microsecond=0) <= certificate.not_valid_after_utc:
            raise EndorsementError(
                expected=f"a time in the life of {common_name(certificate) or _place(place)}: "
                f"{show(certificate.not_valid_before_utc)} to {show(certificate.not_valid_after_utc)}",
                actual=show(now),
            )


def show(time: datetime) -> str:
    """A time as the ledger prints it."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _check_path(chain: Sequence[x509.Certificate], now: datetime) -> None:
    """Names, signatures, path lengths and authorities by `cryptography`'s verifier, then our rule on the order."""
    builder = verification.PolicyBuilder().store(verification.Store([chain[0]])).time(now)
    verifier = builder.extension_policies(ca_policy=_AUTHORITY, ee_policy=_LEAF).build_client_verifier()
    try:
        path = verifier.verify(chain[-1], list(chain[1:-1])).chain
    except verification.VerificationError as error:
        expected = f"a path from {common_name(chain[0])} to the leaf"
        raise EndorsementError(expected=expected, actual=str(error).split("\n")[0][:120]) from None
    # The library may reorder and leave out; [NSM 3.2.2] fixes the order, and nothing unused may travel along.
    if list(reversed(path)) != list(chain):
        raise EndorsementError(expected="each certificate issued by the one before it", actual="another order")


def _authority_constraints(_: object, __: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("an authority whose basicConstraints say CA:FALSE")


def _authority_usage(_: object, __: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.key_cert_sign:
        raise ValueError("an authority whose keyUsage lacks keyCertSign")


def _leaf_constraints(_: object, __: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if constraints.ca or constraints.path_length is not None:
        raise ValueError("a leaf whose basicConstraints make it an authority")


def _leaf_usage(_: object, __: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.digital_signature or usage.key_cert_sign:
        raise ValueError("a leaf whose keyUsage is not digitalSignature without keyCertSign")


_CRITICAL, _EITHER = verification.Criticality.CRITICAL, verification.Criticality.AGNOSTIC
# The defaults want subjectAltName, key identifiers and extended usage, which no genuine Nitro certificate has; the
# genuine leaf's keyUsage is not critical.
_AUTHORITY = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, _CRITICAL, _authority_constraints)
    .require_present(x509.KeyUsage, _EITHER, _authority_usage)
)
_LEAF = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, _CRITICAL, _leaf_constraints)
    .require_present(x509.KeyUsage, _EITHER, _leaf_usage)
)
