"""ASGI's types, and the part of it that begins and ends with the application: its lifespan (ASGI 3.0)."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from workshop_kit.errors import ServiceError

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

ASGI = {"version": "3.0", "spec_version": "2.4"}


class Lifespan:
    """Tells an application that it begins. Nobody tells it that it ends: an enclave is stopped, as a computer is.

    Attributes:
        state: what the application keeps there as it begins; each request is given a copy.
    """

    def __init__(self, app: AsgiApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._said: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._told = False
        self._task: asyncio.Task[None] | None = None  # kept: the loop itself would let go of a task that waits

    async def start(self) -> None:
        """Raises:
        ServiceError: the application does not begin; the error has the application's own words.
        """
        self._task = asyncio.get_running_loop().create_task(self._run())
        if words := await self._said:
            raise ServiceError(words)

    async def _run(self) -> None:
        try:
            await self._app({"type": "lifespan", "asgi": ASGI, "state": self.state}, self._receive, self._send)
        except Exception:  # noqa: BLE001  the app's own, whatever it is
            self._say(traceback.format_exc().strip())
        self._say("expected an app that says that it has begun (ASGI's lifespan), got one that ended without a word")

    async def _receive(self) -> Message:
        if self._told:
            await asyncio.Event().wait()  # for ever: its end is never announced
        self._told = True
        return {"type": "lifespan.startup"}

    async def _send(self, message: Message) -> None:
        failed = message["type"] == "lifespan.startup.failed"
        self._say(str(message.get("message") or "the app does not begin").strip() if failed else "")

    def _say(self, words: str) -> None:
        if not self._said.done():
            self._said.set_result(words)
