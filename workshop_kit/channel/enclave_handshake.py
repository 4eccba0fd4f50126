"""The enclave's side of the handshake. It asks for evidence and takes it; who makes it is not its business."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from workshop_kit.channel.handshake import (
    SESSION_KEY_SIZE,
    Answer,
    Event,
    Hello,
    Profile,
    Progress,
    Side,
    State,
    decode_hello,
    derive_keys,
    draw,
    signed_part,
    transcript,
)
from workshop_kit.channel.hybrid import X25519_SIZE, Encapsulate, Response, respond
from workshop_kit.channel.session import EnclaveSession
from workshop_kit.errors import AccessDeniedError, RemoteProtocolError, WorkshopKitError

_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)

WrapKey = Callable[[rsa.RSAPublicKey, bytes], bytes]
"""RSA-OAEP with SHA-256 of a session key for a user: `edges` gives the one that randomises."""


class Primitives(NamedTuple):
    """What the library randomises by itself: RSA-OAEP for profile `seed`, ML-KEM for `modern`."""

    wrap: WrapKey
    encapsulate: Encapsulate


class AttestationNeeded(NamedTuple):
    """What the NSM is to sign for this client."""

    user_data: bytes
    nonce: bytes
    public_key: bytes


class EnclaveHandshake:
    """One handshake, in the profile of the client's choice: `receive_hello()`, `provide_evidence()`, `session()`.

    Args:
        is_known: whether a public key (RSAPublicKey in DER) belongs to a user of this enclave.
        random: fresh random bytes, as many as it is asked for.
        primitives: those that randomise by themselves.
    """

    def __init__(
        self, *, is_known: Callable[[bytes], bool], random: Callable[[int], bytes], primitives: Primitives
    ) -> None:
        self._progress = Progress(Side.ENCLAVE)
        self._is_known = is_known
        self._random = random
        self._primitives = primitives
        self._profile = Profile.MODERN
        self._hello = b""
        self._secret = b""
        self._response: Response | None = None
        self._session: EnclaveSession | None = None

    @property
    def state(self) -> State:
        return self._progress.state

    @property
    def profile(self) -> Profile:
        """The accepted hello's."""
        return self._profile

    def receive_hello(self, data: bytes) -> AttestationNeeded:
        """Authenticate the client and say what must be attested.

        Raises:
            RemoteProtocolError: these bytes are no hello.
            AccessDeniedError: with status 401; an unknown key, or a signature that is not its.
        """
        self._progress.require(State.IDLE)
        try:
            hello = decode_hello(data)
            user_data = self._agree(hello, self._authenticate(hello), data)
        except WorkshopKitError:
            self._progress.advance(Event.HELLO_REFUSED)
            raise
        self._progress.advance(Event.HELLO_ACCEPTED)
        self._profile, self._hello = hello.profile, data
        return AttestationNeeded(user_data=user_data, nonce=hello.nonce, public_key=hello.public_key)

    def _authenticate(self, hello: Hello) -> rsa.RSAPublicKey:
        if not self._is_known(hello.public_key):
            fingerprint = hashlib.sha256(hello.public_key).hexdigest()[:16]
            raise AccessDeniedError(
                f"expected the public key of a user of this enclave, got one with SHA-256 {fingerprint}…; "
                "use the key that was given when the enclave was built",
                status=401,
            )
        key = _public_key(hello.public_key)
        try:
            covered = signed_part(hello.public_key, hello.nonce, hello.offer)
            key.verify(hello.signature, covered, _PSS, hashes.SHA256())
        except InvalidSignature:
            raise AccessDeniedError(
                "expected a signature by the key in the hello, got another; the private and the public key file "
                "may belong to different users",
                status=401,
            ) from None
        return key

    def _agree(self, hello: Hello, key: rsa.RSAPublicKey, data: bytes) -> bytes:
        """Make the secret that the keys come from; what the document is to say of it."""
        if hello.offer is None:
            self._secret = draw(self._random, SESSION_KEY_SIZE)
            return self._primitives.wrap(key, self._secret)
        x25519 = draw(self._random, X25519_SIZE)
        self._response, self._secret = respond(hello.offer, x25519=x25519, encapsulate=self._primitives.encapsulate)
        return transcript(data, self._response)

    def provide_evidence(self, document: bytes) -> bytes:
        """The answer for the client, of a document that attests what was asked.

        The client is not proven by the session that stands from here on: anyone may repeat a hello. It is, once a first
        record opens.
        """
        self._progress.advance(Event.EVIDENCE_PROVIDED)
        answer = Answer(document, self._response).encode()
        self._session = EnclaveSession(derive_keys(self._profile, self._secret, hello=self._hello, answer=answer))
        self._secret = b""
        return answer

    def session(self) -> EnclaveSession:
        """The session that stands once the answer goes to the client.

        Raises:
            LocalProtocolError: there is none.
        """
        self._progress.require(State.ESTABLISHED)
        assert self._session is not None  # the only way to ESTABLISHED makes it
        return self._session


@lru_cache(maxsize=64)
def _public_key(der: bytes) -> rsa.RSAPublicKey:
    """A known user's key, read once: a key's first verification costs half as much again."""
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        raise RemoteProtocolError("expected an RSA public key in a hello, got something else") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise RemoteProtocolError(f"expected an RSA public key in a hello, got {type(key).__name__}")
    return key
