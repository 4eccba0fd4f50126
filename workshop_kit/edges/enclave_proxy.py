"""The enclave proxy: inside the enclave, between the carrier and the app. It authenticates, decides and opens.

Outside its two paths there is nothing, so nobody reaches the app but through a session, and what the app reads is what
was sealed: method, path, headers and body, with the two headers that say who asks added here and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from workshop_kit.channel.enclave_handshake import AttestationNeeded, EnclaveHandshake
from workshop_kit.channel.framing import Headers, RequestHead
from workshop_kit.channel.handshake import MAX_HELLO
from workshop_kit.edges import carrier
from workshop_kit.edges.admission import MAX_EXCHANGES, MAX_HELLOS, Hellos, OpenSessions
from workshop_kit.edges.asgi import ASGI, AsgiApp, Scope
from workshop_kit.edges.http_call import Call
from workshop_kit.edges.nsm_device import NsmDevice, attest
from workshop_kit.edges.primitives import PRIMITIVES
from workshop_kit.edges.sealed_call import SealedRequest, SealedResponse
from workshop_kit.errors import AccessDeniedError, NsmError, RemoteProtocolError, ServiceError
from workshop_kit.service.rules import KnownUser, Rules, decide, forwarded_headers

FIRST_RECORD = 10.0
"""Seconds for a hello, or for the first record of a request: until then nobody is known to ask."""

_TEXT: Headers = ((b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"))
_BUSY: Headers = (*_TEXT, (b"retry-after", b"1"))


_CHUNKED = (b"transfer-encoding", b"chunked")
"""Of a body whose length nobody has said: apps of WSGI ask their headers whether there is one."""


class EnclaveProxy:
    """What an enclave serves on its vsock port, a call at a time.

    Args:
        app: the service's own, called in this process.
        websocket: what requests for WebSocket go to; both bodies are that connection's bytes once it has answered 101.
        rules: whose keys are known, and who may call what.
        nsm: signs what a handshake asks for.
        clock: seconds that only go forward, for the lifetimes of sessions.

    Attributes:
        state: what the app began with; each request is given a copy.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        websocket: AsgiApp,
        rules: Rules,
        nsm: NsmDevice,
        random: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._websocket = websocket
        self._rules = rules
        self._nsm = nsm
        self.state: dict[str, Any] = {}
        self._random = random
        self._sessions = OpenSessions(clock)
        self._hellos = Hellos()

    async def __call__(self, call: Call) -> None:
        path = call.target.decode("latin-1")
        exchange = carrier.parse_exchange_path(path)
        if call.method == b"POST" and path == carrier.HELLO_PATH:
            await self._hello(call)
        elif call.method == b"POST" and exchange is not None:
            await self._exchange(call, *exchange)
        else:
            await _say(call, 404, "an enclave proxy answers here; connect with `workshop connect`")

    async def _hello(self, call: Call) -> None:
        handshake = EnclaveHandshake(
            is_known=lambda key: key in self._rules.users,
            random=self._random,
            primitives=PRIMITIVES,
        )
        try:
            async with asyncio.timeout(FIRST_RECORD):
                hello = await call.body(MAX_HELLO)
            needed = handshake.receive_hello(hello)
            document = await self._evidence(needed)
        except AccessDeniedError as error:
            return await _say(call, error.status, str(error))
        except TimeoutError:
            return await _say(call, 408, f"expected a hello within {FIRST_RECORD:g} s, got a part of one")
        except RemoteProtocolError as error:
            return await _say(call, 400, str(error))
        except (NsmError, EOFError) as error:
            return await _say(call, 503, f"no evidence to be had: {error}")
        answer = handshake.provide_evidence(document)
        self._sessions.keep(handshake.session(), self._rules.users[needed.public_key])
        kind = carrier.ANSWER_TYPES[handshake.profile.value]
        return await call.answer(200, ((b"content-type", kind), (b"cache-control", b"no-store")), answer)

    async def _evidence(self, needed: AttestationNeeded) -> bytes:
        if not self._hellos.is_new(needed.nonce, needed.public_key):
            raise AccessDeniedError("expected a new hello, got one that was accepted before: make another", status=409)
        with self._hellos.under_way(self._rules.users[needed.public_key]) as room:
            if not room:
                words = f"expected at most {MAX_HELLOS} hellos of a user at once, got more: try again in a second"
                raise AccessDeniedError(words, status=503)
            return await attest(self._nsm, user_data=needed.user_data, nonce=needed.nonce, public_key=needed.public_key)

    async def _exchange(self, call: Call, session_id: bytes, stream: int) -> None:
        opened = self._sessions.find(session_id)
        if opened is None:
            return await _say(call, 404, "no such session")
        try:
            exchange = opened.session.accept(stream)
            request = SealedRequest(exchange, call)
            # Mostly it is here with the carrier's head, and a time-out costs more than reading it.
            if (head := request.head_at_hand()) is None:
                async with asyncio.timeout(FIRST_RECORD):
                    head = await request.head()
        except TimeoutError:
            return await _say(call, 408, f"expected a request's first record within {FIRST_RECORD:g} s, got none")
        except RemoteProtocolError as error:
            return await _say(call, 400, str(error))
        response = SealedResponse(exchange, call, head.method)
        if not head.asks_for_websocket:  # there a client's going is an event, which its app is told
            call.on_gone = _ending(call)
        # Counted from here on: before a record has opened, a stranger could use up the room.
        with self._sessions.exchange(opened) as room:
            if not room:
                words = (
                    f"expected at most {MAX_EXCHANGES} requests of a session at once, got more: this one was not begun"
                )
                return await response.whole(503, words)
            try:
                await self._serve(head, opened.user, request, response)
            except RemoteProtocolError as error:
                await response.abort(400, str(error))
        return None

    async def _serve(
        self, head: RequestHead, user: KnownUser, request: SealedRequest, response: SealedResponse
    ) -> None:
        decision = decide(self._rules, user.role, head.target)
        if decision.status != 200:
            return await response.whole(decision.status, decision.reason)
        try:
            app = self._websocket if head.asks_for_websocket else self._app
            scope = self._scope(head, decision.path, user)
            if request.unmeasured and not head.asks_for_websocket:
                scope["headers"].append(_CHUNKED)
            await app(scope, request.receive, response.send)
        except (RemoteProtocolError, ConnectionResetError):
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
            "asgi": ASGI,
            "http_version": "1.1",
            "method": head.method.decode(),
            "scheme": "http",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "target": head.target,  # no key of ASGI's: there "/?" and "/" are one
            "root_path": "",
            "headers": forwarded_headers(head.headers, user),
            "client": ("0.0.0.0", 0),  # nobody's, and least of all this machine's own: many apps demand some address
            "server": ("enclave", self._rules.port),
            "state": self.state.copy(),
        }


def _ending(call: Call) -> Callable[[], None]:
    """What ends an answer under way whose client goes: an app that only sends learns it with its next piece, and one
    that waits for an event never. Before its answer has begun, it goes on with what it was asked to do."""
    task = asyncio.current_task()
    assert task is not None

    def end() -> None:
        if call.status and not call.answered and not call.listening:
            task.cancel()

    return end


async def _say(call: Call, status: int, text: str) -> None:
    await call.answer(status, _BUSY if status == 503 else _TEXT, (text + "\n").encode())
