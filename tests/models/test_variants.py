"""Both profiles searched within bounds: no attack as they stand, and the expected ones where one thing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from replayed import DoesNotFollowError, replay

from workshop_kit import models
from workshop_kit.models import VARIANTS, Property, Result, Trace, examine
from workshop_kit.models.search import Attack
from workshop_kit.models.terms import Name, Term


@cache
def searched(name: str) -> Result:
    return examine(VARIANTS[name])


def traces() -> Iterator[tuple[str, Trace]]:
    for name in VARIANTS:
        for trace in searched(name).traces:
            yield name, trace


@pytest.mark.parametrize("name", VARIANTS)
def test_what_falls_is_what_was_expected(name: str) -> None:
    assert searched(name).fell == VARIANTS[name].falls


@pytest.mark.parametrize("name", ["seed", "modern", "both"])
def test_no_attack_is_found_on_a_protocol_as_it_stands(name: str) -> None:
    result = searched(name)
    assert result.traces == ()
    assert len(result.variant.profiles) >= 2
    assert result.variant.enclaves >= 2
    assert result.states > 1000
    assert str(result).endswith("No attack.")


def test_the_search_reaches_whole_exchanges() -> None:
    """A protocol in which nobody gets anywhere has no attacks either: here an honest run ends, and all have spoken."""
    for name in ("seed", "modern", "both"):
        variant, seen = VARIANTS[name], set[tuple[str, bool]]()
        runs, mallory = list(variant.runs()), variant.mallory()
        moved = True
        while moved:
            moved = False
            for number, run in enumerate(runs):
                if move := next(run.moves(mallory), None):
                    moved, runs[number] = True, move.after
                    mallory = mallory.hears(move.sent.term) if move.sent else mallory
                    seen.add((run.title, move.sent is not None))
        assert {(f"{side} {number}", True) for side in ("Client", "Enclave") for number in (1, 2, 3)} <= seen
        assert any(getattr(run, "took", None) for run in runs if run.title.startswith("Client"))


def test_every_weakening_that_the_issue_of_the_channel_names_is_searched_in_both_profiles() -> None:
    for weakening in ("no-nonce", "no-pcrs", "unbound", "any-client", "no-signature"):
        assert {f"seed-{weakening}", f"modern-{weakening}"} <= VARIANTS.keys()
    for leak in ("leaked-afterwards", "user-leaked-before", "infrastructure-leaked-before"):
        assert {f"seed-{leak}", f"modern-{leak}"} <= VARIANTS.keys()


def table_of_the_specification() -> list[tuple[str, str, str]]:
    """Suffix and both cells of each row; what follows a colon in a cell explains it."""
    text = (Path(models.__file__).parents[1] / "SPEC.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([a-z-]+)`: [^|]+ \| ([^|]+) \| ([^|]+) \|$", text.partition("## Shown to be safe")[2], re.M
    )
    return [(suffix, seed.partition(":")[0], modern.partition(":")[0]) for suffix, seed, modern in rows]


def test_the_table_in_the_specification_is_what_the_search_finds() -> None:
    rows = table_of_the_specification()
    assert len(rows) > 15
    for suffix, *cells in rows:
        for profile, cell in zip(("seed", "modern"), cells, strict=True):
            fell = searched(f"{profile}-{suffix}").fell
            assert cell == (", ".join(each for each in Property if each in fell) or "nothing"), f"{profile}-{suffix}"
    left_out = {name for name in VARIANTS if name.startswith("seed-")} - {f"seed-{suffix}" for suffix, *_ in rows}
    assert left_out == {"seed-old-keys"}


def test_every_property_falls_somewhere() -> None:
    """A property that nothing violates is perhaps one that nothing can."""
    assert frozenset().union(*(searched(name).fell for name in VARIANTS)) == frozenset(Property)


def test_a_recorded_seed_session_opens_with_a_stolen_key_and_a_modern_one_stays_shut() -> None:
    assert searched("seed-leaked-afterwards").fell == {Property.FORWARD}
    assert searched("modern-leaked-afterwards").fell == set()


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.falls])
def test_each_attack_can_be_gone_through_step_by_step(name: str) -> None:
    """By other code: each message is one that Mallory can make by then, and each party does what SPEC.md says."""
    for trace in searched(name).traces:
        replay(VARIANTS[name], trace.attack)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.falls])
def test_an_attack_with_a_step_left_out_is_none(name: str) -> None:
    """So no trace has a step too many, and going through it is a check."""
    for trace in searched(name).traces:
        moves = trace.attack.moves
        for number in range(len(moves)):
            shorter = Attack(trace.attack.violation, (*moves[:number], *moves[number + 1 :]))
            with pytest.raises(DoesNotFollowError):
                replay(VARIANTS[name], shorter)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.falls])
def test_an_attack_with_a_message_that_mallory_cannot_make_is_none(name: str) -> None:
    unknown: Term = Name("a secret that nobody has said")
    for trace in searched(name).traces:
        moves = trace.attack.moves
        for number, move in enumerate(moves):
            if move.received is not None:
                forged = (*moves[:number], move._replace(received=unknown), *moves[number + 1 :])
                with pytest.raises(DoesNotFollowError, match="Mallory does not have it"):
                    replay(VARIANTS[name], Attack(trace.attack.violation, forged))


def test_an_attack_on_a_weakened_variant_is_none_on_the_protocol_as_it_stands() -> None:
    """The check that was left out is what stops it."""
    for name, trace in traces():
        profile = VARIANTS[name].profiles[0].name
        if VARIANTS[name].broken or VARIANTS[name].leaks or VARIANTS[name].broken_later or VARIANTS[name].knows:
            continue
        with pytest.raises(DoesNotFollowError):
            replay(VARIANTS[profile], trace.attack)


def test_a_trace_reads_as_a_story() -> None:
    [trace] = searched("seed-leaked-afterwards").traces
    assert str(trace) == (
        "Attack on: forward secret.\n"
        "  1. Client 1 sends seed hello 1: "
        "(Alice's public key, nonce 1, signature of Alice over these and the label of a seed hello).\n"
        "  2. Mallory passes seed hello 1 on to Enclave 1.\n"
        "  3. Enclave 1 accepts it and sends answer 1: "
        "(the good image, nonce 1, Alice's public key, key 1 wrapped for Alice) signed by the infrastructure.\n"
        "  4. Mallory passes answer 1 on to Client 1.\n"
        "  5. Client 1 accepts it and sends request 1: "
        "payload 1 sealed under the key 'seed, to the enclave' from key 1 and digest of (seed hello 1, answer 1).\n"
        "     Afterwards Mallory learns Alice's private key and the infrastructure's private key.\n"
        "     Mallory unwraps key 1, since he has the private key to Alice's public key.\n"
        "     Mallory computes the key 'seed, to the enclave' from key 1 and digest of (seed hello 1, answer 1).\n"
        "     Mallory opens request 1 and reads payload 1."
    )


def test_every_trace_is_told_to_its_end_in_words() -> None:
    for name, trace in traces():
        told = [*trace.steps, *trace.ending]
        assert trace.ending, name
        assert all(line.endswith(".") and "Name(" not in line and "None" not in line for line in told), name
        if trace.attack.violation.secret is not None:
            assert " reads " in trace.ending[-1], name


def test_a_quantum_computer_that_comes_later_says_what_it_inverts() -> None:
    [trace] = searched("modern-quantum-afterwards-no-ml-kem").traces
    assert trace.ending[0] == "Afterwards Mallory has a quantum computer."
    assert any("X25519 private key from" in line for line in trace.ending)


def test_the_same_search_tells_the_same_story() -> None:
    """Terms are compared by where they lie in memory; the order of a search must not be."""
    for name in ("modern-unbound", "seed-quantum"):
        assert str(examine(VARIANTS[name])) == str(searched(name))
