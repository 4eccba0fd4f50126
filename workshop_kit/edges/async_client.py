"""The client for asyncio programs; `client` is its twin for those that call and wait.

transport = AsyncAttestedTransport("http://127.0.0.1:8080", key, policy)
async with httpx.AsyncClient(transport=transport, base_url="http://enclave") as client:
    await client.get("/compare")
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime

import httpx

from workshop_kit.channel.client_handshake import UserKey
from workshop_kit.channel.framing import Record, RequestHead, ResponseHead
from workshop_kit.channel.handshake import Profile
from workshop_kit.edges.client import has_body, request_head
from workshop_kit.edges.connection import TimeOuts, broken, not_taken, silent
from workshop_kit.edges.dialogue import Endpoint, ExchangeDialogue, HandshakeDialogue, fits_a_record
from workshop_kit.edges.sessions import Attesting, Idle, Sessions, utc_now
from workshop_kit.edges.stream import NotTakenError, Stream
from workshop_kit.verifier import AnyPolicy, AppraisalResult


class AttestedSession:
    """An attested session and its connections; the transport and the client proxy send their requests through it."""

    def __init__(self, attesting: Attesting) -> None:
        self._sessions = Sessions(attesting)
        self._idle: Idle[Stream] = Idle(self._sessions)
        self._turn = asyncio.Lock()

    async def connect(self) -> AppraisalResult:
        """Make a handshake now, and a new session of it; raises as `client.AttestedTransport.connect`."""
        time_outs = TimeOuts()
        stream = await self._stream(time_outs)
        with _closed_on_error(stream):
            dialogue, result = await self._handshake(stream, time_outs)
        self._idle.put(stream, dialogue.session(), reusable=dialogue.reusable)
        return result

    async def _handshake(self, stream: Stream, time_outs: TimeOuts) -> tuple[HandshakeDialogue, AppraisalResult]:
        dialogue, time_outs = self._sessions.handshake(), time_outs.for_handshake
        await _send(stream, dialogue.request(), time_outs)
        while (result := dialogue.receive(await _receive(stream, time_outs))) is None:
            pass
        self._sessions.establish(dialogue, result)
        return dialogue, result

    async def exchange(
        self, head: RequestHead, body: AsyncIterator[bytes] | None, time_outs: TimeOuts
    ) -> AsyncResponse:
        """Send a request, its body as it comes, and give the response with its body as it comes.

        The caller closes the response, whatever becomes of it.
        """
        first = await anext(body, b"") if body is not None and fits_a_record(head) else b""
        stream, dialogue = await self._begin(head, time_outs)
        response = AsyncResponse(self, stream, dialogue, time_outs)
        try:
            await response.begin(first, body)
        except BaseException:
            response.close()
            raise
        return response

    async def _begin(self, head: RequestHead, time_outs: TimeOuts) -> tuple[Stream, ExchangeDialogue]:
        """A connection, and a place in a session that was alive a moment ago."""
        stream = await self._stream(time_outs)
        if (dialogue := self._sessions.exchange(head)) is not None:
            return stream, dialogue
        with _closed_on_error(stream):
            async with self._in_turn(time_outs):
                if (dialogue := self._sessions.exchange(head)) is not None:
                    return stream, dialogue
                handshake, _ = await self._handshake(stream, time_outs)
            if not (handshake.reusable and stream.quiet):
                stream.close()
                stream = await _dial(self._sessions.endpoint, time_outs)
            return stream, self._sessions.exchange_in(handshake.session(), head)

    @asynccontextmanager
    async def _in_turn(self, time_outs: TimeOuts) -> AsyncIterator[None]:
        """One task at a time makes the handshake, for all that wait."""
        try:
            async with asyncio.timeout(time_outs.connect):
                await self._turn.acquire()
        except TimeoutError:
            words = f"expected the handshake of another request within {time_outs.connect:g} s"
            raise httpx.ConnectTimeout(words) from None
        try:
            yield
        finally:
            self._turn.release()

    async def _stream(self, time_outs: TimeOuts) -> Stream:
        return self._idle.take() or await _dial(self._sessions.endpoint, time_outs)

    def close(self) -> None:
        self._idle.close()
        self._sessions.close()


class AsyncResponse:
    """A response whose body arrives record by record.

    Attributes:
        head: once it has begun.
    """

    head: ResponseHead

    def __init__(
        self, session: AttestedSession, stream: Stream, dialogue: ExchangeDialogue, time_outs: TimeOuts
    ) -> None:
        self._session = session
        self._stream = stream
        self._dialogue = dialogue
        self._time_outs = time_outs
        self._records: list[Record] = []
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    async def begin(self, first: bytes, body: AsyncIterator[bytes] | None) -> None:
        """Send the request, and wait for the response's head; the rest of a body is sent while the response is read."""
        with self._session._sessions.under_way(self._dialogue):
            if body is None or self._dialogue.is_whole(first):
                await _send(self._stream, self._dialogue.whole(first), self._time_outs)
            else:
                self._sending = asyncio.get_running_loop().create_task(self._send_body(first, body))
                self._sending.add_done_callback(_take_note)
            await self._receive()
        head = self._records[0].head
        assert isinstance(head, ResponseHead)  # an Opener gives the head first
        self.head = head

    async def _send_body(self, first: bytes, body: AsyncIterator[bytes]) -> None:
        try:
            async for sealed in _sealed(self._dialogue, first, body):
                await _send(self._stream, sealed, self._time_outs)
        except httpx.TransportError:
            pass  # the other end takes no more, and may have said why: whoever receives finds out
        except BaseException:
            self._stream.close()  # a request without its end is known to be cut; nobody waits for its answer
            raise

    async def _receive(self) -> None:
        """The next records; none where the end of the response came by itself."""
        self._records = []
        while not (self._records or self._dialogue.ended):
            try:
                data = await _receive(self._stream, self._time_outs)
            except httpx.TransportError:
                self._raise_why_sending_failed()
                raise
            self._records = self._dialogue.receive(data)

    def _raise_why_sending_failed(self) -> None:
        if self._sending is not None and self._sending.done() and not self._sending.cancelled():
            self._sending.result()

    @property
    def whole(self) -> bytes | None:
        """The body, where all of it came with the head."""
        return b"".join(record.data for record in self._records) if self._dialogue.ended else None

    async def body(self) -> AsyncIterator[bytes]:
        while True:
            for record in self._records:
                if record.data:
                    yield record.data
            if self._dialogue.ended:
                return
            with self._session._sessions.under_way(self._dialogue):
                await self._receive()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._sending is not None and not self._dialogue.asked:
            self._sending.cancel()
        self._session._idle.put(self._stream, self._dialogue.session, reusable=self._dialogue.reusable)


