"""What an image runs beside the built-in base: a plan, decided at build time, stored in the image, and so measured.

The process that reads it inside an enclave is small, so this file knows the plan alone. It does not know Dockerfiles:
`simulator.dockerfile` reads one and makes a plan of it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from workshop_kit.errors import ImageError

PLAN = "plan.json"
"""The plan's name beside the service folder, in the second ramdisk."""

RUN_SCRIPT = "#!"
"""Begins the command of a service that is a run script: its path in the service folder follows."""


class Plan(NamedTuple):
    """How a service folder becomes running services. Paths in the folder are relative, targets are absolute.

    Attributes:
        python: the version that base_image names, such as "3.8"; "" where it names none.
        workdir: where the services start.
        copies: (path in the service folder, target), in order; a folder's content goes into its target, and "." is the
            whole folder.
        environment: variables that the services see.
        services: name to command; `script_of` tells a run script from a command line.
        requirements: lines of a requirements file that pip reads from within the service folder.
    """

    python: str
    workdir: str
    copies: tuple[tuple[str, str], ...]
    environment: dict[str, str]
    services: dict[str, tuple[str, ...]]
    requirements: tuple[str, ...]

    def to_json(self) -> str:
        """The one text of this plan: the same plan gives the same bytes."""
        return json.dumps(self._asdict(), sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            ImageError: this is no plan, or a path of it leads out of the folder or of the enclave's tree.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise _refused("JSON", "something else") from None
        if not isinstance(data, dict) or set(data) != set(cls._fields):
            raise _refused(f"the keys {', '.join(cls._fields)}", "others")
        return cls(**{name: read(name, data[name]) for name, read in _READERS.items()})


def script_of(command: tuple[str, ...]) -> str | None:
    """The path, in the service folder, of the run script that a service's command is, or None for a command line."""
    return command[1] if command[0] == RUN_SCRIPT else None


def laid_out(copies: Iterable[tuple[str, str]], paths: Iterable[str]) -> dict[str, str]:
    """Where the folder's files stand after all copies: `{target: path in the folder}`, later over earlier ones."""
    names = sorted(paths)
    return {place: name for source, target in copies for name in names if (place := _place(name, source, target))}


def _place(name: str, source: str, target: str) -> str:
    if name == source:
        return target
    inside = name if source == "." else name.removeprefix(f"{source}/")
    return posixpath.join(target, inside) if source == "." or inside != name else ""


# --- reading ---------------------------------------------------------------------------------------------------------


def _refused(expected: str, actual: str) -> ImageError:
    return ImageError(f"the image's plan: expected {expected}, got {actual}; build the image again")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _refused(f"text in {name}", f"{value!r:.60}")
    return value


def _inside(name: str, value: Any) -> str:
    path = _text(name, value)
    if path.startswith("/") or posixpath.normpath(path) != path or path.split("/")[0] == "..":
        raise _refused(f"paths inside the service folder in {name}", repr(path))
    return path


def _absolute(name: str, value: Any) -> str:
    path = _text(name, value)
    # What begins with two slashes, normpath leaves as it is.
    if not path.startswith("/") or path.startswith("//") or posixpath.normpath(path) != path:
        raise _refused(f"absolute paths without dots in {name}", repr(path))
    return path


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _refused(f"a list in {name}", f"{value!r:.60}")
    return value


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _refused(f"a mapping in {name}", f"{value!r:.60}")
    return {_text(name, key): entry for key, entry in value.items()}


def _lines(name: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(name, entry) for entry in _list(name, value))


def _copies(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    pairs = [_list(name, entry) for entry in _list(name, value)]
    if any(len(pair) != 2 for pair in pairs):
        raise _refused(f"pairs in {name}", "others")
    return tuple((_inside(name, source), _absolute(name, target)) for source, target in pairs)


def _environment(name: str, value: Any) -> dict[str, str]:
    variables = {key: _text(name, entry) for key, entry in _mapping(name, value).items()}
    if any(not key or "=" in key for key in variables):
        raise _refused(f"names of variables in {name}", "others")
    return variables


def _services(name: str, value: Any) -> dict[str, tuple[str, ...]]:
    commands = {key: _lines(name, entry) for key, entry in _mapping(name, value).items()}
    for command in commands.values():
        if not command or (command[0] == RUN_SCRIPT and len(command) != 2):
            raise _refused(f"commands in {name}", repr(command))
        _inside(name, script_of(command) or ".")
    return commands


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "python": _text,
    "workdir": _absolute,
    "copies": _copies,
    "environment": _environment,
    "services": _services,
    "requirements": _lines,
}
