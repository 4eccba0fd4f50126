"""The attestation document that the Nitro Security Module signs: its fields, their limits, its exact encoding.

Rules are those of aws-nitro-enclaves-nsm-api, docs/attestation_process.md, cited as [NSM section]. Where that text
contradicts genuine documents or itself, the line says what was chosen; workshop_kit/DECISIONS.md says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from workshop_kit.errors import MalformedEvidenceError
from workshop_kit.evidence import cbor, cose, pcr

DIGEST = "SHA384"
MAX_PAYLOAD = 16384  # [NSM 3.1]
MAX_CERTIFICATE = 1024  # [NSM 3.2.2.2]
# [NSM 3.2.2.2] says 512 for user_data and nonce, its own CDDL [NSM 2.2] and genuine documents say 1024.
MAX_OPTIONAL = 1024
# [NSM 2.2] allows 64 bits of milliseconds; what lies beyond the year 9999 is no time that Python can show.
MAX_TIMESTAMP = 253402300799999

MANDATORY = ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
OPTIONAL = ("public_key", "user_data", "nonce")
NITROTPM = "nitrotpm_pcrs"
_TPM_MODULE = re.compile(r"-tpm[0-9a-f]*$")
_KNOWN = frozenset(MANDATORY + OPTIONAL)

_SIMULATED = "i-simulated"
_UNISOLATED = f"{_SIMULATED}open"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AttestationDocument(NamedTuple):
    """The claims of one document, as read: complete and within limits, but nobody's word yet.

    Attributes:
        module_id: `<instance id>-enc<16 hex>` on Nitro; a simulated one begins `i-simulated`.
        timestamp: milliseconds since the epoch, by the clock of whoever signed.
        pcrs: index to 48 bytes; locked PCRs only, so 16 and above are there once the enclave has locked them.
        certificate: DER of the leaf, whose key signed the envelope.
        cabundle: DERs, the root first and the leaf's issuer last.
        public_key, user_data, nonce: what the enclave asked to have signed; None where absent, b"" where empty.
    """

    module_id: str
    timestamp: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None = None
    user_data: bytes | None = None
    nonce: bytes | None = None

    @property
    def time(self) -> datetime:
        """`timestamp` as an aware datetime in UTC."""
        return _EPOCH + timedelta(milliseconds=self.timestamp)

    @property
    def instance_id(self) -> str:
        """The parent instance's id: `module_id` up to its last hyphen, `i-0123…` of `i-0123…-enc4567…`."""
        return self.module_id.rpartition("-")[0]

    @property
    def is_debug(self) -> bool:
        """Whether any of PCR0, 1 and 2 is zero: the enclave runs in debug mode, its console can be read.

        PCR3, PCR4 and user PCRs keep their values in debug mode, so "all are zero" would miss every debug enclave.
        """
        return any(self.pcrs.get(index) == pcr.ZERO for index in (0, 1, 2))

    @property
    def is_simulated(self) -> bool:
        """Whether the document says of itself that no hardware made it."""
        return self.module_id.startswith(_SIMULATED)

    @property
    def is_unisolated(self) -> bool:
        """Whether it says that its simulated enclave's app was kept in by nothing."""
        return self.module_id.startswith(_UNISOLATED)

    def encode(self) -> bytes:
        """The payload in today's genuine form: an indefinite map of nine keys in AWS's order, absent ones null."""
        return cbor.encode_indefinite_map(
            {
                "module_id": self.module_id,
                "digest": DIGEST,
                "timestamp": self.timestamp,
                "pcrs": dict(sorted(self.pcrs.items())),
                "certificate": self.certificate,
                "cabundle": list(self.cabundle),
                "public_key": self.public_key,
                "user_data": self.user_data,
                "nonce": self.nonce,
            }
        )


def unisolated(instance_id: str) -> str:
    """The name of a simulated instance in documents of enclaves whose app nothing keeps in: it says so itself."""
    return _UNISOLATED + instance_id.removeprefix(_SIMULATED)[:4]


def decode_unverified(data: bytes) -> AttestationDocument:
    """Read a document without asking who signed it. `verifier.appraise` is the function that asks.

    Raises:
        MalformedEvidenceError: `.check` is 1 (no COSE_Sign1), 2 (not ES384) or 3, "3a" (no enclave's document).
    """
    envelope = read_envelope(data)
    require_es384(envelope)
    return read_document(envelope.payload)


def read_envelope(data: bytes) -> cose.Sign1:
    """The COSE_Sign1 around a document: check 1.

    Raises:
        MalformedEvidenceError: with `.check` 1.
    """
    envelope = cose.read_sign1(data)
    # Unsigned bytes that anyone on the way can add; genuine documents carry none, so none are let in [NSM 3.1].
    if envelope.unprotected:
        raise _malformed("an empty unprotected header", f"{len(envelope.unprotected)} labels", check=1)
    if not 0 < len(envelope.payload) <= MAX_PAYLOAD:
        raise _malformed(f"a payload of 1 to {MAX_PAYLOAD} bytes", f"{len(envelope.payload)} bytes", check=1)
    return envelope


