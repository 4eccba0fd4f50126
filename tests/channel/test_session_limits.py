"""Keys and sessions end in time: a message changes its key, a session gives way to a new one. Limits here are small."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pair import ANSWER, ASK, keys, sessions, watch_nonces

from workshop_kit.channel.framing import Record, encode_record
from workshop_kit.channel.session import (
    CLIENT_LIMITS,
    ENCLAVE_LIMITS,
    ClientSession,
    EnclaveSession,
    Exchange,
    Sealer,
)
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

SEGMENT = 3
RECORDS = 3 * SEGMENT + 1


def message(head: object, count: int = RECORDS) -> list[Record]:
    first = Record(head, b"first")  # type: ignore[arg-type]
    return [first, *(Record(data=b"%d" % place) for place in range(1, count - 1)), Record(data=b"last", end=True)]


def exchange(**limits: int) -> tuple[Exchange, Exchange]:
    """Both ends of a session's second exchange: its number is not zero."""
    client, enclave = sessions(segment=SEGMENT, **limits)
    client.exchange()
    asked = client.exchange()
    return asked, enclave.accept(asked.stream)


def segment_key(key: bytes, stream: int, segment: int) -> bytes:
    """SPEC.md R-7 by HMAC alone (RFC 5869, 2.3): the first block is the whole key."""
    if segment == 0:
        return key
    label = b"enclave workshop, attested channel, message key"
    info = label + stream.to_bytes(4, "big") + segment.to_bytes(8, "big")
    return hmac.new(key, info + b"\1", hashlib.sha256).digest()


def nonce(stream: int, index: int) -> bytes:
    return stream.to_bytes(4, "big") + index.to_bytes(8, "big")


# --- within a message ------------------------------------------------------------------------------------------------


def test_a_message_of_several_segments_passes_both_ways() -> None:
    asked, answered = exchange()
    request, response = message(ASK), message(ANSWER)
    assert list(answered.opener.receive(b"".join(map(asked.sealer.seal, request)))) == request
    assert list(asked.opener.receive(b"".join(map(answered.sealer.seal, response)))) == response
    asked.opener.finish()
    answered.opener.finish()


