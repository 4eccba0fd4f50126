"""What the library `cryptography` randomises by itself, for an enclave's side of the handshake.

Here and not in `channel`, where randomness is an argument. This file knows no handshake.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

from workshop_kit.channel.enclave_handshake import Primitives

_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


def wrap_key(public_key: rsa.RSAPublicKey, session_key: bytes) -> bytes:
    """RSA-OAEP with SHA-256 (RFC 8017, 7.1): 256 bytes for an RSA-2048 key."""
    return public_key.encrypt(session_key, _OAEP)


def encapsulate(public_key: MLKEM768PublicKey) -> tuple[bytes, bytes]:
    """A fresh secret of 32 bytes, and its ciphertext of 1088 for that key (FIPS 203, 7.2)."""
    return public_key.encapsulate()


PRIMITIVES = Primitives(wrap=wrap_key, encapsulate=encapsulate)
