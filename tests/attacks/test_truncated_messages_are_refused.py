"""A message without its last record is cut, though the carrier's length is right, and nobody acts on its beginning."""

from __future__ import annotations

import pytest
from operated import LARGE, Operated, new_order, refusal

from workshop_kit.simulator.misbehaving import Truncate


@pytest.mark.parametrize("size", [0, LARGE], ids=["its only record", "its last record"])
def test_a_request_without(enclave: Operated, size: int) -> None:
    enclave.misbehave(Truncate("request"))
    order = new_order()
    words = refusal(lambda: enclave.client().post(f"/deposit?{order}", content=bytes(size)))
    assert "expected the last record of a message" in words
    assert enclave.executed(order) == []
    assert enclave.goes_on()


def test_a_response_without_its_only_record(enclave: Operated) -> None:
    """The request was executed, once: not having heard so is no reason to ask again."""
    enclave.misbehave(Truncate("response"))
    order = new_order()
    assert "cut on the way" in refusal(lambda: enclave.client().get(f"/pay?{order}"))
    assert len(enclave.executed(order)) == 1
    assert enclave.goes_on()


def test_a_response_without_its_last_record(enclave: Operated) -> None:
    """All of its data has arrived: what is missing is an empty record that says that this was all."""
    enclave.misbehave(Truncate("response"))
    assert "cut on the way" in refusal(lambda: enclave.client().get("/download"))
    assert enclave.goes_on()
