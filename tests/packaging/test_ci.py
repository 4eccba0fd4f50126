"""`.ci/run`: what cannot be installed is said aloud and stops nothing; tests and fuzzer decide the exit code."""

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
    stub(programs / "base64", 'echo "base64 of $3"')
    stub(
        programs / "python3", """case "$2" in --help) ;; test) echo "tests: $PWD $*"; exit 7 ;; *) echo "$*" ;; esac"""
    )
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    stub(tmp_path / ".venv" / "bin" / "python", "exit 1")
    return tmp_path


def stub(file: Path, body: str) -> None:
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def run(checkout: Path, *, code: int = 7) -> str:
    bash = str(checkout / "bin" / "bash")
    environment = {"PATH": str(checkout / "bin"), "CI": "true"}
    command = [bash, str(checkout / SCRIPT)]
    done = subprocess.run(
        command, env=environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    ours = [line for line in done.stdout.splitlines() if not line.startswith("ci:")]
    assert ours[-1] == f"tests: {checkout.resolve()} workshop.py test"
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


def venv(checkout: Path, body: str) -> None:
    stub(checkout / ".venv" / "bin" / "python", body)


def test_the_fuzzer_runs_for_a_minute_before_the_tests(checkout: Path) -> None:
    """CI reads the last lines of a test runner, so the tests come last. What is there is not installed again."""
    venv(checkout, """case "$1" in -m) echo "$*"; exit 1 ;; esac""")
    lines = [line for line in run(checkout).splitlines() if not line.startswith("ci:")]
    assert lines == ["workshop.py fuzz --seconds 60", f"tests: {checkout.resolve()} workshop.py test"]


@pytest.mark.parametrize(("tests", "code"), [(0, 1), (7, 7)])
def test_a_finding_fails_the_run_after_the_tests(checkout: Path, tests: int, code: int) -> None:
    venv(checkout, "")
    finds = "mkdir fuzz-findings; echo x >fuzz-findings/document-crash; exit 1"
    body = f"""case "$2" in fuzz) {finds} ;; test) echo "tests: $PWD $*"; exit {tests} ;; esac"""
    stub(checkout / "bin" / "python3", body)
    (checkout / "bin" / "mkdir").symlink_to(shutil.which("mkdir") or "mkdir")
    output = run(checkout, code=code)
    assert "fuzz-findings/document-crash in base64: base64 of fuzz-findings/document-crash" in output
    assert output.splitlines()[-1].startswith("ci: fuzzing ended with code 1")


def test_without_atheris_the_tests_run_and_the_fuzzer_does_not(checkout: Path) -> None:
    stub(checkout / "bin" / "uv", 'echo "uv $*"; exit 2')
    output = run(checkout)
    assert "no fuzzing" in output
    assert "workshop.py fuzz" not in output


def test_an_installation_that_brings_no_atheris_is_none(checkout: Path) -> None:
    """On another kind of machine the extra is empty, and installing nothing succeeds."""
    stub(checkout / "bin" / "uv", "")
    assert "no fuzzing" in run(checkout)


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_atheris_is_installed_as_a_wheel_by_what_made_the_environment(checkout: Path, installer: str) -> None:
    """An environment that uv made has no pip in it."""
    installs = """echo "$*"; echo >installed"""
    stub(checkout / "bin" / "uv", installs)
    pip = f"""case "$3" in --version) exit {0 if installer == "pip" else 1} ;; install) {installs} ;; esac"""
    venv(checkout, f"""case "$1" in -c) [ -e installed ] ;; -m) {pip} ;; esac""")
    output = run(checkout)
    [line] = [line for line in output.splitlines() if "pip install" in line]
    assert line.startswith("-m pip install" if installer == "pip" else "pip install --python .venv/bin/python")
    assert line.endswith("--only-binary atheris -c constraints.txt -e .[fuzz]")
    assert "workshop.py fuzz --seconds 60" in output


def test_the_script_can_be_run_as_it_is() -> None:
    assert os.access(ROOT / SCRIPT, os.X_OK)
