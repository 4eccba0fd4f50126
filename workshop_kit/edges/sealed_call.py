"""An ASGI application's request and response, sealed: what it receives was opened, what it sends is sealed.

Between a carrier's call and an exchange of a session. It decides nothing.
"""

from __future__ import annotations

from collections import deque

from workshop_kit.channel.framing import MAX_DATA, Headers, Record, RequestHead, ResponseHead
from workshop_kit.channel.session import Exchange
from workshop_kit.edges import carrier
from workshop_kit.edges.asgi import Message
from workshop_kit.edges.http_call import Call
from workshop_kit.edges.message import MessageOpener, MessageSealer, content_length, end_to_end, has_no_body

CARRIER_HEADERS: Headers = ((b"content-type", carrier.RECORDS_TYPE), (b"cache-control", b"no-store"))


class SealedRequest:
    """A request's records, opened as the carrier's body arrives; `receive` is what the app calls."""

    def __init__(self, exchange: Exchange, call: Call) -> None:
        self._opener = MessageOpener(exchange.opener)
        self._call = call
        self._records: deque[Record] = deque()
        self._told = False

    def head_at_hand(self) -> RequestHead | None:
        """The head, where its record is here already; raises as `head`."""
        while not self._records and (data := self._call.at_hand()):
            self._records.extend(self._opener.receive(data))
        return self._first() if self._records else None

    async def head(self) -> RequestHead:
        """Raises:
        RemoteProtocolError: what came first is no request of this session.
        ConnectionResetError: the client has gone before.
        """
        await self._some()
        return self._first()

    def _first(self) -> RequestHead:
        head = self._records[0].head
        assert isinstance(head, RequestHead)  # an Opener gives the head first
        return head

    @property
    def unmeasured(self) -> bool:
        """Whether a body follows whose length nobody has said; asked before anything is received."""
        return not self._records[0].end and content_length(self._first().headers) is None

    async def record(self) -> Record:
        """The next record, the last one too.

        Raises:
            RemoteProtocolError: it does not open.
            ConnectionResetError: the client has gone before.
        """
        await self._some()
        if not self._records:
            return Record(end=True)  # another task of the app's has taken the last one meanwhile
        record = self._records.popleft()
        self._told = record.end
        return record

    async def _some(self) -> None:
        while not (self._records or self._opener.ended):
            self._records.extend(self._opener.receive(await self._call.receive()))

    async def receive(self) -> Message:
        """What an ASGI application calls. A request that is cut ends in a disconnect, never in its end."""
        if self._told:
            # Wait: an app that listens for a disconnect would spin if one were reported at once.
            await self._call.disconnected()
            return {"type": "http.disconnect"}
        try:
            record = await self.record()
        except ConnectionResetError:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": record.data, "more_body": not record.end}


class SealedResponse:
    """A response, sealed as the app sends it."""

    def __init__(self, exchange: Exchange, call: Call, method: bytes) -> None:
        self._exchange = exchange
        self._call = call
        self._method = method
        self._head: ResponseHead | None = None
        self._sealer: MessageSealer | None = None

    async def send(self, message: Message) -> None:
        """What an ASGI application calls.

        Raises:
            LocalProtocolError: the application sends what HTTP does not allow.
            ConnectionResetError: the client has gone.
        """
        if message["type"] == "http.response.start":
            self._head = ResponseHead(message["status"], end_to_end(message.get("headers", ())))
        elif message["type"] == "http.response.body":
            await self.body(bytes(message.get("body", b"")), more=bool(message.get("more_body")))

    async def start(self, head: ResponseHead) -> None:
        """Send the head by itself."""
        self._head = head
        await self.body(b"", more=True)

    async def body(self, data: bytes, *, more: bool) -> None:
        """A piece, or with `more` false the last; however large, no more than a record of it waits to be sent."""
        assert self._head is not None  # ASGI: the start comes first
        data = b"" if has_no_body(self._method, self._head.status) else data
        last = max(0, len(data) - 1) // MAX_DATA * MAX_DATA
        for at in range(0, last, MAX_DATA):
            await self._piece(data[at : at + MAX_DATA], more=True)
        await self._piece(data[last:], more=more)

    async def _piece(self, data: bytes, *, more: bool) -> None:
        assert self._head is not None
        if self._sealer is not None:
            records = self._sealer.seal(data, end=not more)
            await self._call.send(records)
            return None if more else await self._call.end()
        sealer = MessageSealer(self._exchange.sealer, self._head, length=None)
        records = sealer.seal(data, end=not more)
        self._sealer = sealer  # only now: a head that HTTP does not allow leaves its place to the proxy's answer
        begin = self._call.start if more else self._call.answer
        return await begin(200, CARRIER_HEADERS, records)

    async def whole(self, status: int, text: str) -> None:
        """A plain answer of the proxy's own, sealed like the app's."""
        body = (text + "\n").encode()
        length = b"%d" % len(body)
        self._head = ResponseHead(
            status, ((b"content-type", b"text/plain; charset=utf-8"), (b"content-length", length))
        )
        await self.body(body, more=False)

    async def abort(self, status: int, text: str) -> None:
        """Say what failed, where nothing was said; a response that has begun and not ended is known to be cut."""
        if self._sealer is None:
            await self.whole(status, text)
