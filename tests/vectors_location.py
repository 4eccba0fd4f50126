"""Where the shared vectors are: in `$WORKSHOP_VECTORS`, else in `shared/vectors` beside the repository.

They are genuine and hostile evidence from public sources. None of it travels with the repository, so a test that needs
them is skipped where they are absent.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

REASON = "no shared vectors: set WORKSHOP_VECTORS"

Entry = dict[str, Any]


def vectors() -> Path | None:
    """The folder, or None where there is none. A variable that names no folder is a mistake, not an absence."""
    named = os.environ.get("WORKSHOP_VECTORS")
    if named and not Path(named).is_dir():
        raise pytest.UsageError(f"WORKSHOP_VECTORS is no folder: {named}")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "vectors"
    return folder if folder.is_dir() else None


def entries(manifest: str) -> list[Entry]:
    """The lines of a manifest, e.g. `nitro/MANIFEST.json`; none where the vectors are absent."""
    folder = vectors()
    return json.loads((folder / manifest).read_text()) if folder else []


def read(path: str) -> bytes:
    """A vector's bytes; skips the test that asks where the vectors are absent."""
    folder = vectors()
    if folder is None:
        pytest.skip(REASON)
    return (folder / path).read_bytes()


def cases(chosen: list[Entry], *, name: str = "file") -> list[Any]:
    """`chosen` lines of a manifest as parameters of a test, one skipped parameter where the vectors are absent."""
    if vectors() is None:
        return [pytest.param(None, marks=pytest.mark.skip(reason=REASON), id="absent")]
    return [pytest.param(entry, id=Path(entry[name]).stem) for entry in chosen]
