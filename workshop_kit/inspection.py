"""Documents and images laid open for a reader: what they say, and for an image, every fault that its format knows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptography import x509

from workshop_kit.errors import ImageError
from workshop_kit.evidence import pcr
from workshop_kit.evidence.certificates import UNREADABLE
from workshop_kit.evidence.document import AttestationDocument
from workshop_kit.evidence.eif import SectionType, examine_image
from workshop_kit.evidence.eif_signature import ImageSignature, read_signature

_MEANING = {
    0: "image",
    1: "kernel and bootstrap",
    2: "application",
    3: "parent's IAM role",
    4: "parent's instance id",
    8: "signing certificate",
}


def describe(document: AttestationDocument) -> str:
    """The document's fields as text, one line each; nothing has been verified."""
    lines = [
        "unverified; `workshop verify` appraises",
        f"module_id    {document.module_id!r}",
        f"timestamp    {document.timestamp} ms, {document.time:%Y-%m-%dT%H:%M:%SZ}",
        *(f"PCR{index:<9} {_pcr(index, value)}" for index, value in sorted(document.pcrs.items())),
        *(f"cabundle[{place}]  {_certificate(der)}" for place, der in enumerate(document.cabundle)),
        f"certificate  {_certificate(document.certificate)}",
        f"public_key   {_field(document.public_key)}",
        f"user_data    {_field(document.user_data)}",
        f"nonce        {_field(document.nonce)}",
    ]
    if document.is_debug:
        lines.append("debug mode: PCR0, PCR1 or PCR2 is zero")
    if document.is_simulated:
        lines.append("simulated: no hardware stands behind it")
    return "\n".join(lines)


def _pcr(index: int, value: bytes) -> str:
    shown = "zero" if value == pcr.ZERO else value.hex()
    return f"{shown}  {_MEANING[index]}" if index in _MEANING else shown


def _certificate(der: bytes) -> str:
    try:
        certificate = x509.load_der_x509_certificate(der)
        name = certificate.subject.rfc4514_string()
    except UNREADABLE:
        return f"{len(der)} bytes, no certificate that can be read"
    return f"{name!r}, {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to {certificate.not_valid_after_utc:%F %H:%M}"


def _field(value: bytes | None) -> str:
    if value is None:
        return "absent"
    return f"{len(value)} bytes {value[:24].hex()}{'…' if len(value) > 24 else ''}" if value else "empty"


def describe_image(data: bytes, *, now: datetime) -> dict[str, Any]:
    """What `nitro-cli describe-eif` says of an image, under its names, and `Faults`: [] for a sound one.

    Measurements are given wherever the sections can be told apart, also for an image with faults. Never raises.
    """
    reading = examine_image(data)
    measured, faults = dict(reading.measurements()), list(reading.faults)
    signature: ImageSignature | None = None
    for section in reading.data(SectionType.SIGNATURE)[:1]:
        try:
            signature = read_signature(section)
            measured[pcr.Pcr.SIGNING_CERTIFICATE] = signature.pcr8
            faults += signature.faults(measured[pcr.Pcr.IMAGE], now=now)
        except ImageError as error:
            faults.append(str(error))
    digits = {f"PCR{int(index)}": value.hex() for index, value in measured.items()}
    return {
        "EifVersion": reading.version,
        "Architecture": reading.architecture,
        "Measurements": {"HashAlgorithm": "Sha384 { ... }", **digits} if digits else None,
        "IsSigned": bool(reading.data(SectionType.SIGNATURE)),
        "SigningCertificate": signature.certificate.subject.rfc4514_string() if signature else None,
        "Metadata": reading.metadata,
        "Faults": faults,
    }
