"""The way out of an enclave, in a process of its own beside the app's: nothing leaves but through here.

The hypervisor starts this very file out of the measured image when an app first asks, with the manifest's allowlist as
the enclave's own code said it before a line of the app ran. The app, or its libraries, ask for a name and a port in two
ways:

    the kit's client     a message with one end of a socket pair, which becomes the connection (any level)
    anything else        an ordinary connection, about which the kernel asks here first (a network of its own)

What is allowed goes through the vsock channel to the parent instance, which resolves and dials; TLS stays between app
and server. What is refused is on the console, with name, port and reason, and told nobody outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import os
import socket
import stat
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

BASE = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # The image's own modules, before any that is installed on the machine.
    sys.path.insert(0, str(BASE))

from workshop_kit.edges import tunnel  # noqa: E402
from workshop_kit.edges.vsock import EGRESS_PORT, VsockAddress, VsockDevice  # noqa: E402
from workshop_kit.errors import LabError, RemoteProtocolError  # noqa: E402
from workshop_kit.service.egress import Allowlist, EgressDecision  # noqa: E402
from workshop_kit.simulator.isolation.connects import Attempt, Watch  # noqa: E402
from workshop_kit.simulator.isolation.levels import Level, confine_neighbour  # noqa: E402
from workshop_kit.simulator.names import Names, answer, question_of  # noqa: E402

_NAME_SERVER_PORT = 53
_LONGEST_MESSAGE = 64 * 1024
_LONGEST_QUERY = 4096
_PENDING = 1024
"""Connections between the kernel's and ours that have not met yet; an app that leaves more behind loses the oldest."""


