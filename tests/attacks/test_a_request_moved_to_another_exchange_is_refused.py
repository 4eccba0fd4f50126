"""Session and number stand readable in the carrier's path. To change them there moves nothing."""

from __future__ import annotations

from operated import DONE, Operated, new_order, refusal

from workshop_kit.simulator.misbehaving import Ask, Attack, Request, Response, SwapNumber, SwapSession


def test_under_another_number_a_request_is_not_executed(enclave: Operated) -> None:
    enclave.misbehave(SwapNumber())
    order = new_order()
    assert "record 0 does not open" in refusal(lambda: enclave.client().get(f"/pay?{order}"))
    assert enclave.executed(order) == []
    assert enclave.goes_on()


class GuessFirst(Attack):
    """Sends a request under the next thousand numbers, and only then under its own."""

    async def exchange(self, request: Request, ask: Ask) -> Response:
        for by in range(1, 1001):
            assert (await SwapNumber(by).exchange(request, ask)).status == 400
        return await ask(request)


def test_who_guesses_numbers_uses_up_none(enclave: Operated) -> None:
    enclave.misbehave(GuessFirst())
    orders = [new_order(), new_order()]
    for order in orders:
        assert enclave.client().get(f"/pay?{order}").json() == DONE
    assert [len(enclave.executed(order)) for order in orders] == [1, 1]


def test_alices_request_is_not_executed_in_bobs_session(enclave: Operated) -> None:
    """Its number is unused there, so what refuses it is the key."""
    assert enclave.goes_on("Alice")
    enclave.running.client("Bob")
    alice, bob, order = enclave.running.client("Alice"), enclave.running.client("Bob"), new_order()
    assert alice.get(f"/pay?{new_order()}").json() == DONE
    enclave.misbehave(SwapSession())
    assert bob.get(f"/pay?{new_order()}").json() == DONE
    assert "record 0 does not open" in refusal(lambda: alice.get(f"/pay?{order}"))
    assert enclave.executed(order) == []
    assert enclave.goes_on("Alice")
    assert enclave.goes_on("Bob")
