"""One enclave for the attacks of a file. After each its operator is honest again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from operated import Operated, operated

from workshop_kit.simulator.misbehaving import Attack


@pytest.fixture(scope="module")
def _enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    with operated(tmp_path_factory.mktemp("operated")) as started:
        yield started


@pytest.fixture
def enclave(_enclave: Operated) -> Iterator[Operated]:
    yield _enclave
    _enclave.misbehave(Attack())
