"""A session is recorded today; in some years RSA and X25519 fall. What is confidential then, and what is not proven."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pair import Pair, understand, user_key
from recorded import Recording, record, reveals

from workshop_kit.channel.client_handshake import ClientHandshake
from workshop_kit.channel.handshake import Profile, decode_answer
from workshop_kit.channel.hybrid import Response


def halves(pair: Pair, recording: Recording) -> tuple[bytes, bytes]:
    """ML-KEM's secret and X25519's, each as whoever broke the one algorithm would compute it."""
    _, x25519, ml_kem, _ = pair.drawn
    response = decode_answer(recording.answer, Profile.MODERN).response
    assert isinstance(response, Response)
    agreed = X25519PrivateKey.from_private_bytes(x25519).exchange(X25519PublicKey.from_public_bytes(response.x25519))
    return MLKEM768PrivateKey.from_seed_bytes(ml_kem).decapsulate(response.ml_kem_768), agreed


def test_breaking_one_of_the_two_agreements_opens_nothing() -> None:
    """In both directions: ML-KEM is young, and X25519 will not outlast a quantum computer."""
    pair = Pair()
    recording = record(pair, Profile.MODERN)
    encapsulated, agreed = halves(pair, recording)
    for known in (agreed, encapsulated):
        for other in (b"", bytes(32), known):
            assert recording.opened_with(known + other) == recording.opened_with(other + known) == []
    assert reveals(recording.opened_with(encapsulated + agreed)), "both together are the secret, ML-KEM's first"


def test_who_breaks_rsa_while_it_is_in_use_speaks_as_the_user() -> None:
    """Signatures are not made for that attacker: confidential against him, not authenticated."""
    pair = Pair()
    broken = user_key("Alice")  # as a quantum computer would read it off the public key
    pair.client = ClientHandshake(broken, pair.world.policy(), random=pair.world.random)
    client, enclave = pair.roundtrip()
    assert understand(client, enclave)
