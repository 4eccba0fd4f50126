"""A variant examined: what fell, and how, as an object that a table or a page can show."""

from __future__ import annotations

from typing import NamedTuple

from workshop_kit.models.attacker import Attacker
from workshop_kit.models.properties import Property
from workshop_kit.models.search import Attack, search
from workshop_kit.models.story import Story
from workshop_kit.models.variants import Variant
from workshop_kit.models.words import Vocabulary


class Trace(NamedTuple):
    """A shortest attack on one property.

    Attributes:
        steps: who hands what to whom, in sentences.
        ending: why the property does not hold then, in sentences.
        attack: the same as moves and terms.
    """

    property: Property
    steps: tuple[str, ...]
    ending: tuple[str, ...]
    attack: Attack

    def __str__(self) -> str:
        numbered = [f"{number:3}. {step}" for number, step in enumerate(self.steps, start=1)]
        return "\n".join([f"Attack on: {self.property.value}.", *numbered, *(f"     {line}" for line in self.ending)])


class Result(NamedTuple):
    """What the search of a variant gave.

    Attributes:
        states: how many there are within the variant's bounds; all of them were looked at.
        traces: one for each property that falls, the shortest attack on it.
    """

    variant: Variant
    states: int
    traces: tuple[Trace, ...]

    @property
    def fell(self) -> frozenset[Property]:
        return frozenset(trace.property for trace in self.traces)

    def __str__(self) -> str:
        clients, enclaves = len(self.variant.profiles), self.variant.enclaves
        bounds = f"{clients} runs of a client, {enclaves} of the enclave, {self.states} states."
        head = (
            f"{self.variant.name}: {self.variant.says}.\n{bounds} Mallory is the operator, and carries every message."
        )
        return "\n\n".join([head, *map(str, self.traces or ("No attack.",))])


def examine(variant: Variant) -> Result:
    """Search every state of a variant; some seconds at most. Explained in SPEC.md, Shown to be safe."""
    found = search(variant.runs(), variant.mallory(), variant.judge())
    return Result(variant, found.states, tuple(_trace(variant, attack) for attack in found.attacks))


def _trace(variant: Variant, attack: Attack) -> Trace:
    story = Story(attack.moves, variant.recorded)
    violation, mallory = attack.violation, variant.mallory()
    for move in attack.moves:
        mallory = mallory.hears(move.sent.term) if move.sent else mallory
    if violation.secret is None:
        ending: tuple[str, ...] = (f"So {violation.says}.",)
    elif violation.property is not Property.FORWARD:
        ending = story.ending(mallory, violation.secret)
    else:
        ending = (_afterwards(variant), *story.ending(_later(variant, mallory), violation.secret))
    return Trace(Property(violation.property), story.steps, ending, attack)


def _later(variant: Variant, mallory: Attacker) -> Attacker:
    return mallory.later(variant.leaks, variant.judge().powers_later)


def _afterwards(variant: Variant) -> str:
    if not variant.leaks:
        return "Afterwards Mallory has a quantum computer."
    return f"Afterwards Mallory learns {' and '.join(map(Vocabulary().say, variant.leaks))}."
