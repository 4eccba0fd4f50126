"""Evidence to order: a seeded simulated infrastructure, and documents and chains that no honest one would sign."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import NameOID

from workshop_kit.evidence import cbor, cose, nsm_api, pcr
from workshop_kit.evidence.document import AttestationDocument, decode_unverified
from workshop_kit.simulator.nsm import Nsm
from workshop_kit.simulator.pki import Pki
from workshop_kit.verifier import AppraisalResult, Outcome, Policy, ReferenceValues, TrustAnchor, appraise
from workshop_kit.verifier.ledger import GATES, RULES, Number

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
INSTANCE = "i-simulated01234567"
MEASUREMENTS = {
    pcr.Pcr.IMAGE: pcr.measure(b"kernel", b"bootstrap", b"application"),
    pcr.Pcr.KERNEL_AND_BOOTSTRAP: pcr.measure(b"kernel", b"bootstrap"),
    pcr.Pcr.APPLICATION: pcr.measure(b"application"),
}
ES384 = cose.Algorithm.ES384


def changed(value: bytes) -> bytes:
    """`value` with its first bit flipped."""
    return bytes([value[0] ^ 0x80]) + value[1:]


class World:
    """A simulated infrastructure with one enclave, at a frozen time. Equal seeds make equal bytes."""

    def __init__(
        self,
        *,
        seed: int = 1,
        now: datetime = NOW,
        instance_id: str = INSTANCE,
        measurements: Mapping[int, bytes] = MEASUREMENTS,
    ) -> None:
        self.now = now
        self.random = random.Random(seed).randbytes
        self.pki = Pki(now=now, random=self.random)
        # First: a root is made when it is first asked for, and chance is drawn in order.
        self.anchor = TrustAnchor.from_certificate(self.pki.root)
        self.nsm = Nsm(self.pki, instance_id=instance_id, measurements=measurements, now=now, random=self.random)

    def ask(self, name: str, *, now: datetime | None = None, **fields: object) -> nsm_api.Fields:
        """The NSM's answer to a request; NsmError where it refuses."""
        response = self.nsm.handle(nsm_api.encode_request(name, **fields), now=now or self.now)
        return nsm_api.decode_response(response, name)

    def attest(self, *, now: datetime | None = None, **fields: bytes | None) -> bytes:
        """A document that the NSM signs, with `nonce`, `public_key` and `user_data` as given."""
        document: bytes = self.ask("Attestation", now=now, **fields)["document"]
        return document

    def document(self, *, now: datetime | None = None, **fields: bytes | None) -> AttestationDocument:
        return decode_unverified(self.attest(now=now, **fields))

    def policy(self, kind: type[Policy] = Policy, **demands: Any) -> Policy:
        """One that affirms this enclave, with `demands` besides or instead."""
        usual = {"reference_values": ReferenceValues(MEASUREMENTS), "trust_anchor": self.anchor}
        return kind(**(usual | demands))

    def appraise(
        self, evidence: bytes, kind: type[Policy] = Policy, *, now: datetime | None = None, **demands: Any
    ) -> AppraisalResult:
        return appraise(evidence, self.policy(kind, **demands), now=now or self.now)

    @property
    def leaf_key(self) -> ec.EllipticCurvePrivateKey:
        return self.pki.signer(self.nsm.module_id, now=self.now).key

    def sign(self, payload: bytes) -> bytes:
        """Any payload under the enclave's own leaf key: what nobody outside the infrastructure can make."""
        return cose.sign1(payload, self.leaf_key, ES384)

    def edited(self, **changes: Any) -> bytes:
        """An otherwise honest document with other fields, well signed."""
        return self.sign(self.document()._replace(**changes).encode())

    def fields(self) -> dict[cbor.Key, cbor.Value]:
        """The payload of an honest document as plain CBOR, to be edited past what `AttestationDocument` can say."""
        fields = cbor.decode(self.document().encode())
        assert isinstance(fields, dict)
        return fields

    def with_fields(self, *, without: Iterable[str] = (), **changes: object) -> bytes:
        """A well-signed document of which some fields are others, new, or gone."""
        fields: dict[Any, object] = {**self.fields(), **changes}
        return self.sign(cbor.encode({name: value for name, value in fields.items() if name not in set(without)}))


def refused_by(result: AppraisalResult) -> Number | None:
    """The gate that refused: of a check and the rule beside it the rule. None where all gates passed."""
    failed = [check.number for check in result.failed if check.number in GATES]
    return failed[-1] if failed else None


def require_refusal(result: AppraisalResult, gate: Number) -> None:
    """`gate` and no other refused: what stands before it passed, what stands behind it was not evaluated."""
    parent = int(str(gate)[:1])
    assert refused_by(result) == gate, result.summary
    assert [check.number for check in result.failed] == ([gate] if gate == parent else [parent, gate])
    numbers = list(RULES)
    for check in result.checks:
        place = numbers.index(check.number)
        if check.failed:
            continue
        before = place < numbers.index(gate)
        assert check.outcome is (Outcome.PASSED if before else Outcome.NOT_EVALUATED), check
    assert not result.affirmed


