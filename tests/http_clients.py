"""Clients that people use, each given the same request: what a case means to one it means to all of them.

Nothing is followed, decoded or repeated by them here; a client that cannot say what a case needs is not given it.
"""

from __future__ import annotations

import asyncio
import http.client
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from urllib.parse import urlsplit

import httpx

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Case:
    """One request; `chunked` sends the body without saying how long it is."""

    target: str
    method: str = "GET"
    fields: Fields = ()
    body: bytes | None = None
    chunked: bool = False

    @property
    def pieces(self) -> Iterator[bytes]:
        body = self.body or b""
        return (body[at : at + 7000] for at in range(0, len(body), 7000))


@dataclass(frozen=True)
class Answer:
    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes


def by_http_client(base: str, case: Case) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=20)
    try:
        body = case.pieces if case.chunked else case.body
        connection.request(case.method, case.target, body, dict(case.fields), encode_chunked=case.chunked)
        answer = connection.getresponse()
        return Answer(answer.status, tuple((name, value) for name, value in answer.getheaders()), answer.read())
    finally:
        connection.close()


# Reading the authorities of the web takes longer than all else here; there is no TLS.
def by_httpx(base: str, case: Case) -> Answer:
    with httpx.Client(base_url=base, timeout=20, verify=False) as client:
        request = client.build_request(case.method, case.target, headers=case.fields, content=_content(case))
        answer = client.send(request, stream=True)
        body = b"".join(answer.iter_raw())
        return Answer(answer.status_code, tuple(answer.headers.multi_items()), body)


def by_async_httpx(base: str, case: Case) -> Answer:
    async def pieces() -> object:
        for piece in case.pieces:
            yield piece

    async def ask() -> Answer:
        async with httpx.AsyncClient(base_url=base, timeout=20, verify=False) as client:
            content = pieces() if case.chunked else case.body
            request = client.build_request(case.method, case.target, headers=case.fields, content=content)  # type: ignore[arg-type]
            answer = await client.send(request, stream=True)
            body = b"".join([piece async for piece in answer.aiter_raw()])
            return Answer(answer.status_code, tuple(answer.headers.multi_items()), body)

    return asyncio.run(ask())


def _content(case: Case) -> bytes | Iterator[bytes] | None:
    return case.pieces if case.chunked else case.body


def by_urllib3(base: str, case: Case) -> Answer:
    import urllib3

    with urllib3.PoolManager(timeout=20, retries=False) as pool:
        fields = urllib3.HTTPHeaderDict(case.fields)
        body = case.pieces if case.chunked else case.body
        answer = pool.urlopen(
            case.method, base + case.target, body=body, headers=fields, redirect=False, preload_content=False
        )
        return Answer(answer.status, tuple(answer.headers.items()), answer.read(decode_content=False))


def by_requests(base: str, case: Case) -> Answer:
    import requests

    with requests.Session() as session:
        session.trust_env = False
        data = case.pieces if case.chunked else case.body
        request = requests.Request(case.method, base + case.target, headers=dict(case.fields), data=data)
        prepared = session.prepare_request(request)
        prepared.url = base + case.target  # as it was given: what a program wrote is what is compared
        answer = session.send(prepared, allow_redirects=False, stream=True, timeout=20)
        body = answer.raw.read(decode_content=False)
        return Answer(answer.status_code, tuple(answer.raw.headers.items()), body)


def by_curl(base: str, case: Case, *options: str) -> Answer:
    with TemporaryDirectory() as folder:
        head, received, sent = (Path(folder, name) for name in ("head", "received", "sent"))
        command = ["curl", "--silent", "--show-error", "--globoff", "--path-as-is", "--max-time", "20", *options]
        command += ["--dump-header", str(head), "--output", str(received)]
        command += ["--head"] if case.method == "HEAD" else ["--request", case.method]
        for name, value in case.fields:
            command += ["--header", f"{name}: {value}" if value else f"{name};"]
        if case.body is not None:
            sent.write_bytes(case.body)
            command += ["--data-binary", f"@{sent}", "--header", "Content-Type:"]
        if case.chunked:
            command += ["--header", "Transfer-Encoding: chunked"]
        done = subprocess.run([*command, base + case.target], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        *_, last = head.read_bytes().decode("latin-1").strip().split("\r\n\r\n")  # after 100 Continue
        start, *lines = last.split("\r\n")
        fields = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        body = b"" if case.method == "HEAD" or not received.exists() else received.read_bytes()
        return Answer(int(start.split()[1]), fields, body)


def by_curl_of_http_2(base: str, case: Case) -> Answer:
    """Offers to go on in HTTP/2, as curl does when it is told to use that over plain HTTP."""
    return by_curl(base, case, "--http2")


def by_curl_of_http_1_0(base: str, case: Case) -> Answer:
    return by_curl(base, case, "--http1.0")


CLIENTS: Mapping[str, Callable[[str, Case], Answer]] = MappingProxyType(
    {
        "curl": by_curl,
        "curl --http2": by_curl_of_http_2,
        "curl --http1.0": by_curl_of_http_1_0,
        "http.client": by_http_client,
        "urllib3": by_urllib3,
        "requests": by_requests,
        "httpx": by_httpx,
        "async httpx": by_async_httpx,
    }
)
