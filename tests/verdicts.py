"""What the tests decided over each vector, for a table at the end: `workshop test --verdicts`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attested import refused_by

from workshop_kit.verifier import AppraisalResult

Verdict = Callable[[str, str, str], None]
"""Notes a vector, what its manifest expects, and what was decided."""


def decision(result: AppraisalResult) -> str:
    """Accepted or refused by the gates; then what the claims say."""
    if gate := refused_by(result):
        return f"refused by {gate}"
    failed = ", ".join(str(check.number) for check in result.failed)
    return f"gates passed, claims failed: {failed}" if failed else "affirmed" if result.affirmed else "gates passed"


def table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    heads = ("vector", "its manifest", "decided")
    return [
        f"{name:<{widths[0]}}  {expected:<{widths[1]}}  {decided}" for name, expected, decided in (heads, *sorted(rows))
    ]
