"""Keys and the certificates that endorse them, as plain values: what an infrastructure keeps, and for how long.

Certificates are renewed as they age, with new keys, as on Nitro: a leaf lives for three hours, an enclave for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec

Random: TypeAlias = Callable[[int], bytes]
"""`random(n)` returns n unpredictable bytes: os.urandom outside tests."""

ROOT, REGIONAL, ZONAL = "root", "regional", "zonal"

LEAF_LIFE = timedelta(hours=3, seconds=3)
_LEAF_RENEWAL = timedelta(minutes=40)
_AUTHORITY_RENEWAL = LEAF_LIFE + timedelta(minutes=10)
"""An authority is replaced while it still outlives any leaf below it."""


class Issued(NamedTuple):
    """A key and the certificate that endorses it.

    Attributes:
        key: the private value, on P-384.
        certificate: DER.
        issuer: DER of the certificate whose key signed it.
        begin, end: the first second of its life and the last, since 1970.
    """

    key: int
    certificate: bytes
    issuer: bytes
    begin: int
    end: int

    def private_key(self) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(self.key, ec.SECP384R1())


Register: TypeAlias = Mapping[str, Issued]
"""What is in force, by name: a role, an instance's id, a module's id."""


def chain_of(module_id: str) -> tuple[str, ...]:
    """The names on the way from the root to a module's leaf."""
    return (ROOT, REGIONAL, ZONAL, module_id.rpartition("-")[0], module_id)


def usable(register: Register, name: str, issuer: Issued | None, *, leaf: bool, now: datetime) -> bool:
    """Whether what stands under `name` is there, is of this issuer, and lives long enough from `now`.

    A clock that was set back lies before its life. The root lasts as long as its infrastructure.
    """
    found = register.get(name)
    if issuer is None or found is None:
        return found is not None
    until = now + (_LEAF_RENEWAL if leaf else _AUTHORITY_RENEWAL)
    return found.issuer == issuer.certificate and found.begin <= now.timestamp() and until.timestamp() < found.end