def envelope(protected: object, unprotected: object, payload: object, signature: object) -> bytes:
    """Four things as a COSE_Sign1, whatever they are."""
    return cbor.encode([protected, unprotected, payload, signature])


def signed_over(protected: bytes, payload: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A COSE_Sign1 whose signature covers `protected`, whatever algorithm it names."""
    signature = cose.read_sign1(cose.sign1(payload, key, ES384)).signature
    if protected != ES384.protected:
        der = key.sign(cose.to_be_signed(protected, payload), ES384.ecdsa)
        signature = raw_signature(der)
    return envelope(protected, {}, payload, signature)


def raw_signature(der: bytes) -> bytes:
    """ECDSA's DER as COSE has it, for P-384."""
    r, s = decode_dss_signature(der)
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def twin(evidence: bytes) -> bytes:
    """The same document under (r, n - s): other bytes, as valid a signature."""
    sign1 = cose.read_sign1(evidence)
    s = ES384.curve.group_order - int.from_bytes(sign1.signature[48:], "big")
    return envelope(sign1.protected, {}, sign1.payload, sign1.signature[:48] + s.to_bytes(48, "big"))


# --- chains with one deviation each ----------------------------------------------------------------------------------

ROLES = ("root", "regional", "zonal", "instance", "leaf")
AUTHORITY = ("digital_signature", "key_cert_sign", "crl_sign")

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@cache
def p384_key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number, ec.SECP384R1())


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How one certificate of a crafted chain is made. The defaults are a valid authority's."""

    name: str
    key: PrivateKey
    ca: bool | None = True  # None: no basicConstraints
    path_length: int | None = None
    usage: tuple[str, ...] | None = AUTHORITY  # None: no keyUsage
    critical_usage: bool = True
    critical_constraints: bool = True
    begin: datetime = NOW - timedelta(hours=1)
    end: datetime = NOW + timedelta(hours=1)
    digest: type[hashes.SHA256 | hashes.SHA384] = hashes.SHA384
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    issuer: str = ""  # "": the name of the one before it
    signed_by: PrivateKey | None = None  # None: the key of the one before it

    def der(self, issuer: Certificate) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(_name(self.issuer or issuer.name))
            .public_key(self.key.public_key())
            .serial_number(1 + sum(self.name.encode()))
            .not_valid_before(self.begin)
            .not_valid_after(self.end)
        )
        if self.ca is not None:
            constraints = x509.BasicConstraints(ca=self.ca, path_length=self.path_length)
            builder = builder.add_extension(constraints, critical=self.critical_constraints)
        if self.usage is not None:
            builder = builder.add_extension(key_usage(*self.usage), critical=self.critical_usage)
        for extension, critical in self.more:
            builder = builder.add_extension(extension, critical=critical)
        key = self.signed_by or issuer.key
        # Equal seeds make equal bytes here too; RSA has no such choice.
        deterministic = True if isinstance(key, ec.EllipticCurvePrivateKey) else None
        certificate = builder.sign(key, self.digest(), ecdsa_deterministic=deterministic)
        return certificate.public_bytes(serialization.Encoding.DER)


def key_usage(*names: str) -> x509.KeyUsage:
    known = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    known += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in names for name in known})


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def usual_chain(module_id: str) -> dict[str, Certificate]:
    """Root, regional, zonal, instance and leaf with the extensions that genuine ones have, as far as they matter."""
    made = {
        role: Certificate(name=f"{role}.crafted", key=p384_key(place), path_length=length)
        for place, (role, length) in enumerate(zip(ROLES[:-1], (None, 2, 1, 0), strict=True), start=1)
    }
    usage = ("digital_signature", "content_commitment")
    leaf = Certificate(name=f"{module_id}.crafted", key=p384_key(5), ca=False, usage=usage, critical_usage=False)
    return made | {"leaf": leaf}


def crafted(world: World, **deviations: dict[str, Any]) -> tuple[bytes, TrustAnchor]:
    """A document of `world`'s enclave under a chain of our own making, and that chain's anchor.

    `crafted(world, zonal={"ca": False})` deviates in one certificate and is right in all others.
    """
    document = world.document()
    chain = usual_chain(document.module_id)
    chain |= {role: replace(chain[role], **deviation) for role, deviation in deviations.items()}
    made = [chain[role] for role in ROLES]
    ders = [certificate.der(issuer) for certificate, issuer in zip(made, [made[0], *made], strict=False)]
    document = document._replace(certificate=ders[-1], cabundle=tuple(ders[:-1]))
    # A leaf's key of another kind cannot sign; gate 4 refuses its certificate before anyone looks at the signature.
    return cose.sign1(document.encode(), p384_key(5), ES384), TrustAnchor.from_certificate(ders[0])
