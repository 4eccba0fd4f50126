"""The handshake: its states, its messages, and the keys that both sides derive from it, in two profiles.

    client                                                     enclave
      hello: public key, fresh nonce, signature over both ──▶
        modern: two ephemeral public keys besides              seed: a fresh key, wrapped for the user's public key
                                                               modern: a response to the two ephemeral keys
      ◀──  seed: an attestation document with nonce, public key and the wrapped key
           modern: the response, and a document with nonce, public key and the digest of hello and response
      appraise; only an affirming result opens the key

The client chooses the profile, and reads an answer in no other. The table below is the whole order of both; SPEC.md
states the messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from workshop_kit.channel.hybrid import (
    ML_KEM_CIPHERTEXT_SIZE,
    ML_KEM_PUBLIC_SIZE,
    X25519_SIZE,
    Offer,
    Response,
)
from workshop_kit.channel.session import SessionKeys
from workshop_kit.errors import LocalProtocolError, MalformedEvidenceError, RemoteProtocolError
from workshop_kit.evidence import cbor

NONCE_SIZE = 32
SESSION_KEY_SIZE = 32
MAX_HELLO = 4096
"""Bytes of a hello that an enclave reads before it knows who speaks."""


class Profile(Enum):
    """How a session's keys come about.

    Attributes:
        hello_label, transcript_label, keys_label: what signature, digest and keys begin with. No two of them are alike,
            in one profile or in both, so that nothing made for one use is good for another.
    """

    SEED = "seed"
    """Wrapped for the user's RSA key, so whoever steals that later opens what he recorded."""
    MODERN = "modern"
    """Agreed on by ephemeral keys, X25519 and ML-KEM-768; the RSA key signs and opens nothing."""

    def __init__(self, name: str) -> None:
        beginning = f"enclave workshop, attested channel, profile {name}, ".encode()
        self.hello_label = beginning + b"hello\0"
        self.transcript_label = beginning + b"transcript\0"
        self.keys_label = beginning + b"keys"


class Side(Enum):
    CLIENT = auto()
    ENCLAVE = auto()


class State(Enum):
    IDLE = auto()
    AWAITING_EVIDENCE = auto()
    """The hello is on its way (client), or the NSM is asked (enclave)."""
    ESTABLISHED = auto()
    REFUSED = auto()


class Event(Enum):
    HELLO_SENT = auto()
    HELLO_ACCEPTED = auto()
    HELLO_REFUSED = auto()
    EVIDENCE_AFFIRMED = auto()
    EVIDENCE_REFUSED = auto()
    EVIDENCE_PROVIDED = auto()


TRANSITIONS: Mapping[Side, Mapping[State, Mapping[Event, State]]] = {
    Side.CLIENT: {
        State.IDLE: {Event.HELLO_SENT: State.AWAITING_EVIDENCE},
        State.AWAITING_EVIDENCE: {
            Event.EVIDENCE_AFFIRMED: State.ESTABLISHED,
            Event.EVIDENCE_REFUSED: State.REFUSED,
        },
        State.ESTABLISHED: {},
        State.REFUSED: {},
    },
    Side.ENCLAVE: {
        State.IDLE: {Event.HELLO_ACCEPTED: State.AWAITING_EVIDENCE, Event.HELLO_REFUSED: State.REFUSED},
        State.AWAITING_EVIDENCE: {Event.EVIDENCE_PROVIDED: State.ESTABLISHED},
        State.ESTABLISHED: {},
        State.REFUSED: {},
    },
}


class Progress:
    """Where one side stands. Every pair that is not in the table is an error of its caller."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.state = State.IDLE

    def advance(self, event: Event) -> None:
        """Raises:
        LocalProtocolError: `event` does not belong in this state.
        """
        allowed = TRANSITIONS[self.side][self.state]
        state = allowed.get(event)
        if state is None:
            expected = " or ".join(each.name for each in allowed) or "nothing more"
            raise LocalProtocolError(
                f"handshake, {self.side.name} in {self.state.name}: expected {expected}, got {event.name}"
            )
        self.state = state

    def require(self, state: State) -> None:
        """Raises:
        LocalProtocolError: this side stands elsewhere.
        """
        if self.state is not state:
            raise LocalProtocolError(f"handshake, {self.side.name}: expected {state.name}, it is {self.state.name}")


class Hello(NamedTuple):
    """The client's first message.

    Attributes:
        public_key: RSAPublicKey of PKCS #1 in DER (RFC 8017, A.1.1), 270 bytes for RSA-2048.
        nonce: 32 bytes, never used before.
        signature: RSASSA-PSS with SHA-256 and a salt of 32 bytes over `signed_part`.
        offer: in profile `modern` two ephemeral public keys, in `seed` None.
    """

    public_key: bytes
    nonce: bytes
    signature: bytes
    offer: Offer | None = None

    @property
    def profile(self) -> Profile:
        return Profile.SEED if self.offer is None else Profile.MODERN

    def encode(self) -> bytes:
        begin = {"profile": self.profile.value, "public_key": self.public_key, "nonce": self.nonce}
        offer = self.offer._asdict() if self.offer else {}
        return cbor.encode(begin | offer | {"signature": self.signature})


class Answer(NamedTuple):
    """The enclave's message: in `seed` the document alone, in `modern` the response to the offer beside it."""

    document: bytes
    response: Response | None = None

    def encode(self) -> bytes:
        if self.response is None:
            return self.document
        return cbor.encode({"document": self.document} | self.response._asdict())


