"""The client: an attested session to an enclave, for programs that call and wait; `async_client` is its twin.

    transport = AttestedTransport("http://127.0.0.1:8080", key, policy)
    with httpx.Client(transport=transport, base_url="http://enclave") as client:
        client.get("/compare")

The first request makes the handshake; later ones share its session. What comes back was sealed by the enclave that the
policy affirmed. Explained in notebook 10.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime

import httpx

from workshop_kit.channel.client_handshake import UserKey
from workshop_kit.channel.framing import Record, RequestHead, ResponseHead
from workshop_kit.channel.handshake import Profile
from workshop_kit.edges.connection import Connection, TimeOuts
from workshop_kit.edges.dialogue import Endpoint, ExchangeDialogue
from workshop_kit.edges.message import end_to_end
from workshop_kit.edges.sessions import Attesting, Sessions, utc_now
from workshop_kit.errors import RemoteProtocolError
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
        self._turn = threading.Lock()
        self._idle: list[Connection] = []
        self._busy = 0

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
            return self._handshake(connection)

    def _handshake(self, connection: Connection) -> AppraisalResult:
        """Leaves the connection idle, for whoever takes it next."""
        dialogue = self._sessions.handshake()
        connection.feed([dialogue.request()])
        while (result := dialogue.receive(connection.receive())) is None:
            pass
        self._sessions.establish(dialogue, result)
        self._release(connection, dialogue.reusable)
        return result

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        connection, dialogue = self._begin(request_head(request), TimeOuts.of(request))
        self._busy += 1
        try:
            with connection.closed_on_error():
                records = _ask(connection, dialogue, request)
        except BaseException as error:
            self._busy -= 1
            if isinstance(error, (RemoteProtocolError, httpx.NetworkError)):
                self._sessions.forget()
            raise
        response = records[0].head
        assert isinstance(response, ResponseHead)  # an Opener gives the head first
        body = _Body(self, connection, dialogue, records)
        return httpx.Response(response.status, headers=list(response.headers), stream=body)

    def _begin(self, head: RequestHead, time_outs: TimeOuts) -> tuple[Connection, ExchangeDialogue]:
        """A connection, and a place in a session that was alive a moment ago."""
        while True:
            connection = self._connection(time_outs)
            with self._turn, connection.closed_on_error():
                dialogue = self._sessions.exchange(head)
                if dialogue is not None:
                    return connection, dialogue
                self._handshake(connection)

    def _connection(self, time_outs: TimeOuts) -> Connection:
        closed = False
        with contextlib.suppress(IndexError):  # not "while self._idle": another thread may take the last one
            while True:
                connection = self._idle.pop()
                if connection.quiet():
                    connection.time_outs = time_outs
                    return connection
                connection.close()
                closed = True
        if closed and not self._busy:
            # The enclave may have ended. A request into its session would be lost, or done without an answer.
            self._sessions.forget()
        return Connection(self._sessions.endpoint, time_outs)

    def _release(self, connection: Connection, reusable: bool) -> None:
        if reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def _done(self, connection: Connection, reusable: bool) -> None:
        self._busy -= 1
        self._release(connection, reusable)

    def close(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()
        self._sessions.forget()


def request_head(request: httpx.Request) -> RequestHead:
    """An httpx request's head as the enclave is to read it."""
    return RequestHead(request.method.encode(), request.url.raw_path, end_to_end(request.headers.raw))


def has_body(request: httpx.Request) -> bool:
    """Whether a body follows, by the rule of HTTP (RFC 9112, 6.3)."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _ask(connection: Connection, dialogue: ExchangeDialogue, request: httpx.Request) -> list[Record]:
    """Send, until the response begins; what is left of the request is sent while the response is read."""
    if has_body(request):
        assert isinstance(request.stream, httpx.SyncByteStream)
        connection.feed(_sealed(dialogue, iter(request.stream)))
    else:
        connection.feed([dialogue.whole()])
    while not (records := dialogue.receive(connection.receive())):
        pass
    return records


def _sealed(dialogue: ExchangeDialogue, body: Iterator[bytes]) -> Iterator[bytes]:
    first = next(body, b"") if dialogue.fits_a_record else b""
    if dialogue.is_whole(first):
        yield dialogue.whole(first)
        return
    yield dialogue.start()
    yield from dialogue.pieces(first)
    for piece in body:
        yield from dialogue.pieces(piece)
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
            with self._connection.closed_on_error():
                self._records = self._dialogue.receive(self._connection.receive())

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._transport._done(self._connection, self._dialogue.reusable and self._connection.sent)
