"""Whoever knows a request can write another in its place, in any stream cipher. The tag is what refuses it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from operated import Operated, new_order, refusal

from workshop_kit.channel.framing import Record, RequestHead, decode_request_record
from workshop_kit.channel.session import CLIENT_LIMITS, Direction, Sealer
from workshop_kit.edges.client import request_head
from workshop_kit.errors import LabError
from workshop_kit.simulator.misbehaving import Change, SwapHeader, SwapPath, split_records

KNOWN = RequestHead(b"GET", b"/pay?to=Bob", ((b"host", b"enclave"), (b"x-amount", b"0005"), (b"accept", b"0005")))


def test_another_path_is_not_executed(enclave: Operated) -> None:
    order = new_order()
    enclave.misbehave(SwapPath(f"/pay?{order}", f"/pay?{order[:-4]}9999"))
    assert "record 0 does not open: it was changed" in refusal(lambda: enclave.client().get(f"/pay?{order}"))
    assert enclave.executed(order) == enclave.executed("order=9999") == []
    assert enclave.goes_on()


def test_another_amount_in_a_header_is_not_executed(enclave: Operated) -> None:
    client, order = enclave.client(), new_order()
    request = client.build_request("GET", f"/pay?{order}", headers={"x-amount": "0005"})
    enclave.misbehave(SwapHeader(request_head(request), b"x-amount", b"9005"))
    assert "record 0 does not open: it was changed" in refusal(lambda: client.send(request))
    assert enclave.executed(order) == []
    assert enclave.goes_on()


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (SwapPath("/pay?to=Bob", "/pay?to=Eve"), KNOWN._replace(target=b"/pay?to=Eve")),
        (
            SwapHeader(KNOWN, b"x-amount", b"9999"),
            KNOWN._replace(headers=((b"host", b"enclave"), (b"x-amount", b"9999"), (b"accept", b"0005"))),
        ),
    ],
    ids=["path", "header"],
)
def test_without_the_tag_the_swap_would_succeed(attack: Change, expected: RequestHead) -> None:
    """The same records, read without looking at the tag: AES-GCM is counter mode from block 2 on (NIST SP 800-38D)."""
    key = bytes(range(32))
    sent = Sealer(Direction(key, CLIENT_LIMITS.segment), 7).seal(Record(KNOWN, b"a body", end=True))
    (changed,) = split_records(attack.change(sent))
    counter = (7).to_bytes(4, "big") + bytes(8) + (2).to_bytes(4, "big")
    careless = Cipher(algorithms.AES256(key), modes.CTR(counter)).decryptor()
    assert decode_request_record(careless.update(changed[4:-16])) == Record(expected, b"a body", end=True)


def test_a_difference_makes_no_text_longer() -> None:
    with pytest.raises(LabError, match="flipping bits adds none"):
        SwapPath("/pay", "/refund")
    with pytest.raises(LabError, match="flipping bits adds none"):
        SwapHeader(KNOWN, b"x-amount", b"10000")
    with pytest.raises(LabError, match="which it has not"):
        SwapHeader(KNOWN, b"x-absent", b"")
