"""A thousand users' programs are connected at once, and each costs the enclave little."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from processes import descendants
from running import Running, running
from services import ASGI, make_service

SESSIONS = 1000
EACH = 40_000
"""Bytes of a session with its connection; it takes about a quarter of this."""
FILES = 4 * SESSIONS
"""Descriptors of this process, which is client and parent instance: a connection has three ends here."""

APP = (
    ASGI
    + """
async def answer(scope, receive):
    return as_json("pong")
"""
)


@contextmanager
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"this system allows {hard} open files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(enclave: Running) -> int:
    """Of all processes of the enclave, what they share counted once (PSS), in bytes."""
    pid = enclave.enclave.describe()["ProcessID"]
    maps = [Path(f"/proc/{each}/smaps_rollup").read_text() for each in (pid, *(one.pid for one in descendants(pid)))]
    return sum(int(line.split()[1]) * 1024 for text in maps for line in text.splitlines() if line.startswith("Pss:"))


async def asked(enclave: Running, count: int) -> int:
    """So many sessions, each with a request behind it and its connection open; gives what the enclave takes then."""
    clients = [httpx.AsyncClient(transport=enclave.async_transport(), base_url="http://enclave") for _ in range(count)]
    for client in clients:
        assert (await client.get("/")).json() == "pong"
    taken = memory(enclave)
    for client in clients:
        assert (await client.get("/")).json() == "pong"
        await client.aclose()
    return taken


def test_a_thousand_sessions_are_open_at_once_and_take_40_kb_each_at_most(tmp_path: Path) -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this system does not say what a process takes")
    with many_files(), running(make_service(tmp_path / "service", APP)) as enclave:
        before = asyncio.run(asked(enclave, 20))
        assert asyncio.run(asked(enclave, SESSIONS)) - before < SESSIONS * EACH
