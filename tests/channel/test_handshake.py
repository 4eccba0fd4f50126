"""The handshake in both profiles: its order, its messages, and the keys that come of it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest
from attested import World, changed
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pair import Pair, understand, user_key

from workshop_kit.channel.client_handshake import ClientHandshake
from workshop_kit.channel.enclave_handshake import EnclaveHandshake
from workshop_kit.channel.handshake import (
    MAX_HELLO,
    TRANSITIONS,
    Event,
    Profile,
    Progress,
    Side,
    State,
    derive_keys,
)
from workshop_kit.edges.primitives import PRIMITIVES
from workshop_kit.errors import AccessDeniedError, AppraisalError, LocalProtocolError
from workshop_kit.evidence import cbor
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.verifier import AWS_NITRO_ROOT_G1, Policy

PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)

profiles = pytest.mark.parametrize("profile", Profile, ids=lambda profile: profile.value)


# --- the order -------------------------------------------------------------------------------------------------------

EVERYTHING = [(side, state, event) for side in Side for state in State for event in Event]


def standing(side: Side, state: State) -> Progress:
    progress = Progress(side)
    progress.state = state
    return progress


@pytest.mark.parametrize(
    ("side", "state", "event"), [each for each in EVERYTHING if each[2] not in TRANSITIONS[each[0]][each[1]]]
)
def test_what_is_not_in_the_table_is_an_error_of_the_caller(side: Side, state: State, event: Event) -> None:
    progress = standing(side, state)
    with pytest.raises(LocalProtocolError, match=event.name):
        progress.advance(event)
    assert progress.state is state


@pytest.mark.parametrize(
    ("side", "state", "event"), [each for each in EVERYTHING if each[2] in TRANSITIONS[each[0]][each[1]]]
)
def test_what_is_in_the_table_leads_where_it_says(side: Side, state: State, event: Event) -> None:
    progress = standing(side, state)
    progress.advance(event)
    assert progress.state is TRANSITIONS[side][state][event]


def test_the_table_has_every_state_of_every_side() -> None:
    assert {side: set(states) for side, states in TRANSITIONS.items()} == {side: set(State) for side in Side}


def test_only_affirmed_evidence_establishes_a_client() -> None:
    """The one edge into ESTABLISHED on the client's side."""
    ways = {
        event for events in TRANSITIONS[Side.CLIENT].values() for event, to in events.items() if to is State.ESTABLISHED
    }
    assert ways == {Event.EVIDENCE_AFFIRMED}


@pytest.mark.parametrize("state", [State.ESTABLISHED, State.REFUSED])
@pytest.mark.parametrize("side", Side)
def test_nothing_follows_an_end(side: Side, state: State) -> None:
    """A refused handshake cannot be taken up again with better evidence: its nonce has been seen."""
    assert not TRANSITIONS[side][state]


@profiles
def test_a_clients_methods_keep_the_order(profile: Profile) -> None:
    pair = Pair(profile=profile)
    client = pair.client
    with pytest.raises(LocalProtocolError):
        client.receive_evidence(b"", now=pair.world.now)
    with pytest.raises(LocalProtocolError):
        client.session()
    hello = client.hello()
    for early in (client.hello, client.session):
        with pytest.raises(LocalProtocolError):
            early()
    answer = pair.answer(hello)
    pair.receive(answer)
    for late in (client.hello, lambda: client.receive_evidence(answer, now=pair.world.now)):
        with pytest.raises(LocalProtocolError):
            late()
    assert client.state is State.ESTABLISHED


@profiles
def test_an_enclaves_methods_keep_the_order(profile: Profile) -> None:
    pair = Pair(profile=profile)
    hello = pair.client.hello()
    for early in (lambda: pair.enclave.provide_evidence(b""), pair.enclave.session):
        with pytest.raises(LocalProtocolError):
            early()
    pair.enclave.receive_hello(hello)
    for early in (lambda: pair.enclave.receive_hello(hello), pair.enclave.session):
        with pytest.raises(LocalProtocolError):
            early()
    pair.enclave.provide_evidence(b"")
    for late in (lambda: pair.enclave.receive_hello(hello), lambda: pair.enclave.provide_evidence(b"")):
        with pytest.raises(LocalProtocolError):
            late()
    assert pair.enclave.state is State.ESTABLISHED
    assert pair.enclave.session() is pair.enclave.session()


# --- chance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "sizes"), [(Profile.SEED, [32, 32]), (Profile.MODERN, [32, 32, 64, 32])])
def test_each_side_draws_what_its_profile_needs_and_in_this_order(profile: Profile, sizes: list[int]) -> None:
    """Client: nonce, X25519, ML-KEM's d || z. Enclave: the session's key, or X25519. A recorded handshake repeats."""
    pair = Pair(profile=profile)
    pair.roundtrip()
    assert [len(drawn) for drawn in pair.drawn] == sizes


