"""Enclaves started, ended and killed again and again leave no process, no socket, no mount, and no file for good.

`CHURN=10 workshop test tests/e2e/test_churn.py` does ten times as much.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from processes import Program, descendants, program, running_of, until

from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Infrastructure, run_enclave

SERVICE = Path(__file__).resolve().parents[2] / "data" / "services" / "millionaires"
TIMES = int(os.environ.get("CHURN", "1"))
CYCLES, KILLS = 10 * TIMES, 5 * TIMES

FOLLOWED = """
import sys
from pathlib import Path
from workshop_kit.simulator.enclave import run_enclave
print("begun", flush=True)
with run_enclave(Path(sys.argv[1])) as enclave:
    print("up", enclave.describe()["ProcessID"], enclave.infrastructure.pid, flush=True)
    enclave.wait()
"""


@pytest.fixture(scope="module")
def image() -> EnclaveImage:
    return build_enclave(SERVICE).image


def mounts() -> int:
    table = Path("/proc/self/mountinfo")
    return len(table.read_text().splitlines()) if table.exists() else 0


def descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_starts_and_stops_leave_nothing(image: EnclaveImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mounted = mounts()
    with run_enclave(image):
        pass
    opened = descriptors()
    with closing(Infrastructure()) as infrastructure:
        folder = set(infrastructure.directory.iterdir())
        for _ in range(CYCLES):
            with run_enclave(image, infrastructure=infrastructure):
                recorded = descendants(os.getpid())
            # What stays is the shell that would end enclaves.
            until(lambda: len(running_of(recorded) - {infrastructure.pid}) == 1, "the end of an enclave")  # noqa: B023
            assert set(infrastructure.directory.iterdir()) == folder
    until(lambda: not descendants(os.getpid()), "the end of the infrastructure")
    assert (mounts(), descriptors()) == (mounted, opened)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("turn", range(KILLS))
@pytest.mark.parametrize("victim", ["caller", "infrastructure", "enclave"])
def test_a_kill_at_any_moment_leaves_nothing(image: EnclaveImage, tmp_path: Path, victim: str, turn: int) -> None:
    """While it starts, in every other turn, or once it serves; what a killed infrastructure leaves is swept later."""
    file, chance = tmp_path / "image.eif", random.Random(f"{victim} {turn}")
    file.write_bytes(image.encode())
    mounted = mounts()
    with program("-c", FOLLOWED, str(file), temporary=tmp_path / "t") as caller:
        caller.await_line("begun")
        if turn % 2:
            time.sleep(chance.random())
            found = sorted(each.pid for each in caller.record())
        else:
            found = [int(pid) for pid in caller.await_line("up").split()]
        caller.record()
        pid = caller.pid if victim == "caller" else chance.choice(found or [caller.pid])
        os.kill(pid, signal.SIGKILL)
        if pid != caller.pid and not ends(caller):
            # While it starts, some processes only help and end soon: one that writes certificates, one that tries what
            # namespaces there are. Without them it starts too.
            assert turn % 2
            caller.await_line("up")
            caller.signal(signal.SIGKILL)
        caller.process.communicate()
        caller.all_gone()
    assert mounts() == mounted
    assert swept(caller) == []


def ends(caller: Program) -> bool:
    """Whether it ends by itself, within a time in which any enclave has started."""
    try:
        caller.process.wait(5)
    except subprocess.TimeoutExpired:
        return False
    return True


def swept(caller: Program) -> list[str]:
    """What is left once another infrastructure has started and ended in the same temporary folder."""
    again = "from workshop_kit.simulator.control import describe_enclaves; assert describe_enclaves() == []"
    with program("-c", again, temporary=caller.temporary) as other:
        code, _, errors = other.end()
    assert code == 0, errors
    return other.left_behind()
