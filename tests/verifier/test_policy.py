"""Policies that compose: every part of AllOf holds, one part of AnyOf is enough, and no part loosens another."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from itertools import product

import pytest
from attested import MEASUREMENTS, NOW, World, refused_by
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_kit.errors import WorkshopKitError
from workshop_kit.evidence import pcr
from workshop_kit.verifier import (
    AllOf,
    AnyOf,
    AnyPolicy,
    AppraisalResult,
    Outcome,
    Policy,
    ReferenceValues,
    UnsafeAnyAgePolicy,
    UnsafeAnyImagePolicy,
    UnsafeDebugPolicy,
    appraise,
)

HERE = ReferenceValues(MEASUREMENTS, "1.5")
ELSEWHERE = ReferenceValues({index: pcr.measure(bytes([index])) for index in (0, 1, 2)}, "1.4")
LATER = NOW + timedelta(minutes=2)


def judged(world: World, policy: AnyPolicy, **fields: bytes) -> AppraisalResult:
    """Two minutes after signing, under the world's own root, which a policy of the tests names once."""
    return appraise(world.attest(nonce=b"challenge", public_key=b"key", **fields), policy, now=LATER)


def failed(result: AppraisalResult) -> list[object]:
    return [check.number for check in result.failed]


def test_the_parts_of_all_of_add_up_to_one_policy(world: World) -> None:
    """Each says one thing; none alone affirms, since the others' demands are then those of a plain policy."""
    parts = (Policy(trust_anchor=world.anchor), Policy(reference_values=HERE), Policy(max_age=timedelta(minutes=3)))
    assert judged(world, AllOf(*parts)).affirmed
    assert not any(judged(world, part).affirmed for part in parts)


def test_all_of_keeps_the_strictest_age(world: World) -> None:
    lax, strict = (Policy(max_age=timedelta(minutes=minutes)) for minutes in (60, 1))
    usual = world.policy()
    assert failed(judged(world, AllOf(usual, lax, strict))) == [7]
    assert judged(world, AllOf(usual, lax)).affirmed


def test_all_of_two_sets_of_reference_values_wants_both(world: World) -> None:
    result = judged(world, AllOf(world.policy(reference_values=HERE), Policy(reference_values=ELSEWHERE)))
    assert failed(result) == [9]
    assert result[9].expected.startswith("1.4: PCR0 ")


@pytest.mark.parametrize("first", ["the right one", "another"])
def test_all_of_two_nonces_or_keys_wants_both(world: World, first: str) -> None:
    nonces = [b"challenge", b"other"] if first == "the right one" else [b"other", b"challenge"]
    usual = world.policy()
    assert judged(world, AllOf(usual, Policy(nonce=b"challenge", public_key=b"key"))).affirmed
    assert failed(judged(world, AllOf(usual, *(Policy(nonce=nonce) for nonce in nonces)))) == [6]
    keys = [b"key" if nonce == b"challenge" else nonce for nonce in nonces]
    assert failed(judged(world, AllOf(usual, *(Policy(public_key=key) for key in keys)))) == [10]
    bound = [Policy(user_data=nonce) for nonce in nonces]
    assert failed(judged(world, AllOf(usual, *bound), user_data=b"challenge")) == [10, "10a"]
    assert judged(world, AnyOf(*(AllOf(usual, part) for part in bound)), user_data=b"challenge").affirmed


def test_all_of_two_anchors_is_refused_by_check_4(world: World) -> None:
    """No document has two roots."""
    other = Policy(trust_anchor=World(seed=2).anchor)
    for policy in (AllOf(world.policy(), other), AllOf(other, world.policy())):
        assert refused_by(judged(world, policy)) == 4


@pytest.mark.parametrize("unsafe", [UnsafeAnyImagePolicy, UnsafeDebugPolicy, UnsafeAnyAgePolicy])
def test_an_unsafe_part_loosens_nothing_that_another_part_demands(world: World, unsafe: type[Policy]) -> None:
    strict = world.policy(reference_values=ELSEWHERE, max_age=timedelta(minutes=1))
    for policy in (AllOf(strict, unsafe()), AllOf(unsafe(), strict), AllOf(strict, AnyOf(unsafe(), unsafe()))):
        assert failed(judged(world, policy)) == [7, 9]
    unnamed = AllOf(Policy(trust_anchor=world.anchor), unsafe())
    assert not judged(world, unnamed).affirmed, "a part without reference values still requires some"


def test_what_all_parts_leave_out_is_left_out(world: World) -> None:
    result = judged(world, AllOf(world.policy(UnsafeAnyImagePolicy, reference_values=None), UnsafeDebugPolicy()))
    assert result.affirmed
    assert result[8].outcome is Outcome.PASSED
    assert result[9].outcome is Outcome.NOT_EVALUATED


def test_any_of_affirms_by_the_part_that_fits_and_the_ledger_names_its_values(world: World) -> None:
    policy = AnyOf(world.policy(reference_values=ELSEWHERE), world.policy(reference_values=HERE))
    result = judged(world, policy)
    assert result.affirmed
    assert result[9].expected.startswith("1.5: PCR0 ")
    assert result.alternatives == ()


