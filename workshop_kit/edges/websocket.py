"""WebSocket (RFC 6455) for an ASGI application inside the enclave: the tunnel's bytes in, ASGI's messages out.

The handshake and the frames are the `websockets` library's; the tunnel is a request whose response is 101, and whose
two bodies are the connection's bytes. So whatever the two ends agree on, they agree on with each other.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from workshop_kit.edges.asgi import AsgiApp, Message, Receive, Scope, Send
from workshop_kit.errors import RemoteProtocolError

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes of one message that is taken from a client."""

GOODBYE = 5.0
"""Seconds that a client has to answer a close."""

_WAITING = 16  # messages that wait for the application before the client does


class WebSocketApp:
    """An application that is given a request for WebSocket, as raw bytes, and speaks it with `app`."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _Conversation(scope, receive, send).run(self._app)


class _Conversation:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._hear = receive
        self._say = send
        self._told = False
        self._answered = False
        self._subprotocol: str | None = None
        self._protocol = ServerProtocol(
            extensions=[ServerPerMessageDeflateFactory()],
            select_subprotocol=lambda _, __: self._subprotocol,  # type: ignore[arg-type,return-value]
            max_size=MAX_MESSAGE,
        )
        self._messages: asyncio.Queue[Message] = asyncio.Queue(_WAITING)
        self._pieces: list[bytes] = []
        self._kind = Opcode.TEXT
        self._reading: asyncio.Task[None] | None = None

    async def run(self, app: AsgiApp) -> None:
        code = CloseCode.INTERNAL_ERROR
        try:
            await app(self._for_app(), self._receive, self._send)
            code = CloseCode.NORMAL_CLOSURE
        finally:
            if self._reading is not None:
                await self._end(self._reading, code)

    def _for_app(self) -> Scope:
        offered = [value for name, value in self._scope["headers"] if name == b"sec-websocket-protocol"]
        subprotocols = [part.strip().decode("latin-1") for value in offered for part in value.split(b",")]
        denial: dict[str, dict[str, object]] = {"websocket.http.response": {}}
        scope = {**self._scope, "type": "websocket", "scheme": "ws", "subprotocols": subprotocols}
        scope["extensions"] = denial
        del scope["method"]
        return scope

    # --- what the application calls ---

    async def _receive(self) -> Message:
        if not self._told:
            self._told = True
            return {"type": "websocket.connect"}
        if self._reading is None:
            # Nobody has accepted: only the client's going can come.
            while (await self._hear())["type"] != "http.disconnect":
                pass
            return {"type": "websocket.disconnect", "code": CloseCode.ABNORMAL_CLOSURE}
        return await self._messages.get()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            await self._accept(message)
        elif kind.startswith("websocket.http.response."):
            self._answered = True
            await self._say({**message, "type": kind.removeprefix("websocket.")})
        elif kind == "websocket.close" and not self._answered:
            await self._refuse(403, b"")
        elif self._protocol.state is not State.OPEN:
            raise ConnectionResetError("the client has gone")
        elif kind == "websocket.close":
            self._protocol.send_close(message.get("code") or CloseCode.NORMAL_CLOSURE, message.get("reason") or "")
            await self._flush()
        else:
            text, data = message.get("text"), message.get("bytes")
            if text is not None:
                self._protocol.send_text(text.encode())
            else:
                self._protocol.send_binary(data or b"")
            await self._flush()

    async def _accept(self, message: Message) -> None:
        self._subprotocol = message.get("subprotocol")
        request = Request(self._scope["raw_path"].decode("latin-1"), Headers())
        for name, value in (*self._scope["headers"], (b"connection", b"Upgrade")):
            request.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._protocol.receive_data(request.serialize())  # the library reads frames behind a request only
        self._protocol.events_received()
        response = self._protocol.accept(request)
        if response.status_code != 101:
            return await self._refuse(response.status_code, bytes(response.body or b""))
        self._protocol.send_response(response)
        self._protocol.data_to_send()  # its bytes are HTTP's, whose head travels sealed instead
        self._answered = True
        fields = [(name.lower().encode(), value.encode()) for name, value in response.headers.raw_items()]
        headers = [*fields, *message.get("headers", ())]
        await self._say({"type": "http.response.start", "status": 101, "headers": headers})
        await self._say({"type": "http.response.body", "body": b"", "more_body": True})
        self._reading = asyncio.get_running_loop().create_task(self._read())
        return None

    async def _refuse(self, status: int, body: bytes) -> None:
        self._answered = True
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        await self._say({"type": "http.response.start", "status": status, "headers": headers})
        await self._say({"type": "http.response.body", "body": body})

    async def _flush(self) -> None:
        if data := b"".join(self._protocol.data_to_send()):
            await self._say({"type": "http.response.body", "body": data, "more_body": True})

    # --- what comes from the client ---

    async def _read(self) -> None:
        """Until the connection has ended; then the application is told so."""
        with suppress(RemoteProtocolError, ConnectionResetError):
            more = True
            while more and self._protocol.state is not State.CLOSED:
                message = await self._hear()
                more = bool(message.get("more_body"))
                self._protocol.receive_data(message.get("body", b""))
                if not more:
                    self._protocol.receive_eof()
                for event in self._protocol.events_received():
                    assert isinstance(event, Frame)
                    await self._take(event)
                await self._flush()
                more = more and not self._protocol.close_expected()
        closed = self._protocol.close_rcvd
        code = closed.code if closed else CloseCode.ABNORMAL_CLOSURE
        await self._messages.put(
            {"type": "websocket.disconnect", "code": code, "reason": closed.reason if closed else ""}
        )

    async def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._kind, self._pieces = frame.opcode, []
        elif frame.opcode is not Opcode.CONT:
            return None  # pings and closes are answered by the library
        self._pieces.append(bytes(frame.data))
        if not frame.fin:
            return None
        data = b"".join(self._pieces)
        if self._kind is Opcode.BINARY:
            return await self._messages.put({"type": "websocket.receive", "bytes": data, "text": None})
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return self._protocol.fail(CloseCode.INVALID_DATA, "expected text in UTF-8")
        return await self._messages.put({"type": "websocket.receive", "text": text, "bytes": None})

    async def _end(self, reading: asyncio.Task[None], code: CloseCode) -> None:
        """Close, wait for the answer for a while, and end the response."""
        try:
            with suppress(ConnectionResetError):
                if self._protocol.state is State.OPEN:
                    self._protocol.send_close(code)
                    await self._flush()
                async with asyncio.timeout(GOODBYE):
                    while not reading.done():
                        await self._messages.get()  # nobody receives them any more
                await self._say({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            await self._say({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reading.cancel()
