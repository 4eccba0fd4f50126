"""The distributions that a service with a requirements.txt of its own runs on: installed once, known by digest.

A distribution's digest covers the files that its wheel brought. So equal distributions give equal PCR2s, and a wheel
for another system, which brings other files, gives another.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from workshop_kit.errors import ImageError

REQUIREMENTS = "requirements.txt"
_WRITTEN_BY_INSTALLERS = frozenset(
    {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "provenance_url.json", "uv_build.json", "uv_cache.json"}
)
_TIMEOUT = 900


def has_requirements(text: str) -> bool:
    """Whether a requirements.txt asks for anything."""
    return any(line.strip() and not line.strip().startswith("#") for line in text.splitlines())


def environment_for(requirements: bytes, folder: Path) -> Path:
    """The virtual environment that holds what `requirements` asks for, made where this machine has none yet.

    Relative paths in it begin at `folder`.

    Raises:
        ImageError: the requirements cannot be installed; the message ends with the installer's last words.
    """
    named = [hashlib.sha256(data).hexdigest() for data in _named_files(requirements.decode("utf-8", "replace"), folder)]
    key = hashlib.sha256(json.dumps([sys.version, sys.executable, named]).encode() + requirements).hexdigest()[:32]
    environment = _cache() / "environments" / key
    if not (environment / ".complete").exists():
        shutil.rmtree(environment, ignore_errors=True)
        _install(environment, requirements, folder)
        (environment / ".complete").touch()
    return environment


def _named_files(requirements: str, folder: Path) -> Iterator[bytes]:
    """The distributions that are named by path: tomorrow other bytes may stand there."""
    for word in requirements.split():
        path = folder / word.removeprefix("file://")
        if path.is_file():
            yield path.read_bytes()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enclave-workshop"


def _install(environment: Path, requirements: bytes, folder: Path) -> None:
    environment.mkdir(parents=True)
    file = environment / REQUIREMENTS
    file.write_bytes(requirements)
    # -I: a json.py in the folder, the working directory, is not to run at build time.
    _run([sys.executable, "-I", "-m", "venv", "--clear", "--without-pip", str(environment)], folder)
    file.write_bytes(requirements)  # --clear took it along
    python = str(environment / "bin" / "python")
    uv = shutil.which("uv")
    if uv:
        _run([uv, "pip", "install", "--quiet", "--python", python, "-r", str(file)], folder)
    else:
        _run([sys.executable, "-I", "-m", "pip", "--python", python, "install", "--quiet", "-r", str(file)], folder)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        raise ImageError(f"the requirements were not installed within {_TIMEOUT} s") from None
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-300:]
        raise ImageError(f"the requirements cannot be installed with Python {sys.version.split()[0]}: {words}")


def distribution_list(environment: Path) -> str:
    """One line a distribution: name, version and SHA-256 of its files, in order. It is measured into PCR2."""
    (site,) = (environment / "lib").glob("python*/site-packages")
    found = sorted(distributions(path=[str(site)]), key=lambda each: each.name.lower())
    return "".join(f"{each.name.lower()}=={each.version} sha256:{_digest(each)}\n" for each in found)


def _digest(distribution: Distribution) -> str:
    digest = hashlib.sha256()
    for file in sorted(distribution.files or (), key=str):
        # Byte code and start scripts hold the environment's path; installers note where a wheel came from.
        if file.suffix == ".pyc" or file.name in _WRITTEN_BY_INSTALLERS or str(file).startswith(".."):
            continue
        content = hashlib.sha256(Path(str(file.locate())).read_bytes()).hexdigest()
        digest.update(f"{file.as_posix()} {content}\n".encode())
    return digest.hexdigest()
