"""What the channel is measured against: TLS 1.3, with new certificates on P-256, of the server or of both sides."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from bench_service import SERVICE
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from programs import free_port, program

LOOPBACK = "127.0.0.1"


class Certificates:
    """An authority and the certificates of a server and a client, as PEM files in a folder; each is one link long."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root.pem"
        self.server = folder / "server.pem"
        self.client = folder / "client.pem"
        authority = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate("root", authority, "root", authority, is_authority=True)
        self.root.write_bytes(certificate.public_bytes(Encoding.PEM))
        for file in (self.server, self.client):
            key = ec.generate_private_key(ec.SECP256R1())
            issued = _certificate(file.stem, key, "root", authority, is_authority=False)
            private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            file.write_bytes(issued.public_bytes(Encoding.PEM) + private)

    def context(self, *, mutual: bool) -> ssl.SSLContext:
        """A client's; it never resumes a session, since it keeps none."""
        context = ssl.create_default_context(cafile=str(self.root))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if mutual:
            context.load_cert_chain(self.client)
        return context


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
    builder = x509.CertificateBuilder(_name(issuer), _name(name), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    return builder.add_extension(address, critical=False).sign(signer, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


class Served(NamedTuple):
    url: str
    pid: int


@contextmanager
def uvicorn(certificates: Certificates, *, mutual: bool = False) -> Iterator[Served]:
    """The bench's service under uvicorn with TLS, once it listens."""
    port = free_port()
    options = ["--port", str(port), "--log-level", "warning", "--no-access-log"]
    options += ["--ssl-certfile", str(certificates.server)]
    if mutual:
        options += ["--ssl-ca-certs", str(certificates.root), "--ssl-cert-reqs", str(int(ssl.CERT_REQUIRED))]
    with program("-m", "uvicorn", "app:app", *options, cwd=SERVICE / "src") as server:
        server.await_port(port)
        yield Served(f"https://{LOOPBACK}:{port}", server.pid)


@contextmanager
def echo(certificates: Certificates) -> Iterator[int]:
    """A server that does no more than mutual TLS and an echo: its port."""
    folder = certificates.root.parent
    with program(Path(__file__).with_name("echo.py"), folder) as server:
        yield int(server.await_line())
