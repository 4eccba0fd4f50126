"""`workshop doctor`: what the machine gives, found out by trying, and said in plain words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workshop_kit.errors import LabError
from workshop_kit.simulator import doctor
from workshop_kit.simulator.isolation.levels import OBTAINED, Isolation, Level


def test_what_is_reported_was_obtained_by_a_process_that_has_ended() -> None:
    isolation = doctor.examine()
    assert isolation.level in (Level.NAMESPACES, Level.SECCOMP)
    assert isolation.layers["seccomp"] == OBTAINED
    assert Path("/etc/passwd").exists(), "the trial confined itself and not this process"
    lines = doctor.report()
    assert lines[0] == f"isolation: {isolation.level.value}"
    assert [line.strip(" -") for line in lines[len(isolation.layers) + 2 :]] == list(isolation.open)


def test_a_lower_level_can_be_tried_by_itself() -> None:
    assert doctor.examine(Level.SECCOMP).level is Level.SECCOMP


def test_a_machine_without_any_isolation_is_told_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = (
        "from workshop_kit.simulator.isolation import seccomp\n"
        "def install(*_): raise OSError(38, 'Function not implemented')\n"
        "seccomp.install = install\n"
    )
    monkeypatch.setattr(doctor, "_TRIAL", trial + doctor._TRIAL)
    (line,) = doctor.report()
    assert line.startswith("isolation: none. no isolation is to be had here (seccomp: Function not implemented)")
    with pytest.raises(LabError):
        doctor.examine()


def test_the_command_ends_with_0_where_there_is_isolation() -> None:
    command = [sys.executable, "-m", "workshop_kit", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("isolation: ")
    assert Isolation(Level.NAMESPACES).open[0] in done.stdout
