"""The ten checks and the rules beside them, each failed alone, on simulated evidence made in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from attested import (
    ES384,
    INSTANCE,
    MEASUREMENTS,
    NOW,
    World,
    changed,
    envelope,
    refused_by,
    require_refusal,
    signed_over,
    twin,
)

from workshop_kit.errors import AppraisalError
from workshop_kit.evidence import cbor, cose, pcr
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.verifier import (
    AWS_NITRO_ROOT_G1,
    AppraisalResult,
    Outcome,
    Policy,
    ReferenceValues,
    UnsafeAnyAgePolicy,
    UnsafeAnyImagePolicy,
    UnsafeDebugPolicy,
    appraise,
)
from workshop_kit.verifier.ledger import GATES, RULES, Number
from workshop_kit.verifier.policy import CLOCK_SKEW, MAX_AGE

PASSED, FAILED, NOT_EVALUATED = Outcome.PASSED, Outcome.FAILED, Outcome.NOT_EVALUATED
CHALLENGE, KEY, BOUND = b"challenge of 32 bytes, or so ...", b"the handshake's key", b"the digest of its transcript"
IN_HANDSHAKE = {"nonce": CHALLENGE, "public_key": KEY, "user_data": BOUND}
MICROSECOND = timedelta(microseconds=1)


def failed(result: AppraisalResult) -> list[Number]:
    return [check.number for check in result.failed]


def outcomes(result: AppraisalResult) -> dict[Number, Outcome]:
    return {check.number: check.outcome for check in result.checks}


# --- honest evidence -------------------------------------------------------------------------------------------------


def test_honest_evidence_in_a_handshake_passes_all_ten_checks(world: World) -> None:
    result = world.appraise(world.attest(**IN_HANDSHAKE), **IN_HANDSHAKE)
    assert set(outcomes(result).values()) == {PASSED}
    assert result.affirmed
    assert result.failed == ()


def test_outside_a_handshake_nonce_key_and_user_data_are_not_evaluated_and_not_required(world: World) -> None:
    result = world.appraise(world.attest())
    assert result.affirmed
    assert [number for number, outcome in outcomes(result).items() if outcome is NOT_EVALUATED] == [
        6,
        10,
        "10a",
    ]


def test_claims_are_the_documents_own(world: World) -> None:
    evidence = world.attest(user_data=b"whatever")
    claims = world.appraise(evidence).claims
    assert claims.document == decode_unverified(evidence)
    assert claims.pcrs == claims.document.pcrs
    assert claims.user_data == b"whatever"


def test_claims_of_a_refused_document_raise_with_the_ledger(world: World) -> None:
    result = world.appraise(world.attest()[:-1])
    with pytest.raises(AppraisalError, match=r"^refused by check 1, envelope is COSE_Sign1: expected ") as caught:
        _ = result.claims
    assert caught.value.result is result


def test_appraisal_reads_no_clock(world: World) -> None:
    """The same bytes at the same `now` give the same ledger, ten years before or after."""
    evidence = world.attest()
    assert world.appraise(evidence).checks == world.appraise(evidence).checks


def test_the_twin_signature_is_as_good_as_the_first(world: World) -> None:
    """(r, n - s): a low-S rule would refuse half of all genuine documents."""
    evidence = world.attest()
    assert twin(evidence) != evidence
    assert world.appraise(twin(evidence)).affirmed
    assert world.appraise(evidence).affirmed
    assert twin(twin(evidence)) == evidence


def test_a_tag_18_changes_nothing(world: World) -> None:
    assert world.appraise(b"\xd2" + world.attest()).affirmed


# --- gates -----------------------------------------------------------------------------------------------------------


def _resigned(world: World, **changes: Any) -> bytes:
    """Fields changed on the way, by somebody without the key: the old signature over a new payload."""
    honest = cose.read_sign1(world.attest())
    payload = decode_unverified(world.attest())._replace(**changes).encode()
    return envelope(honest.protected, {}, payload, honest.signature)


def _other_enclaves_leaf(world: World) -> bytes:
    """A second enclave of the same parent instance signs a document that speaks in the first one's name."""
    other = world.pki.signer(f"{INSTANCE}-enc{'0' * 16}", now=world.now)
    document = world.document()._replace(certificate=other.certificate, cabundle=other.cabundle)
    return cose.sign1(document.encode(), other.key, ES384)


