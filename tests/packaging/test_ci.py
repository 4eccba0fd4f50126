"""`.ci/run`: a browser that cannot be installed is said aloud and stops nothing; the tests decide the exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(".ci") / "run"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script alone, and a PATH where every program but bash is a stub."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / SCRIPT, tmp_path / SCRIPT)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or name)
    stub(programs / "id", "echo 0")
    stub(programs / "python3", 'echo "tests: $PWD $*"; exit 7')
    return tmp_path


def stub(file: Path, body: str) -> None:
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def run(checkout: Path) -> str:
    bash = str(checkout / "bin" / "bash")
    environment = {"PATH": str(checkout / "bin"), "CI": "true"}
    command = [bash, str(checkout / SCRIPT)]
    done = subprocess.run(
        command, env=environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines()[-1] == f"tests: {checkout.resolve()} workshop.py test"
    return done.stdout


def test_a_failed_installation_is_said_aloud_and_the_tests_run(checkout: Path) -> None:
    stub(checkout / "bin" / "apt-get", 'echo "apt-get $*"; [ "$1" = update ]')
    output = run(checkout)
    assert "failed" in output
    assert "browser tests skip" in output


def test_the_package_lists_come_first_and_the_browser_with_its_driver_second(checkout: Path) -> None:
    """A new machine's lists are empty or old: an installation without the update finds nothing."""
    stub(checkout / "bin" / "apt-get", 'echo "apt-get $*"')
    update, install = [line for line in run(checkout).splitlines() if line.startswith("apt-get")]
    assert update.startswith("apt-get update")
    assert install.startswith("apt-get install -y")
    assert "--no-install-recommends" in install
    assert install.endswith("chromium chromium-driver")


def test_a_machine_without_apt_get_runs_the_tests(checkout: Path) -> None:
    assert "browser tests skip" in run(checkout)


def test_a_browser_that_is_there_is_not_installed_again(checkout: Path) -> None:
    for name in ("chromium", "chromedriver"):
        stub(checkout / "bin" / name, "")
    stub(checkout / "bin" / "apt-get", 'echo "apt-get $*"')
    assert "apt-get" not in run(checkout)


def test_without_the_right_to_install_apt_get_is_left_alone(checkout: Path) -> None:
    stub(checkout / "bin" / "id", "echo 1000")
    stub(checkout / "bin" / "apt-get", 'echo "apt-get $*"')
    assert "apt-get update" not in run(checkout)


def test_the_script_can_be_run_as_it_is() -> None:
    assert os.access(ROOT / SCRIPT, os.X_OK)
