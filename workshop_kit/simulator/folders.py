"""Removing what an enclave leaves, whatever its app has made of it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path


def remove(folder: Path) -> None:
    """Remove a folder and all in it, or as much as can be."""
    with contextlib.suppress(RecursionError):  # an app may nest folders as deep as it likes
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)
