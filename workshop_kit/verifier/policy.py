"""Appraisal policies: what a Relying Party demands beyond a well-signed document.

A policy without reference values affirms nothing. To leave a demand out takes a class whose name begins `Unsafe`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar, Self

from workshop_kit.verifier.endorsements import AWS_NITRO_ROOT_G1, TrustAnchor
from workshop_kit.verifier.reference_values import ReferenceValues

MAX_AGE = timedelta(minutes=5)
"""How old a document may be unless the policy says otherwise; genuine ones arrive within seconds."""

CLOCK_SKEW = timedelta(seconds=30)
"""How far the signer's clock may run ahead of the verifier's."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Demands on a document, each a check of the appraisal.

    Attributes:
        reference_values: for check 9. None affirms nothing.
        trust_anchor: for check 4; the root that the caller trusts, AWS's unless named otherwise.
        max_age: for check 7.
        nonce: for check 6; the challenge, or None outside a handshake.
        public_key: for check 10; the key that the handshake used, or None outside a handshake.
    """

    reference_values: ReferenceValues | None = None
    trust_anchor: TrustAnchor = AWS_NITRO_ROOT_G1
    max_age: timedelta = MAX_AGE
    nonce: bytes | None = None
    public_key: bytes | None = None

    waived: ClassVar[frozenset[int]] = frozenset()
    """Claims (checks 6 to 10) that may go unchecked. Empty in every policy whose name does not begin `Unsafe`."""

    def for_handshake(self, *, nonce: bytes, public_key: bytes) -> Self:
        """The same demands, and in addition that the document answers `nonce` and names `public_key`."""
        return replace(self, nonce=nonce, public_key=public_key)

    @property
    def required(self) -> frozenset[int]:
        """The claims that must have passed for an affirming result."""
        handshake = {6} if self.nonce is not None else set()
        handshake |= {10} if self.public_key is not None else set()
        return frozenset({7, 8, 9} | handshake) - self.waived


@dataclass(frozen=True, kw_only=True)
class UnsafeAnyImagePolicy(Policy):
    """Affirms whatever image runs: check 9 is left out, all others stand. Anybody's enclave passes, a thief's too."""

    waived: ClassVar[frozenset[int]] = frozenset({9})


@dataclass(frozen=True, kw_only=True)
class UnsafeDebugPolicy(Policy):
    """Affirms debug enclaves, whose console the operator reads: checks 8 and 9 are left out (debug PCRs are zero)."""

    waived: ClassVar[frozenset[int]] = frozenset({8, 9})


@dataclass(frozen=True, kw_only=True)
class UnsafeAnyAgePolicy(Policy):
    """Affirms documents of any age: check 7 is left out, so a recorded document passes as long as its certificates."""

    waived: ClassVar[frozenset[int]] = frozenset({7})
