"""Deduction once more, the slow way: every rule, forwards, over a fixed set of terms, until nothing is new.

Nothing of `workshop_kit.models.attacker` is used: what that says is compared with this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from workshop_kit.models.terms import (
    Agreed,
    Derived,
    Digest,
    KemCiphertext,
    KemPublic,
    KemSecret,
    Pack,
    Public,
    Sealed,
    Share,
    Signed,
    Term,
    Wrapped,
)

Rule = tuple[tuple[Term, ...], Term]
"""Who has all of the first makes the second."""


def derivable(
    term: Term,
    known: Iterable[Term],
    broken: frozenset[type[Term]] = frozenset(),
    signers: frozenset[tuple[Term, Term]] = frozenset(),
) -> bool:
    have = set(known)
    rules = [rule for each in universe([*have, term]) for rule in rules_about(each, broken, signers)]
    grown = True
    while grown:
        grown = False
        for needed, gained in rules:
            if gained not in have and have.issuperset(needed):
                have.add(gained)
                grown = True
    return term in have


def universe(terms: Iterable[Term]) -> set[Term]:
    """Every part of these terms, and what a proof may need beside them."""
    found: set[Term] = set()
    queue = list(terms)
    while queue:
        term = queue.pop()
        if term not in found:
            found.add(term)
            queue += parts(term)
    return found


def parts(term: Term) -> list[Term]:
    match term:
        case Pack(inner):
            return list(inner)
        case Agreed(one, other):
            return [one, other, Share(one), Share(other)]
        case KemSecret(coins, public):
            return [coins, public, KemCiphertext(coins, public)]
    return [part for part in vars(term).values() if isinstance(part, Term)]


def rules_about(term: Term, broken: frozenset[type[Term]], signers: frozenset[tuple[Term, Term]]) -> Iterator[Rule]:
    match term:
        case Pack(inner):
            yield inner, term
            yield from (((term,), part) for part in inner)
        case Public(private) | Share(private) | KemPublic(private):
            yield (private,), term
            if type(term) in broken:
                yield (term,), private
        case Signed(message, private):
            yield (message, private), term
            yield (term,), message
            if isinstance(message, Pack) and message.parts and (private, message.parts[0]) in signers:
                yield (message,), term
        case Wrapped(message, public):
            yield (message, public), term
            if isinstance(public, Public):
                yield (term, public.private), message
        case Sealed(message, key):
            yield (message, key), term
            yield (term, key), message
        case Digest(message):
            yield (message,), term
        case Derived(_, secret, context):
            yield (secret, context), term
        case Agreed(one, other):
            yield (one, Share(other)), term
            yield (other, Share(one)), term
        case KemCiphertext(coins, public):
            yield (coins, public), term
        case KemSecret(coins, public):
            yield (coins, public), term
            if isinstance(public, KemPublic):
                yield (public.private, KemCiphertext(coins, public)), term
