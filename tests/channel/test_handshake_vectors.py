"""Recorded handshakes, read as another project would read them: each side repeats its part, byte for byte."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from vectors import generate
from vectors.handshakes import REQUEST, RESPONSE, published_key
from vectors.randomised import encapsulate, oaep_encrypt, pss_sign

from workshop_kit.channel.client_handshake import ClientHandshake
from workshop_kit.channel.enclave_handshake import AttestationNeeded, EnclaveHandshake, Primitives
from workshop_kit.channel.handshake import Profile, State, derive_keys
from workshop_kit.channel.session import SessionKeys
from workshop_kit.edges.user_key import UserKey
from workshop_kit.errors import AccessDeniedError, AppraisalError, RemoteProtocolError
from workshop_kit.evidence import cbor
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.verifier import Policy, ReferenceValues, TrustAnchor

Vector = dict[str, Any]

FOLDER = generate.FOLDER / "handshake"
VECTORS: dict[Profile, Vector] = {
    profile: json.loads((FOLDER / f"{profile.value}.json").read_text()) for profile in Profile
}
REFUSALS: list[Vector] = json.loads((FOLDER / "refusals.json").read_text())
profiles = pytest.mark.parametrize("profile", Profile, ids=lambda profile: profile.value)


def octets(vector: Vector, name: str) -> bytes:
    return bytes.fromhex(vector[name])


def fields(message: bytes) -> dict[str, Any]:
    decoded = cbor.decode(message)
    assert isinstance(decoded, dict)
    return {str(name): value for name, value in decoded.items()}


def giving(values: list[str]) -> Callable[[int], bytes]:
    left = iter(values)

    def random(size: int) -> bytes:
        value = bytes.fromhex(next(left))
        assert len(value) == size
        return value

    return random


class Recorded(UserKey):
    """The published key; its signature is the recorded one."""

    def __init__(self, vector: Vector) -> None:
        super().__init__(published_key())
        self._signature = fields(octets(vector, "hello"))["signature"]

    def sign(self, message: bytes) -> bytes:
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        published_key().public_key().verify(self._signature, message, pss, hashes.SHA256())
        return bytes(self._signature)


def client(profile: Profile) -> ClientHandshake:
    """The recorded client, its hello sent."""
    vector = VECTORS[profile]
    anchor = TrustAnchor.from_certificate((FOLDER / vector["trust_root"]).read_bytes())
    values = ReferenceValues.from_json(json.dumps({"Measurements": vector["reference_values"]}))
    policy, random = Policy(trust_anchor=anchor, reference_values=values), giving(vector["client_random"])
    made = ClientHandshake(Recorded(vector), policy, random=random, profile=profile)
    assert made.hello() == octets(vector, "hello")
    return made


def enclave(profile: Profile) -> EnclaveHandshake:
    """The recorded enclave: what its library randomised comes from the recorded messages."""
    vector, known = VECTORS[profile], octets(VECTORS[profile], "public_key")

    def wrapped(_: rsa.RSAPublicKey, session_key: bytes) -> bytes:
        assert session_key == octets(vector, "secret")
        return decode_unverified(octets(vector, "document")).user_data or b""

    def encapsulated(key: MLKEM768PublicKey) -> tuple[bytes, bytes]:
        assert key.public_bytes_raw() == fields(octets(vector, "hello"))["ml_kem_768"]
        return octets(vector, "secret")[:32], fields(octets(vector, "answer"))["ml_kem_768"]

    primitives = Primitives(wrap=wrapped, encapsulate=encapsulated)
    return EnclaveHandshake(is_known=known.__eq__, random=giving(vector["enclave_random"]), primitives=primitives)


def at(vector: Vector) -> datetime:
    return datetime.fromisoformat(vector["at"])


# --- what succeeds ---------------------------------------------------------------------------------------------------


@profiles
def test_a_client_with_the_recorded_chance_makes_the_recorded_session_of_the_recorded_answer(profile: Profile) -> None:
    """The request's first record, which AES-GCM makes the same each time, shows the one key; the other opens."""
    vector, ours = VECTORS[profile], client(profile)
    assert ours.receive_evidence(octets(vector, "answer"), now=at(vector)).affirmed
    assert ours.session().session_id == octets(vector, "session_id")
    asked = ours.session().exchange()
    assert asked.sealer.seal(REQUEST) == octets(vector, "request")
    assert list(asked.opener.receive(octets(vector, "response"))) == [RESPONSE]


@profiles
def test_an_enclave_with_the_recorded_chance_makes_the_recorded_answer_and_session(profile: Profile) -> None:
    vector, theirs = VECTORS[profile], enclave(profile)
    document = decode_unverified(octets(vector, "document"))
    assert document.user_data is not None
    assert document.nonce is not None
    assert document.public_key is not None
    needed = theirs.receive_hello(octets(vector, "hello"))
    assert needed == AttestationNeeded(document.user_data, document.nonce, document.public_key)
    assert theirs.provide_evidence(octets(vector, "document")) == octets(vector, "answer")
    assert theirs.session().session_id == octets(vector, "session_id")
    answered = theirs.session().accept(0)
    assert list(answered.opener.receive(octets(vector, "request"))) == [REQUEST]
    assert answered.sealer.seal(RESPONSE) == octets(vector, "response")