@pytest.mark.parametrize("wrong", [-1, 1])
@profiles
def test_chance_of_another_size_is_the_callers_mistake(profile: Profile, wrong: int) -> None:
    def random(size: int) -> bytes:
        return bytes(size + wrong)

    with pytest.raises(LocalProtocolError, match="expected 32 random bytes"):
        ClientHandshake(user_key("Alice"), Policy(), random=random, profile=profile)
    enclave = EnclaveHandshake(is_known=lambda _: True, random=random, primitives=PRIMITIVES)
    with pytest.raises(LocalProtocolError, match="expected 32 random bytes"):
        enclave.receive_hello(Pair(profile=profile).client.hello())


def test_an_enclave_draws_nothing_for_a_stranger() -> None:
    """Chance is an NSM's to give, and asking costs; a hello costs its sender nothing."""
    pair = Pair(user="Mallory")
    drawn = len(pair.drawn)
    with pytest.raises(AccessDeniedError):
        pair.enclave.receive_hello(pair.client.hello())
    assert len(pair.drawn) == drawn


# --- the messages ----------------------------------------------------------------------------------------------------


@profiles
def test_both_sides_of_an_honest_handshake_understand_each_other(profile: Profile) -> None:
    pair = Pair(profile=profile)
    client, enclave = pair.roundtrip()
    assert pair.enclave.profile is profile
    assert client.session_id == enclave.session_id
    assert understand(client, enclave)


def test_a_client_that_names_no_profile_speaks_modern() -> None:
    client = ClientHandshake(user_key("Alice"), Policy(), random=bytes)
    assert fields(client.hello())["profile"] == "modern"


def fields(message: bytes) -> dict[str, bytes]:
    """A message's map, its byte strings taken for granted by tests that compare them."""
    decoded = cbor.decode(message)
    assert isinstance(decoded, dict)
    return {str(name): value for name, value in decoded.items()}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("profile", "names", "covered"),
    [
        (Profile.SEED, ["profile", "public_key", "nonce", "signature"], ("nonce", "public_key")),
        (
            Profile.MODERN,
            ["profile", "public_key", "nonce", "x25519", "ml_kem_768", "signature"],
            ("nonce", "x25519", "ml_kem_768", "public_key"),
        ),
    ],
)
def test_a_hello_is_an_rsa_2048_key_a_nonce_and_a_signature_over_all(
    profile: Profile, names: list[str], covered: tuple[str, ...]
) -> None:
    """Verified here with the primitive alone."""
    pair = Pair(profile=profile)
    message = pair.client.hello()
    hello = fields(message)
    assert list(hello) == names
    assert hello["profile"] == profile.value
    assert hello["nonce"] == pair.drawn[0]
    key = load_der_public_key(hello["public_key"])
    assert isinstance(key, rsa.RSAPublicKey)
    assert (len(hello["public_key"]), key.key_size, key.public_numbers().e) == (270, 2048, 65537)
    label = f"enclave workshop, attested channel, profile {profile.value}, hello\0".encode()
    key.verify(hello["signature"], label + b"".join(hello[name] for name in covered), PSS, hashes.SHA256())
    assert len(message) < MAX_HELLO / 2


def test_a_seed_document_holds_the_nonce_the_users_key_and_a_wrapped_aes_256_key() -> None:
    """The answer is the document and nothing else."""
    pair = Pair(profile=Profile.SEED)
    document = decode_unverified(pair.answer(pair.client.hello()))
    assert (document.nonce, document.public_key) == (pair.nonce, pair.key.public_bytes)
    assert document.user_data is not None
    assert len(document.user_data) == 256
    session_key = pair.drawn[-1]
    assert session_key not in document.user_data
    assert pair.key._private_key.decrypt(document.user_data, OAEP) == session_key
    assert len(session_key) == 32


def test_a_modern_answer_is_a_document_a_point_and_a_ciphertext_that_the_document_is_bound_to() -> None:
    """The digest is written out here: label, the hello with its length, and what travels beside the document."""
    pair = Pair()
    hello = pair.client.hello()
    answer = fields(pair.answer(hello))
    assert list(answer) == ["document", "x25519", "ml_kem_768"]
    assert (len(answer["x25519"]), len(answer["ml_kem_768"])) == (32, 1088)
    document = decode_unverified(answer["document"])
    assert (document.nonce, document.public_key) == (pair.nonce, pair.key.public_bytes)
    label = b"enclave workshop, attested channel, profile modern, transcript\0"
    bound = label + len(hello).to_bytes(4, "big") + hello + answer["x25519"] + answer["ml_kem_768"]
    assert document.user_data == hashlib.sha256(bound).digest()


