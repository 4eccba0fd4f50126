"""The stand-in for the internet: names, addresses and one web server, and no packet beyond the loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from workshop_kit.edges.egress_proxy import EgressProxy
from workshop_kit.edges.serving import bind
from workshop_kit.edges.tunnel import close
from workshop_kit.service.egress import EgressDecision
from workshop_kit.simulator.stand_in import StandInInternet

GOOD = "93.184.215.14"
NAMES = {"example.com": [GOOD], "api.example.org": [GOOD, "1.1.1.1"], "inside.example": ["10.0.0.1"]}


@pytest.fixture(scope="module")
def _internet() -> Iterator[StandInInternet]:
    with StandInInternet(NAMES) as internet:
        yield internet


@pytest.fixture
def internet(_internet: StandInInternet) -> StandInInternet:
    """The same for all tests; each sees only what it dialled."""
    _internet.dialled.clear()
    return _internet


def trusting(internet: StandInInternet) -> ssl.SSLContext:
    """What an enclave's image does with `ca`, as strictly as Python can."""
    context = ssl.create_default_context(cadata=internet.ca.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def secure(internet: StandInInternet, name: str, address: str = GOOD, port: int = 443) -> x509.Certificate:
    """Dial, and shake hands as a client does who asks for `name`; the certificate that was shown."""

    async def run() -> bytes:
        _, writer = await internet.dial(address, port)
        try:
            await writer.start_tls(trusting(internet), server_hostname=name)
            der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            await close(writer)
        return der

    return x509.load_der_x509_certificate(asyncio.run(run()))


def plain(internet: StandInInternet, request: bytes, port: int = 80) -> bytes:
    async def run() -> bytes:
        reader, writer = await internet.dial(GOOD, port)
        assert writer.get_extra_info("peername")[0] == "127.0.0.1"
        writer.write(request)
        answer = await reader.read()
        await close(writer)
        return answer

    return asyncio.run(run())


# --- names and addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["api.example.org", "API.example.org", "api.example.org."])
def test_a_name_has_the_addresses_it_was_given(internet: StandInInternet, name: str) -> None:
    assert asyncio.run(internet.resolve(name)) == [GOOD, "1.1.1.1"]


def test_a_bad_address_is_given_like_a_good_one(internet: StandInInternet) -> None:
    """The stand-in judges nothing: what must not be dialled is for the egress proxy to know."""
    assert asyncio.run(internet.resolve("inside.example")) == ["10.0.0.1"]


@pytest.mark.parametrize("name", ["", "com", "www.example.com", "localhost", GOOD])
def test_any_other_name_does_not_resolve(internet: StandInInternet, name: str) -> None:
    with pytest.raises(socket.gaierror, match="not known"):
        asyncio.run(internet.resolve(name))


def test_every_address_leads_to_the_loopback_and_is_noted(internet: StandInInternet) -> None:
    async def run() -> None:
        for address in (GOOD, "192.0.2.1", "2606:4700::1111"):
            _, writer = await internet.dial(address, 443)
            assert writer.get_extra_info("peername")[0] == "127.0.0.1"
            await close(writer)

    asyncio.run(run())
    assert internet.dialled == [(GOOD, 443), ("192.0.2.1", 443), ("2606:4700::1111", 443)]


# --- the web server --------------------------------------------------------------------------------------------------


def through_a_proxy(internet: StandInInternet, ask: Callable[[httpx.AsyncClient], Awaitable[None]]) -> list[str]:
    """Ask with a client that knows nothing of ours, by way of an egress proxy; what was decided."""
    decisions: list[EgressDecision] = []

    async def run() -> None:
        proxy = EgressProxy(internet, on_decision=decisions.append)
        serving: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.add(asyncio.ensure_future(proxy.serve(reader, writer)))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient(proxy=url, verify=trusting(internet), trust_env=False) as client:
            await ask(client)
        server.close()
        await asyncio.wait_for(asyncio.gather(*serving), 10)

    asyncio.run(run())
    return [str(decision) for decision in decisions]


def test_a_client_reaches_it_through_an_egress_proxy(internet: StandInInternet) -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        assert (await client.get("https://example.com/")).text == "hello from example.com"
        assert (await client.post("https://example.com/echo", content=b"x" * 300_000)).content == b"x" * 300_000
        assert (await client.get("https://example.com/nowhere")).status_code == 404

    assert through_a_proxy(internet, ask) == [f"egress example.com:443 allowed: dialled {GOOD}"]
    assert internet.dialled == [(GOOD, 443)]


def test_a_redirect_leads_a_client_to_another_name(internet: StandInInternet) -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        url = "https://example.com/redirect?to=https://api.example.org:8443/"
        answer = await client.get(url)
        assert (answer.status_code, answer.headers["location"]) == (302, "https://api.example.org:8443/")
        assert (await client.get(url, follow_redirects=True)).text == "hello from api.example.org:8443"

    through_a_proxy(internet, ask)
    assert internet.dialled == [(GOOD, 443), (GOOD, 8443)]


def test_a_name_whose_address_is_private_is_never_dialled(internet: StandInInternet) -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ProxyError, match=r"403 .*got 10\.0\.0\.1, which is private"):
            await client.get("https://inside.example/")

    through_a_proxy(internet, ask)
    assert not internet.dialled


