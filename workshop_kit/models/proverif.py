"""The unbounded models: seed.pv and modern.pv, and weakened ones that differ from them in named lines.

A weakened model is its file with each change made, byte for byte, so that a result belongs to a digest. This file knows
what ProVerif is expected to say and reads what it says; `recording` runs it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from workshop_kit.errors import LabError

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results.json"
NOT_RUN = "not yet run with ProVerif"

QUERIES: Mapping[str, str] = {
    "payload secret": r"attacker\w*\(payload",
    "result secret": r"attacker\w*\(result",
    "client agrees": r"^Query inj-event\(ClientHas",
    "enclave agrees": r"^Query inj-event\(EnclaveTook",
    "result agrees": r"^Query inj-event\(ClientTook",
}
"""What each query asks, in the order of the files, and how its line in ProVerif's summary is known."""

_VERDICT = re.compile(r"is (true|false)\.|(cannot be proved)\.")


class Change(NamedTuple):
    """A piece of a model's text, which stands there as often as said, and what takes its place."""

    old: str
    new: str
    times: int = 1


class Model(NamedTuple):
    """A model for ProVerif.

    Attributes:
        base: the file that it is made from.
        falls: the queries that ProVerif is expected to refute; it is expected to prove the others.
    """

    name: str
    base: str
    changes: tuple[Change, ...]
    falls: frozenset[str]

    @property
    def text(self) -> str:
        """The whole file.

        Raises:
            LabError: the base has changed, and a change does not fit it any more.
        """
        text = (FOLDER / f"{self.base}.pv").read_text(encoding="utf-8")
        for old, new, times in self.changes:
            if text.count(old) != times:
                raise LabError(f"{self.name}: expected {old!r} {times} times in {self.base}.pv, got {text.count(old)}")
            text = text.replace(old, new)
        return text

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def expected(self) -> dict[str, str]:
        return {query: "false" if query in self.falls else "true" for query in QUERIES}


def read_verdicts(output: str) -> dict[str, str]:
    """What ProVerif's summary says of each query: "true", "false" or "cannot be proved".

    Raises:
        LabError: this is no output with a line for each query.
    """
    lines = [line for line in output.partition("Verification summary:")[2].splitlines() if line.startswith("Query ")]
    verdicts = {}
    for query, pattern in QUERIES.items():
        found = [match for line in lines if re.search(pattern, line) and (match := _VERDICT.search(line))]
        if len(found) != 1:
            raise LabError(f"expected one verdict on {query!r} in ProVerif's summary, got {len(found)}")
        verdicts[query] = found[0][1] or found[0][2]
    return verdicts


def read_results() -> dict[str, dict[str, object]]:
    """Model by model: `sha256`, `expected`, and `checked`, which is null with a `note` where ProVerif has not run."""
    results: dict[str, dict[str, object]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results
