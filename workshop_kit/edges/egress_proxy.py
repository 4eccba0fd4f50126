"""The egress proxy: in the parent instance, at the outer end of an enclave's way out.

An enclave has no network of its own. It asks here, over vsock, for a tunnel to a name and a port; here the name is
resolved, every address judged, and the tunnel opened to one that passed.

It knows no allowlist. That is decided inside the enclave, in measured code; whatever stood here, the operator could
change. The rules for addresses protect the operator's own network from an app, and promise nothing to users: those are
protected by the TLS that runs inside the tunnel, with certificates that the enclave's image trusts.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

from workshop_kit.edges.tunnel import Ends, answer, close, join, read_request
from workshop_kit.errors import RemoteProtocolError
from workshop_kit.service.addresses import unreachable
from workshop_kit.service.egress import EgressDecision, misnamed

REQUEST_TIMEOUT = 10.0
"""Seconds in which an enclave says what it wants."""

REACH_TIMEOUT = 10.0
"""Seconds for resolving and dialing together."""

ADDRESS_TIMEOUT = 3.0
"""Seconds for one address of a name, so that a silent one leaves time for the next."""


class Internet(Protocol):
    """What is behind a parent instance: names and hosts. Whoever implements it judges no address."""

    async def resolve(self, name: str) -> list[str]:
        """The addresses of `name`, as text. Raises OSError."""
        ...

    async def dial(self, address: str, port: int) -> Ends:
        """A connection to `address`, which is never a name. Raises OSError."""
        ...


class RealInternet(Internet):
    """The network of this machine."""

    async def resolve(self, name: str) -> list[str]:
        # With its final dot a name is whole: without, a resolver may append the operator's own domain to it.
        whole = name.removesuffix(".") + "."
        try:
            found = await asyncio.get_running_loop().getaddrinfo(whole, None, type=socket.SOCK_STREAM)
        except UnicodeError:  # of Python's codec for names, beside the resolver's own OSError
            raise OSError("no name for a resolver") from None
        return [str(sockaddr[0]) for *_, sockaddr in found]

    async def dial(self, address: str, port: int) -> Ends:
        # AI_NUMERICHOST: were it a name after all, it would not be resolved again behind the rules' back.
        return await asyncio.open_connection(address, port, flags=socket.AI_NUMERICHOST)


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class EgressProxy:
    """Opens tunnels for an enclave.

    Args:
        internet: where names are resolved and addresses dialled.
        on_decision: is given every decision, also over a request that could not be read (then without name and port).
    """

    def __init__(self, internet: Internet, *, on_decision: Callable[[EgressDecision], None]) -> None:
        self._internet = internet
        self._on_decision = on_decision

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until its tunnel ends, and close it. Raises nothing but CancelledError.

        Answers 200 and carries bytes, or closes after 400 (no request for a tunnel), 403 (refused), 408 (no request in
        time) or 502 (not resolved, not reached), with the reason in the status line.
        """
        try:
            await self._serve((reader, writer))
        except OSError:
            pass  # whoever asked is gone, and nobody is left to be answered
        except Exception:  # noqa: BLE001  a mistake of ours or of `on_decision`: seen, and the end of one tunnel only
            traceback.print_exc(file=sys.stderr)
        finally:
            await close(writer)

    async def _serve(self, near: Ends) -> None:
        name, port = "", 0
        try:
            name, port = await _asked(near[0])
            address, far = await self._reach(name, port)
        except _RefusedError as refused:
            self._on_decision(EgressDecision(name, port, False, str(refused)))
            near[1].write(answer(refused.status, str(refused)))
            return
        try:
            self._on_decision(EgressDecision(name, port, True, f"dialled {address}"))
            near[1].write(answer(200, "open"))
            await join(near, far)
        finally:
            await close(far[1])

    async def _reach(self, name: str, port: int) -> tuple[str, Ends]:
        """A connection to `name`, with the address that was dialled."""
        if reason := misnamed(name, port):
            raise _RefusedError(403, reason)
        try:
            async with asyncio.timeout(REACH_TIMEOUT):
                return await self._dial(await self._resolve(name), port)
        except TimeoutError:
            raise _RefusedError(502, f"expected {name} within {REACH_TIMEOUT:g} s, got no answer in time") from None

    async def _resolve(self, name: str) -> list[str]:
        """The addresses of `name`, all of them judged: what is dialled afterwards is text that passed."""
        try:
            addresses = list(dict.fromkeys(await self._internet.resolve(name)))
        except OSError as error:
            raise _RefusedError(502, f"expected addresses of {name}, got none ({_words(error)})") from None
        if not addresses:
            raise _RefusedError(502, f"expected addresses of {name}, got none")
        for address in addresses:
            # One is enough: whoever mixes addresses waits for the moment in which the good one does not answer.
            if kind := unreachable(address):
                raise _RefusedError(403, f"expected global addresses of {name} only, got {address}, which is {kind}")
        return addresses

    async def _dial(self, addresses: Sequence[str], port: int) -> tuple[str, Ends]:
        failures = []
        for address in addresses:
            try:
                async with asyncio.timeout(ADDRESS_TIMEOUT):
                    return address, await self._internet.dial(address, port)
            except OSError as error:  # TimeoutError too
                failures.append(f"{address} ({_words(error)})")
        raise _RefusedError(502, f"expected an answer at port {port}, got none: {', '.join(failures)}")


async def _asked(reader: asyncio.StreamReader) -> tuple[str, int]:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            return await read_request(reader)
    except RemoteProtocolError as error:
        raise _RefusedError(400, str(error)) from None
    except TimeoutError:
        raise _RefusedError(408, f"expected a request within {REQUEST_TIMEOUT:g} s, got none") from None


def _words(error: OSError) -> str:
    return error.strerror or str(error) or "no answer in time"
