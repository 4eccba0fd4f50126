"""What an enclave and a client refuse in a handshake, in both profiles, and what somebody between them can try."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attested import World, changed, p384_key, twin
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pair import OFFER, Pair, flip, hello_of, understand, user_key

from workshop_kit.channel.client_handshake import MAX_ANSWER
from workshop_kit.channel.handshake import (
    MAX_HELLO,
    NONCE_SIZE,
    Profile,
    State,
    decode_answer,
    decode_hello,
    signed_part,
    transcript,
)
from workshop_kit.channel.hybrid import Offer
from workshop_kit.edges.primitives import wrap_key
from workshop_kit.errors import AccessDeniedError, AppraisalError, LocalProtocolError, RemoteProtocolError
from workshop_kit.evidence import cbor, pcr
from workshop_kit.evidence.cose import MAX_SIZE
from workshop_kit.verifier import AWS_NITRO_ROOT_G1, Policy, ReferenceValues, UnsafeAnyImagePolicy
from workshop_kit.verifier.ledger import Number

PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
LOW_ORDER = {"zero": bytes(32), "one": (1).to_bytes(32, "little"), "p": (2**255 - 19).to_bytes(32, "little")}
"""X25519 points for which any private key gives zero (RFC 7748, 6.1)."""

profiles = pytest.mark.parametrize("profile", Profile, ids=lambda profile: profile.value)


# --- an enclave refuses ----------------------------------------------------------------------------------------------


def refusal(pair: Pair, hello: bytes) -> AccessDeniedError | RemoteProtocolError:
    with pytest.raises((AccessDeniedError, RemoteProtocolError)) as caught:
        pair.enclave.receive_hello(hello)
    assert pair.enclave.state is State.REFUSED
    for after in (lambda: pair.enclave.provide_evidence(b""), pair.enclave.session):
        with pytest.raises(LocalProtocolError):
            after()
    return caught.value


@profiles
def test_an_unknown_key_is_refused_with_401(profile: Profile) -> None:
    pair = Pair(user="Mallory", profile=profile)
    error = refusal(pair, pair.client.hello())
    assert isinstance(error, AccessDeniedError)
    assert error.status == 401
    assert "expected the public key of a user of this enclave" in str(error)


def covered(offer: Offer | None, *, nonce: bytes = bytes(NONCE_SIZE)) -> bytes:
    return signed_part(user_key("Alice").public_bytes, nonce, offer)


WRONG_SIGNATURES: dict[str, Callable[[Offer | None], bytes]] = {
    "somebody else's": lambda offer: user_key("Mallory").sign(covered(offer)),
    "another user's": lambda offer: user_key("Bob").sign(covered(offer)),
    "over another nonce": lambda offer: user_key("Alice").sign(covered(offer, nonce=b"\1" * 32)),
    "over the nonce alone": lambda _: user_key("Alice").sign(bytes(NONCE_SIZE)),
    "without the label": lambda offer: user_key("Alice").sign(covered(offer).partition(b"\0")[2]),
    "of the other profile": lambda offer: user_key("Alice").sign(covered(None if offer else OFFER)),
    "over another offer": lambda _: user_key("Alice").sign(covered(Offer(bytes(32), OFFER.ml_kem_768))),
    "over another KEM key": lambda _: user_key("Alice").sign(covered(Offer(OFFER.x25519, bytes(1184)))),
    "empty": lambda _: b"",
    "of another length": lambda _: bytes(257),
    "of the older padding": lambda offer: user_key("Alice")._private_key.sign(
        covered(offer), padding.PKCS1v15(), hashes.SHA256()
    ),
}


@pytest.mark.parametrize("name", WRONG_SIGNATURES)
@profiles
def test_a_hello_whose_signature_is_not_the_keys_is_refused_with_401(profile: Profile, name: str) -> None:
    offer = OFFER if profile is Profile.MODERN else None
    error = refusal(Pair(), hello_of("Alice", offer=offer, signature=WRONG_SIGNATURES[name](offer)))
    assert isinstance(error, AccessDeniedError)
    assert error.status == 401
    assert "expected a signature by the key in the hello" in str(error)


@profiles
def test_another_encoding_of_a_known_key_is_an_unknown_key(profile: Profile) -> None:
    """Alice's key as SubjectPublicKeyInfo: a user is found by bytes, and one key has one spelling."""
    public = user_key("Alice")._private_key.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    offer = OFFER if profile is Profile.MODERN else None
    assert "expected the public key of a user" in str(refusal(Pair(), hello_of("Alice", offer=offer, public_key=spki)))


