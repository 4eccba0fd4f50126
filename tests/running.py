"""Real enclaves for tests: a service folder built and run, and clients of its users that demand everything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pair import user_key

from workshop_kit.edges.async_client import AsyncAttestedTransport, AttestedSession
from workshop_kit.edges.client import AttestedTransport
from workshop_kit.edges.client_proxy import ClientProxy
from workshop_kit.edges.dialogue import Endpoint
from workshop_kit.edges.serving import LOOPBACK, Server, bind, port_of
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Enclave, Infrastructure, run_enclave
from workshop_kit.verifier import Policy, ReferenceValues, TrustAnchor

QUERIERS = {"Alice": "querier", "Bob": "querier"}


@dataclass
class Running:
    """A running enclave and the image that it was started from."""

    image: EnclaveImage
    enclave: Enclave
    _open: ExitStack = field(default_factory=ExitStack)

    @property
    def policy(self) -> Policy:
        """What a careful user demands of this enclave."""
        anchor = TrustAnchor.from_certificate(self.enclave.root)
        return Policy(reference_values=ReferenceValues(self.image.measurements()), trust_anchor=anchor)

    def transport(self, user: str = "Alice", **more: Any) -> AttestedTransport:
        return AttestedTransport(self.enclave.url, user_key(user), more.pop("policy", self.policy), **more)

    def async_transport(self, user: str = "Alice", **more: Any) -> AsyncAttestedTransport:
        return AsyncAttestedTransport(self.enclave.url, user_key(user), more.pop("policy", self.policy), **more)

    def client(self, user: str = "Alice", **more: Any) -> httpx.Client:
        """A user's client, closed with the enclave."""
        client = httpx.Client(transport=self.transport(user, **more), base_url="http://enclave")
        self._open.callback(client.close)
        return client


@contextmanager
def running(
    folder: Path,
    *,
    users: Mapping[str, str] = QUERIERS,
    infrastructure: Infrastructure | None = None,
    debug_mode: bool = False,
    **more: Any,
) -> Iterator[Running]:
    """Build a service with users by name and role, run it, and end everything."""
    listed = Users(tuple(User(name, role, user_key(name).public_bytes) for name, role in users.items()))
    image = build_enclave(folder, users=listed).image
    options = {"infrastructure": infrastructure, "debug_mode": debug_mode, **more}
    with run_enclave(image, **options) as enclave, ExitStack() as stack:
        yield Running(image, enclave, stack)


@contextmanager
def client_proxy(url: str, user: str, policy: Policy) -> Iterator[str]:
    """A user's client proxy in a thread of its own; gives its address."""
    listener, ready = bind(0), threading.Event()
    session = AttestedSession(Endpoint.parse(url), user_key(user), policy)
    server = Server(ClientProxy(session), on_ready=ready.set)

    async def serve() -> None:
        await session.connect()
        await server.serve(sockets=[listener])
        session.close()
        await asyncio.sleep(0)  # closing a connection takes a turn of the loop

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield f"http://{LOOPBACK}:{port_of(listener)}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
