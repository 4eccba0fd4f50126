"""A requirements file as pip reads it: without comments, with the files that it names taken in, and paths made whole.

So pip can be given one file that stands elsewhere, and what an environment is known by covers all that its author
wrote. This file installs nothing.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from workshop_kit.errors import ImageError

_MOST_FILES = 20
_COMMENT = re.compile(r"(^|\s+)#.*$")
_OPTION = re.compile(r"(-r|--requirement|-c|--constraint|-f|--find-links|-e|--editable)(?:\s+|=|(?<=-[rcfe]))(.+)")
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class Line(NamedTuple):
    """One requirement or option; `file` names, for messages, the file that it stands in."""

    file: str
    text: str


def read_lines(requirements: bytes, folder: Path, *, file: str) -> tuple[Line, ...]:
    """The lines of a requirements file, those of the files that it names with -r in their places.

    Args:
        folder: where the file's relative paths begin.
        file: its name in messages.

    Raises:
        ImageError: it names a file that is not there, or what no environment can hold for itself.
    """
    return tuple(_lines(requirements, folder, file, depth=0))


def _lines(requirements: bytes, folder: Path, file: str, *, depth: int) -> Iterator[Line]:
    for text in _logical_lines(_decoded(requirements)):
        found = _OPTION.fullmatch(text)
        if not found or "://" in found[2]:
            _refuse_folder(text, folder, file)
            yield Line(file, text)
        elif found[1] in ("-e", "--editable"):
            raise ImageError(
                f"{file}: expected distributions to install, got {text!r}, whose files stay where they are; "
                "put a wheel of it into the folder"
            )
        else:
            yield from _with_path(found[1], _path(found[2]), folder, file, depth)


def _with_path(option: str, name: str, folder: Path, file: str, depth: int) -> Iterator[Line]:
    path = folder / name
    if option in ("-f", "--find-links"):
        yield Line(file, f"-f {shlex.quote(os.path.abspath(path))}")  # noqa: PTH100  links stay as they are
        return
    if not path.is_file() or depth == _MOST_FILES:
        what = "files that do not name each other" if depth == _MOST_FILES else f"a file {name}, which {option} names"
        raise ImageError(f"{file}: expected {what}, got none; correct the name, or add the file")
    if option in ("-c", "--constraint"):
        yield Line(file, f"-c {shlex.quote(os.path.abspath(path))}")  # noqa: PTH100
    else:
        inner = str(Path(file).parent / name) if depth else name
        yield from _lines(path.read_bytes(), path.parent, inner, depth=depth + 1)


def _path(text: str) -> str:
    try:
        return " ".join(shlex.split(text))
    except ValueError:
        return text


def _refuse_folder(text: str, folder: Path, file: str) -> None:
    """Of a folder, pip makes a wheel in that very folder: the service's, which was read already."""
    path = re.split(r"[\[;]", text)[0].strip()
    if re.match(r"\.{0,2}/|\.{1,2}$", path) and (folder / path).is_dir():
        raise ImageError(f"{file}: expected distributions, got the folder {text!r}; put a wheel of it into the folder")


def _decoded(data: bytes) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    return data.decode(encoding, "replace")


def _logical_lines(text: str) -> Iterator[str]:
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        if stripped := _COMMENT.sub("", line).strip():
            yield stripped


def digests(lines: tuple[Line, ...], folder: Path) -> list[str]:
    """What the lines come to, wherever the folder is: tomorrow other bytes may stand in the files that they name."""
    here = f"{os.path.abspath(folder)}/"  # noqa: PTH100
    return [each for line in lines for each in (line.text.replace(here, ""), *_named(line.text, folder))]


def _named(text: str, folder: Path) -> Iterator[str]:
    found = _OPTION.fullmatch(text)
    for word in [_path(found[2])] if found else text.split():
        path = os.path.join(folder, word.removeprefix("file://"))  # noqa: PTH118
        if os.path.isfile(path):  # noqa: PTH113  False, not an error, for what can be no path
            yield hashlib.sha256(Path(path).read_bytes()).hexdigest()
        elif found and os.path.isdir(path):  # noqa: PTH112
            yield from _listed(Path(path), own=Path(path).is_relative_to(folder.absolute()))


def _listed(folder: Path, *, own: bool) -> Iterator[str]:
    """The files of a folder that -f names; outside of the service's own folder it may be large, and is not read."""
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        status = file.stat()
        content = hashlib.sha256(file.read_bytes()).hexdigest() if own else f"{status.st_size} {status.st_mtime_ns}"
        yield f"{file.name} {content}"
