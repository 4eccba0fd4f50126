"""The ways to the bench's service: TLS 1.3 to uvicorn, and the kit's, through its transport or its two proxies."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
from bench_service import client_proxy, hosted
from memory import behind
from programs import ProgramError
from table import note
from tls import Certificates, uvicorn

BASE = "httpx to uvicorn, TLS 1.3"
TRANSPORT, PROXIES = "transport", "proxies"
APART = ", app apart"
"""The app in a process of its own, behind the enclave proxy: what a service in any language costs."""

TIMEOUT = 120.0


class Ways(NamedTuple):
    """By name: clients that keep their connections, addresses for programs that speak HTTP, processes on the way."""

    clients: dict[str, httpx.Client]
    addresses: dict[str, str]
    processes: dict[str, tuple[int, ...]]


def open_ways(stack: ExitStack) -> Ways:
    """Start all that is measured, for as long as the stack lasts."""
    certificates = Certificates(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workshop-bench-"))))
    base = stack.enter_context(uvicorn(certificates))
    context = certificates.context(mutual=False)
    clients = {BASE: httpx.Client(verify=context, base_url=base.url, timeout=TIMEOUT)}
    addresses, processes = {BASE: base.url}, {BASE: (os.getpid(), base.pid)}
    for name, apart in (("", False), (APART, True)):
        try:
            enclave = stack.enter_context(hosted(apart=apart))
        except ProgramError as error:
            note(f"skipped{name}: {error}")
            continue
        clients[TRANSPORT + name] = enclave.client()
        address, proxy = stack.enter_context(client_proxy(enclave))
        clients[PROXIES + name] = httpx.Client(base_url=address, timeout=TIMEOUT)
        addresses[PROXIES + name] = address
        processes[TRANSPORT + name] = (os.getpid(), *behind(enclave).values())
        processes[PROXIES + name] = (*processes[TRANSPORT + name], proxy.pid)
    for client in clients.values():
        stack.callback(client.close)
    return Ways(clients, addresses, processes)
