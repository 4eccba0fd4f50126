"""Records open once, in their place, in their direction, in their exchange, and nowhere else."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pair import ANSWER, ASK, byte_by_byte, drop, flip, keys, sessions, watch_nonces

from workshop_kit.channel.framing import MAX_PLAINTEXT, Record, RequestHead, encode_record
from workshop_kit.channel.session import (
    LENGTH_SIZE,
    MAX_STREAM,
    TAG_SIZE,
    ClientSession,
    EnclaveSession,
    Exchange,
    ReplayWindow,
    SessionKeys,
)
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

REQUEST = [Record(ASK, b"first"), Record(data=b"second"), Record(data=b"third", end=True)]
RESPONSE = [Record(ANSWER, b"one"), Record(data=b"two", end=True)]


def exchange() -> tuple[Exchange, Exchange]:
    """Both ends of one exchange."""
    client, enclave = sessions()
    asked = client.exchange()
    return asked, enclave.accept(asked.stream)


def sealed_request(asked: Exchange) -> list[bytes]:
    return [asked.sealer.seal(record) for record in REQUEST]


def refuses(enclave_or_client: Exchange, data: bytes) -> bool:
    """Whether the opener refuses; the refusal may show only once it is told that no more will come."""
    try:
        opened = list(enclave_or_client.opener.receive(data))
        enclave_or_client.opener.finish()
    except RemoteProtocolError:
        return True
    assert opened == REQUEST, "neither refused nor what was sealed"
    return False


# --- what passes -----------------------------------------------------------------------------------------------------


def test_a_request_and_its_response_pass() -> None:
    asked, answered = exchange()
    assert list(answered.opener.receive(b"".join(sealed_request(asked)))) == REQUEST
    response = b"".join(answered.sealer.seal(record) for record in RESPONSE)
    assert list(asked.opener.receive(response)) == RESPONSE
    answered.opener.finish()
    asked.opener.finish()


def test_records_pass_byte_by_byte() -> None:
    asked, answered = exchange()
    assert byte_by_byte(answered.opener, b"".join(sealed_request(asked))) == REQUEST
    assert answered.opener.ended


def test_a_record_is_aes_256_gcm_under_its_directions_key_with_stream_and_index_as_nonce() -> None:
    """Opened here by hand, with the primitive alone: the format is the specification's, not our twin's alone."""
    client, _ = sessions()
    client.exchange()
    asked = client.exchange()  # the second: a stream number that is not zero
    assert len(keys().client_to_enclave) == 32
    cipher = AESGCM(keys().client_to_enclave)
    for index, (record, sealed) in enumerate(zip(REQUEST, sealed_request(asked), strict=True)):
        length, body = int.from_bytes(sealed[:4], "big"), sealed[4:]
        assert length == len(body) == len(encode_record(record)) + TAG_SIZE
        nonce = (1).to_bytes(4, "big") + index.to_bytes(8, "big")
        assert cipher.decrypt(nonce, body, None) == encode_record(record)


def test_no_nonce_is_used_twice_under_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """AES-GCM gives up both secrecy and integrity where one repeats."""
    used = watch_nonces(monkeypatch)
    client, enclave = sessions()
    for _ in range(5):
        asked = client.exchange()
        answered = enclave.accept(asked.stream)
        list(answered.opener.receive(b"".join(sealed_request(asked))))
        list(asked.opener.receive(b"".join(answered.sealer.seal(record) for record in RESPONSE)))
    assert len(used) == 5 * (len(REQUEST) + len(RESPONSE))
    assert len(set(used)) == len(used)


def test_each_direction_has_a_key_of_its_own() -> None:
    """One key for both would let the first response use the nonce of the first request."""
    asked, answered = exchange()
    request, response = asked.sealer.seal(Record(end=True, head=ASK)), answered.sealer.seal(Record(ANSWER, end=True))
    nonce = bytes(12)
    assert AESGCM(keys().client_to_enclave).decrypt(nonce, request[4:], None)
    assert AESGCM(keys().enclave_to_client).decrypt(nonce, response[4:], None)
    with pytest.raises(InvalidTag):
        AESGCM(keys().client_to_enclave).decrypt(nonce, response[4:], None)


def test_the_largest_record_passes() -> None:
    asked, answered = exchange()
    head = RequestHead(b"GET", b"/", ((b"a", b"x" * (64 * 1024 - 8)),))
    record = Record(head, bytes(256 * 1024), end=True)
    assert len(encode_record(record)) == MAX_PLAINTEXT
    assert list(answered.opener.receive(asked.sealer.seal(record))) == [record]


def test_keys_stay_out_of_a_sessions_repr() -> None:
    shown = repr(SessionKeys(b"name" * 4, b"secret-one" * 3 + b"12", b"secret-two" * 3 + b"12"))
    assert "secret" not in shown
    assert b"secret".hex() not in shown


# --- what somebody on the way can do ---------------------------------------------------------------------------------


def test_a_repeated_record_does_not_open() -> None:
    asked, answered = exchange()
    first, *_ = sealed_request(asked)
    list(answered.opener.receive(first))
    with pytest.raises(RemoteProtocolError, match="record 1 does not open"):
        list(answered.opener.receive(first))


def test_reordered_records_do_not_open() -> None:
    asked, answered = exchange()
    first, second, third = sealed_request(asked)
    assert refuses(answered, first + third + second)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_dropped_record_is_noticed(place: int) -> None:
    asked, answered = exchange()
    assert refuses(answered, drop(sealed_request(asked), place))


def test_a_response_reflected_to_the_enclave_does_not_open() -> None:
    """Its stream and index are right; only the direction's key is another."""
    asked, answered = exchange()
    response = answered.sealer.seal(Record(ANSWER, end=True))
    with pytest.raises(RemoteProtocolError, match="does not open"):
        list(answered.opener.receive(response))
    del asked


