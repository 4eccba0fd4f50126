"""The handshake: its states, its messages, and the keys that both sides derive from it (profile `seed`).

    client                                                     enclave
      hello: public key, fresh nonce, signature over both  ──▶
                                                               fresh AES-256 key, wrapped for that public key,
      ◀──  attestation document: nonce, public key, wrapped key, PCRs, signed by the infrastructure
      appraise; only an affirming result unwraps the key

The table below is the protocol's whole order; SPEC.md states the messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from workshop_kit.channel.session import SessionKeys
from workshop_kit.errors import LocalProtocolError, MalformedEvidenceError, RemoteProtocolError
from workshop_kit.evidence import cbor

PROFILE = "seed"
NONCE_SIZE = 32
SESSION_KEY_SIZE = 32
MAX_HELLO = 4096
"""Bytes of a hello that an enclave reads before it knows who speaks."""

_HELLO_LABEL = b"enclave workshop, attested channel, profile seed, hello\0"
_KEYS_LABEL = b"enclave workshop, attested channel, profile seed, keys"


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
        if event not in allowed:
            expected = " or ".join(each.name for each in allowed) or "nothing more"
            raise LocalProtocolError(
                f"handshake, {self.side.name} in {self.state.name}: expected {expected}, got {event.name}"
            )
        self.state = allowed[event]

    def require(self, state: State) -> None:
        """Raises:
        LocalProtocolError: this side stands elsewhere.
        """
        if self.state is not state:
            raise LocalProtocolError(f"handshake, {self.side.name}: expected {state.name}, it is {self.state.name}")


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The client's first message.

    Attributes:
        public_key: RSAPublicKey of PKCS #1 in DER (RFC 8017, A.1.1), 270 bytes for RSA-2048.
        nonce: 32 bytes, never used before.
        signature: RSASSA-PSS with SHA-256 and a salt of 32 bytes over `signed_part`.
    """

    public_key: bytes
    nonce: bytes
    signature: bytes

    def encode(self) -> bytes:
        return cbor.encode(
            {"profile": PROFILE, "public_key": self.public_key, "nonce": self.nonce, "signature": self.signature}
        )


def signed_part(public_key: bytes, nonce: bytes) -> bytes:
    """What the hello's signature covers: a label that no other message has, the nonce, the public key."""
    return _HELLO_LABEL + nonce + public_key


def decode_hello(data: bytes) -> Hello:
    """Read a hello; the signature is not verified here.

    Raises:
        RemoteProtocolError: these are not the bytes of a hello in profile `seed`.
    """
    if len(data) > MAX_HELLO:
        raise RemoteProtocolError(f"expected a hello of at most {MAX_HELLO} bytes, got {len(data)}")
    try:
        fields = cbor.decode(data)
    except MalformedEvidenceError as error:
        raise RemoteProtocolError(f"expected a hello, got {error}") from None
    names = {"profile", "public_key", "nonce", "signature"}
    if not isinstance(fields, dict) or fields.keys() != names or fields["profile"] != PROFILE:
        raise RemoteProtocolError(f"expected a hello of profile {PROFILE} with {', '.join(sorted(names))}, got another")
    public_key, nonce, signature = fields["public_key"], fields["nonce"], fields["signature"]
    if not (isinstance(public_key, bytes) and isinstance(nonce, bytes) and isinstance(signature, bytes)):
        raise RemoteProtocolError("expected byte strings in a hello, got another type")
    if len(nonce) != NONCE_SIZE:
        raise RemoteProtocolError(f"expected a nonce of {NONCE_SIZE} bytes, got {len(nonce)}")
    return Hello(public_key=public_key, nonce=nonce, signature=signature)


def derive_keys(session_key: bytes, *, hello: bytes, document: bytes) -> SessionKeys:
    """The session's keys: HKDF-SHA-256 of the wrapped key, salted with the digest of both messages as they travelled.

    Whoever changed a byte of either message on its way gets other keys than his victim.
    """
    transcript = hashes.Hash(hashes.SHA256())
    for message in (hello, document):
        transcript.update(len(message).to_bytes(4, "big") + message)
    hkdf = HKDF(algorithm=hashes.SHA256(), length=16 + 2 * 32, salt=transcript.finalize(), info=_KEYS_LABEL)
    material = hkdf.derive(session_key)
    return SessionKeys(material[:16], material[16:48], material[48:])
