"""Recorded handshakes, every byte of them: one that succeeds for each profile, and messages that are refused.

The user's key is the published test key of RFC 9500; whatever else looks secret comes from marked test seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from attested import MEASUREMENTS, NOW, World
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from vectors.randomised import encapsulate, oaep_encrypt, pss_sign

from workshop_kit.channel.client_handshake import ClientHandshake
from workshop_kit.channel.enclave_handshake import EnclaveHandshake, Primitives
from workshop_kit.channel.framing import Record, RequestHead, ResponseHead
from workshop_kit.channel.handshake import (
    Answer,
    Hello,
    Profile,
    decode_answer,
    decode_hello,
    derive_keys,
    signed_part,
    transcript,
)
from workshop_kit.channel.hybrid import Offer, Response
from workshop_kit.edges.user_key import UserKey
from workshop_kit.evidence import cbor

Entry = dict[str, Any]

REQUEST = Record(RequestHead(b"GET", b"/compare?a=1", ((b"accept", b"*/*"),)), b"a question", end=True)
RESPONSE = Record(ResponseHead(200, ((b"content-type", b"text/plain"),)), b"an answer", end=True)

# RFC 9500, 2.1: testRSA2048. Published so that everybody knows it; whoever sees it knows that nothing is guarded.
_P = int(
    "dd105702382f232b3681f53791e22617c7bf4e9acb81ed48daf6d6995da3eab642839aff012d2ea628b90af279fd3e6f"
    "7c93cd80f072f01ff2443b3ee8f24ed469a79613a41bd24020f92fd11059bd1d0f301b5ba7a9d3637ca8d65c1a981541"
    "7d8eab734b0b4f3a2c661d9a1a82f3ac734c40530669ab8e473045a58e65539d",
    16,
)
_Q = int(
    "ccf1e5bb90c8e9781ea75bebf10bc252e11eb023a0260f1887552a56863f4a6421e8c600bf523d6cb1b0adbdd65bfee4"
    "a88a037e3d1a415e5bb95648da5a0ca26b54f4a63948522c3d5f89b94a72efff95134d5940ce45758f30898090895658"
    "8eef575b3e4bc4c368cfe813ee9c252c2b02e0df91f1aa01938d38685d60ba6f",
    16,
)
_E = 65537


@cache
def published_key() -> rsa.RSAPrivateKey:
    """testRSA2048 of RFC 9500."""
    d = pow(_E, -1, (_P - 1) * (_Q - 1))
    parts = rsa.rsa_crt_dmp1(d, _P), rsa.rsa_crt_dmq1(d, _Q), rsa.rsa_crt_iqmp(_P, _Q)
    return rsa.RSAPrivateNumbers(_P, _Q, d, *parts, rsa.RSAPublicNumbers(_E, _P * _Q)).private_key()


def chance(what: str, size: int) -> bytes:
    """A marked test seed: bytes that its name makes, for anybody."""
    return hashlib.shake_256(b"enclave workshop, test seed, no secret: " + what.encode()).digest(size)


class SaltedKey(UserKey):
    """The published key, its signatures repeatable."""

    def __init__(self, salt: bytes) -> None:
        super().__init__(published_key())
        self._salt = salt

    def sign(self, message: bytes) -> bytes:
        return pss_sign(published_key(), message, salt=self._salt)


@dataclass(frozen=True)
class Drawn:
    """All chance of one handshake, in the order in which each side draws it."""

    client: tuple[bytes, ...]
    salt: bytes
    enclave: bytes
    primitive: bytes
    """OAEP's seed, or ML-KEM's message."""


def drawn(name: str, profile: Profile) -> Drawn:
    parts = [("nonce", 32), ("X25519", 32), ("ML-KEM d and z", 64)]
    client = parts if profile is Profile.MODERN else parts[:1]
    return Drawn(
        client=tuple(chance(f"{name}, client, {what}", size) for what, size in client),
        salt=chance(f"{name}, client, PSS", 32),
        enclave=chance(f"{name}, enclave", 32),
        primitive=chance(f"{name}, enclave, {'ML-KEM m' if profile is Profile.MODERN else 'OAEP'}", 32),
    )


def giving(values: tuple[bytes, ...]) -> Callable[[int], bytes]:
    """A source of chance that gives these values and no others."""
    left: Iterator[bytes] = iter(values)
    return lambda _: next(left)


class Both:
    """A handshake's two sides, over a simulated infrastructure that is the same in every vector."""

    def __init__(self, name: str, profile: Profile) -> None:
        self.profile, self.world, self.drawn = profile, World(), drawn(name, profile)
        key = SaltedKey(self.drawn.salt)
        policy = self.world.policy()
        self.client = ClientHandshake(key, policy, random=giving(self.drawn.client), profile=profile)
        self.enclave = EnclaveHandshake(
            is_known=lambda public_key: public_key == key.public_bytes,
            random=giving((self.drawn.enclave,)),
            primitives=Primitives(wrap=self._wrap, encapsulate=self._encapsulate),
        )
        self.hello = self.client.hello()

    def _wrap(self, key: rsa.RSAPublicKey, session_key: bytes) -> bytes:
        return oaep_encrypt(key, session_key, seed=self.drawn.primitive)

    def _encapsulate(self, key: MLKEM768PublicKey) -> tuple[bytes, bytes]:
        return encapsulate(key.public_bytes_raw(), message=self.drawn.primitive)

    def document(self, **instead: bytes | None) -> bytes:
        needed = self.enclave.receive_hello(self.hello)
        fields = {"user_data": needed.user_data, "nonce": needed.nonce, "public_key": needed.public_key}
        return self.world.attest(**(fields | instead))

    def secret(self) -> bytes:
        """Made anew from what was drawn."""
        if self.profile is Profile.SEED:
            return self.drawn.enclave
        offer = decode_hello(self.hello).offer
        assert offer is not None
        curve = X25519PrivateKey.from_private_bytes(self.drawn.enclave)
        agreed = curve.exchange(X25519PublicKey.from_public_bytes(offer.x25519))
        return encapsulate(offer.ml_kem_768, message=self.drawn.primitive)[0] + agreed


