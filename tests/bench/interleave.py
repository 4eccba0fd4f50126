"""Time several calls in one run, so that a noisy machine is noisy to all of them alike.

Each round runs every case once, in a rotating order, for a few milliseconds. A ratio compares two cases of the same
round; the median over the rounds is reported. Absolute times are orders of magnitude, no more.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

Case = Callable[[], object]


def calls_per_window(case: Case, window: float) -> int:
    """How many calls fill about `window` seconds."""
    case()
    calls = 1
    while True:
        took = _time(case, calls)
        if took >= window:
            return calls
        calls = max(2 * calls, int(calls * window / max(took, 1e-9)))


def interleave(cases: Mapping[str, Case], *, rounds: int = 41, window: float = 0.01) -> dict[str, list[float]]:
    """Seconds a call, by case and round."""
    counts = {name: calls_per_window(case, window) for name, case in cases.items()}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                seconds[name].append(_time(cases[name], counts[name]) / counts[name])
    finally:
        gc.enable()
    return seconds


def ratio(seconds: Mapping[str, list[float]], case: str, base: str) -> float:
    """The median over the rounds of one case's time over another's."""
    return statistics.median(a / b for a, b in zip(seconds[case], seconds[base], strict=True))


def _time(case: Case, calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        case()
    return time.perf_counter() - begin
