"""What an enclave costs over plain uvicorn with the same app: until the first answer, in each request, in memory."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from bench_service import by_itself
from interleave import interleave, ratio
from memory import pss
from processes import descendants
from table import Row, progress

from workshop_kit.edges.client import AttestedTransport
from workshop_kit.edges.user_key import UserKey
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Enclave, run_enclave
from workshop_kit.simulator.isolation.levels import Level
from workshop_kit.verifier import Policy, ReferenceValues, TrustAnchor

SERVICE = Path(__file__).resolve().parents[2] / "data" / "services" / "millionaires"
STARTS = 9
DEADLINE = 20.0
HEADERS = {"X-OBLV-USER-NAME": "Alice", "X-OBLV-USER-ROLE": "querier"}


class Served:
    """The demonstration service in an enclave of one user, and that user's client."""

    def __init__(self) -> None:
        self.user = UserKey.generate()
        users = Users((User("Alice", "querier", self.user.public_bytes),))
        self.image: EnclaveImage = build_enclave(SERVICE, users=users).image

    def client(self, enclave: Enclave) -> httpx.Client:
        anchor = TrustAnchor.from_certificate(enclave.root)
        policy = Policy(reference_values=ReferenceValues(self.image.measurements()), trust_anchor=anchor)
        return httpx.Client(transport=AttestedTransport(enclave.url, self.user, policy), base_url="http://enclave")


@contextmanager
def listening_by_itself(served: Served) -> Iterator[Enclave]:
    """The same app in a process of its own inside its enclave, under plain uvicorn, with this Python's libraries."""
    with tempfile.TemporaryDirectory() as directory:
        folder = by_itself(SERVICE, Path(directory) / "millionaires")
        image = build_enclave(folder).image
        users = Users((User("Alice", "querier", served.user.public_bytes),))
        with run_enclave(image, users=users) as enclave:
            yield enclave


@contextmanager
def uvicorn() -> Iterator[tuple[int, int]]:
    """The same app under plain uvicorn, once it has answered: its port and its process."""
    with socket.create_server(("127.0.0.1", 0)) as any_socket:
        port = any_socket.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen(command, cwd=SERVICE / "src")
    try:
        _await(lambda: httpx.get(f"http://127.0.0.1:{port}/hello", headers=HEADERS).raise_for_status())
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _await(answer: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while True:
        try:
            answer()
            return
        except httpx.TransportError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


def start_ratio(served: Served) -> float:
    """From `run_enclave()` to the first affirmed answer, over uvicorn's start to its first answer."""
    seconds: dict[str, list[float]] = {"enclave": [], "uvicorn": []}
    for _ in range(STARTS):
        begin = time.perf_counter()
        with run_enclave(served.image) as enclave, served.client(enclave) as client:
            client.get("/hello").raise_for_status()
            seconds["enclave"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with uvicorn():
            seconds["uvicorn"].append(time.perf_counter() - begin)
    return ratio(seconds, "enclave", "uvicorn")


def rows() -> Iterator[Row]:
    """As `workshop bench` prints them."""
    progress("an enclave, from its start")
    served = Served()
    yield Row("start to first answer", "plain uvicorn's", start_ratio(served))
    with (
        run_enclave(served.image) as isolated,
        run_enclave(served.image, isolation=Level.NONE) as open_,
        uvicorn() as (_, plain),
        served.client(isolated) as one,
        served.client(open_) as other,
    ):
        cases = {"isolated": lambda: one.get("/hello"), "unisolated": lambda: other.get("/hello")}
        seconds = interleave(cases, rounds=61)
        yield Row("a request, isolated", "unisolated", ratio(seconds, "isolated", "unisolated"))
        yield Row("memory of all processes", "plain uvicorn's", _all_of(isolated) / pss(plain))
    with listening_by_itself(served) as enclave, uvicorn() as (_, plain):
        yield Row("memory, a service by itself", "plain uvicorn's", _all_of(enclave) / pss(plain))


def _all_of(enclave: Enclave) -> int:
    root = enclave.infrastructure.pid
    return sum(pss(pid) for pid in (root, *(each.pid for each in descendants(root))))