def _header(protected: dict[int, int]) -> Callable[[World], bytes]:
    def craft(world: World) -> bytes:
        return signed_over(cbor.encode(protected), world.document().encode(), world.leaf_key)

    return craft


GATE_DEVIATIONS: dict[str, tuple[Number, Callable[[World], bytes]]] = {
    "no bytes": (1, lambda _: b""),
    "the last byte is missing": (1, lambda world: world.attest()[:-1]),
    "a byte too many": (1, lambda world: world.attest() + b"\0"),
    "two documents": (1, lambda world: world.attest() * 2),
    "tag 17 is no COSE_Sign1": (1, lambda world: b"\xd1" + world.attest()),
    "tag 18 twice": (1, lambda world: b"\xd2\xd2" + world.attest()),
    "an unsigned label beside the signature": (
        1,
        lambda world: envelope(ES384.protected, {4: b"kid"}, world.document().encode(), bytes(96)),
    ),
    "ES512 by name, ES384 by signature": (2, _header({1: -36})),
    "no algorithm": (2, _header({})),
    "ES384 and something else": (2, _header({1: -35, 4: 0})),
    "the payload is no map": (3, lambda world: world.sign(b"\x80")),
    "no PCRs": (3, lambda world: world.with_fields(without=["pcrs"])),
    "a field that no one knows": (3, lambda world: world.with_fields(comment="")),
    "a NitroTPM's field": ("3a", lambda world: world.with_fields(nitrotpm_pcrs={0: bytes(48)})),
    "a NitroTPM's module": ("3a", lambda world: world.edited(module_id=f"{INSTANCE}-tpm{'0' * 16}")),
    "another infrastructure with the same names": (4, lambda _: World(seed=2).attest()),
    "its root in front of another's chain": (
        4,
        lambda world: World(seed=2).edited(cabundle=(world.pki.root, *World(seed=2).document().cabundle[1:])),
    ),
    "its root at the end": (4, lambda world: world.edited(cabundle=world.document().cabundle[::-1])),
    "a user_data that the enclave did not give": (5, lambda world: _resigned(world, user_data=b"!")),
    "a nonce that the enclave did not give": (5, lambda world: _resigned(world, nonce=b"!")),
    "another PCR0": (5, lambda world: _resigned(world, pcrs={**world.document().pcrs, 0: bytes(48)})),
    "another key's signature": (
        5,
        lambda world: cose.sign1(world.document().encode(), World(seed=2).leaf_key, ES384),
    ),
    "another module's leaf": ("5a", _other_enclaves_leaf),
    "another instance's PCR4": ("5b", lambda world: world.edited(pcrs={**world.document().pcrs, 4: bytes(48)})),
    "signed before its leaf lived": (
        "5c",
        lambda world: world.edited(timestamp=world.document().timestamp - 1),
    ),
    "signed after its leaf died": (
        "5c",
        lambda world: world.edited(timestamp=world.document().timestamp + (3 * 3600 + 4) * 1000),
    ),
}


@pytest.mark.parametrize("name", GATE_DEVIATIONS)
def test_one_deviation_is_refused_by_its_gate_and_what_follows_is_not_evaluated(world: World, name: str) -> None:
    """A failing rule such as 5a fails check 5 too; no claim is evaluated behind a failed gate."""
    gate, craft = GATE_DEVIATIONS[name]
    result = world.appraise(craft(world))
    require_refusal(result, gate)
    assert (result.document is None) == (str(gate)[0] in "123")
    with pytest.raises(AppraisalError):
        _ = result.claims


def test_every_gate_has_a_deviation() -> None:
    assert {gate for gate, _ in GATE_DEVIATIONS.values()} == set(GATES)


@pytest.mark.parametrize("name", GATE_DEVIATIONS)
@pytest.mark.parametrize("kind", [UnsafeAnyImagePolicy, UnsafeDebugPolicy, UnsafeAnyAgePolicy])
def test_no_unsafe_policy_opens_a_gate(world: World, kind: type[Policy], name: str) -> None:
    gate, craft = GATE_DEVIATIONS[name]
    require_refusal(world.appraise(craft(world), kind), gate)


def test_check_2_refuses_another_algorithm_whatever_signed(world: World) -> None:
    """The message that names ES512 is signed with it, over its own header: the sender's choice is still not taken."""
    named = signed_over(cose.Algorithm.ES512.protected, world.document().encode(), world.leaf_key)
    assert refused_by(world.appraise(named)) == 2


