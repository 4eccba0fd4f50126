"""What a side has sealed is never taken for the other side's word."""

from __future__ import annotations

from operated import Operated, new_order, refusal

from workshop_kit.simulator.misbehaving import Reflect


def test_neither_side_opens_its_own_records(enclave: Operated) -> None:
    reflect, order = Reflect(), new_order()
    enclave.misbehave(reflect)
    assert "record 0 does not open" in refusal(lambda: enclave.client().get(f"/pay?{order}"))
    (answer,) = reflect.answers
    assert answer.status == 400
    assert b"record 0 does not open" in answer.body
    assert len(enclave.executed(order)) == 1  # by Alice's own request, which arrived
    assert enclave.goes_on()
