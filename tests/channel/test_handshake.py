"""The handshake: its order, its messages, and everything that somebody between the two sides can try."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest
from attested import World, changed, p384_key, twin
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pair import Pair, flip, understand, user_key

from workshop_kit.channel.client_handshake import ClientHandshake
from workshop_kit.channel.handshake import (
    MAX_HELLO,
    NONCE_SIZE,
    TRANSITIONS,
    Event,
    Hello,
    Progress,
    Side,
    State,
    decode_hello,
    derive_keys,
    signed_part,
)
from workshop_kit.edges.user_key import wrap_key
from workshop_kit.errors import AccessDeniedError, AppraisalError, LocalProtocolError, RemoteProtocolError
from workshop_kit.evidence import cbor, pcr
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.verifier import AWS_NITRO_ROOT_G1, Policy, ReferenceValues, UnsafeAnyImagePolicy

PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


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


def test_a_clients_methods_keep_the_order() -> None:
    pair = Pair()
    client = pair.client
    with pytest.raises(LocalProtocolError):
        client.receive_evidence(b"", now=pair.world.now)
    with pytest.raises(LocalProtocolError):
        client.session()
    hello = client.hello()
    for early in (client.hello, client.session):
        with pytest.raises(LocalProtocolError):
            early()
    document = pair.answer(hello)
    pair.receive(document)
    for late in (client.hello, lambda: client.receive_evidence(document, now=pair.world.now)):
        with pytest.raises(LocalProtocolError):
            late()
    assert client.state is State.ESTABLISHED


def test_an_enclaves_methods_keep_the_order() -> None:
    pair = Pair()
    with pytest.raises(LocalProtocolError):
        pair.enclave.provide_evidence(b"")
    hello = pair.client.hello()
    pair.answer(hello)
    for late in (lambda: pair.enclave.receive_hello(hello), lambda: pair.enclave.provide_evidence(b"")):
        with pytest.raises(LocalProtocolError):
            late()
    assert pair.enclave.state is State.ESTABLISHED


# --- the messages ----------------------------------------------------------------------------------------------------


def test_both_sides_of_an_honest_handshake_understand_each_other() -> None:
    client, enclave = Pair().roundtrip()
    assert client.session_id == enclave.session_id
    assert understand(client, enclave)


def test_a_hello_is_an_rsa_2048_key_a_nonce_and_a_signature_over_both() -> None:
    """Verified here with the primitive alone."""
    pair = Pair()
    hello = cbor.decode(pair.client.hello())
    assert isinstance(hello, dict)
    assert set(hello) == {"profile", "public_key", "nonce", "signature"}
    public_key, nonce, signature = hello["public_key"], hello["nonce"], hello["signature"]
    assert isinstance(public_key, bytes)
    assert isinstance(nonce, bytes)
    assert isinstance(signature, bytes)
    assert nonce == pair.nonce
    key = load_der_public_key(public_key)
    assert isinstance(key, rsa.RSAPublicKey)
    assert (len(public_key), key.key_size, key.public_numbers().e) == (270, 2048, 65537)
    covered = b"enclave workshop, attested channel, profile seed, hello\0" + nonce + public_key
    key.verify(signature, covered, PSS, hashes.SHA256())


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_nonce_has_32_bytes(size: int) -> None:
    with pytest.raises(LocalProtocolError, match="nonce of 32 bytes"):
        ClientHandshake(user_key("Alice"), Policy(), nonce=bytes(size))


def test_the_document_holds_the_nonce_the_users_key_and_a_wrapped_aes_256_key() -> None:
    pair = Pair()
    document = decode_unverified(pair.answer(pair.client.hello()))
    assert (document.nonce, document.public_key) == (pair.nonce, pair.key.public_bytes)
    assert document.user_data is not None
    assert len(document.user_data) == 256
    assert pair.session_key not in document.user_data
    private = pair.key._private_key
    assert private.decrypt(document.user_data, OAEP) == pair.session_key
    assert len(pair.session_key) == 32


def test_the_sessions_keys_are_hkdf_of_the_wrapped_key_and_both_messages() -> None:
    """RFC 5869 written out with hmac: extract with the transcript's digest as salt, expand under the label."""
    hello, document, session_key = b"the hello", b"the document", bytes(range(32))
    transcript = b"".join(len(message).to_bytes(4, "big") + message for message in (hello, document))
    extracted = hmac.digest(hashlib.sha256(transcript).digest(), session_key, "sha256")
    block, material = b"", b""
    for counter in (1, 2, 3):
        label = b"enclave workshop, attested channel, profile seed, keys"
        block = hmac.digest(extracted, block + label + bytes([counter]), "sha256")
        material += block
    keys = derive_keys(session_key, hello=hello, document=document)
    assert (keys.session_id, keys.client_to_enclave, keys.enclave_to_client) == (
        material[:16],
        material[16:48],
        material[48:80],
    )


