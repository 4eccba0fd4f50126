"""The enclave proxy: inside the enclave, between the carrier and the app. It authenticates, decides and opens.

An ASGI application around the app's own. Outside its two paths there is nothing, so nobody reaches the app but through
a session, and what the app reads is what was sealed: method, path, headers and body, with the two headers that say who
asks added here and nowhere else.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from workshop_kit.channel.enclave_handshake import EnclaveHandshake
from workshop_kit.channel.framing import Headers, Record, RequestHead, ResponseHead
from workshop_kit.channel.handshake import MAX_HELLO
from workshop_kit.channel.session import EnclaveSession, Exchange
from workshop_kit.edges import carrier
from workshop_kit.edges.message import MessageOpener, MessageSealer, end_to_end, has_no_body
from workshop_kit.edges.nsm_device import NsmDevice, attest
from workshop_kit.edges.primitives import PRIMITIVES
from workshop_kit.errors import AccessDeniedError, NsmError, RemoteProtocolError, ServiceError
from workshop_kit.service.rules import KnownUser, Rules, decide, forwarded_headers

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_SESSIONS = 4096
"""Sessions that an enclave keeps; the one unused for longest goes first."""


@dataclass(frozen=True)
class _Open:
    session: EnclaveSession
    user: KnownUser


class EnclaveProxy:
    """The ASGI application that an enclave serves on its vsock port.

    Args:
        app: the service's own, called in this process.
        rules: whose keys are known, and who may call what.
        nsm: signs what a handshake asks for.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        rules: Rules,
        nsm: NsmDevice,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._app = app
        self._rules = rules
        self._nsm = nsm
        self._random = random
        self._sessions: OrderedDict[bytes, _Open] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._route(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = carrier.parse_exchange_path(scope["path"])
        if scope["method"] == "POST" and scope["path"] == carrier.HELLO_PATH:
            await self._hello(receive, send)
        elif scope["method"] == "POST" and exchange is not None:
            await self._exchange(*exchange, receive, send)
        else:
            await _say(send, 404, "an enclave proxy answers here; connect with `workshop connect`")

    async def _hello(self, receive: Receive, send: Send) -> None:
        handshake = EnclaveHandshake(
            is_known=lambda key: key in self._rules.users,
            random=self._random,
            primitives=PRIMITIVES,
        )
        try:
            needed = handshake.receive_hello(await _read(receive, MAX_HELLO))
            user = self._rules.users[needed.public_key]
            document = await attest(
                self._nsm, user_data=needed.user_data, nonce=needed.nonce, public_key=needed.public_key
            )
        except AccessDeniedError as error:
            return await _say(send, error.status, str(error))
        except RemoteProtocolError as error:
            return await _say(send, 400, str(error))
        except (NsmError, EOFError) as error:
            return await _say(send, 503, f"no evidence to be had: {error}")
        answer = handshake.provide_evidence(document)
        self._keep(_Open(handshake.session(), user))
        return await _answer(send, 200, carrier.ANSWER_TYPES[handshake.profile.value], answer)

    def _keep(self, opened: _Open) -> None:
        self._sessions[opened.session.session_id] = opened
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    async def _exchange(self, session_id: bytes, stream: int, receive: Receive, send: Send) -> None:
        opened = self._sessions.get(session_id)
        if opened is None:
            return await _say(send, 404, "no such session")
        try:
            exchange = opened.session.accept(stream)
            request = _Request(exchange, receive)
            head = await request.head()
        except RemoteProtocolError as error:
            return await _say(send, 400, str(error))
        self._sessions.move_to_end(session_id)
        response = _Response(exchange, send, head.method)
        try:
            await self._serve(head, opened.user, request, response)
        except RemoteProtocolError as error:
            await response.abort(400, str(error))
        return None

    async def _serve(self, head: RequestHead, user: KnownUser, request: _Request, response: _Response) -> None:
        decision = decide(self._rules, user.role, head.target)
        if decision.status != 200:
            return await response.whole(decision.status, decision.reason)
        try:
            await self._app(self._scope(head, decision.path, user), request.receive, response.send)
        except RemoteProtocolError:
            raise
        except ServiceError as error:
            return await response.abort(502, str(error))
        except Exception:  # noqa: BLE001  the app's own: its traceback goes to the enclave's console, as a server's does
            traceback.print_exc(file=sys.stderr)
        return await response.abort(500, "the app gave no answer; its traceback, if any, is on the enclave's console")

    def _scope(self, head: RequestHead, path: str, user: KnownUser) -> Scope:
        raw_path, _, query = head.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": head.method.decode(),
            "scheme": "http",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": forwarded_headers(head.headers, user),
            "client": None,
            "server": ("enclave", self._rules.port),
            "state": {},
        }


