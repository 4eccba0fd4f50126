"""Requests one after another, on 16 connections, and bodies up and down: how fast ours are over TLS 1.3's.

A rate over a rate is the base's seconds over ours, each of its best round: what is left alone is quick. So rounds are
short, a few requests or a body of 32 MiB. Processor time, which a busy machine moves less, follows.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import httpx
import processor
from interleave import Measure, best_ratio, in_turn, interleave, timed
from programs import ProgramError
from streaming import receive, send
from table import Bound, Row, note, progress
from ways import BASE, PROXIES, TRANSPORT, Ways, open_ways

CONNECTIONS = 16
REQUESTS, CONNECTED, UP, DOWN = "requests/s", f"requests/s on {CONNECTIONS} connections", "up", "down"


class Amounts(NamedTuple):
    """How much is measured: rounds, and what is in one; `window` and `wrk_seconds` in seconds."""

    rounds: int = 200
    window: float = 0.005
    bulk_rounds: int = 15
    mib: int = 32
    wrk_rounds: int = 6
    wrk_seconds: int = 1
    cpu_rounds: int = 40


FULL = Amounts()

BOUNDS = {
    (REQUESTS, TRANSPORT): Bound(1.1, 1.6, at_least=True),
    (UP, TRANSPORT): Bound(1.0, 1.4, at_least=True),
    (DOWN, TRANSPORT): Bound(1.5, 3.0, at_least=True),
    (REQUESTS, PROXIES): Bound(0.65, 0.9, at_least=True),
    (CONNECTED, PROXIES): Bound(0.9, 1.4, at_least=True),
    (UP, PROXIES): Bound(0.6, 0.9, at_least=True),
    (DOWN, PROXIES): Bound(0.9, 1.6, at_least=True),
}


def rows(amounts: Amounts = FULL) -> Iterator[Row]:
    """As `workshop bench` prints them."""
    with ExitStack() as stack:
        ways = open_ways(stack)
        for client in ways.clients.values():
            assert client.get("/ping").json() == {"ok": True}
        for what, measure in KINDS.items():
            progress(f"rates: {what}")
            seconds = measure(ways, amounts)
            for way in [way for way in seconds if way != BASE]:
                yield Row(f"{what}, {way}", BASE, best_ratio(seconds, BASE, way), BOUNDS.get((what, way)))
        yield from processor.rows(ways, rounds=amounts.cpu_rounds)


def _requests(ways: Ways, amounts: Amounts) -> dict[str, list[float]]:
    cases = {name: partial(client.get, "/ping") for name, client in ways.clients.items()}
    return interleave(cases, rounds=amounts.rounds, window=amounts.window)


def _connections(ways: Ways, amounts: Amounts) -> dict[str, list[float]]:
    wrk = shutil.which("wrk")
    if wrk is None:
        note(f"skipped {CONNECTIONS} connections: wrk is not here (Debian, Ubuntu: sudo apt install wrk)")
        return {}
    options = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{amounts.wrk_seconds}s"]

    def measure(address: str) -> Measure:
        return lambda: 1 / per_second(subprocess.run([*options, f"{address}/ping"], capture_output=True, text=True))

    return in_turn({name: measure(each) for name, each in ways.addresses.items()}, rounds=amounts.wrk_rounds)


def per_second(done: subprocess.CompletedProcess[str]) -> float:
    """What wrk counted; raises ProgramError where not all was answered with success."""
    found = re.search(r"^Requests/sec:\s+([\d.]+)$", done.stdout, re.MULTILINE)
    if found is None or "Non-2xx" in done.stdout or "Socket errors" in done.stdout or not float(found[1]):
        raise ProgramError(f"wrk: {done.stdout or done.stderr}")
    return float(found[1])


def _up(ways: Ways, amounts: Amounts) -> dict[str, list[float]]:
    return _bulk(ways.clients, send, amounts)


def _down(ways: Ways, amounts: Amounts) -> dict[str, list[float]]:
    return _bulk(ways.clients, receive, amounts)


def _bulk(
    clients: Mapping[str, httpx.Client], move: Callable[[httpx.Client, int], None], amounts: Amounts
) -> dict[str, list[float]]:
    for client in clients.values():
        move(client, 1)
    measures = {name: timed(partial(move, client, amounts.mib)) for name, client in clients.items()}
    return in_turn(measures, rounds=amounts.bulk_rounds)


KINDS = {REQUESTS: _requests, CONNECTED: _connections, UP: _up, DOWN: _down}
