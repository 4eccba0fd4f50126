"""A lab says what keeps its enclaves' apps from the machine, wherever that is less than all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workshop_kit.notebook import Lab
from workshop_kit.simulator.isolation.levels import Level

LEFT_OPEN = (
    "isolation none (namespaces not asked for; landlock not asked for; seccomp not asked for). The app can still "
)


def test_without_isolation_each_enclave_says_so_and_the_ledger_too(capsys: pytest.CaptureFixture[str]) -> None:
    with Lab(unisolated=True) as lab:
        assert lab.attempt("Alice").affirmed
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(LEFT_OPEN + "read and write every file")
        assert "Unisolated: nothing keeps its app from the machine" in str(lab.results[-1])
        lab.run(lab.image)
        assert capsys.readouterr().err.startswith(LEFT_OPEN)


def test_with_less_than_was_asked_for_the_lab_says_what_it_does_not_stop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lab() as lab:
        monkeypatch.setattr(lab, "isolation", Level.SECCOMP)
        assert lab.enclave.isolation.level is Level.SECCOMP
        assert capsys.readouterr().err.startswith("isolation seccomp (namespaces not asked for; ")


def test_with_all_of_it_the_pages_stay_as_they_are_and_whoever_asks_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Lab() as lab:
        if lab.enclave.isolation.level is not Level.NAMESPACES:
            pytest.skip(f"this machine gives no more: {lab.enclave.isolation}")
        assert str(lab.enclave.isolation).startswith("isolation namespaces (namespaces in force; ")
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("asked", [True, False])
def test_the_workshop_can_be_opened_for_labs_without_isolation(asked: bool) -> None:
    """The command becomes JupyterLab, whose kernels inherit what was asked for."""
    script = f"""
import os, subprocess, sys
from workshop_kit import tasks
tasks.copy_pages = lambda *_: []
os.execv = lambda *_: print(os.environ.get("WORKSHOP_UNISOLATED"))
sys.argv = ["workshop", "lab"{', "--unisolated"' if asked else ""}]
from workshop_kit.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["1" if asked else "None"], done.stderr
