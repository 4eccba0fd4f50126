"""The parent instance: the ordinary computer on which an enclave's operator works. It carries bytes, and sees no more.

It listens on a TCP port and relays every connection to the enclave's vsock port, and it opens tunnels for what leaves
the enclave. What it saw is kept, so that a page can show what the operator sees.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from workshop_kit.edges.egress_proxy import EgressProxy, Internet, RealInternet
from workshop_kit.edges.loops import new_loop
from workshop_kit.edges.serving import LOOPBACK, port_of
from workshop_kit.edges.vsock import EGRESS_PORT, PARENT_CID, PROXY_PORT, VsockAddress, listen_for
from workshop_kit.errors import LabError
from workshop_kit.service.egress import EgressDecision
from workshop_kit.simulator.relay import ByteRelay, Seen, Witness

if TYPE_CHECKING:
    from workshop_kit.simulator.interception import Interception
    from workshop_kit.simulator.misbehaving import Attack

_PIECE = 256 * 1024
_PAUSE = 0.5  # seconds until it is tried again whether there are descriptors
_REMEMBERED_DECISIONS = 1000

_Serve: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


class ParentInstance:
    """A relay between a port and an enclave, in a thread of its own.

    Args:
        directory: where the hypervisor keeps the sockets of its vsock addresses.
        cid: of the enclave.
        listener: where clients come, listening already.
        own_cid: by which the enclave calls it.
        internet: where what leaves the enclave goes.
        misbehave: what it does with messages. It is honest without, and carries bytes.

    Attributes:
        egress: what became of each tunnel that the enclave asked for.
    """

    def __init__(
        self,
        directory: Path,
        cid: int,
        listener: socket.socket,
        *,
        own_cid: int = PARENT_CID,
        internet: Internet | None = None,
        misbehave: Attack | None = None,
    ) -> None:
        self._listener = listener
        self._calls_at = VsockAddress(own_cid, EGRESS_PORT).path_from(cid, directory)
        self._calls = listen_for(cid, VsockAddress(own_cid, EGRESS_PORT), directory)
        self.port = port_of(self._listener)
        self.egress: deque[EgressDecision] = deque(maxlen=_REMEMBERED_DECISIONS)
        self._egress_proxy = EgressProxy(internet or RealInternet(), on_decision=self.egress.append)
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = new_loop()
        self._witness = Witness()
        enclave = VsockAddress(cid, PROXY_PORT).path(directory)
        self._relay = ByteRelay(self._loop, enclave, self._witness.note)
        self._interception = _interception(enclave, misbehave, self._witness.note) if misbehave else None
        self._relaying = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"parent-instance-{self.port}")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def seen(self) -> list[Seen]:
        """What passed between clients and the enclave, the newest at the end."""
        return self._witness.seen()

    @property
    def misbehave(self) -> Attack | None:
        """What it does with messages; where it was started with an attack, another may take its place at any time."""
        return self._interception.attack if self._interception else None

    @misbehave.setter
    def misbehave(self, attack: Attack) -> None:
        if self._interception is None:
            raise LabError(
                "expected a parent instance that was started with misbehave=, got an honest one: it stays so"
            )
        self._interception.attack = attack

    def close(self) -> None:
        """Stop relaying; open connections are cut."""
        self._relaying.wait(5)  # a loop that is stopped while it begins fails in its thread
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with closing(self._loop), self._listener, self._calls:
            intercepting = self._interception and partial(self._in_task, self._interception.serve)
            self._accept_at(self._listener, intercepting or self._relay.carry)
            self._accept_at(self._calls, partial(self._in_task, self._egress_proxy.serve))
            self._loop.call_soon(self._relaying.set)
            self._loop.run_forever()
            for listener in (self._listener, self._calls):
                self._loop.remove_reader(listener)
            self._calls_at.unlink(missing_ok=True)
            self._relay.cut()
            self._loop.run_until_complete(_cut())

    # asyncio's own servers leave behind what they accept in the moment of their end.
    def _accept_at(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, listener, serve)

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:  # whoever called has gone again, or
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # There is no descriptor for him. He waits: a reader that stayed would be called at once, for ever.
                self._loop.remove_reader(listener)
                self._loop.call_later(_PAUSE, self._accept_at, listener, serve)
            return
        with suppress(OSError):
            serve(connection)

    def _in_task(self, serve: _Serve, connection: socket.socket) -> None:
        task = self._loop.create_task(_each(connection, serve))
        self._serving.add(task)  # the loop itself would let go of a task that waits
        task.add_done_callback(self._serving.discard)


def _interception(enclave: Path, attack: Attack, note: Callable[[int, bytes], None]) -> Interception:
    from workshop_kit.simulator.interception import Interception  # here: an honest one has no code for it

    return Interception(enclave, attack, note)


async def _each(connection: socket.socket, serve: _Serve) -> None:
    reader, writer = await asyncio.open_connection(sock=connection, limit=_PIECE)
    try:
        await serve(reader, writer)
    finally:
        writer.transport.abort()


async def _cut() -> None:
    await asyncio.sleep(0)  # what was accepted this moment begins, to be ended
    carrying = asyncio.all_tasks() - {asyncio.current_task()}
    for task in carrying:
        task.cancel()
    await asyncio.gather(*carrying, return_exceptions=True)
    await asyncio.sleep(0)  # sockets close in the loop's next turn
