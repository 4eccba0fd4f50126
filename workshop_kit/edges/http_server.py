"""HTTP/1.1 as a server speaks it (RFC 9112): requests in, responses out, bodies of both as they come.

Both proxies are built on it: the client proxy faces curl and browsers, the enclave proxy whoever carries its messages.
It knows no path, no user and no key. Handlers get a `Call` each and may answer while the request still comes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

from workshop_kit.edges.http_call import Call
from workshop_kit.edges.http_connection import Connection

MAX_CONNECTIONS = 4096
GRACE = 2.0
"""Seconds for running calls when the server ends."""

Handler: TypeAlias = Callable[[Call], Awaitable[None]]


class HttpServer:
    """Serves `handle` on sockets that are listening already."""

    def __init__(self, handle: Handler) -> None:
        self.handle = handle
        self.ending = False
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self._over = asyncio.Event()

    async def start(self, *listeners: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for listener in listeners:
            self._servers.append(await loop.create_server(lambda: Connection(self), sock=listener, backlog=1024))

    async def close(self) -> None:
        """Take no more; running calls have two seconds to end."""
        self.ending = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.finish()
        self._look()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._over.wait()
        for connection in list(self._connections):
            connection.abort()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.sleep(0)  # connections are told of their end one step later
        await asyncio.gather(*self.tasks, return_exceptions=True)

    # Called by connections.
    def admit(self, connection: Connection) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS or self.ending:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._look()

    def forget_task(self, task: asyncio.Task[Any] | None) -> None:
        self.tasks.discard(task)
        if self.ending:
            self._look()

    def _look(self) -> None:
        if self.ending and not self._connections and not self.tasks:
            self._over.set()