def test_a_request_reflected_to_the_client_does_not_open() -> None:
    asked, _ = exchange()
    with pytest.raises(RemoteProtocolError, match="does not open"):
        list(asked.opener.receive(asked.sealer.seal(Record(ASK, end=True))))


def test_a_record_moved_to_another_exchange_does_not_open() -> None:
    client, enclave = sessions()
    first, second = client.exchange(), client.exchange()
    sealed = first.sealer.seal(Record(ASK, end=True))
    with pytest.raises(RemoteProtocolError, match="does not open"):
        list(enclave.accept(second.stream).opener.receive(sealed))


def test_a_record_of_another_session_does_not_open() -> None:
    client, _ = sessions(seed=0)
    _, enclave = sessions(seed=10)
    asked = client.exchange()
    with pytest.raises(RemoteProtocolError, match="does not open"):
        list(enclave.accept(asked.stream).opener.receive(asked.sealer.seal(Record(ASK, end=True))))


def test_a_response_swapped_with_another_requests_does_not_open() -> None:
    client, enclave = sessions()
    first, second = client.exchange(), client.exchange()
    sealed = enclave.accept(second.stream).sealer.seal(Record(ANSWER, b"the answer to the second", end=True))
    with pytest.raises(RemoteProtocolError, match="does not open"):
        list(first.opener.receive(sealed))


def test_a_message_cut_at_any_byte_is_noticed() -> None:
    asked, _ = exchange()
    whole = b"".join(sealed_request(asked))
    for length in range(len(whole)):
        _, answered = exchange()
        assert refuses(answered, whole[:length]), length


def test_a_flipped_bit_in_any_byte_of_a_message_is_noticed() -> None:
    asked, _ = exchange()
    whole = b"".join(sealed_request(asked))
    for place in range(len(whole)):
        _, answered = exchange()
        assert refuses(answered, flip(whole, place, place % 8)), place


def test_bytes_after_the_end_of_a_message_are_refused() -> None:
    asked, answered = exchange()
    whole = b"".join(sealed_request(asked))
    list(answered.opener.receive(whole))
    with pytest.raises(RemoteProtocolError, match="after the last"):
        list(answered.opener.receive(sealed_request(exchange()[0])[0]))
    _, answered = exchange()
    assert refuses(answered, whole + b"\0")


@pytest.mark.parametrize("length", [0, 1, TAG_SIZE, MAX_PLAINTEXT + TAG_SIZE + 1, 2**32 - 1])
def test_a_length_that_no_record_has_is_refused_before_any_more_is_read(length: int) -> None:
    """Else four bytes from anybody would make the enclave wait for, and keep, four gigabytes."""
    _, answered = exchange()
    with pytest.raises(RemoteProtocolError, match="expected a record of 17 to"):
        list(answered.opener.receive(length.to_bytes(LENGTH_SIZE, "big")))


def test_a_peer_that_seals_a_second_head_is_refused() -> None:
    """A sealed record may still break SPEC.md: the proxy decides about the first head only."""
    _, answered = exchange()
    cipher = AESGCM(keys().client_to_enclave)
    wire = b""
    for index in (0, 1):
        sealed = cipher.encrypt(bytes(4) + index.to_bytes(8, "big"), encode_record(Record(ASK)), None)
        wire += len(sealed).to_bytes(4, "big") + sealed
    with pytest.raises(RemoteProtocolError, match="the head in a message's first record"):
        list(answered.opener.receive(wire))


def test_a_peer_that_seals_no_head_is_refused() -> None:
    _, answered = exchange()
    sealed = AESGCM(keys().client_to_enclave).encrypt(bytes(12), encode_record(Record(data=b"x", end=True)), None)
    with pytest.raises(RemoteProtocolError, match="the head in a message's first record"):
        list(answered.opener.receive(len(sealed).to_bytes(4, "big") + sealed))


# --- this side's own mistakes ----------------------------------------------------------------------------------------


def test_nothing_is_sealed_after_the_last_record() -> None:
    asked, _ = exchange()
    asked.sealer.seal(Record(ASK, end=True))
    with pytest.raises(LocalProtocolError, match="after the last"):
        asked.sealer.seal(Record(data=b"more"))