def signed_part(public_key: bytes, nonce: bytes, offer: Offer | None = None) -> bytes:
    """What the hello's signature covers: a label that no other message has, and every other field."""
    profile = Profile.SEED if offer is None else Profile.MODERN
    return b"".join((profile.hello_label, nonce, *(offer or ()), public_key))


def transcript(hello: bytes, response: Response) -> bytes:
    """What a document's user_data is in `modern`: the digest, 32 bytes, of all that no document holds."""
    return hashlib.sha256(b"".join((Profile.MODERN.transcript_label, _with_length(hello), *response))).digest()


def _with_length(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


_Sizes = Mapping[str, int | None]
_SEED_HELLO: _Sizes = {"public_key": None, "nonce": NONCE_SIZE, "signature": None}
_HELLO: Mapping[Profile, _Sizes] = {
    Profile.SEED: _SEED_HELLO,
    Profile.MODERN: {**_SEED_HELLO, "x25519": X25519_SIZE, "ml_kem_768": ML_KEM_PUBLIC_SIZE},
}
_ANSWER: _Sizes = {"document": None, "x25519": X25519_SIZE, "ml_kem_768": ML_KEM_CIPHERTEXT_SIZE}
_PROFILES: Mapping[str, Profile] = {profile.value: profile for profile in Profile}


def decode_hello(data: bytes) -> Hello:
    """Read a hello; the signature is not verified here, nor are keys looked at.

    Raises:
        RemoteProtocolError: these are not the bytes of a hello in one of the profiles.
    """
    if len(data) > MAX_HELLO:
        raise RemoteProtocolError(f"expected a hello of at most {MAX_HELLO} bytes, got {len(data)}")
    fields = _map(data, "a hello")
    name = fields.pop("profile", None)
    profile = _PROFILES.get(name) if isinstance(name, str) else None
    if profile is None:
        raise RemoteProtocolError(f"expected a hello of profile {' or '.join(_PROFILES)}, got another")
    values = _byte_strings(fields, _HELLO[profile], f"a hello of profile {profile.value}")
    offer = Offer(values.pop("x25519"), values.pop("ml_kem_768")) if profile is Profile.MODERN else None
    return Hello(**values, offer=offer)


def decode_answer(data: bytes, profile: Profile) -> Answer:
    """Read an answer in the profile of its hello; nothing in it is appraised here.

    Raises:
        RemoteProtocolError: these are not the bytes of an answer in that profile.
    """
    if profile is Profile.SEED:
        return Answer(data)
    values = _byte_strings(_map(data, "an answer"), _ANSWER, f"an answer of profile {profile.value}")
    return Answer(values.pop("document"), Response(**values))


def _map(data: bytes, what: str) -> dict[object, object]:
    try:
        # The quick reader says nothing of the types inside: the callers compare them all.
        fields = cbor.decode_quickly(data) or cbor.decode(data)
    except MalformedEvidenceError as error:
        raise RemoteProtocolError(f"expected {what}, got {error}") from None
    if not isinstance(fields, dict):
        raise RemoteProtocolError(f"expected {what}, a map, got another item")
    return fields


def _byte_strings(fields: dict[object, object], sizes: _Sizes, what: str) -> dict[str, bytes]:
    """The fields named in `sizes`, all of them and no others, each a byte string of its size."""
    if fields.keys() != sizes.keys():
        raise RemoteProtocolError(f"expected {what} with {', '.join(sizes)} and no other field, got another")
    values: dict[str, bytes] = {}
    for name, size in sizes.items():
        value = fields[name]
        if type(value) is not bytes:
            raise RemoteProtocolError(f"expected a byte string as {name} in {what}, got {type(value).__name__}")
        if size is not None and len(value) != size:
            raise RemoteProtocolError(f"expected {size} bytes as {name} in {what}, got {len(value)}")
        values[name] = value
    return values


def draw(random: Callable[[int], bytes], size: int) -> bytes:
    """`size` bytes of `random`.

    Raises:
        LocalProtocolError: it gives another number of them.
    """
    drawn = random(size)
    if len(drawn) != size:
        raise LocalProtocolError(f"expected {size} random bytes, got {len(drawn)}")
    return drawn


def derive_keys(profile: Profile, secret: bytes, *, hello: bytes, answer: bytes) -> SessionKeys:
    """The session's keys: HKDF-SHA-256 of the secret, salted with the digest of both messages as they travelled.

    Whoever changed a byte of either message on its way gets other keys than his victim.
    """
    salt = hashlib.sha256(_with_length(hello) + _with_length(answer)).digest()
    material = HKDF(hashes.SHA256(), length=16 + 2 * 32, salt=salt, info=profile.keys_label).derive(secret)
    return SessionKeys(material[:16], material[16:48], material[48:])