def success(profile: Profile) -> Entry:
    """A handshake and the first exchange behind it."""
    both = Both(profile.value, profile)
    document = both.document()
    answer = both.enclave.provide_evidence(document)
    both.client.receive_evidence(answer, now=NOW)
    keys = derive_keys(profile, both.secret(), hello=both.hello, answer=answer)
    assert keys.session_id == both.client.session().session_id == both.enclave.session().session_id
    asked, answered = both.client.session().exchange(), both.enclave.session().accept(0)
    request = asked.sealer.seal(REQUEST)
    assert list(answered.opener.receive(request)) == [REQUEST]
    response = answered.sealer.seal(RESPONSE)
    assert list(asked.opener.receive(response)) == [RESPONSE]
    primitive = "ml_kem_message" if profile is Profile.MODERN else "oaep_seed"
    return {
        "profile": profile.value,
        **circumstances(),
        "client_random": [value.hex() for value in both.drawn.client],
        "pss_salt": both.drawn.salt.hex(),
        "enclave_random": [both.drawn.enclave.hex()],
        primitive: both.drawn.primitive.hex(),
        "hello": both.hello.hex(),
        "document": document.hex(),
        "answer": answer.hex(),
        "secret": both.secret().hex(),
        "session_id": keys.session_id.hex(),
        "client_to_enclave": keys.client_to_enclave.hex(),
        "enclave_to_client": keys.enclave_to_client.hex(),
        "request": request.hex(),
        "response": response.hex(),
    }


def circumstances() -> Entry:
    """What both profiles' vectors share: whose key, and what his client demands."""
    return {
        "user": "RFC 9500, testRSA2048",
        "public_key": SaltedKey(b"").public_bytes.hex(),
        "at": NOW.isoformat().replace("+00:00", "Z"),
        "trust_root": "root.pem",
        "reference_values": {f"PCR{int(index)}": value.hex() for index, value in sorted(MEASUREMENTS.items())},
    }


# --- what is refused -------------------------------------------------------------------------------------------------


def refusals() -> list[Entry]:
    """Each a message that is refused in the circumstances of its profile's own vector."""
    return [*_by_enclaves(), *_by_clients()]


def _signed(offer: Offer | None) -> bytes:
    key, nonce = SaltedKey(chance("refused, PSS", 32)), chance("refused, nonce", 32)
    signature = key.sign(signed_part(key.public_bytes, nonce, offer))
    return Hello(public_key=key.public_bytes, nonce=nonce, signature=signature, offer=offer).encode()


def _edited(message: bytes, **others: object) -> bytes:
    """A message with other fields, or (`...`) without one."""
    fields = cbor.decode(message)
    assert isinstance(fields, dict)
    return cbor.encode({name: value for name, value in ({**fields, **others}).items() if value is not ...})