def test_simulated_evidence_is_refused_under_the_root_of_aws_by_check_4(world: World) -> None:
    result = appraise(world.attest(), Policy(reference_values=ReferenceValues(MEASUREMENTS)), now=NOW)
    require_refusal(result, 4)
    assert AWS_NITRO_ROOT_G1.sha256.hex()[:16] in result[4].expected


def test_evidence_of_another_infrastructure_is_refused_though_all_names_are_equal(world: World) -> None:
    """Only the keys differ: an anchor known by its name would affirm this."""
    foreign = World(seed=1).attest(), World(seed=2).attest()
    assert world.appraise(foreign[0]).affirmed
    assert refused_by(world.appraise(foreign[1])) == 4


@pytest.mark.parametrize(("ago", "gate"), [(timedelta(seconds=1), 4), (timedelta(), None)])
def test_the_life_of_a_certificate_begins_with_its_first_second(
    world: World, ago: timedelta, gate: Number | None
) -> None:
    assert refused_by(world.appraise(world.attest(), now=NOW - ago)) == gate


@pytest.mark.parametrize(
    ("later", "gate"), [(timedelta(hours=3, seconds=4) - MICROSECOND, None), (timedelta(hours=3, seconds=4), 4)]
)
def test_the_life_of_a_leaf_ends_after_its_last_second(world: World, later: timedelta, gate: Number | None) -> None:
    """notAfter names a whole second, which belongs to the life to its last microsecond (RFC 5280, 4.1.2.5)."""
    assert refused_by(world.appraise(world.attest(), now=NOW + later)) == gate


@pytest.mark.parametrize(("milliseconds", "gate"), [(10_803_999, None), (10_804_000, "5c"), (0, None), (-1, "5c")])
def test_a_document_is_signed_within_its_leafs_life_ends_included(
    world: World, milliseconds: int, gate: Number | None
) -> None:
    evidence = world.edited(timestamp=world.document().timestamp + milliseconds)
    assert refused_by(world.appraise(evidence)) == gate


def test_a_document_without_pcr4_speaks_of_no_instance_and_passes_5b(world: World) -> None:
    pcrs = {index: value for index, value in world.document().pcrs.items() if index != 4}
    assert world.appraise(world.edited(pcrs=pcrs)).affirmed


# --- check 6, the nonce ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("challenge", "came", "outcome", "actual"),
    [
        (CHALLENGE, CHALLENGE, PASSED, "the same"),
        (CHALLENGE, None, FAILED, "none"),
        (CHALLENGE, b"", FAILED, "0 others"),
        (CHALLENGE, changed(CHALLENGE), FAILED, "32 others"),
        (CHALLENGE, CHALLENGE[:-1], FAILED, "31 others"),
        (CHALLENGE, CHALLENGE + b"\0", FAILED, "33 others"),
        (b"", b"", PASSED, "the same"),
        (b"", None, FAILED, "none"),
        (None, None, NOT_EVALUATED, ""),
        (None, CHALLENGE, NOT_EVALUATED, ""),
    ],
)
def test_the_nonce_is_the_challenge_and_absent_is_not_empty(
    world: World, challenge: bytes | None, came: bytes | None, outcome: Outcome, actual: str
) -> None:
    result = world.appraise(world.attest(nonce=came), nonce=challenge)
    assert (result[6].outcome, result[6].actual) == (outcome, actual)
    assert failed(result) == ([6] if outcome is FAILED else [])
    assert result.affirmed == (outcome is not FAILED)


def test_a_replayed_document_is_named_as_such(world: World) -> None:
    result = world.appraise(world.attest(nonce=b"yesterday's"), nonce=CHALLENGE)
    assert "replayed" in result[6].explanation
    assert "replayed" in result.summary


# --- check 7, the age ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "outcome", "explanation"),
    [
        (timedelta(), PASSED, "own time"),
        (MICROSECOND, PASSED, ""),
        (MAX_AGE, PASSED, ""),
        (MAX_AGE + MICROSECOND, FAILED, ""),
        (timedelta(hours=2), FAILED, ""),
        (-CLOCK_SKEW, PASSED, ""),
        (-CLOCK_SKEW - MICROSECOND, FAILED, "future"),
        (-timedelta(hours=1), FAILED, "future"),
    ],
)
def test_a_document_is_at_most_as_old_as_the_policy_says_and_hardly_ever_from_the_future(
    world: World, age: timedelta, outcome: Outcome, explanation: str
) -> None:
    world.attest()  # the leaf's life begins here, so that check 4 passes at all times below
    signed = NOW + timedelta(hours=1)
    result = world.appraise(world.attest(now=signed), now=signed + age)
    assert refused_by(result) is None
    assert result[7].outcome is outcome
    assert (explanation in result[7].explanation) if explanation else not result[7].explanation
    assert failed(result) == ([7] if outcome is FAILED else [])