def test_modern_keys_are_of_both_agreements_and_need_a_private_key_of_either_side() -> None:
    """The client's half made with the primitives alone, from what chance gave it: ML-KEM's secret first."""
    pair = Pair()
    hello = pair.client.hello()
    answer = pair.answer(hello)
    _, x25519, ml_kem, _ = pair.drawn
    response = fields(answer)
    agreed = X25519PrivateKey.from_private_bytes(x25519).exchange(X25519PublicKey.from_public_bytes(response["x25519"]))
    encapsulated = MLKEM768PrivateKey.from_seed_bytes(ml_kem).decapsulate(response["ml_kem_768"])
    keys = derive_keys(Profile.MODERN, encapsulated + agreed, hello=hello, answer=answer)
    assert keys.session_id == pair.enclave.session().session_id == pair.receive(answer).session_id


@profiles
def test_the_sessions_keys_are_hkdf_of_the_secret_and_both_messages(profile: Profile) -> None:
    """RFC 5869 written out with hmac: extract with the transcript's digest as salt, expand under the label."""
    hello, answer, secret = b"the hello", b"the answer", bytes(range(64))
    transcript = b"".join(len(message).to_bytes(4, "big") + message for message in (hello, answer))
    extracted = hmac.digest(hashlib.sha256(transcript).digest(), secret, "sha256")
    block, material = b"", b""
    for counter in (1, 2, 3):
        label = f"enclave workshop, attested channel, profile {profile.value}, keys".encode()
        block = hmac.digest(extracted, block + label + bytes([counter]), "sha256")
        material += block
    keys = derive_keys(profile, secret, hello=hello, answer=answer)
    assert (keys.session_id, keys.client_to_enclave, keys.enclave_to_client) == (
        material[:16],
        material[16:48],
        material[48:80],
    )


def test_the_border_between_the_two_messages_counts() -> None:
    """Without their lengths, moving bytes from one message to the other would leave the keys as they were."""
    one = derive_keys(Profile.MODERN, bytes(64), hello=b"ab", answer=b"c")
    assert one != derive_keys(Profile.MODERN, bytes(64), hello=b"a", answer=b"bc")


@pytest.mark.parametrize("part", ["profile", "secret", "hello", "answer"])
def test_every_input_moves_every_key(part: str) -> None:
    inputs = {"profile": Profile.SEED, "secret": bytes(32), "hello": b"hello", "answer": b"answer"}
    value = inputs[part]
    other = inputs | {part: Profile.MODERN if isinstance(value, Profile) else changed(value)}  # type: ignore[arg-type]
    one, two = (derive_keys(each.pop("profile"), each.pop("secret"), **each) for each in (inputs, other))  # type: ignore[arg-type]
    assert one.session_id != two.session_id
    assert one.client_to_enclave != two.client_to_enclave
    assert one.enclave_to_client != two.enclave_to_client


# --- what stays ------------------------------------------------------------------------------------------------------


@profiles
def test_private_keys_and_secrets_are_gone_once_used(profile: Profile) -> None:
    """A client that was refused has nothing left of its offer either."""
    for end in ("established", "refused"):
        pair = Pair(profile=profile)
        answer = pair.answer(pair.client.hello())
        if end == "established":
            pair.receive(answer)
        else:
            pair.client._policy = Policy(trust_anchor=AWS_NITRO_ROOT_G1)
            with pytest.raises(AppraisalError):
                pair.receive(answer)
        assert pair.client._ephemeral is None
        assert pair.enclave._secret == b""


@profiles
def test_nothing_secret_is_shown(profile: Profile) -> None:
    pair = Pair(profile=profile)
    pair.roundtrip()
    shown = repr([pair.client, pair.enclave, vars(pair.client), vars(pair.enclave)])
    session = pair.client.session()
    for secret in (*pair.drawn[1:], session._sealing._key, session._opening._key):
        assert repr(secret)[2:20] not in shown
        assert secret.hex()[:16] not in shown


@profiles
def test_the_key_is_taken_only_after_the_evidence_is_affirmed(profile: Profile) -> None:
    """A client that unwraps or combines first is an oracle for whoever sends it answers."""
    world = World()
    taken: list[object] = []

    class Watching:
        public_bytes = user_key("Alice").public_bytes
        sign = user_key("Alice").sign

        def unwrap(self, wrapped: bytes) -> bytes | None:
            taken.append(wrapped)
            return user_key("Alice").unwrap(wrapped)

    def watching(combine: Callable[..., bytes]) -> Callable[..., bytes]:
        return lambda response: taken.append(response) or combine(response)

    for policy, times in ((world.policy(trust_anchor=AWS_NITRO_ROOT_G1), 0), (world.policy(), 1)):
        pair = Pair(world, profile=profile)
        pair.client = ClientHandshake(Watching(), policy, random=world.random, profile=profile)
        if pair.client._ephemeral:
            pair.client._ephemeral.combine = watching(pair.client._ephemeral.combine)  # type: ignore[method-assign]
        answer = pair.answer(pair.client.hello())
        if times:
            pair.receive(answer)
        else:
            with pytest.raises(AppraisalError):
                pair.receive(answer)
        assert len(taken) == times
