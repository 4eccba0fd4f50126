"""An answer that was given to one hello is refused by everybody who sends another."""

from __future__ import annotations

import pytest
from operated import DONE, Operated, new_order

from workshop_kit.channel.handshake import Profile
from workshop_kit.errors import AppraisalError
from workshop_kit.simulator.misbehaving import StaleEvidence


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("user", ["Alice", "Bob"])
def test_a_kept_answer_is_refused_for_its_nonce(enclave: Operated, user: str, profile: Profile) -> None:
    enclave.misbehave(StaleEvidence())
    with (
        enclave.running.transport("Alice", profile=profile) as first,
        enclave.running.transport(user, profile=profile) as later,
    ):
        assert first.connect().affirmed
        with pytest.raises(AppraisalError) as caught:
            later.connect()
    numbers = [check.number for check in caught.value.result.failed]
    assert 6 in numbers
    assert not {1, 2, 3, 4, 5} & set(numbers)  # it is genuine, and was for another
    assert enclave.goes_on()


def test_the_session_that_the_kept_answer_began_goes_on(enclave: Operated) -> None:
    stale, client = StaleEvidence(), enclave.running.client()
    enclave.misbehave(stale)
    order = new_order()
    assert client.get(f"/pay?{order}").json() == DONE
    assert stale.kept is not None
    with enclave.running.transport() as later, pytest.raises(AppraisalError):
        later.connect()
    assert client.get(f"/pay?{order}").json() == DONE
    assert len(enclave.executed(order)) == 2