GOOD = {"profile": "seed", "public_key": b"key", "nonce": bytes(32), "signature": b"signature"}
MODERN = GOOD | {"profile": "modern", "x25519": bytes(32), "ml_kem_768": bytes(1184)}


def without(fields: dict[str, object], *names: str) -> bytes:
    return cbor.encode({name: value for name, value in fields.items() if name not in names})


NO_HELLOS = {
    "empty": b"",
    "no CBOR": b"\xff" * 40,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a list": cbor.encode([]),
    "no field": cbor.encode({}),
    "a byte behind it": cbor.encode(GOOD) + b"\0",
    "cut": cbor.encode(GOOD)[:-1],
    "no profile": without(GOOD, "profile"),
    "another profile": cbor.encode({**GOOD, "profile": "seeds"}),
    "a later profile": cbor.encode({**MODERN, "profile": "modern2"}),
    "a profile in bytes": cbor.encode({**GOOD, "profile": b"seed"}),
    "profile null": cbor.encode({**GOOD, "profile": None}),
    "a list as profile": cbor.encode({**GOOD, "profile": ["seed"]}),
    "a field more": cbor.encode({**GOOD, "more": 1}),
    "a field less": without(GOOD, "nonce"),
    "a short nonce": cbor.encode({**GOOD, "nonce": bytes(31)}),
    "a long nonce": cbor.encode({**GOOD, "nonce": bytes(33)}),
    "an empty nonce": cbor.encode({**GOOD, "nonce": b""}),
    "a nonce in text": cbor.encode({**GOOD, "nonce": "0" * 32}),
    "no key": cbor.encode({**GOOD, "public_key": None}),
    "a list as signature": cbor.encode({**GOOD, "signature": [1]}),
    "too long": cbor.encode({**GOOD, "signature": bytes(MAX_HELLO)}),
    "seed with an offer": cbor.encode({**MODERN, "profile": "seed"}),
    "modern without an offer": cbor.encode({**GOOD, "profile": "modern"}),
    "modern without X25519": without(MODERN, "x25519"),
    "modern without ML-KEM": without(MODERN, "ml_kem_768"),
    "modern with a field more": cbor.encode({**MODERN, "more": b""}),
    "a short point": cbor.encode({**MODERN, "x25519": bytes(31)}),
    "a long point": cbor.encode({**MODERN, "x25519": bytes(33)}),
    "a point null": cbor.encode({**MODERN, "x25519": None}),
    "a short KEM key": cbor.encode({**MODERN, "ml_kem_768": bytes(1183)}),
    "a long KEM key": cbor.encode({**MODERN, "ml_kem_768": bytes(1185)}),
    "a KEM key of ML-KEM-512": cbor.encode({**MODERN, "ml_kem_768": bytes(800)}),
}


@pytest.mark.parametrize("name", NO_HELLOS)
def test_bytes_that_are_no_hello_are_the_peers_fault(name: str) -> None:
    assert isinstance(refusal(Pair(), NO_HELLOS[name]), RemoteProtocolError)


@pytest.mark.parametrize("good", [GOOD, MODERN], ids=["seed", "modern"])
def test_a_hello_of_the_largest_size_is_read(good: dict[str, object]) -> None:
    empty = len(cbor.encode({**good, "signature": bytes(300)})) - 300
    assert decode_hello(cbor.encode({**good, "signature": bytes(MAX_HELLO - empty)}))
    with pytest.raises(RemoteProtocolError, match=str(MAX_HELLO)):
        decode_hello(cbor.encode({**good, "signature": bytes(MAX_HELLO - empty + 1)}))


