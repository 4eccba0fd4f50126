"""The kit's own way out of an enclave, for services that run where an app has no sockets at all.

It asks the gate beside the app (`WORKSHOP_EGRESS`, a descriptor) for a connection to a name and a port. What comes back
is a stream to that server, or the reason why not; TLS is spoken by the app itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket

from workshop_kit.edges import tunnel
from workshop_kit.errors import EgressDeniedError, RemoteProtocolError

GATE = "WORKSHOP_EGRESS"
"""The variable that says through which descriptor the gate is asked."""


def inside_an_enclave() -> bool:
    return GATE in os.environ


async def open_connection(name: str, port: int) -> tunnel.Ends:
    """A stream to a server that the manifest's allowlist names.

    Raises:
        EgressDeniedError: the allowlist does not name it, or the parent instance does not get there.
        OSError: there is no gate.
    """
    reader, writer = await asyncio.open_connection(sock=_ask(name, port))
    try:
        status, reason = await tunnel.read_answer(reader)
    except RemoteProtocolError as error:
        await tunnel.close(writer)
        raise EgressDeniedError(f"{name}:{port}: {error}") from None
    except BaseException:  # whoever asked waits no longer
        writer.transport.abort()
        raise
    if status != 200:
        await tunnel.close(writer)
        raise EgressDeniedError(f"{name}:{port}: {reason}")
    return reader, writer


def _ask(name: str, port: int) -> socket.socket:
    """One end of a socket pair; the other goes to the gate, and becomes the connection."""
    if not inside_an_enclave():
        raise OSError(errno.ENODEV, "expected a gate, got none: this process runs in no enclave")
    ours, theirs = socket.socketpair()
    message = json.dumps({"connect": [name, port]}).encode()
    with contextlib.closing(theirs), socket.socket(fileno=os.dup(int(os.environ[GATE]))) as gate:
        socket.send_fds(gate, [message], [theirs.fileno()])
    return ours
