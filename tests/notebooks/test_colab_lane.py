"""The pages under the versions that Google Colab ships, in an environment of its own beside `.venv`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "tests" / "colab-constraints.txt"
ENVIRONMENT = ROOT / ".venv-colab"
WANTED = ("ipykernel", "ipython", "ipywidgets", "matplotlib", "nbclient", "nbformat", "nbval", "pytest")


def colab_python() -> str:
    """The interpreter of the lane, made or renewed where the pins, the project or Python are others."""
    python = str(ENVIRONMENT / "bin" / "python")
    stamp = ENVIRONMENT / ".installed"
    wanted = hashlib.sha256(PINS.read_bytes() + (ROOT / "pyproject.toml").read_bytes())
    wanted.update(f"{ROOT} {sys.version}".encode())
    if not stamp.exists() or stamp.read_text() != wanted.hexdigest():
        run(sys.executable, "-m", "venv", "--clear", *(["--without-pip"] if uv() else []), str(ENVIRONMENT))
        installer = [uv(), "pip", "install", "--python", python] if uv() else [python, "-m", "pip", "install"]
        run(*installer, "--quiet", "-c", str(PINS), *WANTED, "-e", str(ROOT))
        stamp.write_text(wanted.hexdigest())
    return python


def uv() -> str:
    return shutil.which("uv") or ""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_every_page_gives_its_stored_outputs_under_colabs_versions() -> None:
    python = colab_python()
    pages = sorted((ROOT / "notebooks").glob("*.ipynb"))
    # Old releases warn under a newer pytest; the lane is about outputs.
    output = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *map(str, pages))
    assert " passed" in output
    assert " skipped" not in output


def test_the_lane_runs_the_versions_that_it_names() -> None:
    """A lane that installed something newer would test the other lane twice."""
    ask = "from importlib.metadata import version; print(version('ipython'), version('ipywidgets'))"
    ipython, ipywidgets = run(colab_python(), "-c", ask).split()
    pins = dict(line.split("==") for line in PINS.read_text().splitlines() if "==" in line)
    assert ipython == pins["ipython"]
    assert ipywidgets == pins["ipywidgets"]