@pytest.mark.parametrize(("max_age", "outcome"), [(timedelta(hours=1), PASSED), (timedelta(minutes=59), FAILED)])
def test_the_policy_sets_the_age(world: World, max_age: timedelta, outcome: Outcome) -> None:
    result = world.appraise(world.attest(), now=NOW + timedelta(hours=1), max_age=max_age)
    assert result[7].outcome is outcome


def test_an_old_document_is_affirmed_only_by_the_policy_that_says_so(world: World) -> None:
    evidence, later = world.attest(), NOW + timedelta(hours=2)
    assert failed(world.appraise(evidence, now=later)) == [7]
    result = world.appraise(evidence, UnsafeAnyAgePolicy, now=later)
    assert result.affirmed
    assert result[7].outcome is NOT_EVALUATED
    assert "UnsafeAnyAgePolicy" in result[7].explanation
    assert refused_by(world.appraise(evidence, UnsafeAnyAgePolicy, now=NOW + timedelta(hours=4))) == 4


# --- check 8, debug mode ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [(0,), (1,), (2,), (0, 1, 2)])
def test_one_zero_image_pcr_is_debug_mode(zero: tuple[int, ...]) -> None:
    """Also where the caller's reference values are zero at that place: check 9 passes, check 8 refuses."""
    measured = MEASUREMENTS | dict.fromkeys(zero, pcr.ZERO)
    world = World(measurements=measured)
    result = world.appraise(world.attest(), reference_values=ReferenceValues(measured))
    assert failed(result) == [8]
    assert result[8].actual == ", ".join(f"PCR{index} zero" for index in zero)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_image_pcr_does_not_show_that_the_console_is_closed(absent: int) -> None:
    """Any image is affirmed here, so that no other check refuses."""
    world = World()
    document = world.document()
    pcrs = {index: value for index, value in document.pcrs.items() if index != absent}
    result = world.appraise(world.sign(document._replace(pcrs=pcrs).encode()), UnsafeAnyImagePolicy)
    assert failed(result) == [8]
    assert result[8].actual == f"PCR{absent} absent"


def test_other_pcrs_may_be_zero(world: World) -> None:
    """PCR3 is zero where the parent instance has no role, PCR5 to 15 always."""
    document = world.document()
    assert [document.pcrs[index] for index in (3, 5, 8, 15)] == [pcr.ZERO] * 4
    assert world.appraise(world.attest())[8].outcome is PASSED


def test_a_debug_enclave_keeps_pcr4_and_is_still_refused() -> None:
    world = World(measurements={})
    assert world.document().pcrs[4] != pcr.ZERO
    assert failed(world.appraise(world.attest())) == [8, 9]


def test_a_debug_enclave_is_affirmed_only_by_the_policy_that_says_so() -> None:
    world = World(measurements={})
    result = world.appraise(world.attest(), UnsafeDebugPolicy)
    assert result.affirmed
    assert [result[number].outcome for number in (8, 9)] == [NOT_EVALUATED, NOT_EVALUATED]
    assert "UnsafeDebugPolicy" in result[8].explanation
    old = world.appraise(world.attest(), UnsafeDebugPolicy, nonce=CHALLENGE, now=NOW + timedelta(hours=1))
    assert failed(old) == [6, 7]


# --- check 9, the reference values -----------------------------------------------------------------------------------


def test_without_reference_values_nothing_is_affirmed_though_nothing_failed(world: World) -> None:
    result = world.appraise(world.attest(), reference_values=None)
    assert result.failed == ()
    assert result[9].outcome is NOT_EVALUATED
    assert not result.affirmed
    assert result.summary.startswith("not affirmed: No reference values were given")
    with pytest.raises(AppraisalError, match="No reference values") as caught:
        _ = result.claims
    assert caught.value.result is result