def test_a_known_key_that_is_none_is_the_peers_fault() -> None:
    """Where an enclave's list of users were wrong, a hello still ends in an error of the kit's."""
    other = p384_key(1).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for key in (b"key", other):
        pair = Pair()
        pair.enclave._is_known = lambda _: True
        error = refusal(pair, cbor.encode({**GOOD, "public_key": key}))
        assert isinstance(error, RemoteProtocolError)
        assert "expected an RSA public key in a hello, got " in str(error)


BAD_OFFERS = {name: Offer(point, OFFER.ml_kem_768) for name, point in LOW_ORDER.items()}
BAD_OFFERS["coefficients beyond q"] = Offer(OFFER.x25519, b"\xff" * 1184)  # FIPS 203, 7.2: the modulus check


@pytest.mark.parametrize("name", BAD_OFFERS)
def test_an_offer_that_agrees_on_nothing_is_the_peers_fault_though_it_is_signed(name: str) -> None:
    """A user who is let in still chooses no key for the enclave; the NSM is not asked."""
    error = refusal(Pair(), hello_of("Alice", offer=BAD_OFFERS[name]))
    assert isinstance(error, RemoteProtocolError)
    assert "low order" in str(error)


# --- a client refuses ------------------------------------------------------------------------------------------------


def refused(pair: Pair, answer: bytes) -> AppraisalError:
    """The refusal of an answer, after which the client is at its end and holds no session."""
    error = ended(pair, answer)
    assert isinstance(error, AppraisalError), error
    return error


def ended(pair: Pair, answer: bytes) -> AppraisalError | RemoteProtocolError:
    with pytest.raises((AppraisalError, RemoteProtocolError)) as caught:
        pair.client.receive_evidence(answer, now=pair.world.now)
    assert pair.client.state is State.REFUSED
    with pytest.raises(LocalProtocolError):
        pair.client.session()
    return caught.value


def failing(error: AppraisalError) -> list[Number]:
    return [check.number for check in error.result.failed]


@pytest.mark.parametrize(("profile", "checks"), [(Profile.SEED, [6]), (Profile.MODERN, [6, 10, "10a"])])
def test_a_replayed_answer_is_refused_by_check_6(profile: Profile, checks: list[Number]) -> None:
    """The same user, the same enclave, a moment ago: the nonce is another, and so is the transcript."""
    world = World()
    earlier = Pair(world, profile=profile)
    recorded = earlier.answer(earlier.client.hello())
    later = Pair(world, profile=profile)
    later.client.hello()
    assert failing(refused(later, recorded)) == checks


@profiles
def test_an_impostors_image_is_refused_by_check_9(profile: Profile) -> None:
    """A genuine enclave of the same infrastructure that runs another application."""
    expected = {index: pcr.measure(b"the approved one" + bytes([index])) for index in (0, 1, 2)}
    world = World()
    pair = Pair(world, policy=world.policy(reference_values=ReferenceValues(expected)), profile=profile)
    assert failing(refused(pair, pair.answer(pair.client.hello()))) == [9]


@pytest.mark.parametrize(("profile", "checks"), [(Profile.SEED, [10]), (Profile.MODERN, [10, "10a"])])
def test_a_document_for_another_users_key_is_refused_by_check_10(profile: Profile, checks: list[Number]) -> None:
    """Bob, a user like Alice, repeats her nonce in a hello of his own and shows her the enclave's answer."""
    world = World()
    alice, bob = (Pair(world, user=name, profile=profile) for name in ("Alice", "Bob"))
    offer = decode_hello(alice.client.hello()).offer
    error = refused(alice, bob.answer(hello_of("Bob", offer=offer, nonce=alice.nonce)))
    assert failing(error) == checks
    assert "key is the handshake's" in str(error)


def beside(answer: bytes, **others: object) -> bytes:
    """A modern answer with other fields, or (`...`) without one."""
    fields = cbor.decode(answer)
    assert isinstance(fields, dict)
    return cbor.encode({name: value for name, value in ({**fields, **others}).items() if value is not ...})


