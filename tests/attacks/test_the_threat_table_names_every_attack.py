"""SPEC's table of threats, the attacks that can be played, and the tests that play them tell the same story."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import workshop_kit
from workshop_kit.simulator import misbehaving
from workshop_kit.simulator.misbehaving import Attack, Change
from workshop_kit.verifier.ledger import RULES

SPEC = (Path(workshop_kit.__file__).parent / "SPEC.md").read_text()
THREATS = [line for line in SPEC.partition("## Threats")[2].splitlines() if line.startswith("| ")]
TESTS = {file: file.read_text() for file in Path(__file__).parent.glob("test_*.py") if file != Path(__file__)}

ATTACKS = {
    name: each
    for name, each in vars(misbehaving).items()
    if isinstance(each, type) and issubclass(each, Attack) and each not in (Attack, Change)
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_has_a_row_that_says_what_stops_it(name: str) -> None:
    rows = [line for line in THREATS if f"`{name}`" in line.split("|")[1]]
    assert rows
    for row in rows:
        assert re.search(r"\[[A-Z]-\d+\]|check \d", row.split("|")[2]), row


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_played_by_a_test(name: str) -> None:
    assert [file.name for file, text in TESTS.items() if re.search(rf"\b{name}\(", text)]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attacks_page_cites_what_stops_it(name: str) -> None:
    """What it cites is there."""
    page = ATTACKS[name].__doc__ or ""
    cited, checks = re.findall(r"\[([A-Z]-\d+)\]", page), re.findall(r"checks? (\d+)(?: and (\d+))?", page)
    assert cited or checks
    assert all(f"**[{sentence}]**" in SPEC for sentence in cited)
    assert {int(number) for pair in checks for number in pair if number} <= set(RULES)


def test_the_table_names_no_attack_that_cannot_be_played() -> None:
    named = {name for line in THREATS for name in re.findall(r"`([A-Z]\w+)`", line.split("|")[1])}
    assert named <= set(ATTACKS)