@pytest.mark.parametrize(
    ("differing", "sentence"),
    [
        (
            {0, 2},
            "PCR0 and PCR2 differ, PCR1 agrees: same base image, another application, or other users in its image.",
        ),
        ({0, 1}, "PCR0 and PCR1 differ, PCR2 agrees: same application, another base image."),
        ({0, 1, 2}, "PCR0, PCR1 and PCR2 differ: another image altogether."),
        ({1, 2}, "PCR1 and PCR2 differ, PCR0 agrees: the same bytes, divided differently into base and application."),
        ({0}, "PCR0 differs though PCR1 and PCR2 agree: the reference values stem from two builds, or have a typo."),
        ({1}, "PCR1 differs though PCR0 agrees: the reference values stem from two builds, or have a typo."),
        ({2}, "PCR2 differs though PCR0 agrees: the reference values stem from two builds, or have a typo."),
        ({3}, "PCR3 differs: the parent instance has another IAM role."),
        ({4}, "PCR4 differs: another parent instance."),
        ({8}, "PCR8 differs: the image is signed with another certificate, or not signed."),
        ({5}, "PCR5 differs: another value."),
        ({16}, "PCR16 differs: other users or another runtime configuration."),
        (
            {0, 2, 8, 16},
            "PCR0 and PCR2 differ, PCR1 agrees: same base image, another application, or other users in its image. "
            "PCR8 differs: the image is signed with another certificate, or not signed. "
            "PCR16 differs: other users or another runtime configuration.",
        ),
    ],
)
def test_a_difference_is_explained_and_shown_from_both_sides(world: World, differing: set[int], sentence: str) -> None:
    world.ask("LockPCR", index=16)
    actual = world.document().pcrs
    reference = {index: value for index, value in actual.items() if index in {0, 1, 2} | differing}
    reference |= {index: changed(reference[index]) for index in differing}
    result = world.appraise(world.attest(), reference_values=ReferenceValues(reference))
    assert failed(result) == [9]
    assert result[9].explanation == sentence
    for text, values in ((result[9].expected, reference), (result[9].actual, actual)):
        shown = (f"PCR{i} {'zero' if values[i] == pcr.ZERO else values[i].hex()[:16] + '…'}" for i in sorted(differing))
        assert text == ", ".join(shown)


def test_a_zero_reference_value_is_compared_and_not_skipped() -> None:
    """PCR8 expected unsigned, PCR3 expected without a role: another value there is a difference."""
    signed = World(measurements=MEASUREMENTS | {8: pcr.measure(b"certificate"), 3: pcr.measure_name("arn:aws:iam::1")})
    for index in (3, 8):
        reference = ReferenceValues(MEASUREMENTS | {index: pcr.ZERO})
        result = signed.appraise(signed.attest(), reference_values=reference)
        assert failed(result) == [9]
        assert result[9].expected == f"PCR{index} zero"
        assert World().appraise(World().attest(), reference_values=reference).affirmed


def test_a_pcr_that_the_document_lacks_differs_even_from_zero(world: World) -> None:
    """PCR16 is in a document only once it is locked."""
    reference = ReferenceValues(MEASUREMENTS | {16: pcr.ZERO})
    result = world.appraise(world.attest(), reference_values=reference)
    assert failed(result) == [9]
    assert result[9].actual == "PCR16 absent"
    world.ask("LockPCR", index=16)
    assert world.appraise(world.attest(), reference_values=reference).affirmed


def test_pcrs_without_a_reference_value_are_not_compared(world: World) -> None:
    world.ask("ExtendPCR", index=16, data=b"users")
    world.ask("LockPCR", index=16)
    assert world.appraise(world.attest()).affirmed


# --- check 10, the key -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "came", "outcome"),
    [
        (KEY, KEY, PASSED),
        (KEY, changed(KEY), FAILED),
        (KEY, KEY[:-1], FAILED),
        (KEY, b"", FAILED),
        (KEY, None, FAILED),
        (b"", None, FAILED),
        (None, KEY, NOT_EVALUATED),
        (None, None, NOT_EVALUATED),
    ],
)
def test_the_key_is_the_handshakes(world: World, wanted: bytes | None, came: bytes | None, outcome: Outcome) -> None:
    result = world.appraise(world.attest(public_key=came), public_key=wanted)
    assert result[10].outcome is outcome
    assert failed(result) == ([10] if outcome is FAILED else [])
    assert result.affirmed == (outcome is not FAILED)
    assert came is not None or outcome is NOT_EVALUATED or result[10].actual == "none"