class _Request:
    """A request's records, opened as the carrier's body arrives; `receive` is what the app calls."""

    def __init__(self, exchange: Exchange, receive: Receive) -> None:
        self._opener = MessageOpener(exchange.opener)
        self._carrier = receive
        self._records: list[Record] = []
        self._told = False

    async def head(self) -> RequestHead:
        while not self._records:
            await self._read()
        head = self._records[0].head
        assert isinstance(head, RequestHead)  # an Opener gives the head first
        return head

    async def _read(self) -> None:
        message = await self._carrier()
        if message["type"] == "http.disconnect":
            raise RemoteProtocolError("the client has gone")
        self._records += self._opener.receive(message.get("body", b"")) if message.get("body") else ()
        if not message.get("more_body") and not self._opener.ended:
            self._records += self._opener.receive(b"")

    async def receive(self) -> Message:
        if self._told:
            return await self._disconnect()
        while not self._records:
            await self._read()
        record = self._records.pop(0)
        self._told = record.end
        return {"type": "http.request", "body": record.data, "more_body": not record.end}

    async def _disconnect(self) -> Message:
        # Wait: an app that listens for a disconnect would spin if one were reported at once.
        while (message := await self._carrier())["type"] != "http.disconnect":
            pass
        return message


class _Response:
    """A response, sealed as the app sends it."""

    def __init__(self, exchange: Exchange, send: Send, method: bytes) -> None:
        self._exchange = exchange
        self._carrier = send
        self._method = method
        self._start: ResponseHead | None = None
        self._sealer: MessageSealer | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = ResponseHead(message["status"], end_to_end(message.get("headers", ())))
        elif message["type"] == "http.response.body":
            await self._body(bytes(message.get("body", b"")), more=bool(message.get("more_body")))

    async def _body(self, data: bytes, *, more: bool) -> None:
        length: int | None = None
        if self._sealer is None:
            assert self._start is not None  # ASGI: the start comes first
            sealer = MessageSealer(self._exchange.sealer, self._start, length=None)
            records = sealer.seal(self._sent(data), end=not more)
            self._sealer = sealer  # only now: a head that HTTP does not allow leaves its place to the proxy's answer
            length = None if more else len(records)
            await _start(self._carrier, 200, carrier.RECORDS_TYPE, length)
        else:
            records = self._sealer.seal(self._sent(data), end=not more)
        await self._carrier({"type": "http.response.body", "body": records, "more_body": more})

    def _sent(self, data: bytes) -> bytes:
        assert self._start is not None  # ASGI: the start comes first
        return b"" if has_no_body(self._method, self._start.status) else data

    async def whole(self, status: int, text: str) -> None:
        """A plain answer of the proxy's own, sealed like the app's."""
        body = (text + "\n").encode()
        headers: Headers = (
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
        )
        self._start = ResponseHead(status, headers)
        await self._body(body, more=False)

    async def abort(self, status: int, text: str) -> None:
        """Say what failed, where nothing was said; a response that has begun and not ended is known to be cut."""
        if self._sealer is None:
            await self.whole(status, text)


async def _read(receive: Receive, limit: int) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise RemoteProtocolError(f"expected at most {limit} bytes, got more")
    return body


async def _start(send: Send, status: int, content_type: bytes, length: int | None) -> None:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    headers += [] if length is None else [(b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _answer(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    await _start(send, status, content_type, len(body))
    await send({"type": "http.response.body", "body": body})


async def _say(send: Send, status: int, text: str) -> None:
    await _answer(send, status, b"text/plain; charset=utf-8", (text + "\n").encode())
