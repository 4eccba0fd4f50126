"""An enclave that runs something else says so, and gets no request, though every byte of its evidence is genuine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from operated import DONE, Operated, new_order, operated

from workshop_kit.errors import AppraisalError
from workshop_kit.simulator.enclave import run_enclave
from workshop_kit.simulator.misbehaving import Relay
from workshop_kit.verifier import UnsafeAnyImagePolicy


@pytest.fixture(scope="module")
def impostor(_enclave: Operated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    folder, infrastructure = tmp_path_factory.mktemp("impostor"), _enclave.running.enclave.infrastructure
    with operated(folder, more="\n# now with a copy of every order\n", infrastructure=infrastructure) as started:
        yield started


def test_an_impostor_is_refused_by_what_it_runs(enclave: Operated, impostor: Operated) -> None:
    enclave.misbehave(Relay(impostor.running.enclave.url))
    order = new_order()
    with pytest.raises(AppraisalError) as caught:
        enclave.running.client().get(f"/pay?{order}")
    assert [check.number for check in caught.value.result.failed] == [9]
    assert enclave.executed(order) == impostor.executed(order) == []
    assert enclave.goes_on()


def test_an_impostor_gets_everything_of_whoever_skips_check_9(enclave: Operated, impostor: Operated) -> None:
    """The attack is a real one: this is what --disable-pcr-check costs."""
    enclave.misbehave(Relay(impostor.running.enclave.url))
    careless = UnsafeAnyImagePolicy(trust_anchor=enclave.running.policy.trust_anchor)
    order = new_order()
    assert enclave.running.client(policy=careless).get(f"/pay?{order}").json() == DONE
    assert len(impostor.executed(order)) == 1
    assert enclave.executed(order) == []


def test_a_session_with_the_enclave_is_unknown_to_the_impostor(enclave: Operated, impostor: Operated) -> None:
    """An operator who changes over in the middle finds no key there; the next handshake is refused."""
    client, order = enclave.running.client(), new_order()
    assert client.get(f"/pay?{new_order()}").json() == DONE
    enclave.misbehave(Relay(impostor.running.enclave.url))
    with pytest.raises(Exception, match="does not know this session"):
        client.get(f"/pay?{order}")
    with pytest.raises(AppraisalError, match="refused by check 9"):
        client.get(f"/pay?{order}")
    assert enclave.executed(order) == impostor.executed(order) == []


def test_the_same_image_in_debug_mode_is_refused(enclave: Operated) -> None:
    """Its console can be read from outside. Its PCRs are zero, so check 9 refuses as well; check 8 by itself."""
    infrastructure = enclave.running.enclave.infrastructure
    with run_enclave(enclave.running.image, debug_mode=True, infrastructure=infrastructure) as open_:
        enclave.misbehave(Relay(open_.url))
        careless = UnsafeAnyImagePolicy(trust_anchor=enclave.running.policy.trust_anchor)
        for policy, expected in ((enclave.running.policy, [8, 9]), (careless, [8])):
            with enclave.running.transport(policy=policy) as transport, pytest.raises(AppraisalError) as caught:
                transport.connect()
            assert [check.number for check in caught.value.result.failed] == expected
    assert enclave.goes_on()
