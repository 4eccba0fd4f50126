"""The client: an attested session to an enclave, for programs that call and wait; `async_client` is its twin.

    transport = AttestedTransport("http://127.0.0.1:8080", key, policy)
    with httpx.Client(transport=transport, base_url="http://enclave") as client:
        client.get("/compare")

The first request makes the handshake; later ones share its session. What comes back was sealed by the enclave that the
policy affirmed. Explained in notebook 10.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import httpx

from workshop_kit.channel.client_handshake import UserKey
from workshop_kit.channel.framing import Record, RequestHead, ResponseHead
from workshop_kit.channel.handshake import Profile
from workshop_kit.edges.connection import Connection, TimeOuts
from workshop_kit.edges.dialogue import Endpoint, ExchangeDialogue, HandshakeDialogue, fits_a_record
from workshop_kit.edges.message import end_to_end
from workshop_kit.edges.sessions import Attesting, Idle, Sessions, utc_now
from workshop_kit.verifier import AnyPolicy, AppraisalResult


class AttestedTransport(httpx.BaseTransport):
    """An httpx transport whose other end is an enclave that `policy` affirms. Threads may share it.

    Args:
        url: of the parent instance, `http://host:port`.
        key: the user's, known to the enclave.
        policy: what the enclave must prove at every handshake.
        profile: of every handshake; nobody on the way can choose another.
        on_result: is called with each affirming result.
    """

    def __init__(
        self,
        url: str,
        key: UserKey,
        policy: AnyPolicy,
        *,
        profile: Profile = Profile.MODERN,
        on_result: Callable[[AppraisalResult], None] = lambda _: None,
        now: Callable[[], datetime] = utc_now,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        endpoint = Endpoint.parse(url)
        self._sessions = Sessions(
            Attesting(
                endpoint=endpoint,
                key=key,
                policy=policy,
                profile=profile,
                on_result=on_result,
                now=now,
                random=random,
            )
        )
        self._idle: Idle[Connection] = Idle(self._sessions)
        self._turn = threading.Lock()

    def connect(self) -> AppraisalResult:
        """Make a handshake now, and a new session of it.

        Raises:
            AppraisalError: the evidence is refused.
            AccessDeniedError: the enclave does not know this user.
            RemoteProtocolError: what answers is no enclave proxy.
            httpx.ConnectError: nothing answers.
        """
        connection = self._connection(TimeOuts())
        with connection.closed_on_error():
            dialogue, result = self._handshake(connection)
        self._idle.put(connection, dialogue.session(), reusable=dialogue.reusable)
        return result

    def _handshake(self, connection: Connection) -> tuple[HandshakeDialogue, AppraisalResult]:
        dialogue = self._sessions.handshake()
        time_outs, connection.time_outs = connection.time_outs, connection.time_outs.for_handshake
        connection.feed([dialogue.request()])
        while (result := dialogue.receive(connection.receive())) is None:
            pass
        connection.time_outs = time_outs
        self._sessions.establish(dialogue, result)
        return dialogue, result

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        head, body = request_head(request), _body(request)
        first = next(body, b"") if body is not None and fits_a_record(head) else b""
        connection, dialogue = self._begin(head, TimeOuts.of(request))
        with connection.closed_on_error(), self._sessions.under_way(dialogue):
            # What is left of the request is sent while the response is read.
            connection.feed([dialogue.whole()] if body is None else _sealed(dialogue, first, body))
            while not (records := dialogue.receive(connection.receive())):
                pass
        response = records[0].head
        assert isinstance(response, ResponseHead)  # an Opener gives the head first
        stream = _Body(self, connection, dialogue, records)
        return httpx.Response(response.status, headers=list(response.headers), stream=stream)

    def _begin(self, head: RequestHead, time_outs: TimeOuts) -> tuple[Connection, ExchangeDialogue]:
        """A connection, and a place in a session that was alive a moment ago."""
        connection = self._connection(time_outs)
        with connection.closed_on_error(), self._in_turn(time_outs):
            if (dialogue := self._sessions.exchange(head)) is not None:
                return connection, dialogue
            handshake, _ = self._handshake(connection)
            if not (handshake.reusable and connection.quiet):
                connection.close()
                connection = Connection(self._sessions.endpoint, time_outs)
            return connection, self._sessions.exchange_in(handshake.session(), head)

    @contextmanager
    def _in_turn(self, time_outs: TimeOuts) -> Iterator[None]:
        """One thread at a time takes a number, or makes the handshake for all that wait."""
        if not self._turn.acquire(timeout=-1 if time_outs.connect is None else time_outs.connect):
            raise httpx.ConnectTimeout(f"expected the handshake of another request within {time_outs.connect:g} s")
        try:
            yield
        finally:
            self._turn.release()

    def _connection(self, time_outs: TimeOuts) -> Connection:
        if (connection := self._idle.take()) is None:
            return Connection(self._sessions.endpoint, time_outs)
        connection.time_outs = time_outs
        return connection

    def close(self) -> None:
        self._idle.close()
        self._sessions.close()


def request_head(request: httpx.Request) -> RequestHead:
    """An httpx request's head as the enclave is to read it."""
    return RequestHead(request.method.encode(), request.url.raw_path, end_to_end(request.headers.raw))


def has_body(request: httpx.Request) -> bool:
    """Whether a body follows, by the rule of HTTP (RFC 9112, 6.3)."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _body(request: httpx.Request) -> Iterator[bytes] | None:
    assert isinstance(request.stream, httpx.SyncByteStream)
    return iter(request.stream) if has_body(request) else None


def _sealed(dialogue: ExchangeDialogue, first: bytes, body: Iterator[bytes]) -> Iterator[bytes]:
    if dialogue.is_whole(first):
        yield dialogue.whole(first)
        return
    yield dialogue.start()
    yield from dialogue.pieces(first)
    for piece in body:
        # Whoever has nothing to send yet gives b"": then what comes back has its turn.
        yield from dialogue.pieces(piece) if piece else (b"",)
    yield dialogue.finish()


class _Body(httpx.SyncByteStream):
    """A response's body as its records arrive."""

    def __init__(
        self, transport: AttestedTransport, connection: Connection, dialogue: ExchangeDialogue, first: list[Record]
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._dialogue = dialogue
        self._records = first
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            for record in self._records:
                if record.data:
                    yield record.data
            if self._dialogue.ended:
                return
            with self._connection.closed_on_error(), self._transport._sessions.under_way(self._dialogue):
                self._records = self._dialogue.receive(self._connection.receive())

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            reusable = self._dialogue.reusable and self._connection.sent
            self._transport._idle.put(self._connection, self._dialogue.session, reusable=reusable)
