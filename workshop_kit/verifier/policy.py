"""Appraisal policies: what a Relying Party demands beyond a well-signed document.

A policy without reference values affirms nothing. To leave a demand out takes a class whose name begins `Unsafe`.

Policies compose: `AllOf` demands what every part demands, `AnyOf` what at least one does. A part may say one thing
only; what no part says is as in a plain policy.

    released = AnyOf(*(Policy(reference_values=values) for values in published))
    AllOf(released, Policy(max_age=timedelta(seconds=30)))
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property, reduce
from itertools import product
from typing import ClassVar, NamedTuple, Self, TypeAlias, TypeVar

from workshop_kit.errors import WorkshopKitError
from workshop_kit.verifier.endorsements import AWS_NITRO_ROOT_G1, TrustAnchor
from workshop_kit.verifier.ledger import Number
from workshop_kit.verifier.reference_values import ReferenceValues

T = TypeVar("T")

MAX_AGE = timedelta(minutes=5)
"""How old a document may be unless the policy says otherwise; genuine ones arrive within seconds."""

CLOCK_SKEW = timedelta(seconds=30)
"""How far the signer's clock may run ahead of the verifier's."""

MAX_ALTERNATIVES = 256
"""Ways to pass that one policy may offer; each costs an appraisal where the ones before it fail."""


_Named: TypeAlias = tuple[tuple[Number, tuple[bytes, ...]], ...]


class _Demands(NamedTuple):
    trust_anchors: tuple[TrustAnchor, ...]
    max_ages: tuple[timedelta, ...]
    reference_values: tuple[ReferenceValues, ...]
    nonces: tuple[bytes, ...]
    public_keys: tuple[bytes, ...]
    user_datas: tuple[bytes, ...]
    waived: Mapping[int, str]


class Demands(_Demands):
    """One way to pass: all that a document must keep at once. Where it names several values, each must hold.

    `waived` has the claims that may go unchecked, each with the policy that says so.
    """

    @cached_property
    def anchors(self) -> tuple[TrustAnchor, ...]:
        return self.trust_anchors or (AWS_NITRO_ROOT_G1,)

    @cached_property
    def max_age(self) -> timedelta:
        return min(self.max_ages, default=MAX_AGE)

    @cached_property
    def required(self) -> frozenset[Number]:
        """The claims that must have passed for an affirming result."""
        named: _Named = ((6, self.nonces), (10, self.public_keys), ("10a", self.user_datas))
        return frozenset([7, 8, 9, *[number for number, wanted in named if wanted]]) - self.waived.keys()

    def and_also(self, other: Demands) -> Demands:
        """Both at once. Only what both waive stays waived: a careless part never loosens a careful one."""
        return Demands(
            trust_anchors=_union(self.trust_anchors, other.trust_anchors),
            max_ages=_union(self.max_ages, other.max_ages),
            reference_values=_union(self.reference_values, other.reference_values),
            nonces=_union(self.nonces, other.nonces),
            public_keys=_union(self.public_keys, other.public_keys),
            user_datas=_union(self.user_datas, other.user_datas),
            waived={number: self.waived[number] for number in self.waived.keys() & other.waived.keys()},
        )


class _Said(NamedTuple):
    reference_values: ReferenceValues | None = None
    trust_anchor: TrustAnchor | None = None
    max_age: timedelta | None = None
    nonce: bytes | None = None
    public_key: bytes | None = None
    user_data: bytes | None = None


class Policy(_Said):
    """Demands on a document, each a check of the appraisal.

    Attributes:
        reference_values: for check 9. None affirms nothing.
        trust_anchor: for check 4; the root that the caller trusts. None: AWS's.
        max_age: for check 7. None: five minutes.
        nonce: for check 6; the challenge, or None outside a handshake.
        public_key: for check 10; the key that the handshake used, or None outside a handshake.
        user_data: for 10a; what the handshake binds of all that travels beside the document, or None.
    """

    waived: ClassVar[frozenset[int]] = frozenset()
    """Claims (checks 6 to 10) that may go unchecked. Empty in every policy whose name does not begin `Unsafe`."""

    def for_handshake(self, *, nonce: bytes, public_key: bytes | None = None, user_data: bytes | None = None) -> Self:
        """The same demands, and in addition that the document has these three, those that are not None."""
        return self._replace(nonce=nonce, public_key=public_key, user_data=user_data)

    @cached_property
    def alternatives(self) -> tuple[Demands, ...]:
        """The ways to pass: one."""
        demands = Demands(
            trust_anchors=_said(self.trust_anchor),
            max_ages=_said(self.max_age),
            reference_values=_said(self.reference_values),
            nonces=_said(self.nonce),
            public_keys=_said(self.public_key),
            user_datas=_said(self.user_data),
            waived=dict.fromkeys(self.waived, type(self).__name__),
        )
        return (demands,)

    def __eq__(self, other: object) -> bool:
        """The class counts: an `Unsafe` policy equals no other with the same fields."""
        return type(self) is type(other) and super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = _Said.__hash__


class UnsafeAnyImagePolicy(Policy):
    """Affirms whatever image runs: check 9 is left out, all others stand. Anybody's enclave passes, a thief's too."""

    waived: ClassVar[frozenset[int]] = frozenset({9})


class UnsafeDebugPolicy(Policy):
    """Affirms debug enclaves, whose console the operator reads: checks 8 and 9 are left out (debug PCRs are zero)."""

    waived: ClassVar[frozenset[int]] = frozenset({8, 9})


class UnsafeAnyAgePolicy(Policy):
    """Affirms documents of any age: check 7 is left out, so a recorded document passes as long as its certificates."""

    waived: ClassVar[frozenset[int]] = frozenset({7})


class _Composed(ABC):
    """Several policies as one.

    Raises:
        WorkshopKitError: there is no part, or the parts combine to more than 256 ways to pass.
    """

    def __init__(self, *parts: AnyPolicy) -> None:
        name = type(self).__name__
        if not parts:
            raise WorkshopKitError(f"{name} without a policy in it: expected at least one, got none")
        ways = self._ways([len(part.alternatives) for part in parts])
        if ways > MAX_ALTERNATIVES:
            raise WorkshopKitError(f"{name}: expected at most {MAX_ALTERNATIVES} ways to pass, got {ways}")
        self.parts = parts

    def for_handshake(self, *, nonce: bytes, public_key: bytes | None = None, user_data: bytes | None = None) -> Self:
        """The same demands, and in addition that the document has these three, those that are not None."""
        bound = (part.for_handshake(nonce=nonce, public_key=public_key, user_data=user_data) for part in self.parts)
        return type(self)(*bound)

    @cached_property
    @abstractmethod
    def alternatives(self) -> tuple[Demands, ...]:
        """The ways to pass, in the order in which they are tried."""

    @staticmethod
    @abstractmethod
    def _ways(of_parts: list[int]) -> int:
        """How many ways there are to pass, given those of each part."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.parts))})"


class AllOf(_Composed):
    """Demands what each of its parts demands, all at once."""

    @cached_property
    def alternatives(self) -> tuple[Demands, ...]:
        ways = product(*(part.alternatives for part in self.parts))
        return tuple(reduce(Demands.and_also, way) for way in ways)

    @staticmethod
    def _ways(of_parts: list[int]) -> int:
        return math.prod(of_parts)


class AnyOf(_Composed):
    """Demands what one of its parts demands, tried in their order."""

    @cached_property
    def alternatives(self) -> tuple[Demands, ...]:
        return tuple(demands for part in self.parts for demands in part.alternatives)

    @staticmethod
    def _ways(of_parts: list[int]) -> int:
        return sum(of_parts)


AnyPolicy: TypeAlias = Policy | AllOf | AnyOf


def _said(value: T | None) -> tuple[T, ...]:
    return () if value is None else (value,)


def _union(one: tuple[T, ...], other: tuple[T, ...]) -> tuple[T, ...]:
    return one + tuple(value for value in other if value not in one)
