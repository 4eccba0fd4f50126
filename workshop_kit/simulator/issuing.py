"""Certificates of the shape of AWS Nitro's, written.

Extensions, criticalities and lifetimes are those observed on 114 genuine chains; every subject names the simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import NameOID

from workshop_kit.simulator.register import LEAF_LIFE, REGIONAL, ZONAL, Issued, Random, Register, usable

REGION = "local-1"

_ROOT_LIFE = timedelta(days=30 * 365)
_INSTANCE_LIFE = timedelta(hours=24)


class _Authority(NamedTuple):
    domain: str
    path_length: int
    life: timedelta


_AUTHORITIES = {
    REGIONAL: _Authority(f"{REGION}.simulated", 2, timedelta(hours=481)),
    ZONAL: _Authority(f"zonal.{REGION}.simulated", 1, timedelta(hours=136)),
}


def renewed(register: Register, names: Sequence[str], *, begun: datetime, now: datetime, random: Random) -> Register:
    """The register with what is missing or too old on the way along `names`, root first.

    Args:
        begun: when the infrastructure began, and its root with it.
    """
    writer, found = _Writer(now, random), dict(register)
    issuer = None
    for name in names:
        if not usable(found, name, issuer, leaf=name == names[-1], now=now):
            found[name] = writer.root(begun) if issuer is None else writer.issue(name, issuer, leaf=name == names[-1])
        issuer = found[name]
    return found


class _Writer:
    def __init__(self, now: datetime, random: Random) -> None:
        self._now = now
        self._random = random

    def root(self, begun: datetime) -> Issued:
        key, name = self._key(), _name("simulated.nitro-enclaves")
        # A day old from the beginning: a clock that is set back must not reach before the anchor's life.
        builder = self._builder(name, name, key, begun - timedelta(days=1), _ROOT_LIFE, serial_bytes=16)
        return _issued(_as_authority(builder, key, path_length=None), key, key, b"")

    def issue(self, name: str, issuer: Issued, *, leaf: bool) -> Issued:
        above = x509.load_der_x509_certificate(issuer.certificate).subject
        write = self._leaf if leaf else self._authority if name in _AUTHORITIES else self._instance
        key, signing = self._key(), issuer.private_key()
        return _issued(write(name, key, above, signing), key, signing, issuer.certificate)

    def _authority(
        self, role: str, key: ec.EllipticCurvePrivateKey, above: x509.Name, signing: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        domain, path_length, life = _AUTHORITIES[role]
        subject = _name(f"{self._random(8).hex()}.{domain}.nitro-enclaves")
        builder = self._builder(subject, above, key, self._now, life, serial_bytes=16)
        builder = _as_authority(builder, key, path_length=path_length)
        builder = builder.add_extension(_authority_key_identifier(signing), critical=False)
        # Present on genuine certificates, where AWS says that revocation checking must stay off.
        return builder.add_extension(_crl(role), critical=False)

    def _instance(
        self, instance_id: str, key: ec.EllipticCurvePrivateKey, above: x509.Name, signing: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        subject = _name(f"{instance_id}.{REGION}.simulated.nitro-enclaves", located=True)
        builder = self._builder(subject, above, key, self._now, _INSTANCE_LIFE, serial_bytes=20)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=True), critical=True)
        builder = builder.add_extension(_subject_key_identifier(key), critical=False)
        return builder.add_extension(_authority_key_identifier(signing), critical=False)

    def _leaf(
        self, module_id: str, key: ec.EllipticCurvePrivateKey, above: x509.Name, _: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        subject = _name(f"{module_id}.{REGION}.simulated", located=True)
        builder = self._builder(subject, above, key, self._now, LEAF_LIFE, serial_bytes=15)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # Not critical in any genuine leaf, and no key identifiers.
        return builder.add_extension(_usage(digital_signature=True, content_commitment=True), critical=False)

    def _key(self) -> ec.EllipticCurvePrivateKey:
        order = ec.SECP384R1().group_order
        # 16 bytes more than the order has leave no bias that counts (FIPS 186-5, A.2.1).
        return ec.derive_private_key(int.from_bytes(self._random(64), "big") % (order - 1) + 1, ec.SECP384R1())

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begin: datetime,
        life: timedelta,
        *,
        serial_bytes: int,
    ) -> x509.CertificateBuilder:
        begin = begin.replace(microsecond=0)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(int.from_bytes(b"\x01" + self._random(serial_bytes - 1), "big"))
            .not_valid_before(begin)
            .not_valid_after(begin + life)
        )


def _issued(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signing: ec.EllipticCurvePrivateKey,
    issuer: bytes,
) -> Issued:
    certificate = builder.sign(signing, hashes.SHA384(), ecdsa_deterministic=True)
    return Issued(
        key=key.private_numbers().private_value,
        certificate=certificate.public_bytes(Encoding.DER),
        issuer=issuer,
        begin=int(certificate.not_valid_before_utc.timestamp()),
        end=int(certificate.not_valid_after_utc.timestamp()),
    )


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


def _authority_key_identifier(signing: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())


def _crl(role: str) -> x509.CRLDistributionPoints:
    # .invalid never resolves (RFC 2606).
    address = x509.UniformResourceIdentifier(f"http://crl.simulated.invalid/{role}.crl")
    point = x509.DistributionPoint(full_name=[address], relative_name=None, reasons=None, crl_issuer=None)
    return x509.CRLDistributionPoints([point])
