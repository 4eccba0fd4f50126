"""A key agreed on by X25519 (RFC 7748) and ML-KEM-768 (FIPS 203) together: whoever breaks one of the two has nothing.

    client                                        enclave
      Ephemeral: two fresh private keys
      offer: their public keys              ──▶   respond()
                                                  a fresh X25519 key, and a secret encapsulated for the ML-KEM key
      combine()                             ◀──   response: that public key, and the ciphertext

This file does not know who is at the other end. Anybody can answer an offer; that an enclave did is for the handshake
to show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

X25519_SIZE = 32
"""Bytes of a private key and of a public one (RFC 7748, 6.1)."""

ML_KEM_SEED_SIZE = 64
"""Bytes of d || z, from which a key pair is made (FIPS 203, 7.1)."""

ML_KEM_PUBLIC_SIZE = 1184
ML_KEM_CIPHERTEXT_SIZE = 1088
"""FIPS 203, table 3."""

Encapsulate = Callable[[MLKEM768PublicKey], tuple[bytes, bytes]]
"""A fresh secret of 32 bytes for a key, and its ciphertext: `edges` gives the one that randomises."""

_NO_ML_KEM = (
    "expected ML-KEM-768 from the library cryptography, its build here has none; "
    "install cryptography 48 or later, or connect with profile seed"
)


class Offer(NamedTuple):
    """What the client sends: two public keys, for this handshake alone."""

    x25519: bytes
    ml_kem_768: bytes


class Response(NamedTuple):
    """What the enclave sends back: its public key, and a ciphertext for the client's."""

    x25519: bytes
    ml_kem_768: bytes


class Ephemeral:
    """The client's two private keys, for one use. Not guaranteed: that Python's memory keeps no copy of them.

    Args:
        x25519: 32 random bytes.
        ml_kem: 64 random bytes, d || z.

    Raises:
        LocalProtocolError: the library has no ML-KEM.
    """

    def __init__(self, *, x25519: bytes, ml_kem: bytes) -> None:
        try:
            kem = MLKEM768PrivateKey.from_seed_bytes(ml_kem)
        except UnsupportedAlgorithm:
            raise LocalProtocolError(_NO_ML_KEM) from None
        curve = X25519PrivateKey.from_private_bytes(x25519)
        self.offer = Offer(curve.public_key().public_bytes_raw(), kem.public_key().public_bytes_raw())
        self._keys: tuple[X25519PrivateKey, MLKEM768PrivateKey] | None = curve, kem

    def combine(self, response: Response) -> bytes:
        """The secret, 64 bytes; the private keys are gone afterwards.

        Not guaranteed: that the other side has it. A changed ciphertext gives another secret and no error.

        Raises:
            RemoteProtocolError: a point of low order, or a size that is none of these algorithms'.
            LocalProtocolError: the keys were used before.
        """
        if self._keys is None:
            raise LocalProtocolError("expected one response to an offer, got a second; make a new handshake")
        (curve, kem), self._keys = self._keys, None
        try:
            agreed = curve.exchange(X25519PublicKey.from_public_bytes(response.x25519))
            return kem.decapsulate(response.ml_kem_768) + agreed
        except ValueError:
            raise RemoteProtocolError(f"expected {_SOUND} and a ciphertext in an answer, got others") from None


def respond(offer: Offer, *, x25519: bytes, encapsulate: Encapsulate) -> tuple[Response, bytes]:
    """The enclave's response to an offer, and the secret, 64 bytes. Its own private key does not outlive the call.

    Args:
        x25519: 32 random bytes.

    Raises:
        RemoteProtocolError: a point of low order, or bytes that are no key.
        LocalProtocolError: the library has no ML-KEM.
    """
    curve = X25519PrivateKey.from_private_bytes(x25519)
    try:
        agreed = curve.exchange(X25519PublicKey.from_public_bytes(offer.x25519))
        kem = MLKEM768PublicKey.from_public_bytes(offer.ml_kem_768)
    except ValueError:
        raise RemoteProtocolError(f"expected {_SOUND} and an ML-KEM-768 key in a hello, got others") from None
    except UnsupportedAlgorithm:
        raise LocalProtocolError(_NO_ML_KEM) from None
    encapsulated, ciphertext = encapsulate(kem)
    return Response(curve.public_key().public_bytes_raw(), ciphertext), encapsulated + agreed


# RFC 7748, 6.1: a point of low order makes the result zero, whatever the other side's key.
_SOUND = "an X25519 point that is not of low order"
