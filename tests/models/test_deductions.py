"""What Mallory can make of what he knows: rule by rule, and against a slow search that shares no code with it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from saturated import derivable

from workshop_kit.models.attacker import Attacker, Powers
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
    agree,
    decapsulate,
    pack,
)

A, B, C = Name("a"), Name("b"), Name("c")
names = st.sampled_from([A, B, C, Name("d")])


def grow(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    """Terms of each kind; keys are names or what keys are made of, so that decryption is often possible."""
    keys = st.one_of(names, st.builds(Derived, st.just("key"), names, inner))
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: Pack(tuple(parts))),
        st.builds(Public, names),
        st.builds(Signed, inner, names),
        st.builds(Wrapped, inner, st.builds(Public, names)),
        st.builds(Sealed, inner, keys),
        st.builds(Digest, inner),
        st.builds(Derived, st.just("key"), inner, inner),
        st.builds(Share, names),
        st.builds(lambda one, other: agree(one, Share(other)), names, names),
        st.builds(KemPublic, names),
        st.builds(KemCiphertext, names, st.builds(KemPublic, names)),
        st.builds(KemSecret, names, st.builds(KemPublic, names)),
    )


terms = st.recursive(names, grow, max_leaves=6)
knowledge = st.lists(terms, max_size=5)
broken = st.frozensets(st.sampled_from([Public, Share, KemPublic]))
powers = st.builds(Powers, broken, st.sampled_from([frozenset[tuple[Term, Term]](), frozenset({(A, B)})]))


@settings(max_examples=300, deadline=None)
@given(known=knowledge, goal=terms, able=powers)
@example(known=[Sealed(A, Derived("key", B, C)), B, C], goal=A, able=Powers())
@example(known=[pack(B, C)], goal=Signed(pack(B, C), A), able=Powers(signers=frozenset({(A, B)})))
@example(known=[Share(A), Share(B)], goal=Agreed(A, B), able=Powers(broken=frozenset({Share})))
def test_what_he_can_make_is_what_a_slow_search_finds(known: list[Term], goal: Term, able: Powers) -> None:
    mallory = Attacker.who_knows(*known, powers=able)
    assert mallory.can_make(goal) == derivable(goal, known, able.broken, able.signers)


@settings(max_examples=100, deadline=None)
@given(known=knowledge, more=terms, goal=terms, able=powers)
def test_who_knows_more_makes_no_less(known: list[Term], more: Term, goal: Term, able: Powers) -> None:
    mallory = Attacker.who_knows(*known, powers=able)
    assert mallory.hears(more).can_make(goal) or not mallory.can_make(goal)


@settings(max_examples=100, deadline=None)
@given(known=knowledge, able=powers)
def test_taking_apart_is_done_once_and_for_all(known: list[Term], able: Powers) -> None:
    """What was read out of the rest brings nothing new, in whatever order it was heard."""
    mallory = Attacker.who_knows(*known, powers=able)
    assert Attacker.who_knows(*mallory.known, powers=able).known.keys() == mallory.known.keys()
    later = Attacker.who_knows(powers=able)
    for term in reversed(known):
        later = later.hears(term)
    assert later.known.keys() == mallory.known.keys()


@settings(max_examples=100, deadline=None)
@given(known=knowledge, able=powers)
def test_he_can_say_where_each_thing_came_from(known: list[Term], able: Powers) -> None:
    """Each gain's source and need are his, and the chain of sources ends at something that he was given."""
    mallory = Attacker.who_knows(*known, powers=able)
    for term, gain in mallory.known.items():
        seen = {term}
        while gain is not None:
            assert gain.needed is None or mallory.can_make(gain.needed)
            assert gain.source not in seen
            seen.add(gain.source)
            gain = mallory.known[gain.source]


def test_hearing_the_same_leads_to_the_same_attacker() -> None:
    """States are compared by it: two attackers who know the same must be one object."""
    mallory = Attacker.who_knows(A)
    assert mallory.hears(B).hears(C) is mallory.hears(C).hears(B)
    assert mallory.hears(A) is mallory


def test_equal_terms_are_one_object() -> None:
    assert pack(A, Public(B)) is Pack((Name("a"), Public(Name("b"))))
    assert Name("a", "nonce") is not A


def test_a_key_that_is_heard_late_opens_what_was_heard_early() -> None:
    mallory = Attacker.who_knows(Sealed(pack(A, C), B), Sealed(B, C))
    assert not mallory.can_make(A)
    assert mallory.hears(C).can_make(A)


def test_a_digest_and_a_derived_key_give_nothing_away() -> None:
    mallory = Attacker.who_knows(Digest(A), Derived("key", A, B))
    assert not mallory.can_make(A)
    assert not mallory.can_make(Derived("another key", A, B))


def test_both_sides_of_an_exchange_agree_and_two_shares_are_not_enough() -> None:
    secret = agree(A, Share(B))
    assert secret is not None
    assert secret is agree(B, Share(A))
    assert not Attacker.who_knows(Share(A), Share(B)).can_make(secret)
    assert Attacker.who_knows(A, Share(B)).can_make(secret)
    assert agree(A, B) is None


def test_one_share_used_against_itself_is_not_enough_either() -> None:
    """A share reflected to its owner: the square of a secret exponent stays secret."""
    secret = agree(A, Share(A))
    assert secret is not None
    assert not Attacker.who_knows(Share(A)).can_make(secret)


def test_a_ciphertext_opens_for_its_key_alone() -> None:
    secret, ciphertext = KemSecret(C, KemPublic(A)), KemCiphertext(C, KemPublic(A))
    assert decapsulate(A, ciphertext) is secret
    assert decapsulate(B, ciphertext) is None
    assert decapsulate(A, C) is None
    assert not Attacker.who_knows(ciphertext, KemPublic(A)).can_make(secret)
    assert Attacker.who_knows(ciphertext, A).can_make(secret)


@pytest.mark.parametrize("kind", [Public, Share, KemPublic])
def test_what_is_broken_gives_its_private_part_away_and_the_others_do_not(kind: type[Term]) -> None:
    halves: list[Term] = [Public(A), Share(B), KemPublic(C)]
    mallory = Attacker.who_knows(*halves, powers=Powers(broken=frozenset({kind})))
    found = {half for half, private in zip(halves, (A, B, C), strict=True) if mallory.can_make(private)}
    assert {type(half) for half in found} == {kind}


def test_a_leak_afterwards_opens_what_was_recorded_and_changes_nothing_before() -> None:
    before = Attacker.who_knows(Wrapped(B, Public(A)))
    after = before.later((A,), Powers())
    assert after.can_make(B)
    assert not before.can_make(B)
    assert before.later((A,), Powers()) is after
