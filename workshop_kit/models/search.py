"""The search: every order of every move, with every message that Mallory can put in the way. It knows no protocol.

A state is what each run has done and what Mallory knows. He carries each message himself: what a run sends reaches him
alone, and what he never hands over was dropped. A state that was met before is not entered again. The search goes by
the number of moves, so the first attack that it finds is a shortest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from workshop_kit.models.attacker import Attacker
from workshop_kit.models.terms import Term


class Run(Protocol):
    """One run of a role: hashable, and never changed. A move leads to another run."""

    @property
    def title(self) -> str:
        """What a trace calls it."""

    @property
    def like(self) -> str:
        """While it has done nothing: the same for runs that differ in their numbers alone. Afterwards empty."""

    def moves(self, mallory: Attacker) -> Iterator[Move]:
        """What it may do next, given whom the network belongs to."""


class Message(NamedTuple):
    """A message that a run sends, and what a trace calls it."""

    title: str
    term: Term


class Move(NamedTuple):
    """A run takes a message, or none, and sends one, or none.

    Attributes:
        takes_for: what it takes the received message for, as "answer".
    """

    before: Run
    after: Run
    received: Term | None = None
    takes_for: str = ""
    sent: Message | None = None


class State(NamedTuple):
    runs: tuple[Run, ...]
    mallory: Attacker


class Violation(NamedTuple):
    """A property that does not hold in a state.

    Attributes:
        says: why it does not, in a sentence without its full stop.
        secret: what Mallory has worked out, where that is the reason.
    """

    property: str
    says: str
    secret: Term | None = None


class Attack(NamedTuple):
    """A shortest way to a state in which a property does not hold."""

    violation: Violation
    moves: tuple[Move, ...]


class Found(NamedTuple):
    """What a search gives: how many states there are within its bounds, and an attack on each property that falls."""

    states: int
    attacks: tuple[Attack, ...]


class _Way(NamedTuple):
    """How a state was first reached."""

    before: State
    move: Move


Judge = Callable[[State], Iterable[Violation]]


def search(runs: Iterable[Run], mallory: Attacker, judge: Judge) -> Found:
    """Look at every state that these runs can reach, and keep the first violation of each property."""
    start = State(tuple(runs), mallory)
    ways: dict[State, _Way | None] = {start: None}
    attacks: dict[str, Attack] = {}
    queue = [start]
    for state in queue:
        for violation in judge(state):
            if violation.property not in attacks:
                attacks[violation.property] = Attack(violation, tuple(_way_to(state, ways)))
        for move, after in _moves(state):
            if after not in ways:
                ways[after] = _Way(state, move)
                queue.append(after)
    return Found(len(queue), tuple(attacks.values()))


def _moves(state: State) -> Iterator[tuple[Move, State]]:
    """What can happen next. Of runs that are alike as long as they have done nothing, the first one starts first."""
    waiting: set[str] = set()
    for number, run in enumerate(state.runs):
        if run.like not in waiting:
            yield from (_made(state, number, move) for move in run.moves(state.mallory))
        if run.like:
            waiting.add(run.like)


def _made(state: State, number: int, move: Move) -> tuple[Move, State]:
    runs = (*state.runs[:number], move.after, *state.runs[number + 1 :])
    mallory = state.mallory.hears(move.sent.term) if move.sent else state.mallory
    return move, State(runs, mallory)


def _way_to(state: State, ways: dict[State, _Way | None]) -> Iterator[Move]:
    moves = []
    while way := ways[state]:
        moves.append(way.move)
        state = way.before
    return reversed(moves)
