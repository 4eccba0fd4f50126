"""One bit, anywhere on the way, and whoever receives it gives up."""

from __future__ import annotations

import pytest
from operated import DONE, Operated, new_order, refusal

from workshop_kit.channel.handshake import Profile
from workshop_kit.errors import AccessDeniedError, AppraisalError, RemoteProtocolError
from workshop_kit.simulator.misbehaving import FlipBit

# Bits of a message of one short record; the length's upper bytes are zero.
PLACES = {
    "a length that no record has": (8, "expected a record of"),
    "a length beyond the end": (13, "cut on the way"),
    "the flags": (4 * 8, "record 0 does not open"),
    "the head": (20 * 8, "record 0 does not open"),
    "the tag": (-1, "record 0 does not open"),
}


@pytest.mark.parametrize(("place", "words"), PLACES.values(), ids=PLACES)
def test_of_a_request(enclave: Operated, place: int, words: str) -> None:
    enclave.misbehave(FlipBit(place, "request"))
    order = new_order()
    assert words in refusal(lambda: enclave.client().get(f"/pay?{order}"))
    assert enclave.executed(order) == []
    assert enclave.goes_on()


@pytest.mark.parametrize(("place", "words"), PLACES.values(), ids=PLACES)
def test_of_a_response(enclave: Operated, place: int, words: str) -> None:
    enclave.misbehave(FlipBit(place, "response"))
    order = new_order()
    assert words in refusal(lambda: enclave.client().get(f"/pay?{order}"))
    assert len(enclave.executed(order)) == 1
    assert enclave.goes_on()


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("place", [0, 2000, -1])
def test_of_a_hello(enclave: Operated, profile: Profile, place: int) -> None:
    """Its shape, its contents, its signature: the enclave refuses it, and asks its NSM nothing."""
    enclave.misbehave(FlipBit(place, "hello"))
    with (
        enclave.running.transport(profile=profile) as transport,
        pytest.raises((AccessDeniedError, RemoteProtocolError)),
    ):
        transport.connect()
    assert enclave.goes_on()


PCR = 400 * 8  # so that the document reads as well as before


@pytest.mark.parametrize(
    ("profile", "place", "check"),
    [(Profile.SEED, PCR, "5"), (Profile.MODERN, PCR, "5"), (Profile.SEED, -1, "5"), (Profile.MODERN, -1, "10a")],
    ids=["a PCR, seed", "a PCR", "the signature, seed", "what stands beside the document"],
)
def test_of_evidence(enclave: Operated, profile: Profile, place: int, check: str) -> None:
    enclave.misbehave(FlipBit(place, "evidence"))
    with enclave.running.transport(profile=profile) as transport, pytest.raises(AppraisalError) as caught:
        transport.connect()
    assert str(caught.value.result.failed[-1].number) == check
    assert enclave.goes_on()


def test_behind_the_end_of_a_message_there_is_none(enclave: Operated) -> None:
    enclave.misbehave(FlipBit(10**9, "request"))
    assert enclave.client().get(f"/pay?{new_order()}").json() == DONE
