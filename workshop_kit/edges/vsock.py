"""Vsock addresses over Unix sockets: a context id and a port name a socket in a directory.

AF_VSOCK needs a hypervisor's device, which containers and most laptops lack. Names and roles are kept, the socket
family is not. As with Firecracker's and vhost-device-vsock's sockets, an enclave listens at one name for each port, and
whoever it calls listens at another, which begins with the caller's own id.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PARENT_CID = 3
"""The parent instance's context id on Nitro; under QEMU it is 2."""

FIRST_ENCLAVE_CID = 16
"""Where nitro-cli begins to count when it chooses."""

PROXY_PORT = 5005
"""The port on which an enclave proxy listens inside its enclave."""

EGRESS_PORT = 5006
"""The port on which the parent instance takes what leaves an enclave."""

_REQUEST, _ANSWER = struct.Struct("=II"), struct.Struct("=I")


class VsockAddress(NamedTuple):
    """Who (a context id) and where (a port)."""

    cid: int
    port: int

    def path(self, directory: Path) -> Path:
        """The Unix socket that stands for this address, of an enclave."""
        return directory / f"{self.cid}.{self.port}"

    def path_from(self, caller: int, directory: Path) -> Path:
        """The Unix socket at which this address listens for the calls of one enclave."""
        return directory / f"{caller}.to.{self.cid}.{self.port}"


def listen(address: VsockAddress, directory: Path) -> socket.socket:
    """A listening socket at `address`; only the owner of `directory` can connect."""
    return listen_at(address.path(directory))


def listen_for(caller: int, address: VsockAddress, directory: Path) -> socket.socket:
    """A listening socket at `address` for what the enclave `caller` calls."""
    return listen_at(address.path_from(caller, directory))


def listen_at(path: Path) -> socket.socket:
    """A listening Unix socket with a name."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1024)
    return listener


class VsockDevice:
    """An enclave's own end of its device: it asks for a connection and is handed one, as by a driver of /dev/vsock.

    One thread asks at a time. The hypervisor, at the other end, answers at once.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def connect(self, address: VsockAddress) -> socket.socket:
        """A stream to `address`.

        Raises:
            OSError: nobody listens there, or the device is gone.
        """
        self._connection.sendall(_REQUEST.pack(address.cid, address.port))
        data, descriptors, _, _ = socket.recv_fds(self._connection, _ANSWER.size, 1)
        if len(data) < _ANSWER.size:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        (error,) = _ANSWER.unpack(data)
        if error or not descriptors:
            raise OSError(error or errno.EPROTO, os.strerror(error or errno.EPROTO))
        return socket.socket(fileno=descriptors[0])


def serve_device(connection: socket.socket, dial: Callable[[VsockAddress], socket.socket]) -> None:
    """The hypervisor's end of an enclave's device, until the enclave ends.

    Args:
        dial: connects to an address, or raises OSError.
    """
    with connection.makefile("rb") as requests:
        while len(request := requests.read(_REQUEST.size)) == _REQUEST.size:
            try:
                with dial(VsockAddress(*_REQUEST.unpack(request))) as found:
                    _hand_over(connection, found)
            except OSError as error:
                connection.sendall(_ANSWER.pack(error.errno or errno.ECONNREFUSED))


def _hand_over(connection: socket.socket, found: socket.socket) -> None:
    descriptor = array.array("i", [found.fileno()])
    connection.sendmsg([_ANSWER.pack(0)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
