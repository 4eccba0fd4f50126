"""Records are read in the order in which they were sealed, or not at all."""

from __future__ import annotations

from operated import LARGE, Operated, new_order, refusal

from workshop_kit.simulator.misbehaving import Reorder


def test_a_request_whose_records_were_swapped_is_not_executed(enclave: Operated) -> None:
    """The app has begun to read it, and never sees its end."""
    enclave.misbehave(Reorder("request"))
    order = new_order()
    words = refusal(lambda: enclave.client().post(f"/deposit?{order}", content=bytes(LARGE)))
    assert "does not open" in words
    assert "moved" in words
    assert enclave.executed(order) == []
    assert enclave.goes_on()


def test_a_response_whose_records_were_swapped_is_not_believed(enclave: Operated) -> None:
    enclave.misbehave(Reorder("response"))
    assert "does not open" in refusal(lambda: enclave.client().get("/download"))
    assert enclave.goes_on()