# --- rule 10a, user_data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "came", "outcome", "actual"),
    [
        (BOUND, BOUND, PASSED, "the same"),
        (BOUND, changed(BOUND), FAILED, "28 others"),
        (BOUND, BOUND[:-1], FAILED, "27 others"),
        (BOUND, BOUND + b"\0", FAILED, "29 others"),
        (BOUND, b"", FAILED, "0 others"),
        (BOUND, None, FAILED, "none"),
        (b"", None, FAILED, "none"),
        (None, BOUND, NOT_EVALUATED, ""),
        (None, None, NOT_EVALUATED, ""),
    ],
)
def test_user_data_is_the_handshakes(
    world: World, wanted: bytes | None, came: bytes | None, outcome: Outcome, actual: str
) -> None:
    """Where it fails, check 10 fails with it, in its words: also where no key is demanded."""
    for key in (KEY, None):
        result = world.appraise(world.attest(public_key=KEY, user_data=came), public_key=key, user_data=wanted)
        assert (result["10a"].outcome, result["10a"].actual) == (outcome, actual)
        assert failed(result) == ([10, "10a"] if outcome is FAILED else [])
        assert result.affirmed == (outcome is not FAILED)
        if outcome is FAILED:
            assert (result[10].expected, result[10].actual) == (result["10a"].expected, actual)
            assert result.summary.startswith("refused by check 10a, user_data is the handshake's: expected ")


def test_a_key_and_a_user_data_that_both_differ_are_told_apart(world: World) -> None:
    """A document about somebody else's session: the key says so, and the ledger keeps its words."""
    result = world.appraise(world.attest(nonce=CHALLENGE, public_key=b"other", user_data=b"other"), **IN_HANDSHAKE)
    assert failed(result) == [10, "10a"]
    assert result[10].expected.startswith("the key with SHA-256 ")
    assert result["10a"].expected == "this handshake's 28 bytes"
    assert result.summary.startswith("refused by check 10 (and 10a), key is the handshake's: expected ")


# --- claims together, and policies -----------------------------------------------------------------------------------


def test_all_failing_claims_are_reported_together() -> None:
    world = World(measurements={})
    evidence = world.attest(nonce=b"other", public_key=b"other", user_data=b"other")
    result = world.appraise(evidence, **IN_HANDSHAKE, now=NOW + timedelta(hours=1))
    assert failed(result) == [6, 7, 8, 9, 10, "10a"]
    assert refused_by(result) is None
    assert result.summary.startswith("refused by check 6 (and 7, 8, 9, 10, 10a), nonce is the challenge: expected ")


CLAIM_DEVIATIONS: dict[Number, tuple[dict[str, Any], dict[str, Any]]] = {
    6: ({"nonce": b"other"}, {}),
    7: ({}, {"now": NOW + timedelta(hours=1)}),
    8: ({"measurements": MEASUREMENTS | {0: pcr.ZERO}}, {"reference_values": MEASUREMENTS | {0: pcr.ZERO}}),
    9: ({"measurements": MEASUREMENTS | {0: pcr.measure(b"a thief's")}}, {}),
    10: ({"public_key": b"other"}, {}),
    "10a": ({"user_data": b"other"}, {}),
}
"""One failing claim each: how the evidence is made, and how it is appraised."""


@pytest.mark.parametrize("kind", [Policy, UnsafeAnyImagePolicy, UnsafeDebugPolicy, UnsafeAnyAgePolicy])
@pytest.mark.parametrize("claim", CLAIM_DEVIATIONS)
def test_a_policy_leaves_out_what_its_name_says_and_nothing_else(kind: type[Policy], claim: Number) -> None:
    made, appraised = CLAIM_DEVIATIONS[claim]
    world = World(measurements=made.get("measurements", MEASUREMENTS))
    fields = IN_HANDSHAKE | {k: v for k, v in made.items() if k != "measurements"}
    demands: dict[str, Any] = IN_HANDSHAKE | appraised
    demands["reference_values"] = ReferenceValues(demands.get("reference_values", MEASUREMENTS))
    result = world.appraise(world.attest(**fields), kind, **demands)
    expected: list[Number] = [10, "10a"] if claim == "10a" else [claim]
    assert failed(result) == ([] if claim in kind.waived else expected)
    assert result.affirmed == (claim in kind.waived)
    waived = {n for n, outcome in outcomes(result).items() if outcome is NOT_EVALUATED}
    assert waived == set(kind.waived)


def test_a_policy_that_waives_anything_is_called_unsafe() -> None:
    waived = {kind.__name__: set(kind.waived) for kind in _policies(Policy)}
    assert waived == {
        "Policy": set(),
        "UnsafeAnyImagePolicy": {9},
        "UnsafeDebugPolicy": {8, 9},
        "UnsafeAnyAgePolicy": {7},
    }