def test_the_border_between_the_two_messages_counts() -> None:
    """Without their lengths, moving bytes from one message to the other would leave the keys as they were."""
    key = bytes(32)
    assert derive_keys(key, hello=b"ab", document=b"c") != derive_keys(key, hello=b"a", document=b"bc")


@pytest.mark.parametrize("part", ["session key", "hello", "document"])
def test_every_input_moves_every_key(part: str) -> None:
    inputs = {"session key": bytes(32), "hello": b"hello", "document": b"document"}
    other = inputs | {part: changed(inputs[part])}
    one, two = (
        derive_keys(each["session key"], hello=each["hello"], document=each["document"]) for each in (inputs, other)
    )
    assert one.session_id != two.session_id
    assert one.client_to_enclave != two.client_to_enclave
    assert one.enclave_to_client != two.enclave_to_client


# --- an enclave refuses ----------------------------------------------------------------------------------------------


def refusal(pair: Pair, hello: bytes) -> AccessDeniedError | RemoteProtocolError:
    with pytest.raises((AccessDeniedError, RemoteProtocolError)) as caught:
        pair.enclave.receive_hello(hello)
    assert pair.enclave.state is State.REFUSED
    with pytest.raises(LocalProtocolError):
        pair.enclave.provide_evidence(b"")
    return caught.value


def test_an_unknown_key_is_refused_with_401() -> None:
    pair = Pair(user="Mallory")
    error = refusal(pair, pair.client.hello())
    assert isinstance(error, AccessDeniedError)
    assert error.status == 401
    assert "expected the public key of a user of this enclave" in str(error)


def signed_by(signer: str, *, public_key: str, nonce: bytes = bytes(NONCE_SIZE), over: bytes | None = None) -> bytes:
    public = user_key(public_key).public_bytes
    signature = user_key(signer).sign(signed_part(public, nonce) if over is None else over)
    return Hello(public_key=public, nonce=nonce, signature=signature).encode()


WRONG_SIGNATURES: dict[str, Callable[[], bytes]] = {
    "somebody else's": lambda: signed_by("Mallory", public_key="Alice"),
    "another user's": lambda: signed_by("Bob", public_key="Alice"),
    "over another nonce": lambda: signed_by(
        "Alice", public_key="Alice", over=signed_part(user_key("Alice").public_bytes, b"\1" * 32)
    ),
    "over the nonce alone": lambda: signed_by("Alice", public_key="Alice", over=bytes(NONCE_SIZE)),
    "without the label": lambda: signed_by(
        "Alice", public_key="Alice", over=bytes(NONCE_SIZE) + user_key("Alice").public_bytes
    ),
    "empty": lambda: Hello(public_key=user_key("Alice").public_bytes, nonce=bytes(32), signature=b"").encode(),
    "of another length": lambda: Hello(
        public_key=user_key("Alice").public_bytes, nonce=bytes(32), signature=bytes(257)
    ).encode(),
}


@pytest.mark.parametrize("name", WRONG_SIGNATURES)
def test_a_hello_whose_signature_is_not_the_keys_is_refused_with_401(name: str) -> None:
    error = refusal(Pair(), WRONG_SIGNATURES[name]())
    assert isinstance(error, AccessDeniedError)
    assert error.status == 401
    assert "expected a signature by the key in the hello" in str(error)


