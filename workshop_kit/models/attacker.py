"""What Mallory can do with what he has heard, and nothing about any protocol.

He takes terms apart as far as his keys reach, and makes any term whose parts he can make. These are the rules of Dolev
and Yao (On the security of public key protocols, 1983): he owns the network, and no cipher is broken, unless his powers
say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple, TypeVar

from workshop_kit.models.terms import (
    Agreed,
    Derived,
    Digest,
    KemCiphertext,
    KemPublic,
    KemSecret,
    Name,
    Pack,
    Public,
    Sealed,
    Share,
    Signed,
    Term,
    Wrapped,
)

AnyTerm = TypeVar("AnyTerm", bound=Term)


class Gain(NamedTuple):
    """Who has `source` and `needed` reads `gained` out of it."""

    source: Term
    gained: Term
    needed: Term | None = None


def gains(term: Term, broken: frozenset[type[Term]] = frozenset()) -> Iterator[Gain]:
    """What a term gives away, and at what price; of a kind in `broken`, the private part of a public one too."""
    match term:
        case Pack(parts):
            yield from (Gain(term, part) for part in parts)
        case Signed(message, _):
            yield Gain(term, message)
        case Wrapped(message, Public(private)):
            yield Gain(term, message, private)
        case Sealed(message, key):
            yield Gain(term, message, key)
        case Public(private) | Share(private) | KemPublic(private) if type(term) in broken:
            yield Gain(term, private)


def recipes(term: Term) -> Iterator[tuple[Term, ...]]:
    """Each is a list of all that it takes to make a term; of a name there is none."""
    match term:
        case Pack(parts):
            yield parts
        case Public(private) | Share(private) | KemPublic(private):
            yield (private,)
        case Signed(message, key) | Wrapped(message, key) | Sealed(message, key):
            yield (key, message)
        case Digest(message):
            yield (message,)
        case Derived(_, secret, context):
            yield (secret, context)
        case Agreed(one, other):
            yield (one, Share(other))
            yield (other, Share(one))
        case KemCiphertext(coins, public):
            yield (coins, public)
        case KemSecret(coins, public):
            yield (coins, public)
            if isinstance(public, KemPublic):
                yield (public.private, KemCiphertext(coins, public))


class Powers(NamedTuple):
    """What Mallory has beside his ears.

    Attributes:
        broken: kinds of term whose public part gives him the private one, as `Share` to a quantum computer.
        signers: pairs of a signing key and a term: its owner signs for him whatever pack begins with that term. So he
            gets documents about images of his own, and about no other.
    """

    broken: frozenset[type[Term]] = frozenset()
    signers: frozenset[tuple[Term, Term]] = frozenset()


NO_POWERS = Powers()


class Attacker:
    """Mallory with all that he has heard, taken apart. He never changes: `hears` gives another.

    Attributes:
        known: what he has, each with how he read it out of something else; None came to him as it is.
    """

    def __init__(self, known: Mapping[Term, Gain | None], locked: list[Gain], powers: Powers) -> None:
        self.known = known
        self.powers = powers
        self._locked = locked
        self._answers: dict[Term, bool] = {}
        self._sorted: dict[type[Term], tuple[Term, ...]] = {}
        self._after: dict[object, Attacker] = {}
        self._met: dict[frozenset[Term], Attacker] = {}

    @classmethod
    def who_knows(cls, *terms: Term, powers: Powers = NO_POWERS) -> Attacker:
        return cls({}, [], powers)._with(terms)

    def hears(self, term: Term) -> Attacker:
        """Mallory after he heard this as well. Whoever knows the same is the same object."""
        if term in self.known:
            return self
        if term not in self._after:
            after = self._with((term,))
            after._met = self._met
            self._after[term] = self._met.setdefault(frozenset(after.known), after)
        return self._after[term]

    def later(self, leaks: tuple[Term, ...], powers: Powers) -> Attacker:
        """Mallory when he has learnt `leaks` and come to other powers."""
        if (leaks, powers) not in self._after:
            locked = [gain for term in self.known for gain in gains(term, powers.broken)]
            self._after[leaks, powers] = Attacker(self.known, locked, powers)._with(leaks)
        return self._after[leaks, powers]

    def _with(self, terms: Iterable[Term]) -> Attacker:
        """With these, taken apart. A key found late opens what was heard early, hence the loop."""
        mallory, found = self, dict[Term, Gain | None](dict.fromkeys(term for term in terms if term not in self.known))
        while True:
            known = {**mallory.known, **found}
            locked = [*mallory._locked, *(gain for term in found for gain in gains(term, self.powers.broken))]
            mallory = Attacker(known, [gain for gain in locked if gain.gained not in known], self.powers)
            found = {
                gain.gained: gain for gain in mallory._locked if gain.needed is None or mallory.can_make(gain.needed)
            }
            if not found:
                return mallory

    def can_have_signed(self, first: Term, key: Term) -> bool:
        """Whether he gets a signature by `key` on a pack that begins with `first`, if he can make the pack."""
        return (key, first) in self.powers.signers or self.can_make(key)

    def can_make(self, term: Term) -> bool:
        """Whether he has the term or a recipe for it."""
        if term not in self._answers:
            self._answers[term] = term in self.known or self.recipe(term) is not None
        return self._answers[term]

    def recipe(self, term: Term) -> tuple[Term, ...] | None:
        """What he would make a term of; None where something is missing."""
        for recipe in recipes(term):
            if all(map(self.can_make, recipe)):
                return recipe
        match term:
            case Signed(Pack((first, *_)) as message, key) if self.can_have_signed(first, key):
                return (message,) if self.can_make(message) else None
        return None

    def all(self, kind: type[AnyTerm]) -> tuple[AnyTerm, ...]:
        """Every term of a kind that he knows, his own first, in an order that is the same in each run."""
        if kind not in self._sorted:
            self._sorted[kind] = tuple(sorted((term for term in self.known if isinstance(term, kind)), key=_order))
        return self._sorted[kind]  # type: ignore[return-value]  # sorted by this very kind

    def names(self, kind: str) -> tuple[Name, ...]:
        return tuple(name for name in self.all(Name) if name.kind == kind)


@cache
def _order(term: Term) -> tuple[bool, str]:
    spelled = repr(term)
    return "Mallory" not in spelled, spelled
