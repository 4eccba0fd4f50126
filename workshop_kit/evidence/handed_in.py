"""What an enclave is handed at run time, users and runtime configuration, and how PCR16 measures it (SPEC.md, [U-2]).

It is not in the image, so PCR0, 1 and 2 say nothing of it: an operator who adds a user moves PCR16 alone. The same
bytes travel into the enclave and are measured. This file does not know what they mean.
"""

from __future__ import annotations

from typing import NamedTuple

from workshop_kit.errors import MalformedEvidenceError, ManifestError
from workshop_kit.evidence import cbor, pcr


class HandedIn(NamedTuple):
    """Both files, byte for byte; None is a file that was not handed in, which is not the same as an empty one."""

    users: bytes | None = None
    runtime_config: bytes | None = None

    def encode(self) -> bytes:
        """The message into the enclave, and what is measured.

        Raises:
            ManifestError: both together are larger than an enclave reads.
        """
        encoded = cbor.encode(self._asdict())
        if len(encoded) > cbor.MAX_SIZE:
            raise ManifestError(
                f"users and runtime configuration: expected at most {cbor.MAX_SIZE} bytes together, "
                f"got {len(encoded)}: shorten them"
            )
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> HandedIn:
        """Read what `encode` gives.

        Raises:
            MalformedEvidenceError: these are other bytes.
        """
        item = cbor.decode(data)
        if not isinstance(item, dict) or tuple(item) != cls._fields:
            raise MalformedEvidenceError("expected a map of users and runtime_config, got something else")
        users, runtime_config = item.values()
        if not isinstance(users, bytes | None) or not isinstance(runtime_config, bytes | None):
            raise MalformedEvidenceError("expected users and runtime_config as bytes or null, got something else")
        return cls(users, runtime_config)

    def digest(self) -> bytes:
        """What the enclave extends PCR16 with."""
        return pcr.digest(self.encode())


def runtime_measurement(users: bytes | None = None, runtime_config: bytes | None = None) -> bytes:
    """The PCR16 of an enclave that was handed these bytes, to demand beside PCR0, 1 and 2.

    Raises:
        ManifestError: no enclave takes that much.
    """
    return pcr.extend(pcr.ZERO, HandedIn(users, runtime_config).digest())
