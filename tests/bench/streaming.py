"""Bodies through an httpx client, a piece at a time; and a program that streams when it is told to.

As a program its arguments are `transport URL FOLDER` or `plain URL`. It says "ready" once it has been answered, then
reads lines: for each, so many MiB go up and come down, and it says "done".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

MIB = 1 << 20
_BLOCK = os.urandom(MIB)


def send(client: httpx.Client, mib: int) -> None:
    """Stream so many MiB to the service, which must have counted them all."""
    counted = client.post("/sum", content=_blocks(mib)).json()
    assert counted == {"bytes": mib * MIB}, counted


def receive(client: httpx.Client, mib: int) -> None:
    """Have the service stream so many MiB, keeping none."""
    size = 0
    with client.stream("GET", "/blob", params={"mib": mib}) as response:
        for piece in response.iter_raw():
            size += len(piece)
    assert size == mib * MIB, size


def _blocks(mib: int) -> Iterator[bytes]:
    for _ in range(mib):
        yield _BLOCK


def main(kind: str, url: str, *more: str) -> None:
    if kind == "transport":
        from bench_service import Hosted  # late: a plain client is to be no larger than it is

        client = Hosted(url, 0, Path(more[0])).client()
    else:
        client = httpx.Client(base_url=url, timeout=120)
    with client:
        client.get("/ping").raise_for_status()
        print("ready", flush=True)
        for line in sys.stdin:
            send(client, int(line))
            receive(client, int(line))
            print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
