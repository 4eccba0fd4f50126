"""The client for asyncio programs; `client` is its twin for those that call and wait.

transport = AsyncAttestedTransport("http://127.0.0.1:8080", key, policy)
async with httpx.AsyncClient(transport=transport, base_url="http://enclave") as client:
    await client.get("/compare")
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import httpx

from workshop_kit.channel.client_handshake import ClientHandshake, UserKey
from workshop_kit.channel.framing import Record, RequestHead, ResponseHead
from workshop_kit.channel.handshake import Profile
from workshop_kit.channel.session import ClientSession
from workshop_kit.edges.client import READ_SIZE, TIMEOUT, has_body, request_head, utc_now
from workshop_kit.edges.dialogue import Endpoint, ExchangeDialogue, HandshakeDialogue, SessionLostError
from workshop_kit.verifier import AnyPolicy, AppraisalResult


class AttestedSession:
    """An attested session and its connections; the transport and the client proxy send their requests through it."""

    def __init__(
        self,
        endpoint: Endpoint,
        key: UserKey,
        policy: AnyPolicy,
        *,
        profile: Profile = Profile.MODERN,
        on_result: Callable[[AppraisalResult], None] = lambda _: None,
        now: Callable[[], datetime] = utc_now,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._endpoint = endpoint
        self._key = key
        self._policy = policy
        self._profile = profile
        self._on_result = on_result
        self._now = now
        self._random = random
        self._session: ClientSession | None = None
        self._turn = asyncio.Lock()
        self._idle: list[_Connection] = []

    async def connect(self) -> AppraisalResult:
        """Make a handshake now, and a new session of it; raises as `client.AttestedTransport.connect`."""
        handshake = ClientHandshake(self._key, self._policy, random=self._random, profile=self._profile)
        dialogue = HandshakeDialogue(handshake, self._endpoint)
        connection = await self._connection()
        async with connection.closed_on_error():
            await connection.send(dialogue.request())
            result = None
            while result is None:
                result = dialogue.receive(await connection.receive(), now=self._now())
        self._release(connection, dialogue.reusable)
        self._session = handshake.session()
        self._on_result(result)
        return result

    @asynccontextmanager
    async def exchange(self, head: RequestHead, body: AsyncIterator[bytes] | None) -> AsyncIterator[AsyncResponse]:
        """Send a request, its body as it comes, and give the response with its body as it comes."""
        response = await self.open_exchange(head, body)
        try:
            yield response
        finally:
            response.close()

    async def open_exchange(self, head: RequestHead, body: AsyncIterator[bytes] | None) -> AsyncResponse:
        """As `exchange`, for callers that close the response themselves."""
        async with self._turn:
            if self._session is None:
                await self.connect()
            assert self._session is not None
            dialogue = ExchangeDialogue(self._session, head, self._endpoint)
        connection = await self._connection()
        async with connection.closed_on_error():
            try:
                records = await _request(connection, dialogue, body)
            except SessionLostError:
                self._session = None
                raise
        return AsyncResponse(self, connection, dialogue, records)

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.alive():
                return connection
            connection.close()
        return await _Connection.dial(self._endpoint)

    def _release(self, connection: _Connection, reusable: bool) -> None:
        if reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self._session = None


async def _request(
    connection: _Connection, dialogue: ExchangeDialogue, body: AsyncIterator[bytes] | None
) -> list[Record]:
    if body is None:
        await connection.send(dialogue.whole())
    else:
        await connection.send(dialogue.start())
        async for piece in body:
            await connection.send(dialogue.piece(piece))
        await connection.send(dialogue.finish())
    while not (records := dialogue.receive(await connection.receive())):
        pass
    return records


class AsyncResponse:
    """A response whose body arrives record by record."""

    def __init__(
        self, session: AttestedSession, connection: _Connection, dialogue: ExchangeDialogue, first: list[Record]
    ) -> None:
        head = first[0].head
        assert isinstance(head, ResponseHead)  # an Opener gives the head first
        self.head = head
        self._session = session
        self._connection = connection
        self._dialogue = dialogue
        self._records = first
        self._closed = False

    async def body(self) -> AsyncIterator[bytes]:
        while True:
            for record in self._records:
                if record.data:
                    yield record.data
            if self._dialogue.ended:
                return
            async with self._connection.closed_on_error():
                self._records = self._dialogue.receive(await self._connection.receive())

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._session._release(self._connection, self._dialogue.reusable)


class AsyncAttestedTransport(httpx.AsyncBaseTransport):
    """An httpx transport whose other end is an enclave that the session's policy affirms."""

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
        self.session = AttestedSession(
            endpoint, key, policy, profile=profile, on_result=on_result, now=now, random=random
        )

    async def connect(self) -> AppraisalResult:
        """Make a handshake now; raises as `client.AttestedTransport.connect`."""
        return await self.session.connect()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = aiter(request.stream) if has_body(request) else None
        response = await self.session.open_exchange(request_head(request), body)
        stream = _AsyncBody(response)
        return httpx.Response(response.head.status, headers=list(response.head.headers), stream=stream)

    async def aclose(self) -> None:
        self.session.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, response: AsyncResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.body()

    async def aclose(self) -> None:
        self._response.close()


class _Connection:
    """A TCP connection to the endpoint, with errors in httpx's classes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def dial(cls, endpoint: Endpoint) -> _Connection:
        context = ssl.create_default_context() if endpoint.tls else None
        try:
            opening = asyncio.open_connection(endpoint.host, endpoint.port, ssl=context, limit=READ_SIZE)
            return cls(*await asyncio.wait_for(opening, TIMEOUT))
        except OSError as error:
            raise httpx.ConnectError(f"nothing answers at {endpoint.authority} ({error})") from None

    async def send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise httpx.WriteError(f"the connection to the enclave broke ({error})") from None

    async def receive(self) -> bytes:
        try:
            return await asyncio.wait_for(self._reader.read(READ_SIZE), TIMEOUT)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer from the enclave within {TIMEOUT:g} s") from None
        except OSError as error:
            raise httpx.ReadError(f"the connection to the enclave broke ({error})") from None

    def alive(self) -> bool:
        """Whether the other end has not closed the idle connection."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        self._writer.close()

    @asynccontextmanager
    async def closed_on_error(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise
