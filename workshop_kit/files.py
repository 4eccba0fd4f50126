"""Files that a person named: read whole or not at all, and never without an end."""

from __future__ import annotations

from pathlib import Path

from workshop_kit.errors import LabError

MOST = 1 << 20
"""Bytes of a key, a certificate, a policy or a manifest that are still read."""


def read_file(file: Path, *, most: int = MOST) -> bytes:
    """The bytes of a file.

    Raises:
        LabError: it cannot be read, or has more than `most` bytes; the message says which.
    """
    data = read_beginning(file, most + 1)
    if len(data) > most:
        raise LabError(f"cannot read {file}: expected at most {most} bytes, got more")
    return data


def read_beginning(file: Path, size: int) -> bytes:
    """The first `size` bytes of a file, a pipe or a device, or all where there are fewer.

    Raises:
        LabError: it cannot be read; the message says why.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise LabError(f"cannot read {file}: {error.strerror}") from None
