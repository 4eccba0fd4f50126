"""The millionaires' `/call` in enclaves at every level of isolation: it gets what is listed, else says why not.

Behind the parent instance is a stand-in, so no packet leaves the loopback.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from pair import user_key
from processes import DEADLINE
from running import QUERIERS, Running

from workshop_kit.edges.egress_client import GATE
from workshop_kit.edges.egress_httpx import EgressTransport, async_client
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import run_enclave
from workshop_kit.simulator.isolation.levels import Level
from workshop_kit.simulator.stand_in import StandInInternet

SERVICE = Path(__file__).parents[2] / "data/services/millionaires"
GOOD = "93.184.215.14"
LISTED = "the allowlist has example.com"

REFUSED = {
    "another port": ("http://example.com/", f"example.com:80: {LISTED} with port 443, not 80"),
    "a sub-domain": (
        "https://sub.example.com/",
        f"sub.example.com:443: {LISTED}, and sub.example.com is another name than example.com: list it too",
    ),
    "an address": (
        f"https://{GOOD}/",
        f"{GOOD}:443: expected a domain, got an address, and the allowlist names domains",
    ),
    "an IPv6 address": (
        "https://[2606:2800:220:1::1]/",
        "2606:2800:220:1::1:443: expected a domain, got an address, and the allowlist names domains",
    ),
    "a redirect to elsewhere": (
        "https://example.com/redirect?to=https://evil.example/",
        f"evil.example:443: {LISTED} and not evil.example: list it under traffic.outbound of service.yaml",
    ),
}


class Called:
    """An enclave with the demonstration, and the stand-in behind its parent instance."""

    def __init__(self, net: StandInInternet, running: Running) -> None:
        self.net = net
        self._client = running.client()

    def call(self, url: str) -> httpx.Response:
        return self._client.get("/call", params={"url": url}, timeout=DEADLINE)


@contextmanager
def started(level: Level, *, impostor: bool = False) -> Iterator[Called]:
    users = Users(tuple(User(name, role, user_key(name).public_bytes) for name, role in QUERIERS.items()))
    names = {name: [GOOD] for name in ("example.com", "sub.example.com", "evil.example")}
    with StandInInternet(names, impostor=impostor) as net:
        image = build_enclave(SERVICE, users=users, authorities=net.ca).image
        with run_enclave(image, isolation=level, internet=net) as enclave, ExitStack() as stack:
            if enclave.isolation.level is not level:
                pytest.skip(f"this machine gives no more: {enclave.isolation}")
            yield Called(net, Running(image, enclave, stack))


@pytest.fixture(scope="module", params=list(Level), ids=lambda level: level.value)
def level(request: pytest.FixtureRequest) -> Level:
    chosen: Level = request.param
    return chosen


@pytest.fixture(scope="module")
def enclave(level: Level) -> Iterator[Called]:
    with started(level) as one:
        yield one


# --- inside an enclave -----------------------------------------------------------------------------------------------


def test_a_call_reaches_a_listed_name(enclave: Called) -> None:
    answered = enclave.call("https://example.com/")
    assert (answered.status_code, answered.json()) == (200, "hello from example.com")
    assert enclave.net.dialled[-1] == (GOOD, 443)


def test_a_redirect_within_the_list_is_followed(enclave: Called) -> None:
    answered = enclave.call("https://example.com/redirect?to=https://EXAMPLE.com/")
    assert (answered.status_code, answered.json()) == (200, "hello from example.com")


@pytest.mark.parametrize("what", REFUSED)
def test_a_call_to_elsewhere_says_why_it_is_refused(enclave: Called, what: str) -> None:
    url, reason = REFUSED[what]
    before = len(enclave.net.dialled)
    refused = enclave.call(url)
    assert (refused.status_code, refused.json()) == (408, {"detail": reason})
    allowed = [(GOOD, 443)] if what == "a redirect to elsewhere" else []
    assert enclave.net.dialled[before:] == allowed


def test_many_calls_leave_the_enclave_able_to_call(enclave: Called) -> None:
    """A refusal or a call keeps no connection and no descriptor for itself."""
    for _ in range(40):
        assert enclave.call("https://evil.example/").status_code == 408
        assert enclave.call("https://example.com/").status_code == 200


def test_an_operators_own_server_is_refused_and_its_certificate_named(level: Level) -> None:
    with started(level, impostor=True) as deceived:
        refused = deceived.call("https://example.com/")
        assert refused.status_code == 408
        assert "certificate verify failed" in refused.json()["detail"]
        assert deceived.net.dialled == [(GOOD, 443)]


# --- outside an enclave, and the client by itself --------------------------------------------------------------------


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def say_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"nonsense\r\n\r\n")
    writer.close()


async def cut_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut")
    writer.close()


async def say_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Two answers on one connection, then its end."""
    for _ in range(2):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1_000_000)
    writer.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """An enclave's gate in this process that lets everything through to a server here; what it was asked for."""
    monkeypatch.setenv(GATE, "7")  # asked of below, in place of the descriptor
    return []


