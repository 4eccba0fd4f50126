"""The enclave's side of the handshake. It asks for evidence and takes it; who makes it is not its business."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from workshop_kit.channel.handshake import Event, Hello, Progress, Side, State, decode_hello, derive_keys, signed_part
from workshop_kit.channel.session import EnclaveSession
from workshop_kit.errors import AccessDeniedError, RemoteProtocolError

_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)

WrapKey = Callable[[rsa.RSAPublicKey, bytes], bytes]
"""RSA-OAEP with SHA-256 of a session key for a user: `edges` gives the one that randomises."""


@dataclass(frozen=True)
class AttestationNeeded:
    """What the NSM is to sign for this client."""

    user_data: bytes
    nonce: bytes
    public_key: bytes


class EnclaveHandshake:
    """One handshake: `receive_hello()`, then `provide_evidence()`.

    Args:
        is_known: whether a public key (RSAPublicKey in DER) belongs to a user of this enclave.
        session_key: 32 fresh random bytes.
        wrap: wraps it for a user.
    """

    def __init__(self, *, is_known: Callable[[bytes], bool], session_key: bytes, wrap: WrapKey) -> None:
        self._progress = Progress(Side.ENCLAVE)
        self._is_known = is_known
        self._session_key = session_key
        self._wrap = wrap
        self._hello = b""

    @property
    def state(self) -> State:
        return self._progress.state

    def receive_hello(self, data: bytes) -> AttestationNeeded:
        """Authenticate the client and say what must be attested.

        Raises:
            RemoteProtocolError: these bytes are no hello.
            AccessDeniedError: with status 401; an unknown key, or a signature that is not its.
        """
        self._progress.require(State.IDLE)
        try:
            hello = decode_hello(data)
            key = self._authenticate(hello)
        except (RemoteProtocolError, AccessDeniedError):
            self._progress.advance(Event.HELLO_REFUSED)
            raise
        self._progress.advance(Event.HELLO_ACCEPTED)
        self._hello = data
        wrapped = self._wrap(key, self._session_key)
        return AttestationNeeded(user_data=wrapped, nonce=hello.nonce, public_key=hello.public_key)

    def _authenticate(self, hello: Hello) -> rsa.RSAPublicKey:
        if not self._is_known(hello.public_key):
            fingerprint = hashlib.sha256(hello.public_key).hexdigest()[:16]
            raise AccessDeniedError(
                f"expected the public key of a user of this enclave, got one with SHA-256 {fingerprint}…; "
                "use the key that was given when the enclave was built",
                status=401,
            )
        try:
            key = load_der_public_key(hello.public_key)
        except (ValueError, UnsupportedAlgorithm):
            raise RemoteProtocolError("expected an RSA public key in a hello, got something else") from None
        if not isinstance(key, rsa.RSAPublicKey):
            raise RemoteProtocolError(f"expected an RSA public key in a hello, got {type(key).__name__}")
        try:
            key.verify(hello.signature, signed_part(hello.public_key, hello.nonce), _PSS, hashes.SHA256())
        except InvalidSignature:
            raise AccessDeniedError(
                "expected a signature by the key in the hello, got another; the private and the public key file "
                "may belong to different users",
                status=401,
            ) from None
        return key

    def provide_evidence(self, document: bytes) -> EnclaveSession:
        """The session that stands once `document`, which attests what was asked, goes to the client.

        The client is not proven by it: anyone may repeat a hello. It is, once a first record opens.
        """
        self._progress.advance(Event.EVIDENCE_PROVIDED)
        return EnclaveSession(derive_keys(self._session_key, hello=self._hello, document=document))