def test_a_refusal_under_any_of_shows_the_nearest_part_and_keeps_the_others(world: World) -> None:
    foreign = Policy(reference_values=HERE)  # under the root of AWS: fails at check 4
    result = judged(world, AnyOf(foreign, world.policy(reference_values=ELSEWHERE)))
    assert failed(result) == [9]
    assert "None of 2 alternatives affirms" in result.summary
    assert [refused_by(each) for each in result.alternatives] == [4, None]
    assert "None of" not in judged(world, foreign).summary


def test_alternatives_combine_inside_all_of(world: World) -> None:
    images = AnyOf(Policy(reference_values=ELSEWHERE), Policy(reference_values=HERE))
    roots = AnyOf(Policy(), Policy(trust_anchor=world.anchor))
    assert judged(world, AllOf(images, roots)).affirmed
    assert failed(judged(world, AllOf(images, roots, Policy(max_age=timedelta(minutes=1))))) == [7]


def test_a_composed_policy_binds_every_part_to_the_handshake(world: World) -> None:
    for policy in (AllOf(world.policy(), Policy()), AnyOf(world.policy(reference_values=ELSEWHERE), world.policy())):
        bound = policy.for_handshake(nonce=b"challenge", public_key=b"key")
        assert type(bound) is type(policy)
        assert judged(world, bound).affirmed
        whole = policy.for_handshake(nonce=b"challenge", public_key=b"key", user_data=b"transcript")
        assert "10a" in failed(judged(world, whole))
        assert judged(world, whole, user_data=b"transcript").affirmed
        assert 6 in failed(judged(world, policy.for_handshake(nonce=b"other", public_key=b"key")))
        assert 10 in failed(judged(world, policy.for_handshake(nonce=b"challenge", public_key=b"other")))


@pytest.mark.parametrize("kind", [AllOf, AnyOf])
def test_a_policy_of_no_parts_is_an_error(kind: type[AllOf]) -> None:
    """An empty AllOf would affirm everything."""
    with pytest.raises(WorkshopKitError, match=r"^A\w+Of without a policy in it: expected at least one, got none$"):
        kind()


def test_more_ways_to_pass_than_can_be_tried_are_an_error_at_once() -> None:
    """2^30 ways: refused before any is made."""
    two = AnyOf(Policy(), Policy(max_age=timedelta(1)))
    assert len(AllOf(*[two] * 8).alternatives) == 256
    with pytest.raises(WorkshopKitError, match="at most 256 ways to pass, got 1073741824"):
        AllOf(*[two] * 30)
    with pytest.raises(WorkshopKitError, match="at most 256 ways to pass, got 257"):
        AnyOf(*[Policy()] * 257)


def test_an_unsafe_policy_equals_no_other_with_the_same_demands() -> None:
    assert Policy(reference_values=HERE) == Policy(reference_values=HERE)
    assert Policy() != UnsafeAnyImagePolicy()
    assert UnsafeAnyAgePolicy() != UnsafeAnyImagePolicy()
    assert repr(AllOf(Policy(), UnsafeAnyAgePolicy())).startswith("AllOf(Policy(")


def test_a_policy_cannot_be_changed_once_made() -> None:
    """What it demands was read from it once."""
    with pytest.raises(AttributeError):
        Policy().max_age = timedelta(1)  # type: ignore[misc]


def test_reference_values_are_a_copy_of_what_was_given() -> None:
    given = dict(MEASUREMENTS)
    values = ReferenceValues(given)
    given[0] = pcr.ZERO
    assert values.pcrs[0] == MEASUREMENTS[0]


# Trees of policies, against what AND and OR say of their leaves.

policies = st.recursive(
    st.sampled_from(list(product(("image", "age"), ("kept", "broken")))),
    lambda inner: st.tuples(st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=6,
)


def _made(tree: tuple[str, object], world: World) -> AnyPolicy:
    what, rest = tree
    if what == "image":
        return world.policy(reference_values=HERE if rest == "kept" else ELSEWHERE)
    if what == "age":
        return world.policy(max_age=timedelta(minutes=3 if rest == "kept" else 1))
    parts = [_made(part, world) for part in rest]  # type: ignore[attr-defined]
    return AllOf(*parts) if what == "all" else AnyOf(*parts)


def _holds(tree: tuple[str, object]) -> bool:
    what, rest = tree
    if what in ("image", "age"):
        return rest == "kept"
    held = [_holds(part) for part in rest]  # type: ignore[attr-defined]
    return all(held) if what == "all" else any(held)


@cache
def _world() -> World:
    return World()


@given(policies)
@settings(max_examples=150, deadline=None)
def test_a_tree_of_policies_affirms_where_and_and_or_of_its_leaves_say_so(tree: tuple[str, object]) -> None:
    world = _world()
    assert judged(world, _made(tree, world)).affirmed == _holds(tree)
