"""Other verifiers of Nitro documents, each as one call that raises where it refuses.

What a call needs beside the document is made ready before it is timed. Nothing of a peer's is imported until its
adapter runs, so that the list can be read where no peer is installed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from interleave import Case

from workshop_kit.evidence.document import AttestationDocument, decode_unverified

# No document suits every peer. One wants a nonce, and in the user data JSON or nothing: two production documents have
# that, and this is the newer. Another wants a connection's public key there: documents with one are debug enclaves'.
PRODUCTION = "nitro_20230928_ap-southeast-1_93c85b9b.bin"
DEBUG = "nitro_20230918_us-east-1_6f80ac25.bin"

SOON = timedelta(seconds=5)
"""How long after its document's time a verifier sees it; documents arrive within seconds."""


@dataclass(frozen=True)
class Subject:
    """A genuine document, and the root that it must lead to."""

    file: Path

    @property
    def root(self) -> Path:
        return self.file.with_name("aws_nitro_root_g1.pem")

    @cached_property
    def evidence(self) -> bytes:
        return self.file.read_bytes()

    @cached_property
    def document(self) -> AttestationDocument:
        return decode_unverified(self.evidence)

    @property
    def now(self) -> datetime:
        return self.document.time + SOON

    @property
    def text(self) -> str:
        return base64.b64encode(self.evidence).decode()

    @property
    def pcrs(self) -> tuple[str, str, str]:
        zeroth, first, second = (self.document.pcrs[index].hex() for index in (0, 1, 2))
        return zeroth, first, second


Adapter = Callable[[Subject], Case]


@dataclass(frozen=True)
class Peer:
    """A package, the document that it accepts, and whether it takes the time of appraisal from the clock alone."""

    package: str
    adapter: Adapter
    document: str = PRODUCTION
    knows_only_the_present: bool = True


def attested_relay(subject: Subject) -> Case:
    """Its verification of any document; its public call goes on to what a service of its own states."""
    from attested_relay.verify import _authenticated_document

    evidence, now, pcr0 = subject.evidence, subject.now, subject.pcrs[0]
    return lambda: _authenticated_document(evidence, pcr0, now=now)


def valtu(subject: Subject) -> Case:
    from valtu.attestation import verify_attestation

    text, now, pcr0 = subject.text, subject.now, subject.pcrs[0]
    nonce = (subject.document.nonce or b"").hex()
    return lambda: verify_attestation(text, nonce=nonce, expected_pcr0=pcr0, at=now)


def epsilon(subject: Subject) -> Case:
    """Given the root, since it would fetch one."""
    from epsilon_verifier import verify_attestation

    text, root = subject.text, str(subject.root)
    pcrs = {f"expected_pcr{index}": value for index, value in enumerate(subject.pcrs)}

    def verify() -> None:
        result = verify_attestation(text, aws_root_cert_path=root, **pcrs)
        if not result.valid:
            raise ValueError(result.error)

    return verify


def physistool(subject: Subject) -> Case:
    """Its verification of any document; its public call goes on to a public key, which this one has not."""
    from physis.attestation import _verify_cose_and_chain

    evidence = subject.evidence
    return lambda: _verify_cose_and_chain(evidence)


def evervault(subject: Subject) -> Case:
    import evervault_attestation_bindings as bindings

    certificate, evidence, expected = _of_a_connection(subject), subject.evidence, [bindings.PCRs(*subject.pcrs, None)]
    return lambda: bindings.attest_enclave(certificate, expected, evidence)


def _of_a_connection(subject: Subject) -> bytes:
    """A certificate for the key in the user data, as the enclave's connection showed one; its signer is not asked."""
    key = load_der_public_key(subject.document.user_data or b"")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a connection")])
    builder = x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key, serial_number=1)
    builder = builder.not_valid_before(subject.now - timedelta(days=1)).not_valid_after(subject.now + timedelta(days=1))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


PEERS = (
    Peer("attested-relay", attested_relay, knows_only_the_present=False),
    Peer("valtu", valtu, knows_only_the_present=False),
    Peer("epsilon-attestation-verifier", epsilon),
    Peer("physistool", physistool),
    Peer("evervault-attestation-bindings", evervault, DEBUG),
)