def _by_enclaves() -> Iterator[Entry]:
    seed, modern = (Both(profile.value, profile).hello for profile in (Profile.SEED, Profile.MODERN))
    hello = decode_hello(modern)
    assert hello.offer is not None
    as_seed = Hello(public_key=hello.public_key, nonce=hello.nonce, signature=hello.signature)
    rows: tuple[tuple[str, str, int, bytes], ...] = (
        ("seed", "another signature", 401, _edited(seed, signature=bytes(256))),
        ("modern", "another signature", 401, _edited(modern, signature=bytes(256))),
        ("modern", "another nonce under the old signature", 401, _edited(modern, nonce=bytes(32))),
        ("modern", "another X25519 key under the old signature", 401, _edited(modern, x25519=b"\x09" + bytes(31))),
        ("modern", "another ML-KEM key under the old signature", 401, _edited(modern, ml_kem_768=bytes(1184))),
        ("seed", "a modern hello written as a seed one", 401, as_seed.encode()),
        ("modern", "an unknown key", 401, _edited(modern, public_key=hello.public_key[:-1] + b"\3")),
        ("modern", "a signed offer whose point is zero", 400, _signed(Offer(bytes(32), hello.offer.ml_kem_768))),
        (
            "modern",
            "a signed offer with coefficients beyond q",
            400,
            _signed(Offer(hello.offer.x25519, b"\xff" * 1184)),
        ),
        ("modern", "no X25519 key", 400, _edited(modern, x25519=...)),
        ("modern", "an ML-KEM key of 1183 bytes", 400, _edited(modern, ml_kem_768=bytes(1183))),
        ("seed", "an offer in profile seed", 400, _edited(modern, profile="seed")),
        ("modern", "no offer in profile modern", 400, _edited(seed, profile="modern")),
        ("modern", "a profile that nobody knows", 400, _edited(modern, profile="modern2")),
        ("modern", "a field that nobody knows", 400, _edited(modern, more=b"")),
        ("modern", "a byte behind it", 400, modern + b"\0"),
    )
    for profile, why, status, message in rows:
        yield {"profile": profile, "by": "enclave", "why": why, "status": status, "message": message.hex()}


def _answered(name: str, profile: Profile, **instead: bytes | None) -> bytes:
    both = Both(name, profile)
    return both.enclave.provide_evidence(both.document(**instead))


def _at_zero() -> bytes:
    """An answer whose point is zero, and whose document vouches for it."""
    both = Both("modern", Profile.MODERN)
    response = decode_answer(_answered("modern", Profile.MODERN), Profile.MODERN).response
    assert isinstance(response, Response)
    response = response._replace(x25519=bytes(32))
    return Answer(both.document(user_data=transcript(both.hello, response)), response).encode()


def _by_clients() -> Iterator[Entry]:
    seed, modern = (_answered(profile.value, profile) for profile in (Profile.SEED, Profile.MODERN))
    document = decode_answer(modern, Profile.MODERN).document
    other = cbor.decode(_answered("another session", Profile.MODERN))
    assert isinstance(other, dict)
    rows: tuple[tuple[str, str, list[int | str], bytes], ...] = (
        ("seed", "an answer to another hello", [6], _answered("another session", Profile.SEED)),
        ("modern", "an answer to another hello", [6, 10, "10a"], cbor.encode(other)),
        ("modern", "another X25519 key beside the document", [10, "10a"], _edited(modern, x25519=other["x25519"])),
        ("modern", "another ciphertext beside it", [10, "10a"], _edited(modern, ml_kem_768=other["ml_kem_768"])),
        ("modern", "a document without user_data", [10, "10a"], _answered("modern", Profile.MODERN, user_data=None)),
        ("seed", "a document with another key", [10], _answered("seed", Profile.SEED, public_key=b"another")),
        ("seed", "a modern answer", [1], modern),
        ("modern", "the document alone", [], document),
        ("modern", "no ciphertext", [], _edited(modern, ml_kem_768=...)),
        ("modern", "a point of 31 bytes", [], _edited(modern, x25519=bytes(31))),
        ("modern", "a field that nobody knows", [], _edited(modern, more=b"")),
        ("modern", "an attested point that is zero", [], _at_zero()),
        (
            "seed",
            "an attested user_data that is no ciphertext",
            [],
            _answered("seed", Profile.SEED, user_data=bytes(256)),
        ),
    )
    assert seed != modern
    for profile, why, checks, message in rows:
        yield {"profile": profile, "by": "client", "why": why, "checks": checks, "message": message.hex()}