def require_keys(sealer: Sealer, key: bytes, records: list[Record]) -> None:
    for index, record in enumerate(records):
        sealed = sealer.seal(record)[4:]
        cipher = AESGCM(segment_key(key, 1, index // SEGMENT))
        assert cipher.decrypt(nonce(1, index), sealed, None) == encode_record(record), index


def test_each_segment_has_the_key_that_the_specification_says_and_nonces_go_on() -> None:
    """Derived here by HMAC and opened by the primitive, for both directions: not by our twin alone."""
    asked, answered = exchange()
    require_keys(asked.sealer, keys().client_to_enclave, message(ASK))
    require_keys(answered.sealer, keys().enclave_to_client, message(ANSWER))


def test_no_key_serves_two_segments_two_messages_or_two_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """But the first segments of a direction, whose nonces differ by the exchange's number."""
    used = watch_nonces(monkeypatch)
    client, enclave = sessions(segment=SEGMENT)
    for _ in range(3):
        asked = client.exchange()
        answered = enclave.accept(asked.stream)
        for sealer, head in ((asked.sealer, ASK), (answered.sealer, ANSWER)):
            for record in message(head):
                sealer.seal(record)
    assert len(used) == len(set(used)) == 3 * 2 * RECORDS
    later = {key: {where[:4] for other, where in used if other == key} for key, _ in used}
    assert len(later) == 2 + 3 * 2 * (RECORDS // SEGMENT)
    shared = {key for key, streams in later.items() if len(streams) > 1}
    assert shared == {keys().client_to_enclave, keys().enclave_to_client}


def test_a_record_under_the_key_before_does_not_open() -> None:
    """A sender that forgot to change would be noticed by its first record."""
    asked, answered = exchange()
    for record in message(ASK)[:SEGMENT]:
        list(answered.opener.receive(asked.sealer.seal(record)))
    late = AESGCM(keys().client_to_enclave).encrypt(nonce(1, SEGMENT), encode_record(Record(end=True)), None)
    with pytest.raises(RemoteProtocolError, match=f"record {SEGMENT} does not open"):
        list(answered.opener.receive(len(late).to_bytes(4, "big") + late))


def test_a_record_that_cannot_be_written_at_a_segments_beginning_leaves_its_place_free() -> None:
    asked, answered = exchange()
    records = message(ASK)
    opened = [record for each in records[:SEGMENT] for record in answered.opener.receive(asked.sealer.seal(each))]
    with pytest.raises(LocalProtocolError):
        asked.sealer.seal(Record(data=bytes(2**18 + 1)))
    opened += [record for each in records[SEGMENT:] for record in answered.opener.receive(asked.sealer.seal(each))]
    assert opened == records


def test_in_earnest_the_key_changes_after_2_to_the_20_records() -> None:
    """Set there, since sealing so many takes a while."""
    sealer, end = sessions()[0].exchange().sealer, 2**20
    sealer._index = end - 1
    key = keys().client_to_enclave
    last, first = (sealer.seal(Record(data=b"far on"))[4:] for _ in range(2))
    assert AESGCM(key).decrypt(nonce(0, end - 1), last, None)
    assert AESGCM(segment_key(key, 0, 1)).decrypt(nonce(0, end), first, None)


# --- a message that is given up --------------------------------------------------------------------------------------


def test_after_a_record_that_does_not_open_no_other_does() -> None:
    """An app that swallows the error and asks for more would else be given a message in which something was put."""
    asked, answered = exchange()
    first, second, *_ = map(asked.sealer.seal, message(ASK))
    list(answered.opener.receive(first))
    with pytest.raises(RemoteProtocolError, match="record 1 does not open"):
        list(answered.opener.receive((30).to_bytes(4, "big") + bytes(30)))
    with pytest.raises(RemoteProtocolError, match="a record did not open"):
        list(answered.opener.receive(second))


def test_after_a_length_that_no_record_has_nothing_opens() -> None:
    asked, answered = exchange()
    with pytest.raises(RemoteProtocolError, match="expected a record of 17 to"):
        list(answered.opener.receive(bytes(4)))
    with pytest.raises(RemoteProtocolError, match="a record did not open"):
        list(answered.opener.receive(asked.sealer.seal(Record(ASK, end=True))))


# --- a session -------------------------------------------------------------------------------------------------------


def ask(client: ClientSession, enclave: EnclaveSession, size: int = 0, answer: int = 0) -> None:
    """A whole exchange with bodies of so many bytes."""
    asked = client.exchange()
    answered = enclave.accept(asked.stream)
    list(answered.opener.receive(asked.sealer.seal(Record(ASK, bytes(size), end=True))))
    list(asked.opener.receive(answered.sealer.seal(Record(ANSWER, bytes(answer), end=True))))


def test_a_session_is_exhausted_before_its_numbers_are() -> None:
    client, enclave = sessions(exchanges=3)
    for _ in range(3):
        assert not client.exhausted
        ask(client, enclave)
    assert client.exhausted
    ask(client, enclave)  # who asked a moment before still finds a number


def test_in_earnest_a_client_keeps_1024_numbers_back() -> None:
    client, _ = sessions()
    client._next = 2**32 - 1025
    assert not client.exhausted
    client.exchange()
    assert client.exhausted
    assert CLIENT_LIMITS.volume == 2**38


@pytest.mark.parametrize(("request_size", "answer_size"), [(1000, 0), (0, 1000), (500, 500)])
def test_a_session_is_exhausted_by_what_was_sealed_and_opened_in_it(request_size: int, answer_size: int) -> None:
    client, enclave = sessions(volume=2000)
    ask(client, enclave, request_size, answer_size)
    assert not client.exhausted
    ask(client, enclave, request_size, answer_size)
    assert client.exhausted


def test_an_enclave_accepts_no_further_exchange_in_a_session_that_is_used_up() -> None:
    client, enclave = sessions(volume=2000)
    running = client.exchange()
    served = enclave.accept(running.stream)
    ask(client, enclave, 1500, 1500)
    with pytest.raises(RemoteProtocolError, match="a session that is used up"):
        enclave.accept(client.exchange().stream)
    request = message(ASK)
    assert list(served.opener.receive(b"".join(map(running.sealer.seal, request)))) == request, "one under way goes on"


def test_an_enclave_goes_further_than_its_clients() -> None:
    """It also counts what it sealed and nobody received: an honest client must be the first to leave."""
    assert ENCLAVE_LIMITS.volume == 2 * CLIENT_LIMITS.volume
    assert ENCLAVE_LIMITS.segment == CLIENT_LIMITS.segment == 2**20


def test_what_does_not_open_counts_for_nothing() -> None:
    """A stranger could else use up a session by guessing."""
    _, enclave = sessions(volume=1000)
    for _ in range(5):
        opener = enclave.accept(0).opener
        with pytest.raises(RemoteProtocolError, match="does not open"):
            list(opener.receive((500).to_bytes(4, "big") + bytes(500)))
    enclave.accept(0)
