"""The search itself, on a protocol whose flaw and whose repair are known, and against one that is plain and slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import needham_schroeder
import pytest
from needham_schroeder import BOB, MALLORY

from workshop_kit.models import VARIANTS
from workshop_kit.models.attacker import Attacker
from workshop_kit.models.search import Judge, Message, Move, State, Violation, search
from workshop_kit.models.story import Story
from workshop_kit.models.terms import Name, Sealed
from workshop_kit.models.variants import Variant


def test_lowes_attack_on_needham_and_schroeder_is_found() -> None:
    found = search(
        needham_schroeder.runs(MALLORY, repaired=False), needham_schroeder.mallory(), needham_schroeder.judge
    )
    assert {attack.violation.property for attack in found.attacks} == {"nonce secret", "Bob agrees"}
    [attack] = [attack for attack in found.attacks if attack.violation.property == "Bob agrees"]
    assert Story(attack.moves).steps == (
        "Alice sends Alice's first message: (Alice's nonce, Alice's public key) wrapped for Mallory.",
        "Mallory makes a message himself and hands it to Bob as Mallory's message 1: "
        "(Alice's nonce, Alice's public key) wrapped for Bob.",
        "Bob accepts it and sends Bob's message: (Alice's nonce, Bob's nonce) wrapped for Alice.",
        "Mallory passes Bob's message on to Alice.",
        "Alice accepts it and sends Alice's second message: Bob's nonce wrapped for Mallory.",
        "Mallory makes a message himself and hands it to Bob as Mallory's message 2: Bob's nonce wrapped for Bob.",
        "Bob accepts it.",
    )


@pytest.mark.parametrize("peers", [(MALLORY,), (BOB,), (MALLORY, BOB)], ids=lambda peers: f"{len(peers)} peers")
def test_no_attack_on_lowes_repair_is_found(peers: tuple[Name, ...]) -> None:
    found = search(needham_schroeder.runs(*peers, repaired=True), needham_schroeder.mallory(), needham_schroeder.judge)
    assert found.attacks == ()
    assert found.states > 3


def test_without_mallory_the_flawed_protocol_runs_to_its_end() -> None:
    """A search that takes no step finds no attack on anything."""
    ends: list[State] = []

    def note(state: State) -> Iterator[Violation]:
        if all(run.title and not list(run.moves(state.mallory)) for run in state.runs):
            ends.append(state)
        return iter(())

    search(needham_schroeder.runs(BOB, repaired=True), needham_schroeder.mallory(), note)
    assert any(all(run.stage == 2 for run in state.runs) for state in ends)  # type: ignore[attr-defined]


def every_order(state: State, judge: Judge, fell: set[str]) -> None:
    """Every move in every order, no state remembered and none taken for another."""
    fell |= {violation.property for violation in judge(state)}
    for number, run in enumerate(state.runs):
        for move in run.moves(state.mallory):
            runs = (*state.runs[:number], move.after, *state.runs[number + 1 :])
            after = State(runs, state.mallory.hears(move.sent.term) if move.sent else state.mallory)
            every_order(after, judge, fell)


@pytest.mark.parametrize(
    ("name", "enclaves"),
    [
        ("seed", 1),
        ("modern", 1),
        ("seed-no-nonce", 1),
        ("seed-one-key", 2),
        ("both-falls-back", 1),
        ("modern-old-keys", 1),
    ],
)
def test_what_falls_is_what_falls_when_no_state_is_skipped(name: str, enclaves: int) -> None:
    """The search enters no state twice, and of runs that are alike starts the first one first."""
    variant = VARIANTS[name]
    small = Variant(
        **{**vars(variant), "profiles": (*variant.profiles[:1], variant.profiles[-1]), "enclaves": enclaves}
    )
    fell: set[str] = set()
    every_order(State(tuple(small.runs()), small.mallory()), small.judge(), fell)
    found = search(small.runs(), small.mallory(), small.judge())
    assert {attack.violation.property for attack in found.attacks} == fell


class Speaker(NamedTuple):
    """Says its word once, after it has heard `after` where that is not None."""

    title: str
    word: Name
    after: Name | None = None
    spoke: bool = False
    like: str = ""

    def moves(self, mallory: Attacker) -> Iterator[Move]:
        if not self.spoke and (self.after is None or mallory.can_make(self.after)):
            yield Move(self, self._replace(spoke=True), self.after, "word", Message(self.word.text, self.word))


def test_mallory_hears_what_is_sent_and_nothing_before() -> None:
    one, two, three = Name("one"), Name("two"), Name("three")
    runs = [Speaker("A", two, after=one), Speaker("B", three, after=two), Speaker("C", one)]
    orders: list[set[str]] = []

    def judge(state: State) -> Iterator[Violation]:
        orders.append({word.text for word in (one, two, three) if state.mallory.can_make(word)})
        return iter(())

    search(runs, Attacker.who_knows(), judge)
    assert orders == [set(), {"one"}, {"one", "two"}, {"one", "two", "three"}]


def test_a_story_tells_passing_from_replaying_reflecting_and_misdirecting() -> None:
    first, word, reply = Name("k"), Name("w"), Sealed(Name("r"), Name("k"))
    alice, bob, carol = Speaker("Alice", first), Speaker("Bob", first), Speaker("Carol", first)
    story = Story(
        [
            Move(alice, alice, sent=Message("question", Sealed(word, first))),
            Move(bob, bob, Sealed(word, first), "question", Message("reply", reply)),
            Move(carol, carol, reply, "reply"),
            Move(alice, alice, reply, "reply"),
            Move(alice, alice, Sealed(word, first), "reply"),
        ]
    )
    assert [step for step in story.steps if step.startswith("Mallory")] == [
        "Mallory passes question on to Bob.",
        "Mallory gives reply, which was meant for Alice, to Carol.",
        "Mallory replays reply to Alice.",
        "Mallory hands question back to Alice.",
    ]
