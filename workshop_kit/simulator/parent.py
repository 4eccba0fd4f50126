"""The parent instance: the ordinary computer on which an enclave's operator works. It carries bytes, and sees no more.

It listens on a TCP port and relays every connection to the enclave's vsock port. What it saw is kept, so that a page
can show what the operator sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from workshop_kit.edges.serving import LOOPBACK, port_of
from workshop_kit.edges.vsock import PROXY_PORT, VsockAddress

_PIECE = 256 * 1024
_REMEMBERED = 1024 * 1024


@dataclass(frozen=True)
class Seen:
    """Bytes that passed, `towards` the enclave or the client."""

    towards: str
    data: bytes


class ParentInstance:
    """A relay between a port and an enclave, in a thread of its own.

    Args:
        directory: where the hypervisor keeps the sockets of its vsock addresses.
        cid: of the enclave.
        listener: where clients come, listening already.
    """

    def __init__(self, directory: Path, cid: int, listener: socket.socket) -> None:
        self._enclave = VsockAddress(cid, PROXY_PORT).path(directory)
        self._listener = listener
        self.port = port_of(self._listener)
        self.seen: list[Seen] = []
        self._remembered = 0
        self._loop = asyncio.new_event_loop()
        self._relaying = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"parent-instance-{self.port}")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def close(self) -> None:
        """Stop relaying; open connections are cut."""
        self._relaying.wait(5)  # a loop that is stopped while it begins fails in its thread
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.closing(self._loop):
            server = self._loop.run_until_complete(asyncio.start_server(self._carry, sock=self._listener, limit=_PIECE))
            self._loop.call_soon(self._relaying.set)
            self._loop.run_forever()
            server.close()
            self._loop.run_until_complete(_cut(asyncio.all_tasks(self._loop)))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers = [writer]
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._enclave), limit=_PIECE)
            open_writers.append(inner_writer)
            await asyncio.gather(
                self._pump("the enclave", reader, inner_writer),
                self._pump("the client", inner_reader, writer),
            )
        except OSError:
            writer.close()
        except asyncio.CancelledError:  # the relay is closed
            for each in open_writers:
                each.transport.abort()

    async def _pump(self, towards: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_PIECE):
                self._remember(Seen(towards, data))
                sink.write(data)
                await sink.drain()
        sink.close()

    def _remember(self, seen: Seen) -> None:
        self.seen.append(seen)
        self._remembered += len(seen.data)
        while self._remembered > _REMEMBERED and len(self.seen) > 1:
            self._remembered -= len(self.seen.pop(0).data)


async def _cut(carrying: set[asyncio.Task[None]]) -> None:
    await asyncio.sleep(0)  # what was accepted this moment begins, to be ended
    for task in carrying:
        task.cancel()
    await asyncio.gather(*carrying, return_exceptions=True)
    await asyncio.sleep(0)  # sockets close in the loop's next turn
