"""Platform Configuration Registers: what they stand for and how a value gets into one.

A PCR cannot be set, only extended: the new value is the digest of the old value and the data. So its content depends on
everything that was extended into it, and on the order. Explained in notebook 03.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

SIZE = 48
"""Bytes of a PCR and of a SHA-384 digest."""

COUNT = 32
"""PCRs of an NSM, with indices 0 to 31."""

ZERO = bytes(SIZE)
"""The value of a PCR into which nothing was extended."""


class Pcr(IntEnum):
    """Indices with a meaning (AWS Nitro Enclaves User Guide, "Cryptographic attestation")."""

    IMAGE = 0
    KERNEL_AND_BOOTSTRAP = 1
    APPLICATION = 2
    PARENT_IAM_ROLE = 3
    PARENT_INSTANCE_ID = 4
    SIGNING_CERTIFICATE = 8
    USERS_AND_RUNTIME_CONFIG = 16  # free for the enclave on Nitro; the workshop's enclaves put these there


def extend(old: bytes, data: bytes) -> bytes:
    """SHA-384(old || data), the NSM's ExtendPCR. `old` and the result are 48 bytes."""
    return digest(old, data)


def digest(*parts: bytes) -> bytes:
    """SHA-384 of the concatenation, 48 bytes."""
    # Late, as who only names registers needs it not; and no hashlib, which would bring a second library to the first.
    from cryptography.hazmat.primitives import hashes

    sha384 = hashes.Hash(hashes.SHA384())
    for part in parts:
        sha384.update(part)
    return sha384.finalize()


def measure(*parts: bytes) -> bytes:
    """The value of PCR0, 1, 2 and 8 for `parts`: a zero PCR extended by the digest of their concatenation.

    Boundaries between parts are not measured, so PCR0 alone does not say where the kernel ends and a ramdisk begins:
    compare PCR0, 1 and 2 together.
    """
    return extend(ZERO, digest(*parts))


@lru_cache(maxsize=64)
def measure_name(name: str) -> bytes:
    """The value of PCR3 (an IAM role's ARN) and PCR4 (an instance id), which extend the text itself, undigested."""
    return extend(ZERO, name.encode())