def test_a_signature_of_the_older_padding_is_refused() -> None:
    """RSASSA-PKCS1-v1_5 over the right bytes by the right key."""
    key = user_key("Alice")
    covered = signed_part(key.public_bytes, bytes(32))
    older = key._private_key.sign(covered, padding.PKCS1v15(), hashes.SHA256())
    error = refusal(Pair(), Hello(public_key=key.public_bytes, nonce=bytes(32), signature=older).encode())
    assert isinstance(error, AccessDeniedError)


def test_another_encoding_of_a_known_key_is_an_unknown_key() -> None:
    """Alice's key as SubjectPublicKeyInfo: a user is found by bytes, and one key has one spelling."""
    key = user_key("Alice")
    spki = key._private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    hello = Hello(public_key=spki, nonce=bytes(32), signature=key.sign(signed_part(spki, bytes(32)))).encode()
    assert "expected the public key of a user" in str(refusal(Pair(), hello))


GOOD = {"profile": "seed", "public_key": b"key", "nonce": bytes(32), "signature": b"signature"}


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"\xff" * 40,
        b"GET / HTTP/1.1\r\n\r\n",
        cbor.encode([]),
        cbor.encode({}),
        cbor.encode(GOOD) + b"\0",
        cbor.encode(GOOD)[:-1],
        cbor.encode({**GOOD, "profile": "seeds"}),
        cbor.encode({**GOOD, "profile": b"seed"}),
        cbor.encode({**GOOD, "profile": None}),
        cbor.encode({**GOOD, "more": 1}),
        cbor.encode({name: value for name, value in GOOD.items() if name != "nonce"}),
        cbor.encode({**GOOD, "nonce": bytes(31)}),
        cbor.encode({**GOOD, "nonce": bytes(33)}),
        cbor.encode({**GOOD, "nonce": b""}),
        cbor.encode({**GOOD, "nonce": "0" * 32}),
        cbor.encode({**GOOD, "public_key": None}),
        cbor.encode({**GOOD, "signature": [1]}),
        cbor.encode({**GOOD, "signature": bytes(MAX_HELLO)}),
    ],
    ids=lambda hello: hello[:24].hex() or "empty",
)
def test_bytes_that_are_no_hello_are_the_peers_fault(hello: bytes) -> None:
    assert isinstance(refusal(Pair(), hello), RemoteProtocolError)


def test_a_hello_of_the_largest_size_is_read() -> None:
    empty = len(cbor.encode({**GOOD, "signature": bytes(300)})) - 300
    assert decode_hello(cbor.encode({**GOOD, "signature": bytes(MAX_HELLO - empty)}))
    with pytest.raises(RemoteProtocolError, match=str(MAX_HELLO)):
        decode_hello(cbor.encode({**GOOD, "signature": bytes(MAX_HELLO - empty + 1)}))


def test_a_known_key_that_is_none_is_the_peers_fault() -> None:
    """Where an enclave's list of users were wrong, a hello still ends in an error of the kit's."""
    pair = Pair()
    pair.enclave._is_known = lambda _: True
    assert "expected an RSA public key" in str(refusal(pair, cbor.encode(GOOD)))


# --- a client refuses ------------------------------------------------------------------------------------------------


def refused(pair: Pair, document: bytes) -> AppraisalError:
    """The refusal of a document, after which the client is at its end and holds no session."""
    with pytest.raises(AppraisalError) as caught:
        pair.client.receive_evidence(document, now=pair.world.now)
    assert pair.client.state is State.REFUSED
    with pytest.raises(LocalProtocolError):
        pair.client.session()
    return caught.value


def failing(error: AppraisalError) -> list[int | str]:
    return [check.number for check in error.result.failed]


def test_a_replayed_document_is_refused_by_check_6() -> None:
    """The same user, the same enclave, a moment ago: the nonce and nothing else is another."""
    world = World()
    earlier = Pair(world)
    recorded = earlier.answer(earlier.client.hello())
    later = Pair(world)
    later.client.hello()
    assert failing(refused(later, recorded)) == [6]


