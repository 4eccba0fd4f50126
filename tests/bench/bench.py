"""`workshop bench`: what the kit adds to the cryptography that it must do, as ratios from one interleaved run."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from interleave import Case, interleave, ratio

from workshop_kit.channel.client_handshake import ClientHandshake
from workshop_kit.channel.enclave_handshake import EnclaveHandshake
from workshop_kit.edges.user_key import UserKey, wrap_key
from workshop_kit.evidence import cose, nsm_api
from workshop_kit.evidence.document import read_document
from workshop_kit.simulator.nsm import Nsm
from workshop_kit.simulator.pki import Pki
from workshop_kit.verifier import Policy, ReferenceValues, TrustAnchor, appraise

ES384 = ec.ECDSA(hashes.SHA384())
PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
MEASURED = {0: b"\1" * 48, 1: b"\2" * 48, 2: b"\3" * 48}


class World:
    """A simulated infrastructure in this process, and one user."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        pki = Pki(now=self.now, random=os.urandom)
        self.nsm = Nsm(pki, instance_id="i-simulated00000000", measurements=MEASURED, now=self.now, random=os.urandom)
        self.user = UserKey.generate()
        anchor = TrustAnchor.from_certificate(pki.root)
        self.policy = Policy(trust_anchor=anchor, reference_values=ReferenceValues(MEASURED))

    def attest(self, **fields: bytes) -> bytes:
        response = self.nsm.handle(nsm_api.encode_request("Attestation", **fields), now=self.now)
        document: bytes = nsm_api.decode_response(response, "Attestation")["document"]
        return document

    def handshake(self) -> None:
        """Both sides and the infrastructure, in memory."""
        client = ClientHandshake(self.user, self.policy, nonce=os.urandom(32))
        enclave = EnclaveHandshake(
            is_known=lambda key: key == self.user.public_bytes, session_key=os.urandom(32), wrap=wrap_key
        )
        needed = enclave.receive_hello(client.hello())
        document = self.attest(user_data=needed.user_data, nonce=needed.nonce, public_key=needed.public_key)
        enclave.provide_evidence(document)
        client.receive_evidence(document, now=self.now)


def five_verifications(evidence: bytes) -> Case:
    """The signatures that appraisal cannot do without: four links of the chain, and the document's own."""
    envelope = cose.read_sign1(evidence)
    document = read_document(envelope.payload)
    chain = [x509.load_der_x509_certificate(der) for der in (*document.cabundle, document.certificate)]
    keys = [certificate.public_key() for certificate in chain]
    signed = [(keys[i], chain[i + 1].signature, chain[i + 1].tbs_certificate_bytes) for i in range(4)]
    der = cose.signature_to_der(envelope.signature, cose.Algorithm.ES384)
    signed.append((keys[4], der, cose.to_be_signed(envelope.protected, envelope.payload)))

    def verify() -> None:
        for key, signature, data in signed:
            key.verify(signature, data, ES384)

    return verify


def handshake_primitives(world: World, verify: Case) -> Case:
    """What a handshake contains: an RSA signature and its verification, a key wrapped and unwrapped, evidence."""
    private, public = world.user._private_key, world.user._private_key.public_key()
    leaf = ec.generate_private_key(ec.SECP384R1())
    message, payload = os.urandom(400), os.urandom(4500)

    def primitives() -> None:
        public.verify(private.sign(message, PSS, hashes.SHA256()), message, PSS, hashes.SHA256())
        world.user.unwrap(wrap_key(public, b"\0" * 32))
        leaf.sign(payload, ES384)
        verify()

    return primitives


def main() -> None:
    world = World()
    evidence = world.attest()
    verify = five_verifications(evidence)
    cases: dict[str, Case] = {
        "5 ES384 verifications": verify,
        "one appraisal, all checks": lambda: appraise(evidence, world.policy, now=world.now),
        "primitives of a handshake": handshake_primitives(world, verify),
        "one handshake, both sides": world.handshake,
    }
    seconds = interleave(cases)
    print(f"{'what':<28} {'over':<28} ratio")
    for case, base in (
        ("one appraisal, all checks", "5 ES384 verifications"),
        ("one handshake, both sides", "primitives of a handshake"),
    ):
        print(f"{case:<28} {base:<28} {ratio(seconds, case, base):.2f}")
    print("medians of paired ratios in one interleaved run on a simulated document")


if __name__ == "__main__":
    main()
