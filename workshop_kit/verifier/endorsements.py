"""Endorsements: the certificates that lead from a trust anchor to the key that signed a document (check 4).

The caller names the anchor by its SHA-256. The certificate's bytes may come with the document; being first in
`cabundle`, or bearing the right name, makes nothing an anchor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from workshop_kit.errors import EndorsementError
from workshop_kit.evidence.certificates import UNREADABLE
from workshop_kit.evidence.document import AttestationDocument

_ALGORITHM = x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384


class TrustAnchor(NamedTuple):
    """A root certificate that the verifier's owner trusts, known by the SHA-256 of its DER."""

    name: str
    sha256: bytes

    @classmethod
    def from_certificate(cls, data: bytes) -> TrustAnchor:
        """The anchor in a file, PEM or DER.

        Raises:
            EndorsementError: `data` is no certificate.
        """
        from cryptography.hazmat.primitives.serialization import Encoding  # a quarter of what the verifier loads

        pem = data.lstrip().startswith(b"-----BEGIN")
        try:
            certificate = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
        except UNREADABLE:
            raise EndorsementError(expected="a certificate in PEM or DER", actual=f"{len(data)} other bytes") from None
        der = certificate.public_bytes(Encoding.DER)
        return cls(common_name(certificate), hashlib.sha256(der).digest())


AWS_NITRO_ROOT_G1 = TrustAnchor(
    "aws.nitro-enclaves", bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")
)
"""The root of the aws partition, valid to 2049 (AWS Nitro Enclaves User Guide, "Verifying the root of trust")."""


class Endorsement(NamedTuple):
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
    try:
        chain = _chain(ders)
    except UNREADABLE as error:
        # Certificates are read lazily: a part that nothing above asked for shows that it is none only here.
        raise EndorsementError(expected="certificates that can be read to their end", actual=_reason(error)) from None
    _check_validity(chain, now)
    return chain.endorsement


class _Chain(NamedTuple):
    """Certificates that lead from the first to the last, whatever the time; valid together in `common`."""

    certificates: tuple[x509.Certificate, ...]
    common: tuple[datetime, datetime]
    endorsement: Endorsement


@lru_cache(maxsize=64)
def _chain(ders: tuple[bytes, ...]) -> _Chain:
    """The chain in these very bytes, seen before or followed now.

    Remembered by the exact certificates, so that a twin with another valid signature is another chain, and without a
    time: who asks compares validity again. A chain that does not hold is not remembered.
    """
    certificates = tuple([_load(der, place) for place, der in enumerate(ders)])
    key = _p384_key(certificates[-1], len(ders) - 1)
    lives = [(certificate.not_valid_before_utc, certificate.not_valid_after_utc) for certificate in certificates]
    begin, end = max([life[0] for life in lives]), min([life[1] for life in lives])
    if begin > end:
        raise EndorsementError(expected="certificates with a time at which all are valid", actual="none")
    _check_path(certificates, begin)
    _check_authorities(certificates)
    name = common_name(certificates[-1])
    leaf = Endorsement(key=key, leaf_name=name, not_before=lives[-1][0], not_after=lives[-1][1])
    return _Chain(certificates, (begin, end), leaf)


def forget_chains() -> None:
    """Let the next appraisal follow every chain anew; for measuring what the first sight of one costs."""
    _chain.cache_clear()


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, or "" where there is none."""
    try:
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except UNREADABLE:
        return ""
    return str(names[0].value) if names else ""


def _load(der: bytes, place: int) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        algorithm = certificate.signature_algorithm_oid  # read lazily: an unreadable part shows now
    except UNREADABLE as error:
        raise EndorsementError(expected=f"a certificate {_place(place)}", actual=f"none ({_reason(error)})") from None
    if algorithm != _ALGORITHM:
        raise EndorsementError(expected=f"ecdsa-with-SHA384 {_place(place)}", actual=algorithm.dotted_string)
    return certificate


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0][:80] or type(error).__name__


def _place(place: int) -> str:
    return "as anchor" if place == 0 else f"at place {place} of the chain"


def _p384_key(certificate: x509.Certificate, place: int) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except UNREADABLE:
        raise EndorsementError(expected=f"a P-384 key {_place(place)}", actual="an unreadable one") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
        raise EndorsementError(expected=f"a P-384 key {_place(place)}", actual=kind)
    return key


def _check_authorities(chain: Sequence[x509.Certificate]) -> None:
    """The authorities' keys are P-384 too, once what they signed has verified.

    The length of a signature shows its curve, and is known without reading the key: P-256 makes 72 bytes at most, P-384
    104, and P-521 fewer than 105 once in 2^200 signatures. Where the length says something else, the key is asked.
    """
    for place, signed in enumerate(chain[1:]):
        if not 72 < len(signed.signature) < 105:
            _p384_key(chain[place], place)


def _check_validity(chain: _Chain, now: datetime) -> None:
    """Both ends included, for every certificate, the anchor too (RFC 5280, 4.1.2.5)."""
    # Certificates count whole seconds: notAfter names a second that still belongs to the life.
    second = now.replace(microsecond=0)
    if chain.common[0] <= second <= chain.common[1]:
        return
    lives = [(each.not_valid_before_utc, each.not_valid_after_utc) for each in chain.certificates]
    place, (begin, end) = next((place, life) for place, life in enumerate(lives) if not life[0] <= second <= life[1])
    name = common_name(chain.certificates[place]) or _place(place)
    raise EndorsementError(expected=f"a time in the life of {name}: {show(begin)} to {show(end)}", actual=show(now))


def show(time: datetime) -> str:
    """A time as the ledger prints it."""
    return time.astimezone(UTC).isoformat(" ", "seconds").replace("+00:00", " UTC")


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
_NOT_CRITICAL = verification.Criticality.NON_CRITICAL


def _profile(
    constraints: Callable[[object, x509.Certificate, x509.BasicConstraints], None] | None,
    usage: Callable[[object, x509.Certificate, x509.KeyUsage], None],
) -> verification.ExtensionPolicy:
    """What a certificate may and must have. The library refuses every critical extension that no line here names.

    Its defaults want subjectAltName, key identifiers and extended usage, which no genuine Nitro certificate has. The
    genuine leaf's keyUsage is not critical. Name constraints would have to be obeyed for distinguished names, which the
    library does not do.
    """
    policy = verification.ExtensionPolicy.permit_all()
    policy = policy.require_present(x509.BasicConstraints, _CRITICAL, constraints)
    policy = policy.require_present(x509.KeyUsage, _EITHER, usage)
    policy = policy.require_not_present(x509.NameConstraints)
    policy = policy.may_be_present(x509.SubjectAlternativeName, _NOT_CRITICAL, None)
    policy = policy.may_be_present(x509.ExtendedKeyUsage, _NOT_CRITICAL, None)
    policy = policy.may_be_present(x509.AuthorityInformationAccess, _NOT_CRITICAL, None)
    policy = policy.may_be_present(x509.SubjectKeyIdentifier, _NOT_CRITICAL, None)
    return policy.may_be_present(x509.AuthorityKeyIdentifier, _NOT_CRITICAL, None)


# That an authority says CA:TRUE is the library's own rule.
_AUTHORITY = _profile(None, _authority_usage)
_LEAF = _profile(_leaf_constraints, _leaf_usage)
