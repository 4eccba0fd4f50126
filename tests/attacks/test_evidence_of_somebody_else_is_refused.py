"""Evidence that is as good as any, of another root or for another hello, is refused; what it is good for is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from operated import Operated, operated

from workshop_kit.errors import AppraisalError
from workshop_kit.simulator.misbehaving import StaleEvidence, SwapEvidence


def evidence_of(other: Operated) -> bytes:
    """What another enclave answered to Alice, who was content with it."""
    kept = StaleEvidence()
    other.misbehave(kept)
    with other.running.transport() as transport:
        assert transport.connect().affirmed
    assert kept.kept is not None
    return kept.kept.body


def test_evidence_under_an_operators_own_root_is_refused(enclave: Operated, tmp_path: Path) -> None:
    """The same image on hardware that he made himself: every signature is right, and no one vouches for the first."""
    with operated(tmp_path) as other:
        enclave.misbehave(SwapEvidence(evidence_of(other)))
    with enclave.running.transport() as transport, pytest.raises(AppraisalError, match="refused by check 4"):
        transport.connect()
    assert enclave.goes_on()


def test_evidence_of_a_twin_on_the_same_hardware_is_refused(enclave: Operated, tmp_path: Path) -> None:
    """The same image, under the same root: what is left is that it answered another hello."""
    with operated(tmp_path, infrastructure=enclave.running.enclave.infrastructure) as twin:
        enclave.misbehave(SwapEvidence(evidence_of(twin)))
    with enclave.running.transport() as transport, pytest.raises(AppraisalError) as caught:
        transport.connect()
    numbers = [check.number for check in caught.value.result.failed]
    assert 6 in numbers
    assert not {4, 5, 9} & set(numbers)
    assert enclave.goes_on()
