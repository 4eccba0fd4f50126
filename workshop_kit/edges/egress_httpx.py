"""httpx through the kit's own way out of an enclave, for services that run where an app has no sockets at all.

    async with async_client(follow_redirects=True) as client:
        response = await client.get("https://example.com/")

Every connection is asked for by name and port, so every hop of a redirect is decided on. Why there is none is the text
of the `httpx.ConnectError`. TLS is spoken here, in the app's own process. There is no synchronous version.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import httpcore
import httpx

from workshop_kit.edges import egress_client, tunnel
from workshop_kit.errors import EgressDeniedError

_CLOSING_SECONDS = 1.0
"""How long a server may take to say goodbye; nothing depends on it, as HTTP says itself where a body ends."""

_TRANSPORTS = frozenset({"cert", "http1", "http2", "limits", "mounts", "proxies", "proxy", "transport", "verify"})
"""Options of an httpx client that httpx ignores where it is given a transport, or that go around the transport."""

_KINDS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.TimeoutException, httpx.TimeoutException),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.NetworkError, httpx.NetworkError),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
    (httpcore.ProtocolError, httpx.ProtocolError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
)
"""The special before the general: the first that fits is meant."""


def async_client(**options: Any) -> httpx.AsyncClient:
    """A client that works inside an enclave, at every level of isolation, and outside one, where it is an ordinary one.

    Inside, it trusts the authorities that the image brings, else certifi's. Nothing in the environment names a proxy.

    Args:
        options: those of `httpx.AsyncClient`. Inside an enclave, none about its connections.

    Raises:
        TypeError: an option is about the connections, which are the enclave's.
    """
    if not egress_client.inside_an_enclave():
        return httpx.AsyncClient(trust_env=False, **options)
    if refused := sorted(_TRANSPORTS & options.keys()):
        raise TypeError(
            f"expected no option about connections, got {', '.join(refused)}: "
            "use httpx.AsyncClient with EgressTransport(ssl_context)"
        )
    return httpx.AsyncClient(transport=EgressTransport(), trust_env=False, **options)


class EgressTransport(httpx.AsyncBaseTransport):
    """Requests through the enclave's gate, HTTP/1.1.

    Args:
        ssl_context: whom to trust; without it, the authorities that the image brings, else certifi's.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or _trust(),
            max_connections=100,  # these three are httpx's own
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_Gate(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """What the server answers; its body is still to be read. Raises httpx.TransportError with the reason."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        asked = httpcore.Request(
            request.method, url, headers=request.headers.raw, content=request.stream, extensions=request.extensions
        )
        with _as_httpx():
            answered = await self._pool.handle_async_request(asked)
        return httpx.Response(
            answered.status, headers=answered.headers, stream=_Body(answered.stream), extensions=answered.extensions
        )

    async def aclose(self) -> None:
        """Close what is open."""
        with _as_httpx():
            await self._pool.aclose()


def _trust() -> ssl.SSLContext:
    if file := os.environ.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=file)
    return httpx.create_ssl_context(trust_env=False)


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    """An error of httpcore becomes httpx's of the same name, with its text."""
    try:
        yield
    except Exception as error:
        for ours, theirs in _KINDS:
            if isinstance(error, ours):
                raise theirs(str(error)) from error
        raise


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream: AsyncIterable[bytes] = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        """The connection goes back to the pool, or is closed where the body was not read to its end."""
        if close := getattr(self._stream, "aclose", None):
            with _as_httpx():
                await close()


# --- what httpcore speaks through ------------------------------------------------------------------------------------


class _Gate(httpcore.AsyncNetworkBackend):
    """Connections that the enclave's gate opens."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - the parent instance dials, so neither is ours to choose
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        if not egress_client.inside_an_enclave():
            raise httpcore.ConnectError(f"expected {egress_client.GATE}, got none: outside an enclave use async_client")
        try:
            async with asyncio.timeout(timeout):
                return _Stream(*await egress_client.open_connection(host, port))
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"{host}:{port}: no connection within {timeout} s") from None
        except EgressDeniedError as error:
            raise httpcore.ConnectError(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(f"{host}:{port}: {_text(error)}") from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """A connection, before TLS or with it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError:
            raise httpcore.ReadTimeout(f"the server sent nothing within {timeout} s") from None
        except OSError as error:
            raise httpcore.ReadError(_text(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
        except TimeoutError:
            raise httpcore.WriteTimeout(f"the server took nothing within {timeout} s") from None
        except OSError as error:
            raise httpcore.WriteError(_text(error)) from error

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except BaseException as error:
            # Not waited for: after a handshake that failed asyncio never says that the connection is closed.
            self._writer.transport.abort()
            if isinstance(error, TimeoutError):
                raise httpcore.ConnectTimeout(f"no TLS with {server_hostname} within {timeout} s") from None
            if isinstance(
                error, (OSError, ValueError)
            ):  # a certificate, too; ValueError: a name that TLS cannot ask for
                raise httpcore.ConnectError(f"no TLS with {server_hostname}: {_text(error)}") from error
            raise
        return _Stream(self._reader, self._writer)

    async def aclose(self) -> None:
        """Say goodbye, and wait for the server's a moment only."""
        try:
            async with asyncio.timeout(_CLOSING_SECONDS):
                await tunnel.close(self._writer)
        except TimeoutError:
            pass
        finally:
            self._writer.transport.abort()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._writer.get_extra_info("ssl_object")
        if info == "is_readable":  # httpcore asks of an idle connection, on which only an end can come
            return self._reader.at_eof() or self._writer.is_closing()
        return None


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__  # asyncio's own have no text
