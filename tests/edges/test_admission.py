"""Sessions lapse, hellos are answered once, and nobody uses up what others need. Time is told, not waited for."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from pair import user_key
from proxied import Proxied

from workshop_kit.channel.framing import RequestHead
from workshop_kit.channel.session import EnclaveSession, SessionKeys
from workshop_kit.edges import admission, carrier, enclave_proxy
from workshop_kit.edges.admission import Hellos, OpenSession, OpenSessions
from workshop_kit.edges.sessions import LIFETIME
from workshop_kit.service.manifest import parse_manifest
from workshop_kit.service.rules import KnownUser

MANIFEST = parse_manifest(
    """\
auth: [{auth_name: users, auth_type: signed_headers}]
base_image: workshop_asgi
paths: [{path: /, access: reader}]
roles: [{role_name: reader, role_auth: users, role_cardinality: 2}]
traffic: {inbound: [{name: http, port: 8000, type: tcp}]}
"""
)
ASK = RequestHead(b"GET", b"/", ())
MINUTE = 60.0
ALICE, MALLORY = KnownUser("Alice", "reader"), KnownUser("Mallory", "reader")


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> OpenSessions:
    return OpenSessions(clock)


def session(number: int) -> EnclaveSession:
    return EnclaveSession(SessionKeys(name(number), bytes(32), bytes(32)))


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def found(sessions: OpenSessions, number: int) -> OpenSession:
    opened = sessions.find(name(number))
    assert opened is not None
    return opened


# --- lifetimes -------------------------------------------------------------------------------------------------------


def test_a_session_lapses_15_minutes_after_its_last_exchange(sessions: OpenSessions, clock: Clock) -> None:
    sessions.keep(session(1), ALICE)
    for _ in range(2):
        clock.time += 15 * MINUTE - 1
        with sessions.exchange(found(sessions, 1)):
            clock.time += 10  # counted from its end
    clock.time += 15 * MINUTE - 1
    assert sessions.find(name(1))
    clock.time += 1
    assert sessions.find(name(1)) is None
    assert len(sessions) == 0


def test_a_session_lapses_60_minutes_after_its_handshake_however_much_it_is_used(
    sessions: OpenSessions, clock: Clock
) -> None:
    sessions.keep(session(1), ALICE)
    for _ in range(59):
        clock.time += MINUTE
        with sessions.exchange(found(sessions, 1)):
            pass
    clock.time += MINUTE - 1
    assert sessions.find(name(1))
    clock.time += 1
    assert sessions.find(name(1)) is None


def test_a_session_in_which_an_exchange_runs_is_in_use(sessions: OpenSessions, clock: Clock) -> None:
    """Server-sent events of half an hour must not cut off what their reader asks besides."""
    sessions.keep(session(1), ALICE)
    with sessions.exchange(found(sessions, 1)):
        clock.time += 30 * MINUTE
        sessions.keep(session(2), ALICE)  # sweeps
        assert sessions.find(name(1))
        clock.time += 30 * MINUTE
        assert sessions.find(name(1)) is None, "the lifetime's end is one all the same"


def test_what_has_lapsed_is_let_go_though_nobody_asks_for_it(sessions: OpenSessions, clock: Clock) -> None:
    """Keys that serve nobody are nobody's to steal."""
    sessions.keep(session(0), ALICE)
    with sessions.exchange(found(sessions, 0)):  # it is the one unused for longest, and in use
        for number in range(1, 10):
            sessions.keep(session(number), ALICE)
        clock.time += 16 * MINUTE
        sessions.keep(session(10), ALICE)
        assert len(sessions) == 2


def test_clients_leave_a_session_before_the_enclave_does() -> None:
    """Else a request could cross its session's end, and nobody could say whether it was executed."""
    assert LIFETIME + 5 * MINUTE <= admission.LIFETIME


@pytest.fixture
def proxied() -> Proxied:
    return Proxied(MANIFEST, "reader")


def test_a_request_into_a_session_that_has_lapsed_is_answered_404(proxied: Proxied) -> None:
    assert proxied.ask(ASK).body == b"served"
    proxied.time += 15 * MINUTE
    answer = proxied.ask(ASK)
    assert (answer.status, answer.body) == (404, b"no such session\n")
    assert len(proxied.seen) == 1
    proxied.connect()
    assert proxied.ask(ASK).body == b"served"


def test_a_request_that_runs_as_its_session_lapses_goes_on_to_its_end(proxied: Proxied) -> None:
    async def run() -> None:
        proxied.wait = asyncio.Event()
        asking = asyncio.create_task(proxied.asking(b"GET\0/"))
        while not proxied.seen:
            await asyncio.sleep(0)
        proxied.time += 61 * MINUTE
        assert (await proxied.asking(b"GET\0/")).status == 404
        proxied.wait.set()
        assert (await asking).body == b"served"

    asyncio.run(run())


# --- how much --------------------------------------------------------------------------------------------------------


def test_beyond_4096_sessions_one_of_the_user_with_most_of_them_goes(sessions: OpenSessions) -> None:
    """The one unused for longest, of those; who has few keeps them."""
    sessions.keep(session(0), ALICE)
    for number in range(1, 4096):
        sessions.keep(session(number), MALLORY)
    with sessions.exchange(found(sessions, 1)):
        pass
    for number in range(4096, 4100):
        sessions.keep(session(number), MALLORY)
    assert len(sessions) == 4096
    assert [number for number in range(8) if sessions.find(name(number)) is None] == [2, 3, 4, 5]
    assert found(sessions, 0).user == ALICE