def require_es384(envelope: cose.Sign1) -> None:
    """The protected header is `a1013822`, byte for byte: check 2.

    Raises:
        MalformedEvidenceError: with `.check` 2.
    """
    expected, actual = cose.Algorithm.ES384.protected, envelope.protected
    if actual != expected:
        wanted = f"the protected header {expected.hex()}: ES384 and nothing else"
        raise _malformed(wanted, actual[:16].hex() or "an empty one", check=2)


def read_document(payload: bytes) -> AttestationDocument:
    """The document in a payload: check 3.

    Raises:
        MalformedEvidenceError: with `.check` 3, or "3a" where a NitroTPM and no enclave made it.
    """
    # The quick reader vouches for the encoding, the lines below for the types. What it will not vouch for is read by
    # the strict one, which names the fault.
    fields = cbor.decode_quickly(payload) or cbor.decode(payload)
    if not isinstance(fields, dict):
        raise _malformed("a map as document", type(fields).__name__)
    # An EC2 instance's NitroTPM signs under the same root; its PCRs mean something else [AWS NitroTPM documents].
    if NITROTPM in fields:
        raise _malformed("an enclave's document", f"a NitroTPM's, with {NITROTPM}", check="3a")
    for name in MANDATORY:
        if fields.get(name) is None:
            raise _malformed(name, "null" if name in fields else "absent")
    # Fail closed: nitrotpm_pcrs is such a field, and it changes what the others mean.
    if unknown := fields.keys() - _KNOWN:
        raise _malformed("the nine fields of a document", f"the unknown field {sorted(map(str, unknown))[:1]!r:.40}")
    if fields["digest"] != DIGEST:
        raise _malformed(f"the digest {DIGEST}", repr(fields["digest"])[:40])
    return AttestationDocument(
        module_id=_module_id(fields["module_id"]),
        timestamp=_timestamp(fields["timestamp"]),
        pcrs=_pcrs(fields["pcrs"]),
        certificate=_bytes(fields["certificate"], "certificate", 1, MAX_CERTIFICATE),
        cabundle=_cabundle(fields["cabundle"]),
        public_key=_optional(fields, "public_key"),
        user_data=_optional(fields, "user_data"),
        nonce=_optional(fields, "nonce"),
    )


def _module_id(value: cbor.Value) -> str:
    if not isinstance(value, str) or not value:
        raise _malformed("non-empty text as module_id", repr(value)[:40])
    # A NitroTPM's document without its own field would otherwise pass for an enclave's.
    if "-tpm" in value and _TPM_MODULE.search(value):
        raise _malformed("an enclave's module_id", f"a NitroTPM's, {value!r:.60}", check="3a")
    return value


def _timestamp(value: cbor.Value) -> int:
    if type(value) is not int or not 0 < value <= MAX_TIMESTAMP:
        raise _malformed("milliseconds since 1970 as timestamp", repr(value)[:40])
    return value


def _pcrs(value: cbor.Value) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= pcr.COUNT:
        raise _malformed(
            "a map of 1 to 32 PCRs", f"{len(value)} entries" if isinstance(value, dict) else repr(value)[:40]
        )
    for index, content in value.items():
        if type(index) is not int or not 0 <= index < pcr.COUNT:
            raise _malformed("PCR indices from 0 to 31", repr(index)[:40])
        # [NSM 3.2.2.2] also lists 32 and 64 bytes, for digests that `digest` does not allow.
        if type(content) is not bytes or len(content) != pcr.SIZE:
            _bytes(content, f"PCR{index}", pcr.SIZE, pcr.SIZE)
    return value  # type: ignore[return-value]


def _cabundle(value: cbor.Value) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not value:
        raise _malformed(
            "an array of certificates as cabundle", "an empty one" if value == [] else type(value).__name__
        )
    return tuple([_bytes(entry, f"cabundle[{place}]", 1, MAX_CERTIFICATE) for place, entry in enumerate(value)])


def _optional(fields: dict[cbor.Key, cbor.Value], name: str) -> bytes | None:
    # [NSM 3.2.2.1] forbids null and 3.2.2.2 an empty public_key; genuine documents have both.
    value = fields.get(name)
    return None if value is None else _bytes(value, name, 0, MAX_OPTIONAL)


def _bytes(value: cbor.Value, name: str, shortest: int, longest: int) -> bytes:
    if type(value) is bytes and shortest <= len(value) <= longest:
        return value
    limits = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
    actual = str(len(value)) if isinstance(value, bytes) else type(value).__name__
    raise _malformed(f"{limits} bytes as {name}", actual)


def _malformed(expected: str, actual: str, *, check: int | str = 3) -> MalformedEvidenceError:
    return MalformedEvidenceError(
        f"not an attestation document: expected {expected}, got {actual}",
        check=check,
        expected=expected,
        actual=actual,
    )