def test_a_head_comes_first_and_once() -> None:
    asked, _ = exchange()
    with pytest.raises(LocalProtocolError, match="the head in a message's first record"):
        asked.sealer.seal(Record(data=b"no head"))
    asked.sealer.seal(Record(ASK))
    with pytest.raises(LocalProtocolError, match="the head in a message's first record"):
        asked.sealer.seal(Record(ASK))


def test_a_record_that_cannot_be_written_uses_no_nonce_up() -> None:
    """Its place is still free for the right one."""
    asked, answered = exchange()
    with pytest.raises(LocalProtocolError):
        asked.sealer.seal(Record(RequestHead(b"GET", b"no slash", ())))
    assert list(answered.opener.receive(b"".join(sealed_request(asked)))) == REQUEST


def test_a_session_ends_when_its_numbers_are_used_up() -> None:
    client, _ = sessions()
    client._next = MAX_STREAM  # 2^32 exchanges take too long to make
    assert client.exchange().stream == MAX_STREAM
    with pytest.raises(LocalProtocolError, match="new handshake"):
        client.exchange()


# --- each exchange once ----------------------------------------------------------------------------------------------


def open_first(client: ClientSession, enclave: EnclaveSession, stream: int) -> None:
    """A whole request under a number of our choice."""
    client._next = stream
    asked = client.exchange()
    list(enclave.accept(stream).opener.receive(asked.sealer.seal(Record(ASK, end=True))))


def test_a_recorded_request_is_not_accepted_again() -> None:
    client, enclave = sessions()
    open_first(client, enclave, 0)
    with pytest.raises(RemoteProtocolError, match="recorded and repeated"):
        enclave.accept(0)


def test_of_two_copies_that_arrive_at_once_one_is_served() -> None:
    """Both are let in by number, before either has opened; the second to open is refused."""
    client, enclave = sessions()
    asked = client.exchange()
    sealed = asked.sealer.seal(Record(ASK, end=True))
    one, other = enclave.accept(asked.stream), enclave.accept(asked.stream)
    assert len(list(one.opener.receive(sealed))) == 1
    with pytest.raises(RemoteProtocolError, match="recorded and repeated"):
        list(other.opener.receive(sealed))


def test_a_number_is_used_up_only_when_a_record_opens_under_it() -> None:
    """Who holds no key could else use up the numbers of everybody else's requests."""
    client, enclave = sessions()
    guess = len(bytes(30)).to_bytes(4, "big") + bytes(30)
    with pytest.raises(RemoteProtocolError, match="does not open"):
        list(enclave.accept(MAX_STREAM).opener.receive(guess))
    with pytest.raises(RemoteProtocolError, match="does not open"):
        list(enclave.accept(0).opener.receive(guess))
    open_first(client, enclave, 0)


@pytest.mark.parametrize(("back", "accepted"), [(1, True), (1023, True), (1024, False), (1025, False)])
def test_the_replay_window_reaches_1023_numbers_back(back: int, accepted: bool) -> None:
    client, enclave = sessions()
    highest = 5000
    open_first(client, enclave, highest)
    if accepted:
        open_first(client, enclave, highest - back)
        with pytest.raises(RemoteProtocolError, match="recorded and repeated"):
            enclave.accept(highest - back)
    else:
        with pytest.raises(RemoteProtocolError, match="recorded and repeated"):
            enclave.accept(highest - back)


@pytest.mark.parametrize("ahead", [1, 2, 1023, 1024, 1025, 100_000])
def test_the_window_remembers_what_was_used_however_far_it_moves(ahead: int) -> None:
    window = ReplayWindow()
    window.accept(7)
    window.accept(7 + ahead)
    for used in (7, 7 + ahead):
        with pytest.raises(RemoteProtocolError):
            window.check(used)


def test_the_window_agrees_with_a_set_of_all_numbers_used() -> None:
    """An oracle that forgets nothing, on a walk that jumps ahead and falls back around the window's edge."""
    window, used, highest = ReplayWindow(), set(), -1
    for step in range(4000):
        number = (step * step * 31 + step * 7) % 3001 + step // 4
        expected = number not in used and highest - number < ReplayWindow.SIZE
        try:
            window.accept(number)
            accepted = True
        except RemoteProtocolError:
            accepted = False
        assert accepted == expected, (step, number)
        if accepted:
            used.add(number)
            highest = max(highest, number)
    assert len(used) > 100


@pytest.mark.parametrize("stream", [-1, MAX_STREAM + 1, 2**40])
def test_a_number_that_no_exchange_can_have_is_refused(stream: int) -> None:
    with pytest.raises(RemoteProtocolError, match="exchange number"):
        sessions()[1].accept(stream)


def test_the_last_number_of_a_session_is_accepted_once() -> None:
    client, enclave = sessions()
    open_first(client, enclave, MAX_STREAM)
    with pytest.raises(RemoteProtocolError):
        enclave.accept(MAX_STREAM)
