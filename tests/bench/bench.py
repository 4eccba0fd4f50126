"""`workshop bench`: what the kit adds to the cryptography that it must do, as ratios from one interleaved run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, padding, rsa, x25519
from interleave import Case, interleave, ratio
from programs import ProgramError
from table import HEADING, Bound, Row, note, progress
from yardstick import ES384, at_first_sight, verifications

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import enclave
import first_byte
import memory
import rates
from vectors_location import vectors

from workshop_kit.arguments import end_on_sigterm
from workshop_kit.channel.client_handshake import ClientHandshake
from workshop_kit.channel.enclave_handshake import EnclaveHandshake
from workshop_kit.channel.handshake import Profile
from workshop_kit.edges.primitives import PRIMITIVES, wrap_key
from workshop_kit.edges.user_key import UserKey
from workshop_kit.evidence import nsm_api
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.simulator.nsm import Nsm
from workshop_kit.simulator.pki import Pki
from workshop_kit.verifier import Policy, ReferenceValues, TrustAnchor, appraise

PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
GENUINE = "nitro_20260630_us-east-1_277e236b.bin"
BOUNDS = {
    "handshake, modern, first sight": Bound(1.35, 1.15),
    "handshake, modern, chain known": Bound(1.30, 1.10),
}
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

    def handshake(self, profile: Profile) -> None:
        """Both sides and the infrastructure, in memory."""
        client = ClientHandshake(self.user, self.policy, random=os.urandom, profile=profile)
        enclave = EnclaveHandshake(
            is_known=lambda key: key == self.user.public_bytes, random=os.urandom, primitives=PRIMITIVES
        )
        needed = enclave.receive_hello(client.hello())
        document = self.attest(user_data=needed.user_data, nonce=needed.nonce, public_key=needed.public_key)
        client.receive_evidence(enclave.provide_evidence(document), now=self.now)
        assert client.session().session_id == enclave.session().session_id


def handshake_primitives(world: World, profile: Profile, verify: Case) -> Case:
    """What a handshake contains, in its order: an RSA signature, evidence, and the steps in which a key is made."""
    private, public = world.user._private_key, world.user._private_key.public_key()
    leaf = ec.generate_private_key(ec.SECP384R1())
    message, payload = os.urandom(1500 if profile is Profile.MODERN else 400), os.urandom(4500)

    def primitives() -> None:
        agreed = agreement() if profile is Profile.MODERN else wrapping(world.user, public)
        next(agreed)
        public.verify(private.sign(message, PSS, hashes.SHA256()), message, PSS, hashes.SHA256())
        next(agreed)
        leaf.sign(payload, ES384)
        verify()
        next(agreed)

    return primitives


def wrapping(user: UserKey, public: rsa.RSAPublicKey) -> Iterator[object]:
    """A key wrapped by the enclave and unwrapped by the client."""
    yield
    wrapped = wrap_key(public, os.urandom(32))
    yield
    yield user.unwrap(wrapped)


def agreement() -> Iterator[object]:
    """Two X25519 keys and ML-KEM's, each made from random bytes, their public bytes read at the other end."""
    ours = x25519.X25519PrivateKey.from_private_bytes(os.urandom(32))
    kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(os.urandom(64))
    point, key = ours.public_key().public_bytes_raw(), kem.public_key().public_bytes_raw()
    yield
    theirs = x25519.X25519PrivateKey.from_private_bytes(os.urandom(32))
    theirs.exchange(x25519.X25519PublicKey.from_public_bytes(point))
    _, ciphertext = mlkem.MLKEM768PublicKey.from_public_bytes(key).encapsulate()
    point = theirs.public_key().public_bytes_raw()
    yield
    yield kem.decapsulate(ciphertext) + ours.exchange(x25519.X25519PublicKey.from_public_bytes(point))


def evidence_to_appraise(world: World) -> tuple[str, bytes, Policy]:
    """A genuine production document where the shared vectors are, else a simulated one; with a policy that affirms."""
    folder = vectors()
    if folder is None:
        return "a simulated document", world.attest(), world.policy
    evidence = (folder / "nitro" / GENUINE).read_bytes()
    measured = {index: decode_unverified(evidence).pcrs[index] for index in (0, 1, 2)}
    return f"the genuine document {GENUINE}", evidence, Policy(reference_values=ReferenceValues(measured))


def verifier_rows() -> Iterator[Row]:
    progress("an appraisal and a handshake, interleaved with their primitives")
    world = World()
    what, evidence, policy = evidence_to_appraise(world)
    now = decode_unverified(evidence).time
    assert appraise(evidence, policy, now=now).affirmed
    one, five = verifications(evidence)
    own, chain = verifications(world.attest())
    pairs: dict[str, tuple[Case, str, Case]] = {
        "appraisal, first sight": (
            at_first_sight(lambda: appraise(evidence, policy, now=now)),
            "5 ES384 verifications",
            five,
        ),
        "appraisal, chain known": (lambda: appraise(evidence, policy, now=now), "1 ES384 verification", one),
    }
    for profile in (Profile.MODERN, Profile.SEED):
        handshake, name = partial(world.handshake, profile), profile.value
        pairs[f"handshake, {name}, first sight"] = (
            at_first_sight(handshake),
            f"{name}'s primitives, 5 verifications",
            handshake_primitives(world, profile, chain),
        )
        pairs[f"handshake, {name}, chain known"] = (
            handshake,
            f"{name}'s primitives, 1 verification",
            handshake_primitives(world, profile, own),
        )
    cases = {name: case for name, (case, _, _) in pairs.items()} | {base: case for _, base, case in pairs.values()}
    seconds = interleave(cases)
    for name, (_, base, _) in pairs.items():
        yield Row(name, base, ratio(seconds, name, base), BOUNDS.get(name))
    yield Row("import of the verifier", "cbor2 and cryptography.x509", import_ratio())
    note(f"appraised: {what}")


def import_ratio(*, rounds: int = 15) -> float:
    """What importing the verifier costs over the libraries that it cannot do without, each time in a new process."""
    statements = ("import workshop_kit, workshop_kit.verifier", "import cbor2, cryptography.x509")
    seconds: dict[str, list[float]] = {statement: [] for statement in statements}
    for _ in range(rounds):
        for statement in statements:
            timed = f"import time; begin = time.perf_counter(); {statement}; print(time.perf_counter() - begin)"
            done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
            seconds[statement].append(float(done.stdout))
    return ratio(seconds, *statements)


PARTS: dict[str, Callable[[], Iterable[Row]]] = {
    "verifier": verifier_rows,
    "enclave": enclave.rows,
    "first-byte": first_byte.rows,
    "rates": rates.rows,
    "memory": memory.stream_rows,
    "sessions": memory.session_rows,
}


def main(*parts: str) -> int:
    """Print the rows of the named parts, or of all, each as soon as it is known."""
    if unknown := set(parts) - PARTS.keys():
        note(f"workshop bench: expected parts of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
        return 2
    if (load := os.getloadavg()[0]) > (os.cpu_count() or 1) / 2:
        note(f"other work runs here (load {load:.1f}): what takes several processes is not to be relied on")
    print(HEADING, flush=True)
    try:
        for part in parts or PARTS:
            for row in PARTS[part]():
                print(row, flush=True)
    except ProgramError as error:
        note(f"workshop bench: {error}")
        return 1
    print(
        "each ratio is from one interleaved run: of tenth percentiles, or of the best rounds where processes take turns"
    )
    return 0


if __name__ == "__main__":
    end_on_sigterm()
    with suppress(KeyboardInterrupt):
        sys.exit(main(*sys.argv[1:]))
    sys.exit(130)
