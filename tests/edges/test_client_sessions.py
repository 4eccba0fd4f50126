"""Which session a client's next request goes into: told by a clock of the test's, without a socket."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from attested import World
from pair import ASK, keys, user_key

from workshop_kit.channel.session import CLIENT_LIMITS, ClientSession
from workshop_kit.edges import http_connection
from workshop_kit.edges.dialogue import Endpoint
from workshop_kit.edges.sessions import KEPT, Attesting, Idle, Sessions
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

MINUTE = 60.0
ENDPOINT = Endpoint("127.0.0.1", 8080, tls=False)


class Clocked(Sessions):
    """Sessions without handshakes, at a time of the test's."""

    def __init__(self) -> None:
        self.time = 1000.0
        attesting = Attesting(endpoint=ENDPOINT, key=user_key("Alice"), policy=World().policy())
        super().__init__(attesting, clock=lambda: self.time)

    def begin(self, seed: int = 0, **limits: int) -> ClientSession:
        session = ClientSession(keys(seed), limits=CLIENT_LIMITS._replace(**limits))
        self.establish(cast(Any, SimpleNamespace(session=lambda: session)), cast(Any, None))
        return session

    @property
    def current(self) -> ClientSession | None:
        dialogue = self.exchange(ASK)
        return None if dialogue is None else dialogue.session


@pytest.fixture
def sessions() -> Clocked:
    return Clocked()


def test_without_a_handshake_there_is_no_place_for_a_request(sessions: Clocked) -> None:
    assert sessions.current is None
    session = sessions.begin()
    assert sessions.current is session
    sessions.close()
    assert sessions.current is None


def test_a_client_leaves_a_session_after_50_minutes_however_much_it_uses_it(sessions: Clocked) -> None:
    session = sessions.begin()
    for _ in range(49):
        sessions.time += MINUTE
        assert sessions.current is session
    sessions.time += MINUTE
    assert sessions.current is None


def test_a_client_leaves_a_session_after_12_minutes_without_a_request(sessions: Clocked) -> None:
    session = sessions.begin()
    for _ in range(3):
        sessions.time += 12 * MINUTE - 1
        assert sessions.current is session
    sessions.time += 12 * MINUTE
    assert sessions.current is None


@pytest.mark.parametrize("limits", [{"exchanges": 2}, {"volume": 0}])
def test_a_client_leaves_a_session_that_is_exhausted(sessions: Clocked, limits: dict[str, int]) -> None:
    sessions.begin(**limits)
    places = [sessions.current for _ in range(3)]
    assert places[-1] is None


def test_what_broke_in_a_session_before_ends_no_later_one(sessions: Clocked) -> None:
    """Of many requests in flight as an enclave ends, the last may learn it after the first has made a new handshake."""
    old = sessions.begin(seed=0)
    new = sessions.begin(seed=5)
    sessions.forget(old)
    assert sessions.current is new
    sessions.forget(new)
    assert sessions.current is None


@pytest.mark.parametrize("error", [RemoteProtocolError("cut"), httpx.ReadError("broke"), httpx.WriteError("broke")])
def test_what_breaks_a_request_ends_its_session_and_says_what_nobody_knows(sessions: Clocked, error: Exception) -> None:
    sessions.begin()
    dialogue = sessions.exchange(ASK)
    assert dialogue is not None
    words = f"^{error}; the request may have been executed, and is not repeated$"
    with pytest.raises(type(error), match=words), sessions.under_way(dialogue):
        raise error
    assert sessions.current is None


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), httpx.WriteTimeout("slow")])
def test_a_time_out_says_the_same_and_ends_no_session(sessions: Clocked, error: Exception) -> None:
    session = sessions.begin()
    dialogue = sessions.exchange(ASK)
    assert dialogue is not None
    with pytest.raises(type(error), match="may have been executed"), sessions.under_way(dialogue):
        raise error
    assert sessions.current is session


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), LocalProtocolError("too long"), KeyboardInterrupt()])
def test_the_programs_own_mistakes_stay_what_they_are(sessions: Clocked, error: BaseException) -> None:
    session = sessions.begin()
    dialogue = sessions.exchange(ASK)
    assert dialogue is not None
    with pytest.raises(type(error)) as caught, sessions.under_way(dialogue):
        raise error
    assert caught.value is error
    assert sessions.current is session


class Line:
    def __init__(self, quiet: bool = True) -> None:
        self.quiet = quiet
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_the_connection_that_was_used_last_is_taken_first(sessions: Clocked) -> None:
    """Those that a burst left over grow old together, and are closed together."""
    idle: Idle[Line] = Idle(sessions)
    session, lines = sessions.begin(), [Line(), Line()]
    for line in lines:
        idle.put(line, session, reusable=True)
    assert [idle.take(), idle.take(), idle.take()] == [lines[1], lines[0], None]
    idle.put(lines[0], session, reusable=False)
    assert lines[0].closed
    assert idle.take() is None


def test_a_connection_that_was_closed_meanwhile_ends_the_session_that_it_carried_last(sessions: Clocked) -> None:
    idle: Idle[Line] = Idle(sessions)
    old, lines = sessions.begin(seed=0), [Line(), Line(), Line(quiet=False)]
    idle.put(lines[0], old, reusable=True)
    idle.put(lines[2], old, reusable=True)
    new = sessions.begin(seed=5)
    assert idle.take() is lines[0]
    assert lines[2].closed
    assert sessions.current is new, "it says nothing of a later handshake"
    lines[1].quiet = False
    idle.put(lines[1], new, reusable=True)
    assert idle.take() is None
    assert sessions.current is None


def test_a_connection_that_was_idle_for_a_minute_is_not_used_and_its_session_is(sessions: Clocked) -> None:
    """Else a request could meet the server's own time-out on its way, and nobody would know what became of it."""
    idle: Idle[Line] = Idle(sessions)
    session, lines = sessions.begin(), [Line(), Line()]
    idle.put(lines[0], session, reusable=True)
    sessions.time += 59
    idle.put(lines[1], session, reusable=True)
    sessions.time += 59
    assert idle.take() is lines[1]
    assert idle.take() is None
    assert lines[0].closed
    assert sessions.current is session
    assert http_connection.IDLE >= KEPT + 10


def test_closing_closes_what_is_idle(sessions: Clocked) -> None:
    idle: Idle[Line] = Idle(sessions)
    lines = [Line(), Line()]
    for line in lines:
        idle.put(line, sessions.begin(), reusable=True)
    idle.close()
    assert all(line.closed for line in lines)
    assert idle.take() is None
