"""Which session a client's next request goes into, and when there must be a new one. It opens no socket.

The sync and the async client each have one. A session ends with its lifetime, with its numbers and bytes, or when the
enclave may have ended: then the next request makes a handshake first, and goes nowhere unless the policy affirms again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

import httpx

from workshop_kit.channel.client_handshake import ClientHandshake, UserKey
from workshop_kit.channel.framing import RequestHead
from workshop_kit.channel.handshake import Profile
from workshop_kit.channel.session import ClientSession
from workshop_kit.edges.dialogue import Endpoint, ExchangeDialogue, HandshakeDialogue
from workshop_kit.errors import RemoteProtocolError
from workshop_kit.verifier import AnyPolicy, AppraisalResult

LIFETIME = 50 * 60.0
"""Seconds after which a client makes a new session: ten minutes before the enclave lets go of the old one."""
UNUSED = 12 * 60.0
"""Seconds without a new request, likewise: three minutes before."""
KEPT = 60.0
"""Seconds that a connection may be idle. Servers close theirs a little later, perhaps while a request is on its way."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Attesting:
    """All that a handshake needs.

    Attributes:
        endpoint: the parent instance.
        key: the user's, known to the enclave.
        policy: what the enclave must prove at every handshake.
        profile: of every handshake; nobody on the way can choose another.
        on_result: is called with each affirming result.
    """

    endpoint: Endpoint
    key: UserKey
    policy: AnyPolicy
    profile: Profile = Profile.MODERN
    on_result: Callable[[AppraisalResult], None] = lambda _: None
    now: Callable[[], datetime] = utc_now
    random: Callable[[int], bytes] = os.urandom


class Sessions:
    """The current session of one user with one endpoint.

    Args:
        clock: seconds that only go forward, for lifetimes.
    """

    def __init__(self, attesting: Attesting, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._attesting = attesting
        self.clock = clock
        self._session: ClientSession | None = None
        self._ends = self._used = 0.0

    @property
    def endpoint(self) -> Endpoint:
        return self._attesting.endpoint

    def handshake(self) -> HandshakeDialogue:
        """A new one, to be driven to its end and given to `establish`."""
        attesting = self._attesting
        handshake = ClientHandshake(attesting.key, attesting.policy, random=attesting.random, profile=attesting.profile)
        return HandshakeDialogue(handshake, attesting.endpoint, attesting.now)

    def establish(self, dialogue: HandshakeDialogue, result: AppraisalResult) -> None:
        """From now on requests go into the session of this handshake, which `result` affirmed."""
        self._session = dialogue.session()
        self._used = self.clock()
        self._ends = self._used + LIFETIME
        self._attesting.on_result(result)

    def exchange(self, head: RequestHead) -> ExchangeDialogue | None:
        """A place for one request in the session, or None where there must be a handshake first."""
        session, now = self._session, self.clock()
        if session is None or session.exhausted or now >= min(self._ends, self._used + UNUSED):
            return None
        self._used = now
        return self.exchange_in(session, head)

    def exchange_in(self, session: ClientSession, head: RequestHead) -> ExchangeDialogue:
        """The same in a session whose handshake was a moment ago."""
        return ExchangeDialogue(session, head, self._attesting.endpoint)

    @contextmanager
    def under_way(self, dialogue: ExchangeDialogue) -> Iterator[None]:
        """While a request is: what breaks it may be the enclave's end, so no other goes into its session.

        Until the answer has begun, nobody can say whether the request was executed: the error says so. To send it again
        is for those to decide who know what it does.
        """
        try:
            yield
        except (RemoteProtocolError, httpx.TransportError) as error:
            if not isinstance(error, httpx.TimeoutException):
                self.forget(dialogue.session)
            if dialogue.answered:
                raise
            raise type(error)(f"{error}; the request may have been executed, and is not repeated") from None

    def forget(self, session: ClientSession) -> None:
        """The enclave may have ended: no further request goes into `session`."""
        if self._session is session:
            self._session = None

    def close(self) -> None:
        self._session = None


class Closable(Protocol):
    """A connection, sync or async."""

    @property
    def quiet(self) -> bool:
        """Whether the other end has neither closed it nor sent what nobody asked for."""

    def close(self) -> None: ...


Connection = TypeVar("Connection", bound=Closable)


class Idle(Generic[Connection]):
    """Connections between two requests, each with the session that it carried last, and since when."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._idle: list[tuple[Connection, ClientSession, float]] = []

    def take(self) -> Connection | None:
        """One that is still open, or None.

        Where the other end has closed one, the enclave may have ended: a request into that session would be lost, or
        done without an answer. A handshake costs little more than the new connection that is needed anyway.
        """
        with suppress(IndexError):  # not "while self._idle": another thread may take the last one
            while True:
                connection, session, since = self._idle.pop()
                if not connection.quiet:
                    self._sessions.forget(session)
                elif self._sessions.clock() < since + KEPT:
                    return connection
                connection.close()
        return None

    def put(self, connection: Connection, session: ClientSession, *, reusable: bool) -> None:
        if reusable:
            self._idle.append((connection, session, self._sessions.clock()))
        else:
            connection.close()

    def close(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop()[0].close()
