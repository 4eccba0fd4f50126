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
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import httpx

from workshop_kit.channel.client_handshake import ClientHandshake, UserKey
from workshop_kit.channel.framing import Record, RequestHead, ResponseHead
from workshop_kit.channel.handshake import Profile
from workshop_kit.channel.session import ClientSession
from workshop_kit.edges.dialogue import Endpoint, ExchangeDialogue, HandshakeDialogue, SessionLostError
from workshop_kit.edges.message import end_to_end
from workshop_kit.verifier import AnyPolicy, AppraisalResult

READ_SIZE = 256 * 1024
TIMEOUT = 30.0
"""Seconds that a connection may stay silent."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class AttestedTransport(httpx.BaseTransport):
    """An httpx transport whose other end is an enclave that `policy` affirms.

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
        self._endpoint = Endpoint.parse(url)
        self._key = key
        self._policy = policy
        self._profile = profile
        self._on_result = on_result
        self._now = now
        self._random = random
        self._session: ClientSession | None = None
        self._turn = threading.Lock()
        self._idle: list[_Connection] = []

    def connect(self) -> AppraisalResult:
        """Make a handshake now, and a new session of it.

        Raises:
            AppraisalError: the evidence is refused.
            AccessDeniedError: the enclave does not know this user.
            RemoteProtocolError: what answers is no enclave proxy.
            httpx.ConnectError: nothing answers.
        """
        handshake = ClientHandshake(self._key, self._policy, random=self._random, profile=self._profile)
        dialogue = HandshakeDialogue(handshake, self._endpoint)
        connection = self._connection()
        with connection.closed_on_error():
            connection.send(dialogue.request())
            result = None
            while result is None:
                result = dialogue.receive(connection.receive(), now=self._now())
        self._release(connection, dialogue.reusable)
        self._session = handshake.session()
        self._on_result(result)
        return result

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        head = request_head(request)
        with self._turn:
            session = self._session
            if session is None:
                self.connect()
                session = self._session
            assert session is not None
            dialogue = ExchangeDialogue(session, head, self._endpoint)
        connection = self._connection()
        with connection.closed_on_error():
            self._send(connection, dialogue, request)
            try:
                records = self._first_records(connection, dialogue)
            except SessionLostError:
                self._session = None
                raise
        response = records[0].head
        assert isinstance(response, ResponseHead)  # an Opener gives the head first
        body = _Body(self, connection, dialogue, records)
        return httpx.Response(response.status, headers=list(response.headers), stream=body)

    def _send(self, connection: _Connection, dialogue: ExchangeDialogue, request: httpx.Request) -> None:
        assert isinstance(request.stream, httpx.SyncByteStream)
        if not has_body(request):
            connection.send(dialogue.whole())
            return
        connection.send(dialogue.start())
        for piece in request.stream:
            connection.send(dialogue.piece(piece))
        connection.send(dialogue.finish())

    def _first_records(self, connection: _Connection, dialogue: ExchangeDialogue) -> list[Record]:
        while not (records := dialogue.receive(connection.receive())):
            pass
        return records

    def _connection(self) -> _Connection:
        with contextlib.suppress(IndexError):  # not "while self._idle": another thread may take the last one
            while True:
                connection = self._idle.pop()
                if connection.alive():
                    return connection
                connection.close()
        return _Connection(self._endpoint)

    def _release(self, connection: _Connection, reusable: bool) -> None:
        if reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()
        self._session = None


def request_head(request: httpx.Request) -> RequestHead:
    """An httpx request's head as the enclave is to read it."""
    return RequestHead(request.method.encode(), request.url.raw_path, end_to_end(request.headers.raw))


def has_body(request: httpx.Request) -> bool:
    """Whether a body follows, by the rule of HTTP (RFC 9112, 6.3)."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


class _Body(httpx.SyncByteStream):
    """A response's body as its records arrive."""

    def __init__(
        self, transport: AttestedTransport, connection: _Connection, dialogue: ExchangeDialogue, first: list[Record]
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
            self._transport._release(self._connection, self._dialogue.reusable)


class _Connection:
    """A TCP connection to the endpoint, with errors in httpx's classes."""

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            self._socket = socket.create_connection((endpoint.host, endpoint.port), TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if endpoint.tls:
                context = ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=endpoint.host)
        except OSError as error:
            raise httpx.ConnectError(f"nothing answers at {endpoint.authority} ({error})") from None

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise httpx.WriteError(f"the connection to the enclave broke ({error})") from None

    def receive(self) -> bytes:
        try:
            return self._socket.recv(READ_SIZE)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer from the enclave within {TIMEOUT:g} s") from None
        except OSError as error:
            raise httpx.ReadError(f"the connection to the enclave broke ({error})") from None

    def alive(self) -> bool:
        """Whether the other end has not closed: an idle connection has nothing to read."""
        with selectors.DefaultSelector() as selector:  # select() itself knows no descriptor beyond 1023
            selector.register(self._socket, selectors.EVENT_READ)
            return not selector.select(0)

    def close(self) -> None:
        self._socket.close()

    def closed_on_error(self) -> _ClosedOnError:
        return _ClosedOnError(self)


class _ClosedOnError:
    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._connection.close()
