"""The client's side of the handshake. It cannot reach ESTABLISHED without an affirming appraisal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from workshop_kit.channel.handshake import (
    NONCE_SIZE,
    SESSION_KEY_SIZE,
    Answer,
    Event,
    Hello,
    Profile,
    Progress,
    Side,
    State,
    decode_answer,
    derive_keys,
    draw,
    signed_part,
    transcript,
)
from workshop_kit.channel.hybrid import ML_KEM_SEED_SIZE, X25519_SIZE, Ephemeral
from workshop_kit.channel.session import ClientSession
from workshop_kit.errors import AppraisalError, RemoteProtocolError
from workshop_kit.evidence.cose import MAX_SIZE
from workshop_kit.verifier import AnyPolicy, AppraisalResult, appraise

MAX_ANSWER = MAX_SIZE + 2048
"""Bytes of an answer that are still read: of a document, and of what travels beside it."""


class UserKey(Protocol):
    """A user's RSA key: the operations that the handshake needs, whoever holds the private part."""

    @property
    def public_bytes(self) -> bytes:
        """RSAPublicKey of PKCS #1 in DER."""

    def sign(self, message: bytes) -> bytes:
        """RSASSA-PSS with SHA-256 and a salt of 32 bytes."""

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """What RSA-OAEP with SHA-256 wrapped for this key; None where it is no such thing. For profile `seed`."""


class ClientHandshake:
    """One handshake: `hello()`, then `receive_evidence()`, then `session()`.

    Args:
        key: the user's.
        policy: what the evidence must satisfy; nonce, key and transcript of this handshake are added.
        random: fresh random bytes, as many as it is asked for. Repeated ones let a recorded answer in.
        profile: in which the hello is written, and the only one in which an answer is read.
    """

    def __init__(
        self,
        key: UserKey,
        policy: AnyPolicy,
        *,
        random: Callable[[int], bytes],
        profile: Profile = Profile.MODERN,
    ) -> None:
        self._progress = Progress(Side.CLIENT)
        self._key = key
        self._policy = policy
        self._profile = profile
        self._nonce = draw(random, NONCE_SIZE)
        self._ephemeral = _ephemeral(random) if profile is Profile.MODERN else None
        self._hello = b""
        self._session: ClientSession | None = None

    @property
    def state(self) -> State:
        return self._progress.state

    def hello(self) -> bytes:
        """The first message, for the enclave."""
        self._progress.advance(Event.HELLO_SENT)
        public_key, nonce = self._key.public_bytes, self._nonce
        offer = None if self._ephemeral is None else self._ephemeral.offer
        signature = self._key.sign(signed_part(public_key, nonce, offer))
        self._hello = Hello(public_key=public_key, nonce=nonce, signature=signature, offer=offer).encode()
        return self._hello

    def receive_evidence(self, data: bytes, *, now: datetime) -> AppraisalResult:
        """Appraise the enclave's answer, and take its key only if the result affirms.

        Raises:
            AppraisalError: the policy does not affirm; `.result` is the ledger.
            RemoteProtocolError: no answer in this handshake's profile, or affirmed evidence without a key in it.
        """
        self._progress.require(State.AWAITING_EVIDENCE)
        try:
            answer = decode_answer(data, self._profile)
            result = self._appraise(answer, now)
            secret = self._secret(answer, result)
        except (AppraisalError, RemoteProtocolError):
            self._end(Event.EVIDENCE_REFUSED)
            raise
        self._session = ClientSession(derive_keys(self._profile, secret, hello=self._hello, answer=data))
        self._end(Event.EVIDENCE_AFFIRMED)
        return result

    def _end(self, event: Event) -> None:
        self._progress.advance(event)
        self._ephemeral = None  # what is stolen from here later opens nothing that was recorded

    def _appraise(self, answer: Answer, now: datetime) -> AppraisalResult:
        user_data = None if answer.response is None else transcript(self._hello, answer.response)
        policy = self._policy.for_handshake(nonce=self._nonce, public_key=self._key.public_bytes, user_data=user_data)
        return appraise(answer.document, policy, now=now)

    def _secret(self, answer: Answer, result: AppraisalResult) -> bytes:
        claims = result.claims  # raises where the policy does not affirm
        if self._ephemeral is not None and answer.response is not None:
            return self._ephemeral.combine(answer.response)
        key = self._key.unwrap(claims.user_data or b"")
        if key is None or len(key) != SESSION_KEY_SIZE:
            raise RemoteProtocolError("expected an AES-256 key in user_data, wrapped for this user's key; got none")
        return key

    def session(self) -> ClientSession:
        """The session that the handshake established.

        Raises:
            LocalProtocolError: there is none.
        """
        self._progress.require(State.ESTABLISHED)
        assert self._session is not None  # the only way to ESTABLISHED makes it
        return self._session


def _ephemeral(random: Callable[[int], bytes]) -> Ephemeral:
    return Ephemeral(x25519=draw(random, X25519_SIZE), ml_kem=draw(random, ML_KEM_SEED_SIZE))
