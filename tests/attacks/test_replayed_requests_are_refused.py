"""What Alice asks for once happens once, however often the operator delivers it."""

from __future__ import annotations

import pytest
from operated import DONE, LARGE, Operated, new_order

from workshop_kit.simulator.misbehaving import Replay


def test_a_request_delivered_twice_is_executed_once(enclave: Operated) -> None:
    replay, order = Replay(), new_order()
    enclave.misbehave(replay)
    assert enclave.client().get(f"/pay?{order}").json() == DONE
    (copy,) = replay.answers
    assert copy.status == 400
    assert b"used before: it was recorded and repeated" in copy.body
    assert len(enclave.executed(order)) == 1
    assert enclave.goes_on()


@pytest.mark.parametrize("size", [0, LARGE])
def test_of_two_copies_at_the_same_time_one_is_executed(enclave: Operated, size: int) -> None:
    """Both may find their number unused before either has opened: only the first to open may have it."""
    replay = Replay(at_once=True)
    enclave.misbehave(replay)
    orders = [new_order() for _ in range(20)]
    for order in orders:
        assert enclave.client().post(f"/deposit?{order}", content=bytes(size)).json() == DONE
    assert [copy.status for copy in replay.answers] == [400] * len(orders)
    assert all(b"used before" in copy.body for copy in replay.answers)
    assert [len(enclave.executed(order)) for order in orders] == [1] * len(orders)
    assert enclave.goes_on()
