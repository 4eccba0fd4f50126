"""An attack as a story: who sends what, what Mallory does with it, and how he works out what he was not to know.

Mallory is the operator: every message goes through his hands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from workshop_kit.models.attacker import Attacker, Gain
from workshop_kit.models.search import Message, Move, Run
from workshop_kit.models.terms import (
    Agreed,
    Derived,
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
from workshop_kit.models.words import Vocabulary


class Story:
    """The moves of an attack, told in their order.

    Args:
        recorded: messages of an old session, which Mallory has kept.

    Attributes:
        steps: a sentence for each thing that is sent, handed over or made.
    """

    def __init__(self, moves: Iterable[Move], recorded: Iterable[Message] = ()) -> None:
        self._words = Vocabulary()
        self._sender: dict[Term, Run] = {}
        self._meant_for: dict[Term, str] = {}
        self._delivered: set[Term] = set()
        self._own: Counter[str] = Counter()
        for message in recorded:
            self._words.learn(message.title, message.term)
            self._delivered.add(message.term)
        self.steps = tuple(sentence for move in moves for sentence in self._tell(move))

    def _tell(self, move: Move) -> Iterator[str]:
        title = move.before.title
        if move.received is not None:
            yield f"Mallory {self._hands_over(move.received, move.takes_for, title)}."
            self._delivered.add(move.received)
        if move.sent is None:
            yield f"{title} accepts it."
        else:
            sends = "sends" if move.received is None else "accepts it and sends"
            yield f"{title} {sends} {move.sent.title}: {self._words.describe(move.sent.term)}."
            self._remember(move, move.sent)

    def _remember(self, move: Move, sent: Message) -> None:
        self._words.learn(sent.title, sent.term)
        if isinstance(sent.term, Pack):
            for part in (part for part in sent.term.parts if isinstance(part, Signed)):
                self._words.learn(f"the signed part of {sent.title}", part)
        self._sender[sent.term] = move.before
        if move.received in self._sender:
            self._meant_for[sent.term] = self._sender[move.received].title

    def _hands_over(self, message: Term, kind: str, receiver: str) -> str:
        words = self._words.titles.get(message)
        if words is None:
            return self._makes(message, kind, receiver)
        if message in self._sender and self._sender[message].title == receiver:
            return f"hands {words} back to {receiver}"
        if message in self._delivered:
            return f"replays {words} to {receiver}"
        if (meant := self._meant_for.get(message, receiver)) != receiver:
            return f"gives {words}, which was meant for {meant}, to {receiver}"
        return f"passes {words} on to {receiver}"

    def _makes(self, message: Term, kind: str, receiver: str) -> str:
        if isinstance(message, Name):
            return f"hands {receiver} {message.text}"
        self._own[kind] += 1
        title, description = f"Mallory's {kind} {self._own[kind]}", self._words.describe(message)
        self._words.learn(title, message)
        return f"makes a message himself and hands it to {receiver} as {title}: {description}"

    def ending(self, mallory: Attacker, secret: Term) -> tuple[str, ...]:
        """How Mallory, who has heard it all, works out `secret`; a line for each thing that he opens or computes."""
        return tuple(dict.fromkeys(_working(secret, mallory, self._words)))


def _working(term: Term, mallory: Attacker, words: Vocabulary) -> Iterator[str]:
    """First what a step needs, then the step."""
    if term in mallory.known:
        gain = mallory.known[term]
        if gain is not None:
            yield from _working(gain.source, mallory, words)
            if gain.needed is not None:
                yield from _working(gain.needed, mallory, words)
            yield from _opening(gain, words)
        return
    for part in mallory.recipe(term) or ():
        yield from _working(part, mallory, words)
    if isinstance(term, Derived | Agreed | KemSecret):
        yield f"Mallory computes {words.say(term)}."


def _opening(gain: Gain, words: Vocabulary) -> Iterator[str]:
    gained = words.say(gain.gained)
    match gain.source:
        case Sealed():
            yield f"Mallory opens {words.titles.get(gain.source, 'the record')} and reads {gained}."
        case Wrapped(_, public):
            yield f"Mallory unwraps {gained}, since he has the private key to {words.say(public)}."
        case Public() | Share() | KemPublic():
            yield f"Mallory computes {gained} from {words.say(gain.source)}."
