"""Attest first, then listen: the client proxy as a program runs it."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from workshop_kit.channel.client_handshake import UserKey
from workshop_kit.channel.handshake import Profile
from workshop_kit.edges.async_client import AttestedSession
from workshop_kit.edges.client_proxy import ClientProxy
from workshop_kit.edges.dialogue import Endpoint
from workshop_kit.edges.serving import LOOPBACK, Server, bind, port_of
from workshop_kit.errors import LabError
from workshop_kit.verifier import AnyPolicy, AppraisalResult


async def run_client_proxy(
    endpoint: Endpoint,
    key: UserKey,
    policy: AnyPolicy,
    *,
    profile: Profile = Profile.MODERN,
    lport: int,
    on_result: Callable[[AppraisalResult], None],
    on_ready: Callable[[str], None],
) -> None:
    """Serve until the process is told to end.

    Raises:
        AppraisalError, AccessDeniedError, RemoteProtocolError: the enclave is refused, or refuses.
        LabError: nothing answers there, or the local port cannot be had.
    """
    session = AttestedSession(endpoint, key, policy, profile=profile, on_result=on_result)
    with bind(lport) as listener:
        try:
            await session.connect()
        except httpx.TransportError as error:
            raise LabError(f"{error}; is `workshop run` still listening there?") from None
        address = f"http://{LOOPBACK}:{port_of(listener)}"
        try:
            await Server(ClientProxy(session), on_ready=lambda: on_ready(address)).serve(sockets=[listener])
        finally:
            session.close()
