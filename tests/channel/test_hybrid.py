"""The key agreement by itself: published values, both halves in the secret, one use, and errors of the kit's alone."""

from __future__ import annotations

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from workshop_kit.channel import hybrid
from workshop_kit.channel.hybrid import Ephemeral, Offer, Response, respond
from workshop_kit.edges.primitives import encapsulate
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

SEED = bytes(range(64))
# RFC 7748, 6.1.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICES_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOBS_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
AGREED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def offered() -> Ephemeral:
    return Ephemeral(x25519=ALICE, ml_kem=SEED)


def test_both_sides_agree_on_ml_kems_secret_and_then_x25519s() -> None:
    """X25519 by the published values; ML-KEM by what the primitive gave."""
    given: list[tuple[bytes, bytes]] = []

    def recording(key: MLKEM768PublicKey) -> tuple[bytes, bytes]:
        given.append(encapsulate(key))
        return given[-1]

    ours = offered()
    assert ours.offer.x25519 == ALICES_PUBLIC
    response, theirs = respond(ours.offer, x25519=BOB, encapsulate=recording)
    [(encapsulated, ciphertext)] = given
    assert response == Response(BOBS_PUBLIC, ciphertext)
    assert theirs == encapsulated + AGREED
    assert ours.combine(response) == theirs
    assert len(theirs) == 64


def test_an_offer_holds_the_public_key_of_the_seed() -> None:
    """d || z as FIPS 203 has it: another library makes the same key of it."""
    public = MLKEM768PrivateKey.from_seed_bytes(SEED).public_key().public_bytes_raw()
    assert offered().offer.ml_kem_768 == public
    assert len(public) == hybrid.ML_KEM_PUBLIC_SIZE


def test_every_answer_to_an_offer_is_another() -> None:
    """Though the seed repeats: encapsulation randomises by itself."""
    answers = [respond(offered().offer, x25519=BOB, encapsulate=encapsulate) for _ in range(2)]
    assert answers[0][0].ml_kem_768 != answers[1][0].ml_kem_768
    assert answers[0][1][:32] != answers[1][1][:32]


def test_a_changed_ciphertext_gives_another_secret_and_no_error() -> None:
    """FIPS 203, 6.3: implicit rejection. That it is noticed is the transcript's part."""
    ours = offered()
    response, secret = respond(ours.offer, x25519=BOB, encapsulate=encapsulate)
    changed = bytes([response.ml_kem_768[0] ^ 1]) + response.ml_kem_768[1:]
    other = ours.combine(response._replace(ml_kem_768=changed))
    assert other[:32] != secret[:32]
    assert other[32:] == secret[32:]


def test_the_keys_of_an_offer_serve_once() -> None:
    """Also where what came was no response: a second would let somebody compare."""
    for first in (respond(offered().offer, x25519=BOB, encapsulate=encapsulate)[0], Response(bytes(32), bytes(1088))):
        ours = offered()
        try:
            ours.combine(first)
        except RemoteProtocolError:
            assert first.x25519 == bytes(32)
        with pytest.raises(LocalProtocolError, match="make a new handshake"):
            ours.combine(first)
        assert ours._keys is None


@pytest.mark.parametrize(
    "response",
    [
        Response(bytes(32), bytes(1088)),
        Response(BOBS_PUBLIC[:-1], bytes(1088)),
        Response(BOBS_PUBLIC + b"\0", bytes(1088)),
        Response(b"", bytes(1088)),
        Response(BOBS_PUBLIC, bytes(1087)),
        Response(BOBS_PUBLIC, b""),
    ],
    ids=["low order", "a short point", "a long point", "no point", "a short ciphertext", "no ciphertext"],
)
def test_what_is_no_response_is_the_peers_fault(response: Response) -> None:
    with pytest.raises(RemoteProtocolError, match="low order and a ciphertext"):
        offered().combine(response)


@pytest.mark.parametrize(
    "offer",
    [
        Offer(bytes(32), offered().offer.ml_kem_768),
        Offer(ALICES_PUBLIC[:-1], offered().offer.ml_kem_768),
        Offer(ALICES_PUBLIC, bytes(1183)),
        Offer(ALICES_PUBLIC, b"\xff" * 1184),
        Offer(ALICES_PUBLIC, b""),
    ],
    ids=["low order", "a short point", "a short KEM key", "coefficients beyond q", "no KEM key"],
)
def test_what_is_no_offer_is_the_peers_fault(offer: Offer) -> None:
    with pytest.raises(RemoteProtocolError, match="low order and an ML-KEM-768 key"):
        respond(offer, x25519=BOB, encapsulate=encapsulate)


def test_a_library_without_ml_kem_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """47.0.0 from the package index is one: it has the module, and refuses every call."""

    def refuse(_: bytes) -> None:
        raise UnsupportedAlgorithm("ML-KEM-768 is not supported by this backend.")

    offer = offered().offer
    monkeypatch.setattr(MLKEM768PrivateKey, "from_seed_bytes", refuse)
    monkeypatch.setattr(MLKEM768PublicKey, "from_public_bytes", refuse)
    with pytest.raises(LocalProtocolError, match="install cryptography 48 or later"):
        offered()
    with pytest.raises(LocalProtocolError, match="or connect with profile seed"):
        respond(offer, x25519=BOB, encapsulate=encapsulate)


def test_private_keys_and_secrets_are_not_shown() -> None:
    ours = offered()
    shown = repr(ours) + repr(vars(ours))
    for secret in (ALICE, SEED):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