def through(
    monkeypatch: pytest.MonkeyPatch,
    asked: list[tuple[str, int]],
    server: object,
    urls: tuple[str, ...] = ("http://example.com/",),
) -> list[int]:
    """The lengths of what a client gets from a server."""

    async def run() -> list[int]:
        listening = await asyncio.start_server(server, "127.0.0.1", 0)  # type: ignore[arg-type]
        port = listening.sockets[0].getsockname()[1]

        async def open_connection(name: str, of: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            asked.append((name, of))
            return await asyncio.open_connection("127.0.0.1", port)

        monkeypatch.setattr("workshop_kit.edges.egress_client.open_connection", open_connection)
        lengths = []
        try:
            async with listening, async_client(timeout=0.5) as client:
                for url in urls:
                    lengths.append(len((await client.get(url)).content))
                    await asyncio.sleep(0.05)  # an end that the server sends behind it arrives
        finally:
            await asyncio.sleep(0.05)  # the server's side of a connection closes
        return lengths

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("server", "url", "error", "text"),
    [
        (hang_up, "http://example.com/", httpx.RemoteProtocolError, "disconnected"),
        (stay_silent, "http://example.com/", httpx.ReadTimeout, "nothing within 0.5 s"),
        (say_nonsense, "http://example.com/", httpx.RemoteProtocolError, "nonsense|illegal"),
        (cut_the_body, "http://example.com/", httpx.RemoteProtocolError, "without sending complete message body"),
        (stay_silent, "https://example.com/", httpx.ConnectTimeout, "no TLS with example.com within 0.5 s"),
        (hang_up, "https://example.com/", httpx.ConnectError, "no TLS with example.com: [^ ]"),
        (hang_up, "ftp://example.com/", httpx.UnsupportedProtocol, "ftp"),
    ],
)
def test_an_error_is_httpxs_own_with_a_text(
    monkeypatch: pytest.MonkeyPatch,
    gate: list[tuple[str, int]],
    server: object,
    url: str,
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=text) as raised:
        through(monkeypatch, gate, server, (url,))
    assert type(raised.value) is error


def test_a_connection_is_used_again_and_a_new_one_follows_its_end(
    monkeypatch: pytest.MonkeyPatch, gate: list[tuple[str, int]]
) -> None:
    assert through(monkeypatch, gate, say_much, ("http://a.example/",) * 3) == [1_000_000] * 3
    assert gate == [("a.example", 80)] * 2


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize(
    "option",
    [{"verify": False}, {"proxy": "http://proxy.example"}, {"mounts": {}}, {"transport": httpx.AsyncHTTPTransport()}],
    ids=lambda option: next(iter(option)),
)
def test_inside_an_enclave_no_option_goes_around_the_gate(option: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="expected no option about connections"):
        async_client(**option)


@pytest.mark.usefixtures("gate")
def test_authorities_that_are_no_certificates_are_an_error_and_not_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "authorities.pem").write_text("none")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authorities.pem"))
    with pytest.raises(ssl.SSLError):
        async_client()


def test_outside_an_enclave_it_is_an_ordinary_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GATE, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example")

    async def run() -> None:
        def respond(_: httpx.Request) -> httpx.Response:
            return httpx.Response(200, text="here")

        async with async_client(transport=httpx.MockTransport(respond)) as client:
            assert type(client) is httpx.AsyncClient
            assert (await client.get("http://example.com/")).text == "here"
            assert client.trust_env is False
        async with httpx.AsyncClient(transport=EgressTransport()) as client:
            with pytest.raises(httpx.ConnectError, match=f"expected {GATE}, got none"):
                await client.get("http://example.com/")

    asyncio.run(run())
