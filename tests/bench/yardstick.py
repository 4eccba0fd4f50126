"""What an appraisal is measured against, and how it is made to meet a chain for the first time."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from interleave import Case

from workshop_kit.evidence import cose
from workshop_kit.evidence.document import read_document
from workshop_kit.verifier.endorsements import forget_chains

ES384 = ec.ECDSA(hashes.SHA384())


def verifications(evidence: bytes) -> tuple[Case, Case]:
    """The signatures that an appraisal cannot do without: the document's own, and with it the chain's four links."""
    envelope = cose.read_sign1(evidence)
    document = read_document(envelope.payload)
    chain = [x509.load_der_x509_certificate(der) for der in (*document.cabundle, document.certificate)]
    keys = [certificate.public_key() for certificate in chain]
    links = [(keys[i], chain[i + 1].signature, chain[i + 1].tbs_certificate_bytes) for i in range(4)]
    der = cose.signature_to_der(envelope.signature, keys[4].curve)
    signed = cose.to_be_signed(envelope.protected, envelope.payload)

    def own() -> None:
        keys[4].verify(der, signed, ES384)

    def all_five() -> None:
        own()
        for key, signature, data in links:
            key.verify(signature, data, ES384)

    return own, all_five


def at_first_sight(case: Case) -> Case:
    def forgetful() -> None:
        forget_chains()
        case()

    return forgetful
