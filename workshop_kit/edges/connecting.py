"""Attest first, then listen: the client proxy as a program runs it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from workshop_kit.edges.async_client import AttestedSession
from workshop_kit.edges.client_proxy import ClientProxy
from workshop_kit.edges.door import Door
from workshop_kit.edges.http_server import HttpServer
from workshop_kit.edges.serving import LOOPBACK, bind, port_of
from workshop_kit.edges.sessions import Attesting
from workshop_kit.errors import LabError


async def run_client_proxy(attesting: Attesting, *, at: int | Path, on_ready: Callable[[str], None]) -> None:
    """Serve until this task is cancelled, on a port of localhost or on a Unix socket that only this user can open.

    Raises:
        AppraisalError, AccessDeniedError, RemoteProtocolError: the enclave is refused, or refuses.
        LabError: nothing answers there, or the local port or socket cannot be had.
    """
    session = AttestedSession(attesting)
    with listening(at) as (listener, door, address):
        try:
            await session.connect()
        except httpx.TransportError as error:
            raise LabError(f"{error}; is `workshop run` still listening there?") from None
        server = HttpServer(ClientProxy(session, door))
        try:
            await server.start(listener)
            on_ready(address)
            await asyncio.Event().wait()
        finally:
            await server.close()
            session.close()
            await asyncio.sleep(0)  # a transport closes its socket in the loop's next turn


@contextmanager
def listening(at: int | Path) -> Iterator[tuple[socket.socket, Door, str]]:
    """A socket, the rules of its door, and where programs find it."""
    if isinstance(at, int):
        with bind(at) as listener:
            port = port_of(listener)
            yield listener, Door(port), f"http://{LOOPBACK}:{port}"
        return
    with _own_socket(at) as listener:
        made = at.stat()
        try:
            yield listener, Door(None), f"unix:{at}"
        finally:
            with suppress(OSError):
                if os.path.samestat(at.stat(), made):  # else it is somebody else's by now
                    at.unlink()


def _own_socket(file: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # nobody else, from its first moment on
    try:
        if _is_left_over(file):
            file.unlink()
        listener.bind(str(file))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise LabError(f"cannot listen on {file} ({error.strerror or error}): choose another file") from None
    finally:
        os.umask(before)
    return listener


def _is_left_over(file: Path) -> bool:
    """Whether there is a socket on which nobody listens any more, as one that was killed leaves it."""
    if not file.is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)  # one that is busy is not gone
        return caller.connect_ex(str(file)) == errno.ECONNREFUSED