def _take_note(sending: asyncio.Task[None]) -> None:
    """Else asyncio would log what nobody is left to be told: an answer may be whole before the request is."""
    if not sending.cancelled():
        sending.exception()


async def _sealed(dialogue: ExchangeDialogue, first: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield dialogue.start()
    for sealed in dialogue.pieces(first):
        yield sealed
    async for piece in body:
        for sealed in dialogue.pieces(piece):
            yield sealed
    yield dialogue.finish()


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

    async def connect(self) -> AppraisalResult:
        """Make a handshake now; raises as `client.AttestedTransport.connect`."""
        return await self.session.connect()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = aiter(request.stream) if has_body(request) else None
        response = await self.session.exchange(request_head(request), body, TimeOuts.of(request))
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


async def _dial(endpoint: Endpoint, time_outs: TimeOuts) -> Stream:
    context = ssl.create_default_context() if endpoint.tls else None
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(time_outs.connect):
            _, stream = await loop.create_connection(Stream, endpoint.host, endpoint.port, ssl=context)
    except TimeoutError:
        raise httpx.ConnectTimeout(f"nothing answers at {endpoint.authority}") from None
    except OSError as error:
        raise httpx.ConnectError(f"nothing answers at {endpoint.authority} ({error})") from None
    return stream


async def _send(stream: Stream, data: bytes, time_outs: TimeOuts) -> None:
    with _in_httpx_words(time_outs):
        await stream.send(data, time_outs.write)


async def _receive(stream: Stream, time_outs: TimeOuts) -> bytes:
    with _in_httpx_words(time_outs):
        return await stream.receive(time_outs.read)


@contextmanager
def _in_httpx_words(time_outs: TimeOuts) -> Iterator[None]:
    try:
        yield
    except NotTakenError:
        raise httpx.WriteTimeout(not_taken(time_outs.write)) from None
    except TimeoutError:
        raise httpx.ReadTimeout(silent(time_outs.read)) from None
    except OSError as error:
        raise httpx.ReadError(broken(error)) from None


@contextmanager
def _closed_on_error(stream: Stream) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stream.close()
        raise
