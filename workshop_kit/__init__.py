"""The companion package of the Enclave Workshop: an attested-handshake client, a verifier, and a simulated Nitro.

    evidence     formats: what an Attester says
    service      what an enclave promises: manifest, access, users
    verifier     who checks: ten numbered checks, policies, reference values
    channel      the conversation of SPEC.md, without I/O
    edges        everything that touches a socket: client, proxies, devices
    simulator    the hardware we do not have
    notebook     what a page shows

Names are loaded when they are first used, so importing the package costs next to nothing. For learning: it guards no
secret. Decisions and their reasons stand in DECISIONS.md, the protocol in SPEC.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workshop_kit.channel.handshake import Profile as Profile
    from workshop_kit.edges.async_client import AsyncAttestedTransport as AsyncAttestedTransport
    from workshop_kit.edges.client import AttestedTransport as AttestedTransport
    from workshop_kit.edges.user_key import UserKey as UserKey
    from workshop_kit.errors import WorkshopKitError as WorkshopKitError
    from workshop_kit.evidence.document import decode_unverified as decode_unverified
    from workshop_kit.service.access import User as User
    from workshop_kit.service.access import Users as Users
    from workshop_kit.simulator.build import build_enclave as build_enclave
    from workshop_kit.simulator.enclave import run_enclave as run_enclave
    from workshop_kit.verifier import AWS_NITRO_ROOT_G1 as AWS_NITRO_ROOT_G1
    from workshop_kit.verifier import Policy as Policy
    from workshop_kit.verifier import ReferenceValues as ReferenceValues
    from workshop_kit.verifier import TrustAnchor as TrustAnchor
    from workshop_kit.verifier import appraise as appraise

_HOMES = {
    "AWS_NITRO_ROOT_G1": "verifier",
    "AsyncAttestedTransport": "edges.async_client",
    "AttestedTransport": "edges.client",
    "Policy": "verifier",
    "Profile": "channel.handshake",
    "ReferenceValues": "verifier",
    "TrustAnchor": "verifier",
    "User": "service.access",
    "UserKey": "edges.user_key",
    "Users": "service.access",
    "WorkshopKitError": "errors",
    "appraise": "verifier",
    "build_enclave": "simulator.build",
    "decode_unverified": "evidence.document",
    "run_enclave": "simulator.enclave",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