@pytest.mark.parametrize("name", ["x25519", "ml_kem_768"])
def test_keys_that_somebody_else_puts_beside_a_genuine_document_are_refused_by_rule_10a(name: str) -> None:
    """What the operator would do to read along; each of the two is bound, low order or not."""
    world = World()
    alice, mallory = Pair(world), Pair(world)
    answer = alice.answer(alice.client.hello())
    others = cbor.decode(mallory.answer(mallory.client.hello()))
    assert isinstance(others, dict)
    error = refused(alice, beside(answer, **{name: others[name]}))
    assert failing(error) == [10, "10a"]
    assert str(error).startswith("refused by check 10a, user_data is the handshake's: expected ")


@profiles
def test_a_debug_enclave_is_refused_by_check_8_whatever_the_reference_values(profile: Profile) -> None:
    zeros = dict.fromkeys((0, 1, 2), pcr.ZERO)
    world = World(measurements=zeros)
    for policy in (
        world.policy(reference_values=ReferenceValues(zeros)),
        world.policy(UnsafeAnyImagePolicy, reference_values=None),
    ):
        pair = Pair(world, policy=policy, profile=profile)
        assert failing(refused(pair, pair.answer(pair.client.hello()))) == [8]


@pytest.mark.parametrize("kind", [Policy, UnsafeAnyImagePolicy])
@profiles
def test_a_simulated_enclave_is_refused_by_check_4_under_another_root(profile: Profile, kind: type[Policy]) -> None:
    world = World()
    pair = Pair(world, policy=world.policy(kind, trust_anchor=AWS_NITRO_ROOT_G1), profile=profile)
    assert failing(refused(pair, pair.answer(pair.client.hello()))) == [4]


@profiles
def test_a_policy_without_reference_values_establishes_nothing(profile: Profile) -> None:
    """No check fails, and still nothing is affirmed: any image at all may be running."""
    world = World()
    pair = Pair(world, policy=world.policy(reference_values=None), profile=profile)
    assert failing(refused(pair, pair.answer(pair.client.hello()))) == []


@pytest.mark.parametrize("document", [b"", b"\x84", b"<html>busy</html>"])
def test_bytes_that_are_no_document_are_refused_by_check_1(document: bytes) -> None:
    seed, modern = Pair(profile=Profile.SEED), Pair()
    for pair in (seed, modern):
        pair.client.hello()
    assert failing(refused(seed, document)) == [1]
    response = {"x25519": bytes(32), "ml_kem_768": bytes(1088)}
    assert failing(refused(modern, cbor.encode({"document": document, **response}))) == [1]


NO_ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "a web page": lambda _: b"<html>busy</html>",
    "a byte behind it": lambda answer: answer + b"\0",
    "cut": lambda answer: answer[:-1],
    "a list": lambda answer: cbor.encode([answer]),
    "the document alone": lambda answer: decode_answer(answer, Profile.MODERN).document,
    "no document": lambda answer: beside(answer, document=...),
    "no point": lambda answer: beside(answer, x25519=...),
    "no ciphertext": lambda answer: beside(answer, ml_kem_768=...),
    "a field more": lambda answer: beside(answer, more=b""),
    "a document in text": lambda answer: beside(answer, document="text"),
    "a document null": lambda answer: beside(answer, document=None),
    "a short point": lambda answer: beside(answer, x25519=bytes(31)),
    "a long point": lambda answer: beside(answer, x25519=bytes(33)),
    "a point null": lambda answer: beside(answer, x25519=None),
    "a short ciphertext": lambda answer: beside(answer, ml_kem_768=bytes(1087)),
    "a long ciphertext": lambda answer: beside(answer, ml_kem_768=bytes(1089)),
    "the other ones's ciphertext": lambda answer: beside(answer, ml_kem_768=bytes(1568)),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_bytes_that_are_no_modern_answer_are_the_peers_fault(name: str) -> None:
    pair = Pair()
    error = ended(pair, NO_ANSWERS[name](pair.answer(pair.client.hello())))
    assert isinstance(error, RemoteProtocolError)
    assert str(error).startswith("expected ")


