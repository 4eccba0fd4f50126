"""Which Python a service runs on: the version that its base image names, found on this machine, or the nearest one.

Python is not measured, and never downloaded. A file of the right name proves nothing: pyenv puts one on PATH for every
version, also for those that are not switched on. So what is found is run, once, and says itself what it is.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from workshop_kit.errors import ImageError

OLDEST = 7
"""Minor version: what came before 3.7 has no pip that today's packages can be installed with."""

_SECONDS = 10.0
_HOMEBREW = Path("/opt") / "homebrew"
_USUAL = (
    "/usr/local/bin",
    "/usr/bin",
    str(_HOMEBREW / "bin"),
    str(_HOMEBREW / "opt" / "python@{}" / "bin"),
    "/usr/local/opt/python@{}/bin",
    "/Library/Frameworks/Python.framework/Versions/{}/bin",
)
_NAMED = re.compile(r"python[_-]?(\d)[_.](\d{1,2})(?!\d)")
_QUESTION = """\
import importlib.util, json, sys
print(json.dumps({
    "version": sys.version, "minor": list(sys.version_info[:2]), "base": sys.base_prefix, "executable": sys.executable,
    "is_base": sys.prefix == sys.base_prefix, "name": sys.implementation.name,
    "has_pip": importlib.util.find_spec("ensurepip") is not None,
}))
"""


class Python(NamedTuple):
    """An interpreter that works.

    Attributes:
        path: of the installation's own interpreter, never of a virtual environment's.
        minor: such as "3.8".
        version: all that it says of its version and its build.
        has_pip: whether it brings a pip for its environments. Some distributions of Linux take it out.
    """

    path: Path
    minor: str
    version: str
    has_pip: bool


def wanted_python(base_image: str) -> str:
    """The version that a base image's name ends with, such as "3.8" of `…python_3_8`; "" where it names none."""
    named = _NAMED.findall(base_image)
    return ".".join(named[-1]) if named else ""


def find_python(wanted: str) -> tuple[Path, str]:
    """An interpreter of the version `wanted`, or of the nearest that this machine has, and what to tell the author.

    The note is "" where the version is the wanted one. With `wanted` "" it is this Python's own installation.
    """
    if wanted in ("", own_python().minor):
        return own_python().path, ""
    for minor in _by_distance(wanted):
        if found := _find(minor):
            return found.path, "" if minor == wanted else _note(wanted, minor)
    raise ImageError(f"expected Python {wanted} or a version near it on this machine, got none; install it")


def _note(wanted: str, found: str) -> str:
    if _number(wanted) < OLDEST:
        return (
            f"Python {wanted}, which base_image names, is older than 3.{OLDEST}, the oldest that is used; "
            f"{found} is used; pins may need another"
        )
    # Already asked, so this runs nothing.
    lame = any((other := ask(candidate)) and other.minor == wanted for candidate in _candidates(wanted))
    lacking = " with ensurepip (its package for venv brings it)" if lame else ""
    return (
        f"this machine has no Python {wanted}{lacking}, which base_image names; the nearest, {found}, is used; "
        "pins may need another"
    )


def _number(version: str) -> int:
    """Where a version stands among the minor versions of Python 3; all of Python 2 before them."""
    major, minor = map(int, version.split("."))
    return minor if major == 3 else (major - 3) * 100 + minor


def _by_distance(wanted: str) -> Iterator[str]:
    """The wanted version, its next newer, its next older, and on until this Python's own is among them."""
    middle, own = _number(wanted), _number(own_python().minor)
    for distance in range(abs(middle - own) + 1):
        for number in dict.fromkeys((middle + distance, middle - distance)):
            if number >= OLDEST:
                yield f"3.{number}"


def _find(minor: str) -> Python | None:
    if minor == own_python().minor:
        return own_python()
    for candidate in _candidates(minor):
        if (found := ask(candidate)) and found.minor == minor and found.has_pip:
            return found
    return None


def _candidates(minor: str) -> Iterator[Path]:
    """Files of the right name, each file once, those first that the user has put on PATH."""
    seen: set[Path] = set()
    for folder in [*_on_path(), *_installed(minor)]:
        candidate = folder / f"python{minor}"
        if candidate.is_file() and os.access(candidate, os.X_OK) and (real := candidate.resolve()) not in seen:
            seen.add(real)
            yield candidate


def _on_path() -> list[Path]:
    return [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder.startswith("/")]


def _installed(minor: str) -> Iterator[Path]:
    home, environment = Path.home(), os.environ
    data = Path(environment.get("XDG_DATA_HOME") or home / ".local/share")
    pyenv = Path(environment.get("PYENV_ROOT") or home / ".pyenv")
    uv = Path(environment.get("UV_PYTHON_INSTALL_DIR") or data / "uv/python")
    for parent, pattern in (
        (pyenv / "versions", f"{minor}.*/bin"),
        (uv, f"cpython-{minor}.*/bin"),
        (home / ".asdf/installs/python", f"{minor}.*/bin"),
        (data / "mise/installs/python", f"{minor}.*/bin"),
    ):
        yield from sorted(parent.glob(pattern), key=_patch_level, reverse=True)
    yield from (Path(folder.format(minor)) for folder in _USUAL)


def _patch_level(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.parent.name)[:3]]


@functools.cache
def own_python() -> Python:
    """The installation that this process runs on; below a virtual environment, its base."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix) / "bin" / f"python{minor}"
    path = base if base.is_file() else Path(getattr(sys, "_base_executable", None) or sys.executable)
    return Python(path, minor, sys.version, importlib.util.find_spec("ensurepip") is not None)


@functools.cache
def ask(candidate: Path) -> Python | None:
    """What an interpreter says of itself, or None where it does not work; it is run once a process."""
    if candidate == own_python().path:
        return own_python()
    try:
        # -I: neither the folder nor the variables of the caller choose what runs. pyenv looks into the folder too.
        done = subprocess.run(
            [candidate, "-I", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            cwd="/",
            check=True,
        )
        said = json.loads(done.stdout)
        return _base_of(said) if said["name"] == "cpython" else None
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None


def _base_of(said: Any) -> Python | None:
    minor = "{}.{}".format(*said["minor"])
    base = Path(str(said["base"])) / "bin" / f"python{minor}"
    if not base.is_file():
        if not said["is_base"]:
            return None
        base = Path(str(said["executable"]))
    return Python(base, minor, str(said["version"]), said["has_pip"] is True)
