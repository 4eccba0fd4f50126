"""What a bench prints: a line for each thing measured, beside what it must reach and what it is to reach."""

from __future__ import annotations

import sys
from typing import NamedTuple

HEADING = f"{'what':<48} {'over':<34} {'value':>6} {'must':>7} {'aim':>7}  holds"


_LONGEST_PROGRESS = 78
"""Less than a row: one that is written over the other leaves nothing of it."""


class Bound(NamedTuple):
    """At most this much; `at_least`, at least."""

    must: float
    aim: float
    at_least: bool = False

    def holds(self, value: float) -> str:
        reached = [name for name in ("aim", "must") if self._reaches(value, getattr(self, name))]
        return reached[0] if reached else "no"

    def _reaches(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound


class Row(NamedTuple):
    """`over` is what the value is a ratio to, or what it is of; a value that has a unit says so in `what`."""

    what: str
    over: str
    value: float
    bound: Bound | None = None

    def __str__(self) -> str:
        line = f"{self.what:<48} {self.over:<34} {self.value:>6.2f}"
        if self.bound is None:
            return line
        sign = "≥" if self.bound.at_least else "≤"
        must, aim = (f"{sign} {bound:.4g}" for bound in (self.bound.must, self.bound.aim))
        return f"{line} {must:>7} {aim:>7}  {self.bound.holds(self.value)}"


def note(text: str) -> None:
    """What belongs beside the table."""
    _write(text, "\n")


def progress(text: str) -> None:
    """What is measured now: on a terminal, until the next line is written over it."""
    _write(text, "\r" if sys.stderr.isatty() else "\n")


def _write(text: str, end: str) -> None:
    line = f"{text:<{_LONGEST_PROGRESS}}" if sys.stderr.isatty() else text
    print(line, end=end, file=sys.stderr, flush=True)
