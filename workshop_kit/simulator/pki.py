"""A public key infrastructure of the shape of AWS Nitro's: root, regional, zonal, instance, leaf.

Extensions, criticalities and lifetimes are those observed on 114 genuine chains; every subject names the simulator.
Certificates are renewed as they age, with new keys, as on Nitro: a leaf lives for three hours, an enclave for longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import NameOID

Random = Callable[[int], bytes]
"""`random(n)` returns n unpredictable bytes: os.urandom outside tests."""

REGION = "local-1"

_ROOT_LIFE = timedelta(days=30 * 365)
_REGIONAL_LIFE = timedelta(hours=481)
_ZONAL_LIFE = timedelta(hours=136)
_INSTANCE_LIFE = timedelta(hours=24)
_LEAF_LIFE = timedelta(hours=3, seconds=3)
_LEAF_RENEWAL = timedelta(minutes=40)
_AUTHORITY_RENEWAL = _LEAF_LIFE + timedelta(minutes=10)
"""An authority is replaced while it still outlives any leaf below it."""


@dataclass(frozen=True)
class Certified:
    """A key and the certificate that endorses it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def covers(self, begin: datetime, end: datetime) -> bool:
        """Whether it is valid from `begin` to `end`; a clock that was set back lies before its life."""
        return self.certificate.not_valid_before_utc <= begin and end < self.certificate.not_valid_after_utc


@dataclass(frozen=True)
class Signer:
    """A leaf key with the certificates that lead to it: what an attestation document is signed with."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    cabundle: tuple[bytes, ...]


class Pki:
    """The infrastructure's authorities. It never leaves the infrastructure's process.

    `random` makes every key and serial number, so a seeded one makes the same infrastructure again.
    """

    def __init__(self, *, now: datetime, random: Random) -> None:
        self._random = random
        self._current: dict[str, tuple[Certified, Certified]] = {}
        key = self._key()
        name = _name("simulated.nitro-enclaves")
        # A day old from the beginning: a clock that is set back must not reach before the anchor's life.
        builder = self._builder(name, name, key, now - timedelta(days=1), _ROOT_LIFE, serial_bytes=16)
        builder = _as_authority(builder, key, path_length=None)
        self._root = Certified(key, _sign(builder, key))

    @property
    def root(self) -> bytes:
        """DER of the root certificate, the trust anchor for whatever this infrastructure signs."""
        return self._root.der

    def signer(self, module_id: str, *, now: datetime) -> Signer:
        """A leaf for `module_id` that is valid at `now`, with its chain, root first."""
        regional = self._authority("regional", f"{REGION}.simulated", self._root, 2, _REGIONAL_LIFE, now)
        zonal = self._authority("zonal", f"zonal.{REGION}.simulated", regional, 1, _ZONAL_LIFE, now)
        instance = self._instance(module_id.rpartition("-")[0], zonal, now)
        leaf = self._leaf(module_id, instance, now)
        return Signer(leaf.key, leaf.der, (self._root.der, regional.der, zonal.der, instance.der))

    def _authority(
        self, role: str, domain: str, issuer: Certified, path_length: int, life: timedelta, now: datetime
    ) -> Certified:
        def issue() -> Certified:
            key = self._key()
            subject = _name(f"{self._random(8).hex()}.{domain}.nitro-enclaves")
            builder = self._builder(subject, issuer.certificate.subject, key, now, life, serial_bytes=16)
            builder = _as_authority(builder, key, path_length=path_length)
            builder = builder.add_extension(_authority_key_identifier(issuer), critical=False)
            # Present on genuine certificates, where AWS says that revocation checking must stay off.
            builder = builder.add_extension(_crl(role), critical=False)
            return Certified(key, _sign(builder, issuer.key))

        return self._obtain(role, issuer, now, now + _AUTHORITY_RENEWAL, issue)

    def _instance(self, instance_id: str, issuer: Certified, now: datetime) -> Certified:
        def issue() -> Certified:
            key = self._key()
            subject = _name(f"{instance_id}.{REGION}.simulated.nitro-enclaves", located=True)
            builder = self._builder(subject, issuer.certificate.subject, key, now, _INSTANCE_LIFE, serial_bytes=20)
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            builder = builder.add_extension(_usage(key_cert_sign=True), critical=True)
            builder = builder.add_extension(_subject_key_identifier(key), critical=False)
            builder = builder.add_extension(_authority_key_identifier(issuer), critical=False)
            return Certified(key, _sign(builder, issuer.key))

        return self._obtain(instance_id, issuer, now, now + _AUTHORITY_RENEWAL, issue)

    def _leaf(self, module_id: str, issuer: Certified, now: datetime) -> Certified:
        def issue() -> Certified:
            key = self._key()
            subject = _name(f"{module_id}.{REGION}.simulated", located=True)
            builder = self._builder(subject, issuer.certificate.subject, key, now, _LEAF_LIFE, serial_bytes=15)
            builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            # Not critical in any genuine leaf, and no key identifiers.
            usage = _usage(digital_signature=True, content_commitment=True)
            return Certified(key, _sign(builder.add_extension(usage, critical=False), issuer.key))

        return self._obtain(module_id, issuer, now, now + _LEAF_RENEWAL, issue)

    def _obtain(
        self, name: str, issuer: Certified, now: datetime, needed_until: datetime, issue: Callable[[], Certified]
    ) -> Certified:
        """The current certificate for `name`, or a new one where it grows old or its issuer was replaced."""
        current = self._current.get(name)
        if current is None or current[1] is not issuer or not current[0].covers(now, needed_until):
            current = self._current[name] = (issue(), issuer)
        return current[0]

    def _key(self) -> ec.EllipticCurvePrivateKey:
        order = ec.SECP384R1().group_order
        # 16 bytes more than the order has leave no bias that counts (FIPS 186-5, A.2.1).
        return ec.derive_private_key(int.from_bytes(self._random(64), "big") % (order - 1) + 1, ec.SECP384R1())

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        now: datetime,
        life: timedelta,
        *,
        serial_bytes: int,
    ) -> x509.CertificateBuilder:
        begin = now.replace(microsecond=0)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(int.from_bytes(b"\x01" + self._random(serial_bytes - 1), "big"))
            .not_valid_before(begin)
            .not_valid_after(begin + life)
        )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA384(), ecdsa_deterministic=True)


def _name(common_name: str, *, located: bool = False) -> x509.Name:
    places = [(NameOID.STATE_OR_PROVINCE_NAME, "Simulated"), (NameOID.LOCALITY_NAME, "Simulated")] if located else []
    attributes = [
        (NameOID.COUNTRY_NAME, "ZZ"),  # no country's code (ISO 3166 leaves it to users)
        *places,
        (NameOID.ORGANIZATION_NAME, "Enclave Workshop"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Simulator"),
        (NameOID.COMMON_NAME, common_name),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def _as_authority(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, *, path_length: int | None
) -> x509.CertificateBuilder:
    usage = _usage(digital_signature=True, key_cert_sign=True, crl_sign=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    builder = builder.add_extension(_subject_key_identifier(key), critical=False)
    return builder.add_extension(usage, critical=True)


def _usage(
    *,
    digital_signature: bool = False,
    content_commitment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _subject_key_identifier(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _authority_key_identifier(issuer: Certified) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _crl(role: str) -> x509.CRLDistributionPoints:
    # .invalid never resolves (RFC 2606).
    address = x509.UniformResourceIdentifier(f"http://crl.simulated.invalid/{role}.crl")
    point = x509.DistributionPoint(full_name=[address], relative_name=None, reasons=None, crl_issuer=None)
    return x509.CRLDistributionPoints([point])
