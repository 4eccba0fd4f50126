"""Fixtures that many tests share. Time stands still and chance is seeded: a failure repeats."""

from __future__ import annotations

from pathlib import Path

import pytest
from attested import World
from vectors_location import REASON, vectors


@pytest.fixture
def world() -> World:
    """A fresh simulated infrastructure with one enclave."""
    return World()


@pytest.fixture
def shared_vectors() -> Path:
    """The folder of shared vectors; skips the test where there is none."""
    folder = vectors()
    if folder is None:
        pytest.skip(REASON)
    return folder
