"""What an infrastructure guards ends with it, whatever that has done meanwhile; what ended before is not touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import DEADLINE, processes, program, running_of, until
from running import running
from services import ASGI, make_service

from workshop_kit.evidence.pcr import ZERO
from workshop_kit.simulator.watchdog import Watchdog
from workshop_kit.verifier import ReferenceValues, TrustAnchor, UnsafeDebugPolicy

GUARDING = """
import sys, time
from workshop_kit.simulator.watchdog import Watchdog
watchdog = Watchdog()
for word in sys.argv[1:]:
    getattr(watchdog, word.partition(":")[0])(int(word.partition(":")[2]))
print("guarding", flush=True)
time.sleep(600)
"""

# It is PID 1 of its namespace, and its first thread was told to end with its parent; this is another one.
REPLACES_ITSELF = (
    ASGI
    + """
import os, sys, threading

async def answer(scope, receive):
    program = [sys.executable, "-c", "import time; print('replaced', flush=True); time.sleep(600)"]
    threading.Timer(0.2, os.execv, [sys.executable, program]).start()
    return as_json("soon")
"""
)


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(3)]
    yield started
    for each in started:
        each.kill()
        each.wait()


def test_who_is_guarded_ends_with_a_killed_process_and_nobody_else(
    sleepers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    guarded, released, other = sleepers
    words = [f"guard:{guarded.pid}", f"guard:{released.pid}", f"release:{released.pid}", "release:1"]
    with program("-c", GUARDING, *words, temporary=tmp_path / "t") as guarding:
        guarding.await_line("guarding")
        assert guarded.poll() is None
        guarding.signal(signal.SIGKILL)
        guarding.end()
        guarding.all_gone()
    assert guarded.wait(DEADLINE) == -signal.SIGKILL
    assert (released.poll(), other.poll()) == (None, None)


def test_closing_ends_who_is_guarded_and_the_shell(sleepers: list[subprocess.Popen[bytes]]) -> None:
    watchdog = Watchdog()
    watchdog.guard(sleepers[0].pid)
    watchdog.close()
    assert sleepers[0].wait(DEADLINE) == -signal.SIGKILL
    watchdog.guard(sleepers[1].pid)  # too late is no error
    assert sleepers[1].poll() is None


def test_an_app_that_becomes_another_program_does_not_outlive_a_killed_infrastructure(tmp_path: Path) -> None:
    folder = make_service(tmp_path / "service", REPLACES_ITSELF, "/replace")
    with running(folder, debug_mode=True) as one:
        enclave = one.enclave
        pid = enclave.describe()["ProcessID"]
        recorded = {each for each in processes() if each.pid == pid}
        values = ReferenceValues(dict.fromkeys((0, 1, 2), ZERO))  # all that evidence in debug mode has
        learner = UnsafeDebugPolicy(trust_anchor=TrustAnchor.from_certificate(enclave.root), reference_values=values)
        one.client(policy=learner).get("/replace")
        until(lambda: "replaced" in enclave.console(), "another program")
        os.kill(enclave.infrastructure.pid, signal.SIGKILL)
        until(lambda: not running_of(recorded), "its end")