def _policies(kind: type[Policy]) -> list[type[Policy]]:
    return [kind, *(each for subclass in kind.__subclasses__() for each in _policies(subclass))]


def test_a_policy_for_a_handshake_keeps_all_other_demands(world: World) -> None:
    policy = world.policy(UnsafeAnyImagePolicy, max_age=timedelta(seconds=7))
    bound = policy.for_handshake(nonce=CHALLENGE, public_key=KEY)
    whole = policy.for_handshake(**IN_HANDSHAKE)
    assert bound == policy._replace(nonce=CHALLENGE, public_key=KEY)
    assert whole == policy._replace(**IN_HANDSHAKE)
    assert type(bound) is type(whole) is UnsafeAnyImagePolicy
    required = [each.alternatives[0].required for each in (policy, bound, whole)]
    assert required == [{7, 8}, {6, 7, 8, 10}, {6, 7, 8, 10, "10a"}]
    (demands,) = Policy(nonce=b"", public_key=b"", user_data=b"").alternatives
    assert demands.required == {6, 7, 8, 9, 10, "10a"}, "empty is not absent"


def test_a_default_policy_trusts_the_root_of_aws_and_affirms_nothing() -> None:
    (demands,) = Policy().alternatives
    (anchor,) = demands.anchors
    assert anchor.sha256.hex() == "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
    assert demands.reference_values == ()
    assert demands.required == {7, 8, 9}
    assert demands.max_age == timedelta(minutes=5)


# --- time ------------------------------------------------------------------------------------------------------------


class _Nowhere(tzinfo):
    """A time zone that does not know its offset: a datetime with it is as naive as one without (datetime docs)."""

    def utcoffset(self, _: datetime | None) -> None:
        return None


@pytest.mark.parametrize("evidence", ["text", bytearray(b"bytes"), None])
def test_evidence_that_is_no_bytes_is_the_callers_mistake(world: World, evidence: Any) -> None:
    with pytest.raises(TypeError, match="needs the document's bytes, got "):
        world.appraise(evidence)


@pytest.mark.parametrize("now", [NOW.replace(tzinfo=None), NOW.replace(tzinfo=_Nowhere())], ids=["none", "no offset"])
def test_a_time_without_a_zone_is_the_callers_mistake(world: World, now: datetime) -> None:
    evidence = world.attest()
    with pytest.raises(ValueError, match="aware time"):
        world.appraise(evidence, now=now)


@pytest.mark.parametrize("hours", [-12, -5, 5, 14])
def test_the_ledger_is_the_same_in_every_time_zone(world: World, hours: int) -> None:
    """Times in it are labelled UTC: they have to be."""
    zone = timezone(timedelta(hours=hours))
    for now in (NOW, NOW + timedelta(hours=1), NOW - timedelta(hours=1), NOW + timedelta(hours=4)):
        abroad = world.appraise(world.attest(), now=now.astimezone(zone))
        assert str(abroad) == str(world.appraise(world.attest(), now=now))


# --- the ledger ------------------------------------------------------------------------------------------------------


def test_a_check_is_found_by_its_number_and_an_unknown_number_names_all(world: World) -> None:
    result = world.appraise(world.attest())
    assert result["5a"].number == "5a"
    with pytest.raises(KeyError, match=r"expected the number of a check, 1, 2, 3, 3a, .* got '5d'"):
        _ = result["5d"]


def test_a_result_is_true_where_it_affirms(world: World) -> None:
    """`if result:` would otherwise accept everything."""
    assert world.appraise(world.attest())
    assert not world.appraise(world.attest()[:-1])
    assert not world.appraise(world.attest(), reference_values=None)


def test_an_affirming_verdict_names_what_its_policy_left_out(world: World) -> None:
    result = world.appraise(world.attest(), UnsafeDebugPolicy)
    assert result.affirmed
    assert "affirmed, with check 8, not in debug mode and 9, PCRs are the reference values, left out" in str(result)
    assert "Left out by UnsafeDebugPolicy." in result.verdict
    assert world.appraise(world.attest()).verdict.splitlines()[0] == "affirmed"


def test_a_result_shows_its_summary(world: World) -> None:
    assert (
        repr(world.appraise(world.attest())) == "AppraisalResult(affirmed: every check that the policy requires passed)"
    )
    unnamed = world.appraise(world.attest(), reference_values=None)
    assert repr(unnamed) == (
        "AppraisalResult(not affirmed: No reference values were given: any image at all may be running.)"
    )


