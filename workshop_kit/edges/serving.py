"""Serving an ASGI application on a loopback port, in this thread or in one of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from workshop_kit.errors import LabError

LOOPBACK = "127.0.0.1"


def bind(port: int, host: str = LOOPBACK) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        LabError: the port is in use, or not ours to take.
    """
    # asyncio turns Nagle's algorithm off only where the protocol is named: without it an answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise LabError(f"cannot listen on {host}:{port} ({reason}): choose another port, or 0 for a free one") from None
    return listener


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


class Server(uvicorn.Server):
    """Uvicorn on a socket that is listening already; says when the application is ready."""

    def __init__(self, app: Any, *, on_ready: Callable[[], None] = lambda: None, lifespan: str = "off") -> None:
        config = uvicorn.Config(
            app,
            lifespan="on" if lifespan == "on" else "off",
            log_level="error",
            log_config=None,  # what goes wrong is printed without it (logging's last resort)
            access_log=False,
            ws="none",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            # Longer than clients keep a connection idle, so that they and not the server close it.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self._on_ready()


class BackgroundServer:
    """A `Server` in a thread of its own, for notebooks and tests."""

    def __init__(self, app: Any, listener: socket.socket) -> None:
        self.port = port_of(listener)
        self._listener = listener
        self._ready = threading.Event()
        self._server = Server(app, on_ready=self._ready.set)
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"server-{self.port}")
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(5)
        self._listener.close()
