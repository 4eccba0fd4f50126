"""A stand-in for the internet, for pages, tests and machines without a network: no packet leaves the loopback.

Names have the addresses they are given, and behind every address stands one web server of its own, with TLS and a
certificate for all the names. It judges nothing, as the internet does not: bad addresses are given like good ones, and
what was dialled is kept, so that a test can say what was not.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from workshop_kit.edges.egress_proxy import Internet
from workshop_kit.edges.serving import LOOPBACK, BackgroundServer, Server, bind, port_of
from workshop_kit.edges.tunnel import Ends
from workshop_kit.errors import LabError

_LIFE = timedelta(days=1)


class StandInInternet(Internet):
    """Names, addresses and a web server. Close it, or use it in a `with` statement.

    `https://` any name of it answers, at any port: `/` with a greeting that repeats the host, `/redirect?to=URL` with a
    302, `/echo` with the body it was sent.

    Args:
        names: the addresses of each name, in small letters. Any other name does not resolve.
        plain_ports: answer without TLS.
        impostor: the server's certificate comes from an authority of the same name as `ca`, and another key: what an
            operator can show who slips in a server of his own.

    Attributes:
        ca: PEM of the authority that an enclave's image should trust.
        dialled: every address and port, in order, whether or not anything came of it.

    Raises:
        LabError: its server does not start.
    """

    def __init__(
        self, names: Mapping[str, Sequence[str]], *, plain_ports: Collection[int] = (80,), impostor: bool = False
    ) -> None:
        self._names = {name: tuple(addresses) for name, addresses in names.items()}
        self._plain_ports = frozenset(plain_ports)
        self.dialled: list[tuple[str, int]] = []
        self._closed = False
        now = datetime.now(UTC)
        authority = _authority(now)
        self.ca = authority.certificate.public_bytes(Encoding.PEM)
        leaf = _leaf(_authority(now) if impostor else authority, self._names, now)
        self._secure = _SecureServer(_answer, leaf)
        self._plain = BackgroundServer(_answer, bind(0))

    async def resolve(self, name: str) -> list[str]:
        """The addresses of a name; a letter's case and a final dot do not matter. Raises socket.gaierror."""
        addresses = self._names.get(name.lower().removesuffix("."))
        if addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return list(addresses)

    async def dial(self, address: str, port: int) -> Ends:
        """A connection to the web server, whatever the address. Raises ConnectionRefusedError once it is closed."""
        self.dialled.append((address, port))
        if self._closed:  # another process may have the port by now
            raise ConnectionRefusedError("the stand-in is closed")
        server = self._plain if port in self._plain_ports else self._secure
        return await asyncio.open_connection(LOOPBACK, server.port)

    def close(self) -> None:
        """End the servers; open connections are cut."""
        self._closed = True
        self._secure.close()
        self._plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# --- the web server --------------------------------------------------------------------------------------------------


class _SecureServer:
    """Like `BackgroundServer`, with TLS. The key is in a file only until uvicorn has read it."""

    def __init__(self, app: Callable[..., Awaitable[None]], leaf: _Certified) -> None:
        self._listener = bind(0)
        self.port = port_of(self._listener)
        ready = threading.Event()
        self._server = Server(app, on_ready=ready.set)
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"stand-in-{self.port}")
        with tempfile.TemporaryDirectory(prefix="stand-in-") as directory:
            file = Path(directory) / "leaf.pem"
            file.write_bytes(leaf.pem)
            self._server.config.ssl_certfile = file
            self._server.config.ssl_keyfile = file
            self._thread.start()
            started = ready.wait(10)
        if not started:
            self.close()
            raise LabError("expected the stand-in's web server to start within 10 s, got nothing: try once more")

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(5)
        self._listener.close()


async def _answer(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """The web server's ASGI application."""
    if scope["type"] != "http":
        return await send({"type": "websocket.close"})
    status, headers, body = 200, [(b"content-type", b"text/plain; charset=utf-8")], b""
    if scope["path"] == "/":
        body = b"hello from " + dict(scope["headers"]).get(b"host", b"nobody")
    elif scope["path"] == "/redirect":
        status, headers = 302, [*headers, (b"location", _target(scope["query_string"]))]
    elif scope["path"] == "/echo":
        body = await _read(receive)
    else:
        status, body = 404, b"the stand-in answers at /, /redirect?to=URL and /echo"
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    return await send({"type": "http.response.body", "body": body})


def _target(query: bytes) -> bytes:
    values = parse_qs(query.decode("ascii", "replace")).get("to", ["/"])
    # A line end in it would be a header more.
    return quote(values[0], safe=":/?#[]@!$&'()*+,;=%").encode("ascii")


async def _read(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


# --- its certificates ------------------------------------------------------------------------------------------------


class _Certified(NamedTuple):
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.certificate.public_bytes(Encoding.PEM)


def _authority(now: datetime) -> _Certified:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Stand-in Authority")
    builder = (
        _builder(name, name, key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _Certified(key, builder.sign(key, hashes.SHA256()))


def _leaf(authority: _Certified, names: Iterable[str], now: datetime) -> _Certified:
    """A certificate for all the names; what it takes to pass VERIFY_X509_STRICT, Python's default from 3.13 on."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    # .invalid is nobody's (RFC 2606), and a certificate for no name at all is none.
    listed = [x509.DNSName(name) for name in (*names, "stand-in.invalid")]
    builder = (
        _builder(_name("Stand-in Server"), authority.certificate.subject, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(listed), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    return _Certified(key, builder.sign(authority.key, hashes.SHA256()))


def _name(common_name: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Enclave Workshop, simulated")
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # a clock may be set back while it runs
        .not_valid_after(now + _LIFE)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
