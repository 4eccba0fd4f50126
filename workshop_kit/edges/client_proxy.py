"""The client proxy: plain HTTP on localhost, an attested session behind it, for curl, browsers and any program.

It attests before it listens. What cannot be delivered as sealed is answered 502, with one line that says why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx

from workshop_kit.channel.framing import RequestHead, ResponseHead
from workshop_kit.edges.async_client import AttestedSession
from workshop_kit.edges.message import end_to_end, has_no_body
from workshop_kit.errors import WorkshopKitError

Message = MutableMapping[str, Any]


class ClientProxy:
    """An ASGI application that hands each request to an enclave through `session`."""

    def __init__(self, session: AttestedSession) -> None:
        self._session = session

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        started = False
        try:
            async with self._session.exchange(_head(scope), _body(scope, receive)) as response:
                started = True
                headers = _local(response.head)
                await send({"type": "http.response.start", "status": response.head.status, "headers": headers})
                async for piece in response.body():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except (WorkshopKitError, httpx.TransportError) as error:
            # A response that has begun is left without its end: so the client learns that it is cut.
            if not started:
                await _refuse(send, str(error))


def _head(scope: MutableMapping[str, Any]) -> RequestHead:
    query = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    return RequestHead(scope["method"].encode(), target, end_to_end(scope["headers"]))


def _local(head: ResponseHead) -> list[tuple[bytes, bytes]]:
    """The headers for the local server, which would wait for the body that a 304's content-length speaks of."""
    silent = has_no_body(b"", head.status)
    return [(name, value) for name, value in head.headers if not (silent and name == b"content-length")]


def _body(scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Message]]) -> AsyncIterator[bytes] | None:
    names = dict(scope["headers"])
    if b"transfer-encoding" not in names and names.get(b"content-length", b"0") == b"0":
        return None
    return _pieces(receive)


async def _pieces(receive: Callable[[], Awaitable[Message]]) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise httpx.ReadError("the local client has gone")
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _refuse(send: Callable[[Message], Awaitable[None]], text: str) -> None:
    body = (" ".join(text.split()) + "\n").encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 502, "headers": headers})
    await send({"type": "http.response.body", "body": body})