def test_of_a_session_1024_exchanges_are_in_flight_and_no_more(proxied: Proxied) -> None:
    """The refusal is sealed, so its reader knows that the request was not executed."""

    async def run() -> None:
        proxied.wait = asyncio.Event()
        running = [asyncio.create_task(proxied.asking(b"GET\0/")) for _ in range(1024)]
        while len(proxied.seen) < 1024:
            await asyncio.sleep(0)
        refused = await asyncio.wait_for(proxied.asking(b"GET\0/"), 20)
        assert refused.status == 503
        assert refused.body.startswith(b"expected at most 1024 requests of a session at once, got more")
        assert len(proxied.seen) == 1024
        proxied.wait.set()
        assert {answer.body for answer in await asyncio.gather(*running)} == {b"served"}
        assert (await proxied.asking(b"GET\0/")).body == b"served"

    asyncio.run(run())


def test_requests_whose_first_record_has_not_come_take_no_ones_room(proxied: Proxied) -> None:
    """A session's name is public: anybody could begin a thousand requests in it."""

    async def run() -> None:
        path = carrier.exchange_path(proxied.session_id, 7)
        begun = [asyncio.create_task(proxied.posting(path, b"\0\0", whole=False)) for _ in range(1100)]
        await asyncio.sleep(0)
        assert (await proxied.asking(b"GET\0/")).body == b"served"
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)

    asyncio.run(run())


def test_half_a_hello_and_half_a_first_record_are_waited_for_in_vain(
    proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert enclave_proxy.FIRST_RECORD == 10
    monkeypatch.setattr(enclave_proxy, "FIRST_RECORD", 0.05)
    for path in (carrier.HELLO_PATH, carrier.exchange_path(proxied.session_id, 7)):
        answer = asyncio.run(proxied.posting(path, b"\0\0", whole=False))
        assert answer.status == 408
        assert b"within 0.05 s" in answer.body


# --- hellos ----------------------------------------------------------------------------------------------------------


def test_a_hello_is_answered_once_and_costs_the_nsm_nothing_more(proxied: Proxied) -> None:
    hello = proxied.handshake().hello()
    asked = proxied.device.asked
    statuses = [proxied.post(carrier.HELLO_PATH, hello).status for _ in range(5)]
    assert statuses == [200, 409, 409, 409, 409]
    assert proxied.device.asked == asked + 1


def test_two_copies_of_a_hello_that_come_at_once_cost_one_signature(proxied: Proxied) -> None:
    async def run() -> list[int]:
        hello = proxied.handshake().hello()
        answers = await asyncio.gather(*(proxied.posting(carrier.HELLO_PATH, hello) for _ in range(2)))
        return sorted(answer.status for answer in answers)

    assert asyncio.run(run()) == [200, 409]


def test_a_hello_that_is_refused_is_not_remembered(proxied: Proxied) -> None:
    """Who spoils a copy of Alice's hello, and is quicker, must not shut her out."""
    hello = proxied.handshake().hello()
    assert proxied.post(carrier.HELLO_PATH, hello[:-1] + bytes([hello[-1] ^ 1])).status in (400, 401)
    assert proxied.post(carrier.HELLO_PATH, hello).status == 200


def test_the_same_hello_in_other_bytes_is_the_same_hello(proxied: Proxied) -> None:
    """CBOR may write a map's length or leave it open, and its order is free."""
    hello = proxied.handshake().hello()
    assert hello[0] == 0xA6
    other = b"\xbf" + hello[1:] + b"\xff"
    assert [proxied.post(carrier.HELLO_PATH, each).status for each in (hello, other)] == [200, 409]


def test_4096_hellos_are_remembered_and_no_more() -> None:
    hellos, key = Hellos(), user_key("Alice").public_bytes
    for number in range(4097):
        assert hellos.is_new(name(number) * 2, key)
    assert not hellos.is_new(name(1) * 2, key)
    assert not hellos.is_new(name(4096) * 2, key)
    assert hellos.is_new(name(0) * 2, key)
    assert hellos.is_new(name(4096) * 2, user_key("Bob").public_bytes), "another user's hello is another"


def test_a_user_waits_with_64_hellos_and_no_more(proxied: Proxied) -> None:
    async def run() -> None:
        proxied.device.free = asyncio.Event()
        hellos = [proxied.handshake().hello() for _ in range(65)]
        waiting = [asyncio.create_task(proxied.posting(carrier.HELLO_PATH, hello)) for hello in hellos[:64]]
        await asyncio.sleep(0)
        refused = await asyncio.wait_for(proxied.posting(carrier.HELLO_PATH, hellos[64]), 20)
        assert refused.status == 503
        assert b"retry-after: 1\r\n" in refused.head
        assert refused.body.count(b"\n") == 1
        proxied.device.free.set()
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
        assert (await proxied.posting(carrier.HELLO_PATH, proxied.handshake().hello())).status == 200

    asyncio.run(run())


def test_one_users_hellos_take_no_room_of_anothers() -> None:
    hellos = Hellos()
    with ExitStack() as stack:
        rooms = [stack.enter_context(hellos.under_way(MALLORY)) for _ in range(70)]
        assert rooms == [True] * 64 + [False] * 6
        assert stack.enter_context(hellos.under_way(ALICE))
    with hellos.under_way(MALLORY) as room:
        assert room
