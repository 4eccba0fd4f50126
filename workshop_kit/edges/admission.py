"""What an enclave proxy remembers, and how much: open sessions until they lapse, hellos under way and accepted ones.

No user can use up what others need: where there is too much, the one goes, or waits, whose it is. It reads no bytes and
opens no socket; SPEC.md lists its limits.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from workshop_kit.channel.session import EnclaveSession
from workshop_kit.service.rules import KnownUser

LIFETIME = 60 * 60.0
"""Seconds from a handshake to its session's end. Exchanges that run then go on to theirs."""
UNUSED = 15 * 60.0
"""Seconds without an exchange after which a session ends."""
MAX_SESSIONS = 4096
MAX_EXCHANGES = 1024
"""Exchanges of a session that may be in flight: as many as numbers may overtake each other."""
MAX_HELLOS = 64
"""Hellos of a user that may wait for evidence; the NSM signs one after the other."""
REMEMBERED_HELLOS = 4096


class OpenSession:
    """A session that an enclave keeps, and whose it is.

    Attributes:
        ends: its lifetime's end, by the proxy's clock.
        used: when an exchange began or ended in it last.
        running: exchanges in flight.
    """

    __slots__ = ("ends", "running", "session", "used", "user")

    def __init__(self, session: EnclaveSession, user: KnownUser, now: float) -> None:
        self.session = session
        self.user = user
        self.ends = now + LIFETIME
        self.used = now
        self.running = 0

    def lapsed(self, now: float) -> bool:
        return now >= self.ends or (not self.running and now >= self.used + UNUSED)


class OpenSessions:
    """All of them, by name.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: OrderedDict[bytes, OpenSession] = OrderedDict()  # the one unused for longest first

    def __len__(self) -> int:
        return len(self._open)

    def keep(self, session: EnclaveSession, user: KnownUser) -> None:
        """Beyond the limit, one of the user who has most of them goes: nobody pushes out others by making many."""
        now = self._clock()
        self._sweep(now)
        self._open[session.session_id] = OpenSession(session, user, now)
        if len(self._open) > MAX_SESSIONS:
            most, _ = Counter(each.user for each in self._open.values()).most_common(1)[0]
            del self._open[next(name for name, each in self._open.items() if each.user == most)]

    def _sweep(self, now: float) -> None:
        """Let go of those that nobody uses, and their keys with them."""
        while self._open:
            name, oldest = next(iter(self._open.items()))
            if oldest.lapsed(now):
                del self._open[name]
            elif oldest.running and now >= oldest.used + UNUSED:
                self._touch(oldest, now)
            else:
                return

    def find(self, name: bytes) -> OpenSession | None:
        """The session, or None where there is none or it has lapsed."""
        opened = self._open.get(name)
        if opened is not None and opened.lapsed(self._clock()):
            del self._open[name]
            return None
        return opened

    @contextmanager
    def exchange(self, opened: OpenSession) -> Iterator[bool]:
        """While one runs in `opened`, which does not lapse for want of use; gives whether there is room for it."""
        opened.running += 1
        self._touch(opened, self._clock())
        try:
            yield opened.running <= MAX_EXCHANGES
        finally:
            opened.running -= 1
            self._touch(opened, self._clock())

    def _touch(self, opened: OpenSession, now: float) -> None:
        opened.used = now
        if opened.session.session_id in self._open:
            self._open.move_to_end(opened.session.session_id)


class Hellos:
    """Those under way, and the last that were accepted."""

    def __init__(self) -> None:
        self._waiting: Counter[KnownUser] = Counter()
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def is_new(self, nonce: bytes, public_key: bytes) -> bool:
        """Whether a hello with these, whose signature has verified, is none of those that were accepted; now it is."""
        digest = hashlib.sha256(nonce + public_key).digest()
        if digest in self._seen:
            return False
        self._seen[digest] = None
        if len(self._seen) > REMEMBERED_HELLOS:
            self._seen.popitem(last=False)
        return True

    @contextmanager
    def under_way(self, user: KnownUser) -> Iterator[bool]:
        """While a hello of `user` waits for evidence; gives whether there is room for it."""
        self._waiting[user] += 1
        try:
            yield self._waiting[user] <= MAX_HELLOS
        finally:
            self._waiting[user] -= 1
