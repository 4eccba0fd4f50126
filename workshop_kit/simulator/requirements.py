"""The distributions that a service with a requirements.txt of its own runs on: installed once, known by digest.

A distribution's digest covers the files that its wheel brought. So equal distributions give equal PCR2s, and a wheel
for another system, which brings other files, gives another.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from workshop_kit.errors import ImageError
from workshop_kit.simulator.container import Plan
from workshop_kit.simulator.installing import Installer, Runner
from workshop_kit.simulator.pip_words import essence
from workshop_kit.simulator.pythons import Python, ask, find_python, own_python
from workshop_kit.simulator.requirement_lines import Line, digests, read_lines

REQUIREMENTS = "requirements.txt"
THIS_PYTHON = own_python().path

_COMPLETE, _BASE = ".complete", ".base"
_WRITTEN_BY_INSTALLERS = frozenset(
    {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "provenance_url.json", "uv_build.json", "uv_cache.json"}
)


def has_requirements(text: str) -> bool:
    """Whether a requirements.txt asks for anything."""
    return any(line.strip() and not line.strip().startswith("#") for line in text.splitlines())


def text_of_requirements(plan: Plan) -> bytes:
    """A plan's requirements as one requirements file."""
    return "".join(f"{line}\n" for line in plan.requirements).encode()


def environment_for(
    requirements: bytes, folder: Path, *, python: Path = THIS_PYTHON, base: str = "", file: str = REQUIREMENTS
) -> Path:
    """The virtual environment that holds what `requirements` asks for, made where this machine has none yet.

    Two builds that want the same one at the same time wait for each other; what a killed one left is made anew.

    Args:
        folder: where relative paths begin.
        python: an interpreter that `find_python` gave.
        base: the version that base_image names, for messages.
        file: what `requirements` is from, for messages.

    Raises:
        ImageError: the requirements cannot be installed; one line says what is in the way.
    """
    lines = read_lines(requirements, folder, file=file)
    described = ask(python)
    if described is None:
        raise ImageError(f"{python}: expected a Python that works, got none; install it anew")
    known_by = [described.version, str(described.path), digests(lines, folder)]
    key = hashlib.sha256(json.dumps(known_by).encode()).hexdigest()[:32]
    environment = _cache() / "environments" / key
    if not (environment / _COMPLETE).exists():
        with _locked(key) as lock:
            # Whoever held the lock before may have made it.
            if not (environment / _COMPLETE).exists():
                _make_anew(environment, lines, Runner(folder, lock=lock), described, base)
    return environment


def measured_environment(plan: Plan, folder: Path, listed: Path) -> tuple[Path, Path, str]:
    """The environment that a plan's image was measured with, the installation of its Python, and the note on that.

    Args:
        listed: the file of what `distribution_list` gave when the image was built.

    Raises:
        ImageError: this machine has others, or cannot install them.
    """
    python, note = find_python(plan.python)
    environment = environment_for(text_of_requirements(plan), folder, python=python, base=plan.python)
    wanted = set(listed.read_text().splitlines()) if listed.is_file() else set()
    if others := sorted(wanted ^ set(distribution_list(environment).splitlines())):
        raise ImageError(
            f"expected the distributions that the image measures, got others on this machine "
            f"({others[0].partition(' ')[0]} differs): build the image here, or run it where it was built"
        )
    return environment, python.parent.parent, note


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enclave-workshop"


@contextlib.contextmanager
def _locked(key: str) -> Iterator[int]:
    """A descriptor that holds the lock on a cache entry. It is let go when the last process that has it ends."""
    locks = _cache() / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock = os.open(locks / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ImageError(f"cannot write to {locks}: {error.strerror}; name another folder in XDG_CACHE_HOME") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _make_anew(environment: Path, lines: tuple[Line, ...], runner: Runner, python: Python, base: str) -> None:
    shutil.rmtree(environment, ignore_errors=True)
    try:
        _make(environment, lines, runner, python, base)
    except BaseException:
        shutil.rmtree(environment, ignore_errors=True)
        raise


def _make(environment: Path, lines: tuple[Line, ...], runner: Runner, python: Python, base: str) -> None:
    environment.parent.mkdir(parents=True, exist_ok=True)
    # -I: a json.py in the folder, the working directory, is not to run at build time.
    without_pip = [] if lines and python.has_pip else ["--without-pip"]
    status, said = runner.run([str(python.path), "-I", "-m", "venv", *without_pip, str(environment)])
    if status:
        raise ImageError(f"Python {python.minor} makes no environment: {essence(said)}; is its package for venv there?")
    # pip, and setuptools beside it, belong to the Python as its standard library does.
    (environment / _BASE).write_text(_listed(environment))
    if lines:
        Installer(environment, lines, runner=runner, python=python, base=base).install()
    (environment / _COMPLETE).touch()


def distribution_list(environment: Path) -> str:
    """One line a distribution: name, version and SHA-256 of its files, in order. It is measured into PCR2.

    What came with the environment's Python and is as it came, pip itself, is not listed.
    """
    came_along = (environment / _BASE).read_text().splitlines()
    return "".join(f"{line}\n" for line in _listed(environment).splitlines() if line not in came_along)


def _listed(environment: Path) -> str:
    (site,) = (environment / "lib").glob("python*/site-packages")
    found = sorted(distributions(path=[str(site)]), key=lambda each: each.name.lower())
    return "".join(f"{each.name.lower()}=={each.version} sha256:{_digest(each)}\n" for each in found)


def _digest(distribution: Distribution) -> str:
    digest = hashlib.sha256()
    for file in sorted(distribution.files or (), key=str):
        # Byte code and start scripts hold the environment's path; installers note where a wheel came from.
        if file.suffix == ".pyc" or file.name in _WRITTEN_BY_INSTALLERS or str(file).startswith(".."):
            continue
        place = Path(str(file.locate()))
        content = hashlib.sha256(place.read_bytes()).hexdigest() if place.is_file() else "absent"
        digest.update(f"{file.as_posix()} {content}\n".encode())
    return digest.hexdigest()