class Gate:
    """One enclave's way out.

    Args:
        channel: whence the app's process sends messages; each is one datagram.
        device: the enclave's vsock device.
        parent: where the parent instance takes what leaves.
        allowed: domains and ports of the manifest's allowlist.
        processes: a descriptor of /proc as this process sees it, or -1.
    """

    def __init__(
        self,
        channel: socket.socket,
        device: VsockDevice,
        parent: VsockAddress,
        *,
        allowed: Sequence[tuple[str, int]],
        processes: int,
    ) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._device = device
        self._parent = parent
        self._processes = processes
        self._allowlist = Allowlist(allowed)
        self._names = Names()
        self._names.keep(domain for domain, _ in allowed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._meant: OrderedDict[tuple[str, int], EgressDecision] = OrderedDict()
        self._port = 0
        self._looked_up = ""

    async def open(self, datagrams: int, listener: int, filters: Iterable[int]) -> None:
        """Begin to answer.

        Args:
            datagrams, listener: a name server's socket and where connections arrive in the app's network, or -1.
            filters: the listeners of those that ask about connections.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel, self._message)
        for each in filters:
            self._watch(each)
        if datagrams < 0:
            return
        names, arriving = socket.socket(fileno=datagrams), socket.socket(fileno=listener)
        names.setblocking(False)
        loop.add_reader(names, self._query, names)
        self._port = arriving.getsockname()[1]
        await asyncio.start_server(self._arrived, sock=arriving)

    def _watch(self, descriptor: int) -> None:
        watch = Watch(descriptor, self._processes)
        asyncio.get_running_loop().add_reader(watch, self._asked, watch)

    # --- messages ----------------------------------------------------------------------------------------------------

    def _message(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, _LONGEST_MESSAGE, 1)
        except BlockingIOError:
            return
        handed = [socket.socket(fileno=each) if _is_socket(each) else each for each in descriptors]
        try:
            message = json.loads(data)
            (kind,) = message
            self._handle(kind, message[kind], *handed)
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, OSError):
            # An app may send anything at all.
            for each in handed:
                each.close() if isinstance(each, socket.socket) else os.close(each)

    def _handle(self, kind: str, value: Any, handed: socket.socket | int | None = None) -> None:
        if kind == "watch" and isinstance(handed, int):
            self._watch(handed)
        elif kind == "connect" and isinstance(handed, socket.socket) and handed.type == socket.SOCK_STREAM:
            name, port = value
            self._start(self._serve(handed, str(name), int(port)))
        else:
            raise ValueError(kind)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _decide(self, name: str, port: int) -> EgressDecision:
        decision = self._allowlist.decide(name, port)
        if not decision.allowed:
            _log(decision)
        return decision

    # --- the kit's client --------------------------------------------------------------------------------------------

    async def _serve(self, connection: socket.socket, name: str, port: int) -> None:
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection)
        decision = self._decide(name, port)
        if decision.allowed:
            await self._carry(decision, (reader, writer), says=True)
        else:
            writer.write(tunnel.answer(403, decision.reason))
            await tunnel.close(writer)

    async def _carry(self, decision: EgressDecision, inner: tunnel.Ends, *, says: bool) -> None:
        """Through the channel; `says` whether whoever asked reads an answer before the first byte."""
        try:
            outer = await self._dial(decision)
        except (OSError, RemoteProtocolError) as error:
            refusal = decision._replace(allowed=False, reason=str(error))
            _log(refusal)
            if says:
                inner[1].write(tunnel.answer(403, refusal.reason))
                await tunnel.close(inner[1])
            else:
                inner[1].transport.abort()
            return
        _log(decision)
        if says:
            inner[1].write(tunnel.answer(200, "open"))
        await tunnel.join(inner, outer)

    async def _dial(self, decision: EgressDecision) -> tunnel.Ends:
        """A tunnel that the parent instance has opened.

        Raises:
            OSError, RemoteProtocolError: there is none, with the reason.
        """
        channel = self._device.connect(self._parent)
        channel.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=channel)
        try:
            writer.write(tunnel.request(decision.name, decision.port))
            status, reason = await tunnel.read_answer(reader)
        except BaseException:
            writer.transport.abort()
            raise
        if status != 200:
            await tunnel.close(writer)
            raise RemoteProtocolError(reason)
        return reader, writer

    # --- an app's own connections ------------------------------------------------------------------------------------

    def _query(self, datagrams: socket.socket) -> None:
        with contextlib.suppress(OSError):
            query, address = datagrams.recvfrom(_LONGEST_QUERY)
            if question := question_of(query):
                self._note_name(question[0])
            if response := answer(query, self._names):
                datagrams.sendto(response, address)

    def _note_name(self, name: str) -> None:
        """A look-up by itself could carry data out, in the name: so it is decided upon, and the name goes nowhere."""
        if not self._allowlist.names(name) and name != self._looked_up:  # a library asks for both kinds of address
            self._looked_up = name
            _log(self._allowlist.decide(name, _NAME_SERVER_PORT))

    def _asked(self, watch: Watch) -> None:
        try:
            if not watch.ended:
                if attempt := watch.attempt():
                    self._judge(watch, attempt)
                return
        except OSError as error:  # the app has handed over something else
            print(f"egress: expected the listener of a filter, got something else ({error.strerror})", flush=True)
        asyncio.get_running_loop().remove_reader(watch)
        watch.close()

    def _judge(self, watch: Watch, attempt: Attempt) -> None:
        if not attempt.address or _is_own(attempt.address):
            return watch.let(attempt)
        if attempt.datagram or watch.sends_datagrams(attempt):
            # Resolvers connect without a port, to see which address they would have, and send nothing.
            if attempt.port:
                reason = "no datagram leaves an enclave"
                _log(EgressDecision(self._meaning(attempt.address), attempt.port, False, reason))
            return watch.fail(attempt, errno.ENETUNREACH)
        decision = self._decide(self._meaning(attempt.address), attempt.port)
        if not decision.allowed:
            # As where packets are dropped, without the wait.
            return watch.fail(attempt, errno.ETIMEDOUT)
        if (own := watch.redirect(attempt, self._port)) is not None:
            self._meant[own] = decision
            while len(self._meant) > _PENDING:
                self._meant.popitem(last=False)
        return None

    def _meaning(self, address: str) -> str:
        return self._names.name_of(address) or address

    def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address, port = writer.get_extra_info("peername")[:2]
        decision = self._meant.pop((address, port), None)
        if decision is None:  # an app that found this port
            writer.transport.abort()
        else:
            self._start(self._carry(decision, (reader, writer), says=False))


def _is_own(address: str) -> bool:
    """Whether it leads to the app's own loopback, as the unspecified address does."""
    parsed = ipaddress.ip_address(address)
    return parsed.is_loopback or parsed.is_unspecified


def _is_socket(descriptor: int) -> bool:
    return stat.S_ISSOCK(os.fstat(descriptor).st_mode)


def _log(decision: EgressDecision) -> None:
    print(decision, flush=True)


def main(level: str, device: str, parent_cid: str, allow: str, channel: str, *listeners: str) -> None:
    """Serve the way out until standard input ends: the enclave or its hypervisor is gone.

    Args:
        device: like all that follow but `allow`, a number: here of a descriptor, the enclave's vsock device's.
        allow: the message with the allowlist.
        listeners: descriptors, as `Gate.open` takes them.
    """
    processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY) if Path("/proc").is_dir() else -1
    with contextlib.suppress(LabError):  # the app's process found the same, and said so
        confine_neighbour(Level(level), BASE.parent)
    gate = Gate(
        socket.socket(fileno=int(channel)),
        VsockDevice(socket.socket(fileno=int(device))),
        VsockAddress(int(parent_cid), EGRESS_PORT),
        allowed=[(domain, port) for domain, port in json.loads(allow or '{"allow": []}')["allow"]],
        processes=processes,
    )
    asyncio.run(_serve(gate, *map(int, listeners)))


async def _serve(gate: Gate, datagrams: int, listener: int, *filters: int) -> None:
    ended = asyncio.Event()
    await gate.open(datagrams, listener, filters)
    asyncio.get_running_loop().add_reader(0, ended.set)
    await ended.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
