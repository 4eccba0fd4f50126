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
from contextlib import contextmanager
from datetime import datetime

import httpx

from workshop_kit.channel.client_handshake import UserKey
from workshop_kit.channel.framing import Record, RequestHead, ResponseHead
from workshop_kit.channel.handshake import Profile
from workshop_kit.edges.client import has_body, request_head
from workshop_kit.edges.connection import TimeOuts
from workshop_kit.edges.dialogue import Endpoint, ExchangeDialogue
from workshop_kit.edges.sessions import Attesting, Sessions, utc_now
from workshop_kit.edges.stream import Stream
from workshop_kit.errors import RemoteProtocolError
from workshop_kit.verifier import AnyPolicy, AppraisalResult


class AttestedSession:
    """An attested session and its connections; the transport and the client proxy send their requests through it."""

    def __init__(self, attesting: Attesting) -> None:
        self._sessions = Sessions(attesting)
        self._turn = asyncio.Lock()
        self._idle: list[Stream] = []
        self._busy = 0

    async def connect(self) -> AppraisalResult:
        """Make a handshake now, and a new session of it; raises as `client.AttestedTransport.connect`."""
        time_outs = TimeOuts()
        stream = await self._stream(time_outs)
        with _closed_on_error(stream):
            return await self._handshake(stream, time_outs)

    async def _handshake(self, stream: Stream, time_outs: TimeOuts) -> AppraisalResult:
        """Leaves the connection idle, for whoever takes it next."""
        dialogue = self._sessions.handshake()
        with _in_httpx_words():
            await stream.send(dialogue.request(), time_outs.write)
            while (result := dialogue.receive(await stream.receive(time_outs.read))) is None:
                pass
        self._sessions.establish(dialogue, result)
        self._release(stream, dialogue.reusable)
        return result

    async def exchange(
        self, head: RequestHead, body: AsyncIterator[bytes] | None, time_outs: TimeOuts
    ) -> AsyncResponse:
        """Send a request, its body as it comes, and give the response with its body as it comes.

        The caller closes the response, whatever becomes of it.
        """
        stream, dialogue = await self._begin(head, time_outs)
        self._busy += 1
        response = AsyncResponse(self, stream, dialogue, time_outs)
        try:
            await response.begin(body)
        except BaseException as error:
            response.close()
            if isinstance(error, (RemoteProtocolError, httpx.NetworkError)):
                self._sessions.forget()
            raise
        return response

    async def _begin(self, head: RequestHead, time_outs: TimeOuts) -> tuple[Stream, ExchangeDialogue]:
        """A connection, and a place in a session that was alive a moment ago."""
        while True:
            stream = await self._stream(time_outs)
            if (dialogue := self._sessions.exchange(head)) is not None:
                return stream, dialogue
            async with self._turn:
                with _closed_on_error(stream):
                    if (dialogue := self._sessions.exchange(head)) is not None:
                        return stream, dialogue
                    await self._handshake(stream, time_outs)

    async def _stream(self, time_outs: TimeOuts) -> Stream:
        closed = False
        while self._idle:
            stream = self._idle.pop()
            if stream.quiet:
                return stream
            stream.close()
            closed = True
        if closed and not self._busy:
            # The enclave may have ended. A request into its session would be lost, or done without an answer.
            self._sessions.forget()
        return await _dial(self._sessions.endpoint, time_outs)

    def _release(self, stream: Stream, reusable: bool) -> None:
        if reusable:
            self._idle.append(stream)
        else:
            stream.close()

    def _done(self, stream: Stream, reusable: bool) -> None:
        self._busy -= 1
        self._release(stream, reusable)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self._sessions.forget()


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

    async def begin(self, body: AsyncIterator[bytes] | None) -> None:
        """Send the request, and wait for the response's head; the rest of a body is sent while the response is read."""
        if body is None:
            await self._send(self._dialogue.whole())
        else:
            first = await anext(body, b"") if self._dialogue.fits_a_record else b""
            if self._dialogue.is_whole(first):
                await self._send(self._dialogue.whole(first))
            else:
                await self._send(self._dialogue.start())
                self._sending = asyncio.get_running_loop().create_task(self._send_body(first, body))
        await self._receive()
        head = self._records[0].head
        assert isinstance(head, ResponseHead)  # an Opener gives the head first
        self.head = head

    async def _send_body(self, first: bytes, body: AsyncIterator[bytes]) -> None:
        try:
            for sealed in self._dialogue.pieces(first):
                await self._send(sealed)
            async for piece in body:
                for sealed in self._dialogue.pieces(piece):
                    await self._send(sealed)
            await self._send(self._dialogue.finish())
        except httpx.TransportError:
            pass  # the other end takes no more, and may have said why: whoever receives finds out
        except BaseException:
            self._stream.close()  # a request without its end is known to be cut; nobody waits for its answer
            raise

    async def _send(self, data: bytes) -> None:
        with _in_httpx_words():
            await self._stream.send(data, self._time_outs.write)

    async def _receive(self) -> None:
        """The next records, or the end of the carrier's response behind the last."""
        self._records = []
        while not (self._records or self._dialogue.ended):
            try:
                with _in_httpx_words():
                    data = await self._stream.receive(self._time_outs.read)
            except httpx.TransportError:
                self._raise_why_sending_failed()
                raise
            self._records = self._dialogue.receive(data)

    @property
    def whole(self) -> bytes | None:
        """The body, where all of it came with the head."""
        return b"".join(record.data for record in self._records) if self._dialogue.ended else None

    def _raise_why_sending_failed(self) -> None:
        if self._sending is not None and self._sending.done() and not self._sending.cancelled():
            self._sending.result()

    async def body(self) -> AsyncIterator[bytes]:
        while True:
            for record in self._records:
                if record.data:
                    yield record.data
            if self._dialogue.ended:
                return
            await self._receive()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        sent = self._sending is None or self._sending.done()
        if self._sending is not None and not sent:
            self._sending.cancel()
        self._session._done(self._stream, sent and self._dialogue.reusable)


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


@contextmanager
def _in_httpx_words() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no answer from the enclave in time: {error}") from None
    except OSError as error:
        raise httpx.ReadError(f"the connection to the enclave broke ({error})") from None


@contextmanager
def _closed_on_error(stream: Stream) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stream.close()
        raise
