"""NSM API messages on a stream socket, each behind its length in 4 bytes, and the hypervisor's end of such a device.

An enclave's own end is `nsm_device`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

DEVICE = Path("/dev/nsm")
"""The NSM's name in a file tree of the enclave's own."""

NSM = "WORKSHOP_NSM"
"""The variable that says through which descriptor an app asks its NSM, where it has no tree of its own."""

PREFIX = 4
"""Bytes of a length, big-endian."""


def framed(data: bytes) -> bytes:
    """A message behind its length."""
    return len(data).to_bytes(PREFIX, "big") + data


def length_of(prefix: bytes) -> int:
    """How many bytes a message has.

    Raises:
        EOFError: more than the API has in any.
    """
    from workshop_kit.evidence import nsm_api  # late: the infrastructure starts an enclave before it reads CBOR

    length = int.from_bytes(prefix, "big")
    if length > nsm_api.MAX_RESPONSE:
        raise EOFError(f"a message of {length} bytes is beyond the device's limit")
    return length


def serve_nsm(connection: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    """Answer requests one after another until the enclave closes its end, and close this one."""
    with connection, contextlib.suppress(EOFError, OSError), connection.makefile("rb") as stream:
        while len(prefix := stream.read(PREFIX)) == PREFIX:
            connection.sendall(framed(answer(stream.read(length_of(prefix)))))
