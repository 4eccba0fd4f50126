"""A user's RSA key pair: made, kept in two files, used to sign a hello and to unwrap a session key.

The files are PKCS #1 in DER, `alice_private.der` and `alice_public.der`, as the people who know the seed workshop's
command expect them. A private file is readable by its owner alone, and no file is ever overwritten.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from workshop_kit.errors import LabError
from workshop_kit.files import read_file

KEY_SIZE = 2048
_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)


class UserKey:
    """An RSA-2048 private key with the operations of `channel.client_handshake.UserKey`."""

    def __init__(self, private_key: rsa.RSAPrivateKey) -> None:
        self._private_key = private_key
        self.public_bytes = private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.PKCS1
        )

    def __repr__(self) -> str:
        return f"UserKey(public_bytes={self.public_bytes[:12].hex()}…)"

    @classmethod
    def generate(cls) -> UserKey:
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=KEY_SIZE))

    @classmethod
    def load(cls, private_file: Path) -> UserKey:
        """From a file in DER, PKCS #1 or PKCS #8.

        Raises:
            LabError: the file cannot be read, or holds no RSA-2048 private key.
        """
        data = read_file(private_file)
        try:
            key = serialization.load_der_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise LabError(f"{private_file}: expected an RSA private key in DER, as `workshop keygen` writes") from None
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size != KEY_SIZE:
            kind = f"RSA-{key.key_size}" if isinstance(key, rsa.RSAPrivateKey) else type(key).__name__
            raise LabError(f"{private_file}: expected an RSA-{KEY_SIZE} private key, got {kind}")
        return cls(key)

    def save(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write `<name>_private.der` (mode 0600) and `<name>_public.der` into `directory`, which is made if needed.

        Raises:
            LabError: one of the files is there already, or cannot be written.
        """
        files = directory / f"{name}_private.der", directory / f"{name}_public.der"
        private = self._private_key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        for file in files:
            if file.exists():
                raise LabError(f"{file} is there already, and key files are never overwritten: choose another name")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _write_new(files[0], private, 0o600)
            _write_new(files[1], self.public_bytes, 0o644)
        except OSError as error:
            raise LabError(f"cannot write {error.filename}: {error.strerror}") from None
        return files

    def sign(self, message: bytes) -> bytes:
        return self._private_key.sign(message, _PSS, hashes.SHA256())

    def unwrap(self, wrapped: bytes) -> bytes | None:
        try:
            return self._private_key.decrypt(wrapped, _OAEP)
        except ValueError:
            return None


def _write_new(file: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
