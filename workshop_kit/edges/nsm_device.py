"""The NSM as an enclave sees it: a device that takes a request's bytes and gives a response's.

On real hardware a driver for /dev/nsm stands here, and nothing above it changes.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from typing import Protocol

from workshop_kit.edges.nsm_socket import DEVICE, NSM, PREFIX, framed, length_of
from workshop_kit.errors import LabError
from workshop_kit.evidence import nsm_api


class NsmDevice(Protocol):
    """Something that answers NSM API requests."""

    async def request(self, data: bytes) -> bytes:
        """The response to one request, both in the API's CBOR."""


class SocketNsmDevice:
    """A device at the other end of a stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._turn = asyncio.Lock()

    async def request(self, data: bytes) -> bytes:
        async with self._turn:
            await asyncio.get_running_loop().sock_sendall(self._connection, framed(data))
            return await self._receive(length_of(await self._receive(PREFIX)))

    async def _receive(self, count: int) -> bytes:
        loop, parts = asyncio.get_running_loop(), []
        while count:
            part = await loop.sock_recv(self._connection, count)
            if not part:
                raise EOFError("the NSM device is gone")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def open_nsm() -> SocketNsmDevice:
    """An app's own NSM device, with the API's requests and error codes; a driver for Linux's device is a drop-in.

    Raises:
        LabError: this process is in no enclave.
    """
    if DEVICE.is_socket():
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(DEVICE))
        return SocketNsmDevice(connection)
    if NSM in os.environ:
        return _inherited(int(os.environ[NSM]))
    raise LabError("expected an NSM, got none: this process runs in no enclave")


@functools.cache
def _inherited(descriptor: int) -> SocketNsmDevice:
    """One for all who ask: on one connection, questions take turns."""
    return SocketNsmDevice(socket.socket(fileno=os.dup(descriptor)))


async def attest(device: NsmDevice, *, user_data: bytes, nonce: bytes, public_key: bytes) -> bytes:
    """A signed attestation document over these three.

    Raises:
        NsmError: the module refuses.
    """
    request = nsm_api.encode_request("Attestation", user_data=user_data, nonce=nonce, public_key=public_key)
    fields = nsm_api.decode_response(await device.request(request), "Attestation")
    document: bytes = fields["document"]
    return document


async def extend_and_lock(device: NsmDevice, *, index: int, data: bytes) -> None:
    """Extend a PCR with `data` for good: from now on it is in every document, and nobody changes it.

    Raises:
        NsmError: the module refuses.
    """
    for name, fields in (("ExtendPCR", {"index": index, "data": data}), ("LockPCR", {"index": index})):
        nsm_api.decode_response(await device.request(nsm_api.encode_request(name, **fields)), name)