@profiles
def test_the_recorded_keys_are_of_the_recorded_secret_and_messages(profile: Profile) -> None:
    vector = VECTORS[profile]
    keys = derive_keys(
        profile, octets(vector, "secret"), hello=octets(vector, "hello"), answer=octets(vector, "answer")
    )
    names = ("session_id", "client_to_enclave", "enclave_to_client")
    assert keys == SessionKeys(*(octets(vector, name) for name in names))


def test_a_seed_answer_is_its_document_and_a_modern_one_holds_it() -> None:
    seed, modern = (VECTORS[profile] for profile in (Profile.SEED, Profile.MODERN))
    assert seed["answer"] == seed["document"]
    assert fields(octets(modern, "answer"))["document"] == octets(modern, "document")


# --- the chance of the sending side ----------------------------------------------------------------------------------


def test_the_key_is_the_one_of_rfc_9500() -> None:
    """Its modulus begins and ends as printed there; the primes make it, and the exponents belong together."""
    numbers = published_key().private_numbers()
    modulus = numbers.public_numbers.n
    assert numbers.p * numbers.q == modulus
    assert f"{modulus:x}".startswith("b0f9e81943a7ae9892aade17ca7c40f8744fed2f8148e6c8")
    assert f"{modulus:x}".endswith("b3fb8f9e46f732b2a86b460165c08f5313")
    assert numbers.d * 65537 % math.lcm(numbers.p - 1, numbers.q - 1) == 1
    assert published_key().key_size == 2048
    assert [octets(vector, "public_key") for vector in VECTORS.values()] == [UserKey(published_key()).public_bytes] * 2


@profiles
def test_the_recorded_signature_is_that_of_the_recorded_salt(profile: Profile) -> None:
    """RSASSA-PSS written out; `Recorded.sign` has the library verify the same."""
    vector = VECTORS[profile]
    hello = fields(octets(vector, "hello"))
    beside = [hello[name] for name in ("x25519", "ml_kem_768") if name in hello]
    label = f"enclave workshop, attested channel, profile {profile.value}, hello\0".encode()
    covered = b"".join([label, hello["nonce"], *beside, hello["public_key"]])
    assert pss_sign(published_key(), covered, salt=octets(vector, "pss_salt")) == hello["signature"]


def test_the_recorded_user_data_is_the_secret_under_the_recorded_oaep_seed() -> None:
    vector = VECTORS[Profile.SEED]
    wrapped = oaep_encrypt(published_key().public_key(), octets(vector, "secret"), seed=octets(vector, "oaep_seed"))
    assert wrapped == decode_unverified(octets(vector, "document")).user_data
    assert UserKey(published_key()).unwrap(wrapped) == octets(vector, "secret")


def test_the_recorded_ciphertext_is_that_of_the_recorded_message() -> None:
    """ML-KEM written out from FIPS 203, and opened by the library with the client's recorded seed."""
    vector = VECTORS[Profile.MODERN]
    key = fields(octets(vector, "hello"))["ml_kem_768"]
    secret, ciphertext = encapsulate(key, message=octets(vector, "ml_kem_message"))
    assert ciphertext == fields(octets(vector, "answer"))["ml_kem_768"]
    assert secret == octets(vector, "secret")[:32]
    private = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(vector["client_random"][2]))
    assert private.decapsulate(ciphertext) == secret


@pytest.mark.parametrize("number", range(5))
def test_the_ml_kem_of_the_vectors_agrees_with_the_librarys(number: int) -> None:
    """For other keys and other chance: the one in the vectors is no exception."""
    private = MLKEM768PrivateKey.from_seed_bytes(bytes([number]) * 64)
    secret, ciphertext = encapsulate(private.public_key().public_bytes_raw(), message=bytes([7 * number]) * 32)
    assert private.decapsulate(ciphertext) == secret


# --- what is refused -------------------------------------------------------------------------------------------------


def by(side: str) -> list[Any]:
    found = [vector for vector in REFUSALS if vector["by"] == side]
    return [pytest.param(vector, id=f"{vector['profile']}, {vector['why']}") for vector in found]


@pytest.mark.parametrize("vector", by("enclave"))
def test_a_recorded_hello_is_refused_by_its_status(vector: Vector) -> None:
    theirs = enclave(Profile(vector["profile"]))
    with pytest.raises((AccessDeniedError, RemoteProtocolError)) as caught:
        theirs.receive_hello(octets(vector, "message"))
    status = caught.value.status if isinstance(caught.value, AccessDeniedError) else 400
    assert status == vector["status"]
    assert theirs.state is State.REFUSED


@pytest.mark.parametrize("vector", by("client"))
def test_a_recorded_answer_is_refused_by_its_checks_or_as_none(vector: Vector) -> None:
    """Without a check it is the bytes that are no answer, or an affirmed document without a key."""
    profile = Profile(vector["profile"])
    ours = client(profile)
    with pytest.raises((AppraisalError, RemoteProtocolError)) as caught:
        ours.receive_evidence(octets(vector, "message"), now=at(VECTORS[profile]))
    failed = [check.number for check in caught.value.result.failed] if isinstance(caught.value, AppraisalError) else []
    assert failed == vector["checks"]
    assert isinstance(caught.value, AppraisalError) == bool(vector["checks"])
    assert ours.state is State.REFUSED


def test_every_refusal_is_another() -> None:
    assert len({vector["message"] + vector["profile"] for vector in REFUSALS}) == len(REFUSALS)
    assert {(vector["profile"], vector["by"]) for vector in REFUSALS} == {
        (profile.value, side) for profile in Profile for side in ("client", "enclave")
    }