def test_an_impostors_image_is_refused_by_check_9() -> None:
    """A genuine enclave of the same infrastructure that runs another application."""
    expected = {index: pcr.measure(b"the approved one" + bytes([index])) for index in (0, 1, 2)}
    world = World()
    pair = Pair(world, policy=world.policy(reference_values=ReferenceValues(expected)))
    assert failing(refused(pair, pair.answer(pair.client.hello()))) == [9]


def test_a_document_for_another_users_key_is_refused_by_check_10() -> None:
    """Bob, a user like Alice, repeats her nonce in a hello of his own and shows her the enclave's answer."""
    world = World()
    alice, bob = Pair(world, user="Alice"), Pair(world, user="Bob")
    alice.client.hello()
    bobs = signed_by("Bob", public_key="Bob", nonce=alice.nonce)
    assert failing(refused(alice, bob.answer(bobs))) == [10]


def test_a_debug_enclave_is_refused_by_check_8_whatever_the_reference_values() -> None:
    zeros = dict.fromkeys((0, 1, 2), pcr.ZERO)
    world = World(measurements=zeros)
    for policy in (
        world.policy(reference_values=ReferenceValues(zeros)),
        world.policy(UnsafeAnyImagePolicy, reference_values=None),
    ):
        pair = Pair(world, policy=policy)
        assert failing(refused(pair, pair.answer(pair.client.hello()))) == [8]


@pytest.mark.parametrize("kind", [Policy, UnsafeAnyImagePolicy])
def test_a_simulated_enclave_is_refused_by_check_4_under_another_root(kind: type[Policy]) -> None:
    world = World()
    pair = Pair(world, policy=world.policy(kind, trust_anchor=AWS_NITRO_ROOT_G1))
    assert failing(refused(pair, pair.answer(pair.client.hello()))) == [4]


def test_a_policy_without_reference_values_establishes_nothing() -> None:
    """No check fails, and still nothing is affirmed: any image at all may be running."""
    world = World()
    pair = Pair(world, policy=world.policy(reference_values=None))
    assert failing(refused(pair, pair.answer(pair.client.hello()))) == []


@pytest.mark.parametrize("document", [b"", b"\x84", b"<html>busy</html>"])
def test_bytes_that_are_no_document_are_refused_by_check_1(document: bytes) -> None:
    pair = Pair()
    pair.client.hello()
    assert failing(refused(pair, document)) == [1]


def test_the_key_is_taken_only_after_the_evidence_is_affirmed() -> None:
    """A client that unwraps first is an oracle for whoever sends it documents."""
    world = World()
    unwrapped = []

    class Watching:
        public_bytes = user_key("Alice").public_bytes
        sign = user_key("Alice").sign

        def unwrap(self, wrapped: bytes) -> bytes | None:
            unwrapped.append(wrapped)
            return user_key("Alice").unwrap(wrapped)

    for policy, taken in ((world.policy(trust_anchor=AWS_NITRO_ROOT_G1), 0), (world.policy(), 1)):
        pair = Pair(world)
        pair.client = ClientHandshake(Watching(), policy, nonce=pair.nonce)
        document = pair.answer(pair.client.hello())
        if taken:
            pair.receive(document)
        else:
            refused(pair, document)
        assert len(unwrapped) == taken


