"""Which session a client's next request goes into, and when there must be a new one. It opens no socket.

The sync and the async client each have one. A session ends with its lifetime, with its numbers, or when the enclave may
have ended: then the next request makes a handshake first, and goes nowhere unless the policy affirms again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from workshop_kit.channel.client_handshake import ClientHandshake, UserKey
from workshop_kit.channel.framing import RequestHead
from workshop_kit.channel.handshake import Profile
from workshop_kit.channel.session import ClientSession
from workshop_kit.edges.dialogue import Endpoint, ExchangeDialogue, HandshakeDialogue
from workshop_kit.verifier import AnyPolicy, AppraisalResult

LIFETIME = 50 * 60.0
"""Seconds after which a client makes a new session: ten minutes before the enclave lets go of the old one."""


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
        self._clock = clock
        self._session: ClientSession | None = None
        self._ends = 0.0

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
        self._ends = self._clock() + LIFETIME
        self._attesting.on_result(result)

    def exchange(self, head: RequestHead) -> ExchangeDialogue | None:
        """A place for one request in the session, or None where there must be a handshake first."""
        session = self._session
        if session is None or session.exhausted or self._clock() >= self._ends:
            return None
        return ExchangeDialogue(session, head, self._attesting.endpoint)

    def forget(self) -> None:
        """The enclave may have ended: no further request goes into this session."""
        self._session = None