NUMBERS = [1, 2, 3, "3a", 4, 5, "5a", "5b", "5c", 6, 7, 8, 9, 10, "10a"]


def test_the_ledger_as_text(world: World) -> None:
    result = world.appraise(world.attest(**IN_HANDSHAKE), **IN_HANDSHAKE)
    assert (
        str(result)
        == """\
  1  envelope is COSE_Sign1         passed
  2  algorithm is ES384             passed
  3  document is complete           passed
 3a  an enclave's document          passed
  4  key is endorsed                passed
  5  signature verifies             passed
 5a  leaf is the module's           passed
 5b  PCR4 is the instance's         passed
 5c  signed in the leaf's life      passed
  6  nonce is the challenge         passed
  7  age                            passed
       Appraised at the document's own time: its age then shows nothing.
  8  not in debug mode              passed
  9  PCRs are the reference values  passed
 10  key is the handshake's         passed
10a  user_data is the handshake's   passed
affirmed
Simulated evidence: no hardware stands behind it."""
    )


def test_the_ledger_as_text_says_of_a_failure_what_was_expected_and_what_skipping_costs(world: World) -> None:
    lines = str(world.appraise(world.attest(nonce=b"other"), nonce=CHALLENGE)).splitlines()
    place = lines.index("  6  nonce is the challenge         failed")
    assert lines[place + 1 : place + 4] == [
        "       expected this challenge's 32 bytes; got 5 others",
        "       The document answers another question: it was recorded and replayed.",
        f"       If this check is skipped: {RULES[6].if_skipped}",
    ]
    assert lines[-2].startswith("refused by check 6, nonce is the challenge: expected ")
    assert lines[-1] == "Simulated evidence: no hardware stands behind it."


def test_the_ledger_as_json(world: World) -> None:
    result = world.appraise(world.attest(), nonce=CHALLENGE)
    report = json.loads(result.to_json())
    assert list(report) == ["affirmed", "checks"]
    assert report["affirmed"] is False
    assert [check["number"] for check in report["checks"]] == NUMBERS
    keys = ["number", "name", "outcome", "expected", "actual", "explanation", "reference", "if_skipped"]
    for check, line in zip(result.checks, report["checks"], strict=True):
        assert list(line) == keys
        assert line["outcome"] == check.outcome.value
        assert (line["expected"], line["actual"]) == (check.expected, check.actual)
    sixth = report["checks"][NUMBERS.index(6)]
    assert (sixth["outcome"], sixth["actual"]) == ("failed", "none")
    assert report["checks"][-1]["outcome"] == "not evaluated"


@pytest.mark.parametrize("evidence", [b"", b"\x84", b"{}"])
def test_the_ledger_of_bytes_that_do_not_parse_has_all_its_lines(world: World, evidence: bytes) -> None:
    result = world.appraise(evidence)
    assert [check.number for check in result.checks] == NUMBERS == list(RULES)
    assert json.loads(result.to_json())["checks"][0]["outcome"] == "failed"
    assert result.document is None


def test_every_rule_has_a_source_and_a_price() -> None:
    for number, rule in RULES.items():
        assert all((rule.name, rule.reference, rule.if_skipped)), number
        assert len(rule.name) <= 30, "the ledger's column"


def test_the_summary_names_the_rule_and_not_the_check_that_it_stands_beside(world: World) -> None:
    assert world.appraise(_other_enclaves_leaf(world)).summary.startswith("refused by check 5a, leaf is the module's: ")


@pytest.mark.parametrize(("gate", "module_id"), [("5a", f"{INSTANCE}-enc{{}}"), ("3a", f"{INSTANCE}{{}}-tpm0")])
def test_control_characters_of_a_document_do_not_reach_the_terminal(world: World, gate: Number, module_id: str) -> None:
    """Erasing the screen, returning to the line's begin, writing backwards: a ledger that prints them can be forged."""
    result = world.appraise(world.edited(module_id=module_id.format("\x1b[2J\r\n\u202e")))
    plain = world.appraise(world.edited(module_id=module_id.format("plain")))
    assert refused_by(result) == refused_by(plain) == gate
    assert "\\x1b" in str(result)
    assert len(str(result).splitlines()) == len(str(plain).splitlines())
    for text in (str(result), result.to_json()):
        assert all(line.isprintable() for line in text.splitlines())
    assert result.summary.isprintable()