WRAPPED: dict[str, Callable[[Pair], bytes | None]] = {
    "absent": lambda _: None,
    "empty": lambda _: b"",
    "no ciphertext": lambda _: bytes(256),
    "for Bob": lambda pair: wrap_key(user_key("Bob")._private_key.public_key(), pair.session_key),
    "of 16 bytes": lambda pair: wrap_key(pair.key._private_key.public_key(), bytes(16)),
    "of 33 bytes": lambda pair: wrap_key(pair.key._private_key.public_key(), bytes(33)),
    "in the clear": lambda pair: pair.session_key,
    "under PKCS #1 v1.5": lambda pair: pair.key._private_key.public_key().encrypt(pair.session_key, padding.PKCS1v15()),
    "under OAEP with SHA-1": lambda pair: pair.key._private_key.public_key().encrypt(
        pair.session_key, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_affirmed_evidence_without_a_key_for_this_user_establishes_nothing(name: str) -> None:
    """All ten checks pass; what the enclave put into user_data is no AES-256 key under RSA-OAEP-SHA-256 for Alice."""
    pair = Pair()
    document = pair.answer(pair.client.hello(), user_data=WRAPPED[name](pair))
    with pytest.raises(RemoteProtocolError, match="AES-256 key in user_data"):
        pair.client.receive_evidence(document, now=pair.world.now)
    assert pair.client.state is State.REFUSED
    with pytest.raises(LocalProtocolError):
        pair.client.session()


# --- somebody on the way ---------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_any_byte_of_a_hello_is_refused() -> None:
    hello = Pair().client.hello()
    for place in range(len(hello)):
        refusal(Pair(), flip(hello, place, place % 8))


def test_a_flipped_bit_in_a_document_is_refused() -> None:
    """Every byte of it is the verifier's own property; here, that none establishes a client."""
    pair = Pair()
    document = pair.answer(pair.client.hello())
    policy = pair.client._policy
    for place in range(0, len(document), 97):
        again = Pair(pair.world)
        again.client.hello()
        again.client._policy = policy
        refused(again, flip(document, place, place % 8))


def reordered(hello: bytes) -> bytes:
    """The same four fields in another order: as good a hello, in other bytes."""
    fields = cbor.decode(hello)
    assert isinstance(fields, dict)
    return cbor.encode(dict(reversed(fields.items())))


def indefinite(hello: bytes) -> bytes:
    fields = cbor.decode(hello)
    assert isinstance(fields, dict)
    return cbor.encode_indefinite_map({str(name): value for name, value in fields.items()})


@pytest.mark.parametrize("rewrite", [reordered, indefinite])
def test_a_hello_in_other_bytes_gives_the_sides_different_keys(rewrite: Callable[[bytes], bytes]) -> None:
    """The enclave accepts it, the client affirms the answer, and no record opens."""
    client, enclave = Pair().roundtrip(on_hello=rewrite)
    assert client.session_id != enclave.session_id
    assert not understand(client, enclave)


@pytest.mark.parametrize("rewrite", [twin, lambda document: b"\xd2" + document], ids=["(r, n - s)", "tag 18"])
def test_a_document_in_other_bytes_gives_the_sides_different_keys(rewrite: Callable[[bytes], bytes]) -> None:
    """The verifier affirms both forms; the transcript tells them apart."""
    client, enclave = Pair().roundtrip(on_document=rewrite)
    assert client.session_id != enclave.session_id
    assert not understand(client, enclave)


def test_a_repeated_hello_gains_nothing_without_the_users_key() -> None:
    """Mallory repeats Alice's hello: the enclave answers, and the answer's key is wrapped for Alice."""
    world = World()
    alice = Pair(world)
    hello = alice.client.hello()
    alice.answer(hello)
    again = Pair(world)
    document = decode_unverified(again.answer(hello))
    assert document.user_data is not None
    assert user_key("Mallory").unwrap(document.user_data) is None
    assert alice.enclave_session.session_id != again.enclave_session.session_id


def test_a_signature_for_one_hello_is_none_for_another() -> None:
    """What the hello's label is for: the signature binds nonce and key together."""
    fields = decode_hello(Pair().client.hello())
    key = load_der_public_key(fields.public_key)
    assert isinstance(key, rsa.RSAPublicKey)
    with pytest.raises(InvalidSignature):
        key.verify(fields.signature, signed_part(fields.public_key, bytes(32)), PSS, hashes.SHA256())


def test_a_known_key_of_another_kind_is_the_peers_fault() -> None:
    pair = Pair()
    pair.enclave._is_known = lambda _: True
    other = p384_key(1).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert "expected an RSA public key in a hello, got " in str(
        refusal(pair, cbor.encode({**GOOD, "public_key": other}))
    )