def test_port_80_is_plain(internet: StandInInternet) -> None:
    answer = plain(internet, b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nhello from example.com")


def test_the_plain_ports_can_be_chosen() -> None:
    request = b"GET / HTTP/1.0\r\n\r\n"
    with StandInInternet(NAMES, plain_ports=(8080,)) as internet:
        assert plain(internet, request, 8080).endswith(b"hello from nobody")
        assert b"hello" not in plain(internet, request, 80)
        assert secure(internet, "example.com", port=80)


def test_a_redirect_adds_no_header_of_the_callers(internet: StandInInternet) -> None:
    answer = plain(internet, b"GET /redirect?to=https://example.com/%0d%0aset-cookie:%20x HTTP/1.0\r\n\r\n")
    assert b"location: https://example.com/%0D%0Aset-cookie:%20x\r\n" in answer
    assert b"\nset-cookie" not in answer


def test_a_websocket_is_refused(internet: StandInInternet) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAA\r\n"
    answer = plain(internet, b"GET / HTTP/1.1\r\nhost: example.com\r\n" + upgrade + b"\r\n")
    assert not answer.startswith(b"HTTP/1.1 101")


# --- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NAMES))
def test_its_certificate_is_for_all_its_names(internet: StandInInternet, name: str) -> None:
    assert secure(internet, name)


def test_its_certificate_is_for_no_other_name(internet: StandInInternet) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'example\.org'"):
        secure(internet, "example.org")


def test_its_certificates_are_p256_and_valid_for_a_day(internet: StandInInternet) -> None:
    now = datetime.now(UTC)
    for certificate in (x509.load_pem_x509_certificate(internet.ca), secure(internet, "example.com")):
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert certificate.not_valid_before_utc <= now
        assert timedelta(hours=23) < certificate.not_valid_after_utc - now <= timedelta(hours=24)


def test_an_impostors_certificate_names_the_authority_and_is_not_from_it() -> None:
    with StandInInternet(NAMES, impostor=True) as impostor:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|signature"):
            secure(impostor, "example.com")
        shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", impostor._secure.port)))
        authority = x509.load_pem_x509_certificate(impostor.ca)
    assert x509.load_der_x509_certificate(shown).issuer == authority.subject


def test_each_has_an_authority_of_its_own(internet: StandInInternet) -> None:
    with StandInInternet(NAMES) as other:
        assert other.ca != internet.ca


def test_a_stand_in_without_names_starts_too() -> None:
    with StandInInternet({}) as internet:
        assert plain(internet, b"GET / HTTP/1.0\r\n\r\n").endswith(b"hello from nobody")


# --- its end ---------------------------------------------------------------------------------------------------------


def test_no_key_lies_in_a_file_and_no_thread_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(threading.enumerate())
    internet = StandInInternet(NAMES)
    assert list(tmp_path.iterdir()) == []
    assert secure(internet, "example.com")
    internet.close()
    assert set(threading.enumerate()) <= before
    assert list(tmp_path.iterdir()) == []


def test_once_closed_it_is_not_reached_and_may_be_closed_again() -> None:
    """Even where another process listens by now where it did."""
    with StandInInternet(NAMES) as internet:
        pass
    with bind(internet._plain.port), bind(internet._secure.port):
        for port in (80, 443):
            with pytest.raises(ConnectionRefusedError):
                asyncio.run(internet.dial(GOOD, port))
    internet.close()
