"""Processor time of all processes on a way to the app, the client's own among them, over that of the base.

A busy machine moves it less than a rate, least the best of many short rounds. It is no rate: processes work at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial

from interleave import Case, best_ratio, in_turn, timed
from streaming import receive, send
from table import Row, progress
from ways import BASE, Ways

REQUESTS, MIB = 10, 8
"""Of one round."""


def rows(ways: Ways, *, rounds: int) -> Iterator[Row]:
    """As `workshop bench` prints them."""
    kinds = {
        "requests": (lambda client: client.get("/ping"), REQUESTS),
        "up": (partial(send, mib=MIB), 1),
        "down": (partial(receive, mib=MIB), 1),
    }
    for what, (work, calls) in kinds.items():
        progress(f"processor time: {what}")
        cases: dict[str, Case] = {way: partial(work, client) for way, client in ways.clients.items()}
        measures = {way: timed(case, calls, partial(spent, ways.processes[way])) for way, case in cases.items()}
        seconds = in_turn(measures, rounds=rounds)
        for way in [way for way in seconds if way != BASE]:
            yield Row(f"processor time, {what}, {way}", BASE, best_ratio(seconds, way, BASE))


def spent(pids: Iterable[int]) -> float:
    """Seconds of processor time that the processes have had, all threads together."""
    # Linux makes a process's clock of its number: clock_getcpuclockid(3), which Python has for threads alone.
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)
