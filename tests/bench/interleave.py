"""Time several calls in one run, so that a noisy machine is noisy to all of them alike.

Each round runs every case once, for a few milliseconds, in an order of its own: what ran just before costs a case some
hundredths. A ratio compares the tenth percentiles of two cases: what each takes when it is left alone, since whatever
else runs here only ever adds. Absolute times are orders of magnitude, no more.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping

Case = Callable[[], object]
Measure = Callable[[], float]


def calls_per_window(case: Case, window: float) -> int:
    """How many calls fill about `window` seconds."""
    case()
    calls = 1
    while True:
        took = _time(case, calls)
        if took >= window:
            return calls
        calls = max(2 * calls, int(calls * window / max(took, 1e-9)))


def interleave(cases: Mapping[str, Case], *, rounds: int = 61, window: float = 0.03) -> dict[str, list[float]]:
    """Seconds a call, by case and round."""
    counts = {name: calls_per_window(case, window) for name, case in cases.items()}

    measures = {name: timed(case, counts[name]) for name, case in cases.items()}
    return in_turn(measures, rounds=rounds)


def timed(case: Case, calls: int = 1, clock: Measure = time.perf_counter) -> Measure:
    """Seconds a call, by the clock."""
    return lambda: _time(case, calls, clock) / calls


def in_turn(measures: Mapping[str, Measure], *, rounds: int) -> dict[str, list[float]]:
    """What each measure gives, by name and round, for measures that keep their own time."""
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for name in random.Random(turn).sample(list(measures), len(measures)):
                seconds[name].append(measures[name]())
    finally:
        gc.enable()
    return seconds


def ratio(seconds: Mapping[str, list[float]], case: str, base: str) -> float:
    """One case's tenth percentile over another's."""
    return _tenth_percentile(seconds[case]) / _tenth_percentile(seconds[base])


def best_ratio(seconds: Mapping[str, list[float]], case: str, base: str) -> float:
    """One case's best round over another's, for cases of several processes: where a tenth is seldom left alone."""
    return min(seconds[case]) / min(seconds[base])


def _tenth_percentile(values: list[float]) -> float:
    return sorted(values)[len(values) // 10]


def _time(case: Case, calls: int, clock: Measure = time.perf_counter) -> float:
    begin = clock()
    for _ in range(calls):
        case()
    return clock() - begin
