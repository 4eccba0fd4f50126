"""The newc cpio archive, the form of a Linux initial ramdisk (Linux, Documentation/driver-api/early-userspace).

Written canonically: the same files give the same bytes on every machine. Order is by path, times and owners are zero,
inode numbers count up, and a file's mode follows from its content: one that begins like a program is executable.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import NamedTuple

from workshop_kit.errors import ImageError

_MAGIC = b"070701"
_HEADER = 110
_HEADER_FORM = re.compile(rb"070701[0-9A-Fa-f]{104}")
_TRAILER = "TRAILER!!!"
_DIRECTORY, _REGULAR, _LINK = 0o040755, 0o100644, 0o120777
_PROGRAM_BEGINNINGS = (b"#!", b"\x7fELF")


class Link(NamedTuple):
    """A symbolic link, to a relative path inside the archive: `stays_inside` says which are."""

    target: str


Entry = bytes | Link
"""A regular file's content, or a link. Directories follow from the paths."""


def write_archive(files: Mapping[str, Entry]) -> bytes:
    """The archive of `files`, by relative path with `/` between names; their directories are added."""
    entries: dict[str, tuple[int, bytes]] = {}
    for path, entry in files.items():
        for parent in _parents(path):
            entries[parent] = (_DIRECTORY, b"")
        entries[path] = (_LINK, entry.target.encode()) if isinstance(entry, Link) else (_mode(entry), entry)
    ordered = sorted(entries.items(), key=lambda item: item[0].encode())
    parts = [_entry(inode, path, mode, data) for inode, (path, (mode, data)) in enumerate(ordered, start=1)]
    return b"".join([*parts, _entry(0, _TRAILER, 0, b"")])


def _parents(path: str) -> list[str]:
    names = path.split("/")[:-1]
    return ["/".join(names[: depth + 1]) for depth in range(len(names))]


def _mode(content: bytes) -> int:
    return _REGULAR | 0o111 if content.startswith(_PROGRAM_BEGINNINGS) else _REGULAR


def _entry(inode: int, path: str, mode: int, data: bytes) -> bytes:
    name = path.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    header = _MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def read_archive(archive: bytes) -> dict[str, tuple[int, Entry]]:
    """Mode and entry by path, directories left out; what `write_archive` wrote.

    Raises:
        ImageError: `write_archive` never writes these bytes, or a path or a link leads out of the archive.
    """
    files: dict[str, tuple[int, Entry]] = {}
    directories = {""}
    offset = 0
    while True:
        path, mode, data, offset = _read_entry(archive, offset)
        if path == _TRAILER:
            if offset != len(archive):
                raise ImageError(f"ramdisk: expected its end at byte {offset}, got {len(archive) - offset} more bytes")
            break
        # Without this, one long path would make the comparison below write all its directories, each in full.
        if posixpath.dirname(_safe(path)) not in directories:
            raise _another_form()
        if mode & 0o170000 == 0o040000:
            directories.add(path)
        else:
            files[path] = (mode & 0o777, _link(path, data) if mode == _LINK else data)
    # One form for the same files: no path twice, none below a file or a link, no modes but the two.
    if write_archive({path: entry for path, (_, entry) in files.items()}) != archive:
        raise _another_form()
    return files


def _another_form() -> ImageError:
    return ImageError("ramdisk: expected an archive as `workshop build` writes, got another form of one")


def _read_entry(archive: bytes, offset: int) -> tuple[str, int, bytes, int]:
    header = archive[offset : offset + _HEADER]
    # int() alone takes a sign as well, and a negative size leads back to where the reader was.
    if not _HEADER_FORM.fullmatch(header):
        raise ImageError(f"ramdisk: expected a newc cpio entry at byte {offset}, got something else")
    fields = [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    mode, size, name_size = fields[1], fields[6], fields[11]
    name_end = offset + _HEADER + name_size
    try:
        path = archive[offset + _HEADER : name_end - 1].decode()
    except UnicodeDecodeError:
        raise ImageError(f"ramdisk: expected a name in UTF-8 at byte {offset}, got other bytes") from None
    start = name_end + -name_end % 4
    end = start + size
    if end > len(archive):
        raise ImageError(f"ramdisk: expected a whole newc cpio entry at byte {offset}, got something else")
    return path, mode, archive[start:end], end + -end % 4


def _safe(path: str) -> str:
    if "\0" in path or any(name in ("", ".", "..") for name in path.split("/")):
        raise ImageError(f"ramdisk: expected paths inside the archive, got {path!r}")
    return path


def _link(path: str, data: bytes) -> Link:
    target = data.decode("utf-8", "replace")
    if not stays_inside(path, target):
        raise ImageError(f"ramdisk: expected links that stay in the archive, got {path!r} to {target!r}")
    return Link(target)


def stays_inside(path: str, target: str) -> bool:
    """Whether a link at `path` to `target` leads to a place below the archive's root, by its names alone."""
    place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return bool(target) and "\0" not in target and not place.startswith(("/", "../")) and place != ".."
