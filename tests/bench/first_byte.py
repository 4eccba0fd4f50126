"""From nothing to the first answer: connect, handshake, one small request; over the same with mutual TLS 1.3 on P-256.

The rows that count have the same client and the same app on both sides: httpx, a new client each time, and the bench's
service, once in an enclave behind its parent instance and once under uvicorn. The rows below them do without httpx: a
new transport, called directly, over a blocking socket and a server that does nothing but echo, while ours still goes
through the parent instance and is answered by the app. Each ratio is of best rounds, since several processes take part.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
from bench_service import Hosted, hosted
from interleave import Case, best_ratio, interleave
from table import Bound, Row, progress
from tls import LOOPBACK, Certificates, echo, uvicorn
from yardstick import at_first_sight

BASE, BARE = "httpx to uvicorn, mutual TLS", "a bare echo, mutual TLS"
KNOWN, FIRST = Bound(0.95, 0.70), Bound(1.8, 1.5)
GREETING = bytes(32)
PING = httpx.Request("GET", "http://enclave/ping")


def rows(*, rounds: int = 100, window: float = 0.01) -> Iterator[Row]:
    """As `workshop bench` prints them."""
    progress("first byte: six ways, interleaved")
    with tempfile.TemporaryDirectory(prefix="workshop-bench-") as folder:
        certificates = Certificates(Path(folder))
        context = certificates.context(mutual=True)
        with hosted() as enclave, uvicorn(certificates, mutual=True) as server, echo(certificates) as port:
            known, bare = with_httpx(enclave), without_httpx(enclave)
            cases = {
                "known": known,
                "first": at_first_sight(known),
                "bare, known": bare,
                "bare, first": at_first_sight(bare),
                BASE: lambda: httpx_over_tls(context, server.url),
                BARE: lambda: echoed(context, port),
            }
            seconds = interleave(cases, rounds=rounds, window=window)
    yield Row("first byte, chain known", BASE, best_ratio(seconds, "known", BASE), KNOWN)
    yield Row("first byte, first sight", BASE, best_ratio(seconds, "first", BASE), FIRST)
    yield Row("first byte, without httpx, chain known", BARE, best_ratio(seconds, "bare, known", BARE))
    yield Row("first byte, without httpx, first sight", BARE, best_ratio(seconds, "bare, first", BARE))


def with_httpx(enclave: Hosted) -> Case:
    def ask() -> None:
        with enclave.client() as client:
            client.get("/ping").raise_for_status()

    return ask


def without_httpx(enclave: Hosted) -> Case:
    def ask() -> None:
        transport = enclave.transport()
        transport.connect()
        response = transport.handle_request(PING)
        response.read()
        assert response.status_code == 200
        transport.close()

    return ask


def httpx_over_tls(context: ssl.SSLContext, url: str) -> None:
    with httpx.Client(verify=context, base_url=url) as client:
        client.get("/ping").raise_for_status()


def echoed(context: ssl.SSLContext, port: int) -> None:
    with socket.create_connection((LOOPBACK, port)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname=LOOPBACK) as connection:
            connection.sendall(GREETING)
            answer = connection.recv(len(GREETING))
    assert answer == GREETING
