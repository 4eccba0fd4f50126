"""A thief records a session today and gets the user's private RSA key later. What does it open?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pair import Pair
from recorded import Recording, record, reveals

from workshop_kit.channel.handshake import Profile
from workshop_kit.channel.hybrid import Ephemeral, Response
from workshop_kit.edges.user_key import UserKey
from workshop_kit.evidence import cbor, cose
from workshop_kit.evidence.document import decode_unverified


def test_a_recorded_seed_session_opens() -> None:
    """user_data holds the session's key, wrapped for that key; everything else lay in the open anyway."""
    pair = Pair(profile=Profile.SEED)
    recording, stolen = record(pair, Profile.SEED), pair.key
    wrapped = decode_unverified(recording.answer).user_data
    assert wrapped is not None
    secret = stolen.unwrap(wrapped)
    assert secret is not None
    assert reveals(recording.opened_with(secret))


@pytest.fixture(scope="module")
def modern() -> tuple[Pair, Recording]:
    pair = Pair()
    return pair, record(pair, Profile.MODERN)


def strings(value: object) -> Iterator[bytes]:
    """Every byte string in a message."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from (each for item in value.values() for each in strings(item))
    elif isinstance(value, list):
        yield from (each for item in value for each in strings(item))


def recorded_strings(recording: Recording) -> set[bytes]:
    """Whole messages, their fields, and those of the document in the answer, certificates among them."""
    envelope = cose.read_sign1(answered(recording)["document"])
    parts = [cbor.decode(recording.hello), cbor.decode(recording.answer), cbor.decode(envelope.payload), [*envelope]]
    return {*strings(parts), recording.hello, recording.answer, recording.request, recording.response}


def uses(stolen: UserKey, recorded: bytes) -> Iterator[bytes]:
    """What the private key makes of 256 recorded bytes: opened under each padding, and by RSA alone."""
    private = stolen._private_key
    if (opened := stolen.unwrap(recorded)) is not None:
        yield opened
    with suppress(ValueError):
        yield private.decrypt(recorded, padding.PKCS1v15())
    numbers = private.private_numbers()
    modulus = numbers.public_numbers.n
    yield pow(int.from_bytes(recorded, "big") % modulus, numbers.d, modulus).to_bytes(256, "big")


def windows(strings: set[bytes], step: int) -> set[bytes]:
    """Stretches of the length that RSA-2048 takes, from every `step`th byte on, and the last."""
    found = set()
    for string in strings:
        places = {*range(0, len(string) - 255, step), len(string) - 256}
        found |= {string[place : place + 256] for place in places if place >= 0}
    return found


def test_a_recorded_modern_session_has_nothing_that_the_key_was_made_to_open(modern: tuple[Pair, Recording]) -> None:
    """No stretch of any message is a ciphertext under it: user_data is a digest, and the signature is no secret."""
    pair, recording = modern
    found = recorded_strings(recording)
    assert {len(string) for string in found} >= {32, 48, 256, 270, 1088, 1184}
    assert [each for each in windows(found, 16) if pair.key.unwrap(each) is not None] == []
    assert decode_unverified(answered(recording)["document"]).user_data in {s for s in found if len(s) == 32}


def test_whatever_the_key_makes_of_a_recorded_modern_session_opens_nothing(modern: tuple[Pair, Recording]) -> None:
    """From the begin and the end of every field; each result as the secret, in its sizes, from either end."""
    pair, recording = modern
    ends = windows(recorded_strings(recording), 1 << 16)
    results = {result for string in ends for result in uses(pair.key, string)}
    assert len(results) > len(ends) > 20
    for result in results:
        for secret in {result, result[:32], result[-32:], result[:64], result[-64:]}:
            assert recording.opened_with(secret) == []


def test_no_two_recorded_values_are_the_secret_of_a_modern_session(modern: tuple[Pair, Recording]) -> None:
    """Public keys, nonce, digests: the secret is 64 bytes, and no 32 of them ever passed."""
    _, recording = modern
    passed = [string for string in recorded_strings(recording) if len(string) == 32]
    assert len(passed) >= 4
    for one, other in product([*passed, b""], [*passed, b"", bytes(32)]):
        assert recording.opened_with(one + other) == []


def test_the_private_keys_that_the_client_forgot_would_have_opened_it(modern: tuple[Pair, Recording]) -> None:
    """The other side of the tests above: what fails there fails for want of these, which nobody has any more."""
    pair, recording = modern
    _, x25519, ml_kem, _ = pair.drawn
    response = {name: value for name, value in answered(recording).items() if name != "document"}
    secret = Ephemeral(x25519=x25519, ml_kem=ml_kem).combine(Response(**response))
    assert reveals(recording.opened_with(secret))
    assert isinstance(pair.key._private_key, rsa.RSAPrivateKey), "and the stolen key is still the user's"
    assert pair.client._ephemeral is None


def answered(recording: Recording) -> dict[str, bytes]:
    fields = cbor.decode(recording.answer)
    assert isinstance(fields, dict)
    return {str(name): value for name, value in fields.items() if isinstance(value, bytes)}
