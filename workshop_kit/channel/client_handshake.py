"""The client's side of the handshake. It cannot reach ESTABLISHED without an affirming appraisal."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from workshop_kit.channel.handshake import (
    NONCE_SIZE,
    SESSION_KEY_SIZE,
    Event,
    Hello,
    Progress,
    Side,
    State,
    derive_keys,
    signed_part,
)
from workshop_kit.channel.session import ClientSession
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError
from workshop_kit.verifier import AnyPolicy, AppraisalResult, appraise


class UserKey(Protocol):
    """A user's RSA key: the operations that the handshake needs, whoever holds the private part."""

    @property
    def public_bytes(self) -> bytes:
        """RSAPublicKey of PKCS #1 in DER."""

    def sign(self, message: bytes) -> bytes:
        """RSASSA-PSS with SHA-256 and a salt of 32 bytes."""

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """What RSA-OAEP with SHA-256 wrapped for this key; None where it is no such thing."""


class ClientHandshake:
    """One handshake: `hello()`, then `receive_evidence()`, then `session()`.

    Args:
        key: the user's.
        policy: what the evidence must satisfy; nonce and key of this handshake are added.
        nonce: 32 bytes that were never used before. A repeated one lets a recorded answer in.
    """

    def __init__(self, key: UserKey, policy: AnyPolicy, *, nonce: bytes) -> None:
        if len(nonce) != NONCE_SIZE:
            raise LocalProtocolError(f"expected a nonce of {NONCE_SIZE} bytes, got {len(nonce)}")
        self._progress = Progress(Side.CLIENT)
        self._key = key
        self._nonce = nonce
        self._policy = policy.for_handshake(nonce=nonce, public_key=key.public_bytes)
        self._hello = b""
        self._session: ClientSession | None = None

    @property
    def state(self) -> State:
        return self._progress.state

    def hello(self) -> bytes:
        """The first message, for the enclave."""
        self._progress.advance(Event.HELLO_SENT)
        public_key = self._key.public_bytes
        signature = self._key.sign(signed_part(public_key, self._nonce))
        self._hello = Hello(public_key=public_key, nonce=self._nonce, signature=signature).encode()
        return self._hello

    def receive_evidence(self, evidence: bytes, *, now: datetime) -> AppraisalResult:
        """Appraise the enclave's answer, and take its key only if the result affirms.

        Raises:
            AppraisalError: the policy does not affirm; `.result` is the ledger.
            RemoteProtocolError: affirmed evidence that holds no session key for this user.
        """
        self._progress.require(State.AWAITING_EVIDENCE)
        result = appraise(evidence, self._policy, now=now)
        session_key = (
            self._key.unwrap(result.document.user_data or b"") if result.affirmed and result.document else None
        )
        if session_key is None or len(session_key) != SESSION_KEY_SIZE:
            self._progress.advance(Event.EVIDENCE_REFUSED)
            _ = result.claims  # raises where the policy does not affirm
            raise RemoteProtocolError("expected an AES-256 key in user_data, wrapped for this user's key; got none")
        self._session = ClientSession(derive_keys(session_key, hello=self._hello, document=evidence))
        self._progress.advance(Event.EVIDENCE_AFFIRMED)
        return result

    def session(self) -> ClientSession:
        """The session that the handshake established.

        Raises:
            LocalProtocolError: there is none.
        """
        self._progress.require(State.ESTABLISHED)
        assert self._session is not None  # the only way to ESTABLISHED makes it
        return self._session
