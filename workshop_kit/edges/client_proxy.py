"""The client proxy: plain HTTP on localhost, an attested session behind it, for curl, browsers and any program.

It attests before it listens. What no session carries is answered 400, what cannot be delivered as sealed 502, each with
one line that says why. It repeats nothing, and writes no log: what it is asked, and by whom, are its user's secrets.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from functools import lru_cache

import httpx

from workshop_kit.channel.framing import UPGRADE, Headers, RequestHead, ResponseHead
from workshop_kit.edges.async_client import AttestedSession
from workshop_kit.edges.connection import TimeOuts
from workshop_kit.edges.door import Door
from workshop_kit.edges.http_call import Call
from workshop_kit.edges.message import end_to_end
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError, WorkshopKitError

PATIENCE = TimeOuts(connect=30.0, read=None, write=None)
"""Whoever asks here waits as long as he likes: when he goes, what he asked for ends too."""

_TEXT: Headers = ((b"content-type", b"text/plain; charset=utf-8"),)
_ABSOLUTE = re.compile(rb"http://(?P<host>[^/?#]+)(?P<target>.*)", re.IGNORECASE)


class ClientProxy:
    """Hands each call to an enclave, through `session`, where `door` lets it in."""

    def __init__(self, session: AttestedSession, door: Door) -> None:
        self._session = session
        self._door = door

    async def __call__(self, call: Call) -> None:
        try:
            target, headers = _origin_form(call)
        except ValueError as error:
            return await _say(call, 400, str(error))
        if refusal := self._door.refusal(headers):
            return await _say(call, 403, refusal)
        task = asyncio.current_task()
        assert task is not None
        call.on_gone = lambda: _cancel(task)  # nobody is left to be answered
        try:
            await self._pass_on(call, RequestHead(call.method, target, _travelling(call, headers)))
        except LocalProtocolError as error:
            await _fail(call, 400, error)  # nothing that a session carries
        except (WorkshopKitError, httpx.TransportError) as error:
            await _fail(call, 502, error)
        return None

    async def _pass_on(self, call: Call, head: RequestHead) -> None:
        body = _pieces(call) if call.has_body or call.upgrade else None
        response = await self._session.exchange(head, body, PATIENCE)
        try:
            headers = _local(response.head, switches=call.upgrade)
            if response.whole is not None:
                return await call.answer(response.head.status, headers, response.whole)
            await call.start(response.head.status, headers)
            async for piece in response.body():
                await call.send(piece)
            return await call.end()
        finally:
            response.close()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _origin_form(call: Call) -> tuple[bytes, Headers]:
    """Target and headers as a server has them: of a target with scheme and host the host counts (RFC 9112, 3.2.2)."""
    if call.target[:1] == b"/" or call.target == b"*":
        return call.target, call.headers
    absolute = _ABSOLUTE.fullmatch(call.target)
    if absolute is None:
        raise ValueError("expected a path as the target, such as /compare, got another form of it")
    others = tuple(field for field in call.headers if field[0] != b"host")
    target = absolute["target"]
    return target if target[:1] == b"/" else b"/" + target, ((b"host", absolute["host"]), *others)


def _travelling(call: Call, headers: Headers) -> Headers:
    return (*end_to_end(headers), UPGRADE) if call.upgrade else end_to_end(headers)


def _local(head: ResponseHead, *, switches: bool) -> Headers:
    """The headers for the local client: with the time, where they lack it (RFC 9110, 6.6.1), without the length that
    some apps give a 204 (8.6).

    Raises:
        RemoteProtocolError: the status is an interim one, behind which another answer would be waited for.
    """
    if head.status == 101 and switches:
        return (*head.headers, UPGRADE)
    if head.status < 200:
        raise RemoteProtocolError(f"expected an answer, got the interim status {head.status}")
    headers = tuple(field for field in head.headers if not (head.status == 204 and field[0] == b"content-length"))
    return headers if any(name == b"date" for name, _ in headers) else (*headers, _date(int(time.time())))


@lru_cache(maxsize=1)
def _date(seconds: int) -> tuple[bytes, bytes]:
    return b"date", formatdate(seconds, usegmt=True).encode()


async def _pieces(call: Call) -> AsyncIterator[bytes]:
    while piece := await call.receive():
        yield piece


async def _fail(call: Call, status: int, error: Exception) -> None:
    """A response that has begun is left without its end: so the client learns that it is cut."""
    if not call.status:
        await _say(call, status, str(error))


async def _say(call: Call, status: int, text: str) -> None:
    headers = (*_TEXT, _date(int(time.time())))
    await call.answer(status, headers, (" ".join(text.split()) + "\n").encode())
