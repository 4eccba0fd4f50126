"""Real enclaves for tests: a service folder built and run, and clients of its users that demand everything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
from pair import user_key

from workshop_kit.edges.async_client import AsyncAttestedTransport
from workshop_kit.edges.client import AttestedTransport
from workshop_kit.edges.connecting import run_client_proxy
from workshop_kit.edges.dialogue import Endpoint
from workshop_kit.edges.sessions import Attesting
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Enclave, Infrastructure, run_enclave
from workshop_kit.verifier import AnyPolicy, Policy, ReferenceValues, TrustAnchor

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
def client_proxy(url: str, user: str, policy: AnyPolicy, **more: Any) -> Iterator[str]:
    """A user's client proxy in a thread of its own; gives its address."""
    addresses: Queue[str] = Queue()
    loop = asyncio.new_event_loop()
    attesting = Attesting(endpoint=Endpoint.parse(url), key=user_key(user), policy=policy, **more)
    serving = loop.create_task(run_client_proxy(attesting, at=0, on_ready=addresses.put))
    thread = threading.Thread(target=lambda: _run(loop, serving))
    thread.start()
    try:
        yield addresses.get(timeout=20)
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(20)


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    with closing(loop), suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
