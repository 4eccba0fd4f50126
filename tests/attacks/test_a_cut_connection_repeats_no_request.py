"""A connection that ends in the middle of an answer: half of it is not believed, and nothing is asked again."""

from __future__ import annotations

import pytest
from operated import DONE, Operated, new_order, refusal

from workshop_kit.simulator.misbehaving import DropAfter


@pytest.mark.parametrize("n", [0, 3, 40])
def test_a_request_whose_answer_is_cut_was_executed_once(enclave: Operated, n: int) -> None:
    enclave.misbehave(DropAfter(n))
    order = new_order()
    assert "cut" in refusal(lambda: enclave.client().get(f"/pay?{order}"))
    assert len(enclave.executed(order)) == 1
    assert enclave.goes_on()


def test_the_beginning_of_a_long_answer_is_not_taken_for_the_whole(enclave: Operated) -> None:
    """The cut lies between two records: all that arrived opens, and more was to come."""
    enclave.misbehave(DropAfter(300_000))
    with enclave.client().stream("GET", "/download") as response:
        received = []
        assert "cut" in refusal(lambda: received.extend(response.iter_raw()) or response)
    assert 0 < sum(map(len, received)) < 400_000
    assert enclave.goes_on()


def test_a_shorter_answer_passes(enclave: Operated) -> None:
    enclave.misbehave(DropAfter(100_000))
    assert enclave.client().get(f"/pay?{new_order()}").json() == DONE