def test_the_largest_document_fits_into_an_answer() -> None:
    answer = Pair()
    largest = beside(answer.answer(answer.client.hello()), document=bytes(MAX_SIZE))
    assert len(largest) <= MAX_ANSWER
    assert len(decode_answer(largest, Profile.MODERN).document) == MAX_SIZE


@pytest.mark.parametrize("name", LOW_ORDER)
def test_a_response_that_agrees_on_nothing_is_refused_though_it_is_attested(name: str) -> None:
    """A broken enclave; all ten checks pass, and the client still takes no key that everybody knows."""
    pair = Pair()
    hello = pair.client.hello()
    pair.enclave.receive_hello(hello)
    assert pair.enclave._response is not None
    broken = pair.enclave._response = pair.enclave._response._replace(x25519=LOW_ORDER[name])
    document = pair.world.attest(
        user_data=transcript(hello, broken), nonce=pair.nonce, public_key=pair.key.public_bytes
    )
    error = ended(pair, pair.enclave.provide_evidence(document))
    assert isinstance(error, RemoteProtocolError)
    assert "low order" in str(error)


SESSION_KEY = bytes(range(32))
WRAPPED: dict[str, Callable[[rsa.RSAPublicKey], bytes | None]] = {
    "absent": lambda _: None,
    "empty": lambda _: b"",
    "no ciphertext": lambda _: bytes(256),
    "for Bob": lambda _: wrap_key(user_key("Bob")._private_key.public_key(), SESSION_KEY),
    "of 16 bytes": lambda alice: wrap_key(alice, bytes(16)),
    "of 33 bytes": lambda alice: wrap_key(alice, bytes(33)),
    "in the clear": lambda _: SESSION_KEY,
    "under PKCS #1 v1.5": lambda alice: alice.encrypt(SESSION_KEY, padding.PKCS1v15()),
    "under OAEP with SHA-1": lambda alice: alice.encrypt(
        SESSION_KEY, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_affirmed_evidence_without_a_key_for_this_user_establishes_nothing(name: str) -> None:
    """All ten checks pass; what the enclave put into user_data is no AES-256 key under RSA-OAEP-SHA-256 for Alice."""
    pair = Pair(profile=Profile.SEED)
    document = pair.answer(pair.client.hello(), user_data=WRAPPED[name](pair.key._private_key.public_key()))
    error = ended(pair, document)
    assert isinstance(error, RemoteProtocolError)
    assert "AES-256 key in user_data" in str(error)


@pytest.mark.parametrize("user_data", [None, b"", bytes(32), bytes(256)], ids=["absent", "empty", "32", "256"])
def test_a_document_that_is_bound_to_no_transcript_is_refused_by_rule_10a(user_data: bytes | None) -> None:
    pair = Pair()
    answer = pair.answer(pair.client.hello(), user_data=user_data)
    assert failing(refused(pair, answer)) == [10, "10a"]


# --- somebody on the way ---------------------------------------------------------------------------------------------


@profiles
def test_a_flipped_bit_in_any_byte_of_a_hello_is_refused(profile: Profile) -> None:
    hello = Pair(profile=profile).client.hello()
    for place in range(len(hello)):
        refusal(Pair(), flip(hello, place, place % 8))


@profiles
def test_a_flipped_bit_in_an_answer_is_refused(profile: Profile) -> None:
    """Every byte of a document is the verifier's own property; here, that none of an answer establishes a client."""
    answer = Pair(profile=profile).answer(Pair(profile=profile).client.hello())
    for place in {*range(0, len(answer), 97), *range(len(answer) - 1140, len(answer), 31)}:
        pair = Pair(profile=profile)
        pair.client.hello()
        ended(pair, flip(answer, place, place % 8))


def reordered(message: bytes) -> bytes:
    """The same fields in another order: as good a message, in other bytes."""
    fields = cbor.decode(message)
    assert isinstance(fields, dict)
    return cbor.encode(dict(reversed(fields.items())))


def indefinite(message: bytes) -> bytes:
    fields = cbor.decode(message)
    assert isinstance(fields, dict)
    return cbor.encode_indefinite_map({str(name): value for name, value in fields.items()})


@pytest.mark.parametrize("rewrite", [reordered, indefinite])
def test_a_seed_hello_in_other_bytes_gives_the_sides_different_keys(rewrite: Callable[[bytes], bytes]) -> None:
    """The enclave accepts it, the client affirms the answer, and no record opens."""
    client, enclave = Pair(profile=Profile.SEED).roundtrip(on_hello=rewrite)
    assert client.session_id != enclave.session_id
    assert not understand(client, enclave)


@pytest.mark.parametrize("rewrite", [reordered, indefinite])
def test_a_modern_hello_in_other_bytes_is_refused_by_rule_10a(rewrite: Callable[[bytes], bytes]) -> None:
    """The transcript is of bytes: the enclave accepts them, and attests what the client never sent."""
    pair = Pair()
    assert failing(refused(pair, pair.answer(rewrite(pair.client.hello())))) == [10, "10a"]


def in_the_answer(rewrite: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda answer: beside(answer, document=rewrite(decode_answer(answer, Profile.MODERN).document))


def tagged(document: bytes) -> bytes:
    return b"\xd2" + document


@pytest.mark.parametrize(
    ("profile", "rewrite"),
    [
        (Profile.SEED, twin),
        (Profile.SEED, tagged),
        (Profile.MODERN, in_the_answer(twin)),
        (Profile.MODERN, in_the_answer(tagged)),
        (Profile.MODERN, reordered),
        (Profile.MODERN, indefinite),
    ],
    ids=["seed (r, n - s)", "seed tag 18", "(r, n - s)", "tag 18", "reordered", "indefinite"],
)
def test_an_answer_in_other_bytes_gives_the_sides_different_keys(
    profile: Profile, rewrite: Callable[[bytes], bytes]
) -> None:
    """The verifier affirms both forms; the salt of the keys tells them apart."""
    client, enclave = Pair(profile=profile).roundtrip(on_answer=rewrite)
    assert client.session_id != enclave.session_id
    assert not understand(client, enclave)


@profiles
def test_a_repeated_hello_gains_nothing_without_the_clients_keys(profile: Profile) -> None:
    """Mallory repeats Alice's hello: the enclave answers, and the answer's key is wrapped or agreed on for Alice."""
    world = World()
    alice = Pair(world, profile=profile)
    hello = alice.client.hello()
    alice.answer(hello)
    again = Pair(world, user="Mallory", profile=profile)
    again.client.hello()
    again.client._hello, again.client._nonce = hello, alice.nonce
    again.client._key = _With(user_key("Mallory"), user_key("Alice").public_bytes)  # type: ignore[assignment]
    answer = again.answer(hello)
    if profile is Profile.SEED:
        assert isinstance(ended(again, answer), RemoteProtocolError)
    else:
        assert not understand(again.receive(answer), again.enclave.session())
    assert alice.enclave.session().session_id != again.enclave.session().session_id


class _With:
    """Somebody's private key with another's public one."""

    def __init__(self, key: object, public_bytes: bytes) -> None:
        self._key = key
        self.public_bytes = public_bytes

    def __getattr__(self, name: str) -> object:
        return getattr(self._key, name)


@profiles
def test_a_signature_for_one_hello_is_none_for_another(profile: Profile) -> None:
    """What the hello's label is for: the signature binds every other field together."""
    fields = decode_hello(Pair(profile=profile).client.hello())
    key = load_der_public_key(fields.public_key)
    assert isinstance(key, rsa.RSAPublicKey)
    good = signed_part(fields.public_key, fields.nonce, fields.offer)
    key.verify(fields.signature, good, PSS, hashes.SHA256())
    for other in (signed_part(fields.public_key, bytes(32), fields.offer), good.partition(b"\0")[2], changed(good)):
        with pytest.raises(InvalidSignature):
            key.verify(fields.signature, other, PSS, hashes.SHA256())
