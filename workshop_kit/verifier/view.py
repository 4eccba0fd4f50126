"""The ledger as a notebook shows it: a table that is read without its colours, and without a mouse."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from workshop_kit.verifier.ledger import Check, Outcome

_MARKS = {Outcome.PASSED: ("✓", "#2e7d32"), Outcome.FAILED: ("✗", "#c62828"), Outcome.NOT_EVALUATED: ("·", "#757575")}
_HEADS = ("Check", "What", "Outcome", "Expected", "Actual", "Reference")
_CELL = "text-align: left; vertical-align: top; padding: 2px 8px"


def as_html(checks: Sequence[Check], verdict: str) -> str:
    """The ledger as one table. What came from the evidence is escaped: a document's author writes no HTML here."""
    heads = "".join(f'<th scope="col" style="{_CELL}">{head}</th>' for head in _HEADS)
    sentences = "<br>".join(map(escape, verdict.splitlines()))
    caption = f'<caption style="text-align: left; font-weight: bold">{sentences}</caption>'
    return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{''.join(map(_row, checks))}</tbody></table>"


def _row(check: Check) -> str:
    mark, colour = _MARKS[check.outcome]
    number = f'<th scope="row" style="{_CELL}; border-left: 4px solid {colour}">{check.number}</th>'
    outcome = f'<span aria-hidden="true">{mark}</span> {check.outcome.value}'
    cells = [escape(check.name) + _notes(check), outcome, *map(escape, (check.expected, check.actual, check.reference))]
    return f"<tr>{number}{''.join(map(_cell, cells))}</tr>"


def _cell(content: str) -> str:
    return f'<td style="{_CELL}">{content}</td>'


def _notes(check: Check) -> str:
    explanation = f"<br>{escape(check.explanation)}" if check.explanation else ""
    opened = " open" if check.failed else ""
    summary = f"<summary>if {check.number} is skipped</summary>"
    return f"{explanation}<details{opened}>{summary}{escape(check.if_skipped)}</details>"
