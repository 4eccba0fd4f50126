"""Vsock addresses over Unix sockets: a context id and a port name a socket in a directory.

AF_VSOCK needs a hypervisor's device, which containers and most laptops lack. Names and roles are kept, the socket
family is not.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

FIRST_ENCLAVE_CID = 16
"""Where nitro-cli begins to count when it chooses."""

PROXY_PORT = 5005
"""The port on which an enclave proxy listens inside its enclave."""


@dataclass(frozen=True)
class VsockAddress:
    """Who (a context id) and where (a port)."""

    cid: int
    port: int

    def path(self, directory: Path) -> Path:
        """The Unix socket that stands for this address."""
        return directory / f"{self.cid}.{self.port}"


def listen(address: VsockAddress, directory: Path) -> socket.socket:
    """A listening socket at `address`; only the owner of `directory` can connect."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(address.path(directory)))
    listener.listen(1024)
    return listener
