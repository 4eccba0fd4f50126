"""What an enclave costs over plain uvicorn with the same app: until the first answer, in each request, in memory."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from interleave import interleave, ratio

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
        folder = Path(directory) / "millionaires"
        shutil.copytree(SERVICE, folder)
        manifest = folder / ".oblivious" / "service.yaml"
        manifest.write_text(manifest.read_text().replace("workshop_asgi", "another_base"))
        script = folder / ".oblivious" / "services" / "server" / "run"
        script.parent.mkdir(parents=True)
        command = f"{sys.executable} -m uvicorn app:app --host 0.0.0.0 --port 80 --log-level error"
        script.write_text(f"#!/bin/sh\ncd /code\nexec {command}\n")
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


def rows() -> list[tuple[str, str, float]]:
    """As `workshop bench` prints them."""
    served = Served()
    found = [("start to first answer", "plain uvicorn's", start_ratio(served))]
    with (
        run_enclave(served.image) as isolated,
        run_enclave(served.image, isolation=Level.NONE) as open_,
        uvicorn() as (_, plain),
        served.client(isolated) as one,
        served.client(open_) as other,
    ):
        cases = {"isolated": lambda: one.get("/hello"), "unisolated": lambda: other.get("/hello")}
        seconds = interleave(cases, rounds=61)
        found.append(("a request, isolated", "unisolated", ratio(seconds, "isolated", "unisolated")))
        everybody = _pss(_tree(isolated.infrastructure.pid))
        found.append(("memory of all processes", "plain uvicorn's", everybody / _pss({plain})))
    with listening_by_itself(served) as enclave, uvicorn() as (_, plain):
        everybody = _pss(_tree(enclave.infrastructure.pid))
        found.append(("memory, a service by itself", "plain uvicorn's", everybody / _pss({plain})))
    return found


def _tree(root: int) -> set[int]:
    found = {root}
    while True:
        more = {pid for pid in _running() if _parent(pid) in found} - found
        if not more:
            return found
        found |= more


def _running() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def _pss(pids: set[int]) -> int:
    """Proportional set size in kB: shared pages are counted once among all who share them."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total
