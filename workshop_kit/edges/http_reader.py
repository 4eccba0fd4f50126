"""Requests of HTTP/1.1, read as their bytes arrive (RFC 9112). It opens no socket and answers nothing.

httptools reads them; what it lets pass and two programs could take for two things is refused here.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Protocol

import httptools

from workshop_kit.channel.framing import MAX_HEAD, Headers


class BadRequestError(Exception):
    """What came is no request that is taken here; `status` and the words are the answer."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class Taker(Protocol):
    """Who is told of what was read."""

    def begun(self, head: tuple[bytes, bytes, Headers], *, modern: bool, keeps: bool, upgrade: bool) -> None:
        """A head is whole; what its flags mean, `Call` says."""

    def body(self, data: bytes) -> None: ...

    def ended(self) -> None: ...


class RequestReader:
    """Give what comes to `read`. A request whose `upgrade` was told is the last one: what follows is told as its body.

    Attributes:
        in_head: the head of a request has begun, and not ended.
    """

    def __init__(self, taker: Taker) -> None:
        self.in_head = False
        self._taker = taker
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._given = 0  # bytes that the parser was given last
        self._unread = 0  # and behind those of which something came out
        self._slack = 0  # these
        self._offered = False  # the request offers another protocol
        self._taken = False  # and it is one that is taken up
        self._framing: Headers = ()  # of a body behind such an offer
        self._resumed = False

    def read(self, data: bytes) -> None:
        """Raises:
        BadRequestError: this is no request; nothing more can be read.
        """
        while data:
            if self._taken:
                return self._taker.body(data)
            self._given = len(data)
            self._unread += self._given
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgraded:
                data = data[upgraded.args[0] :]
                self._go_on()
            except httptools.HttpParserError as error:
                raise _refusal(error) from None
        if self._unread > MAX_HEAD:  # also of trailers, or of what stands beside a chunk's size
            raise _too_large()
        return None

    def _go_on(self) -> None:
        """httptools takes all behind a head with such an offer for the other protocol, a body too. Where the offer is
        not taken up (RFC 9110, 7.8) HTTP goes on: another parser is told how the body ends, and reads it."""
        self._offered = False
        if self._taken:
            return
        self._parser = httptools.HttpRequestParser(self)
        if not self._framing:
            self._taker.ended()
            return
        self._resumed = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%s: %s\r\n\r\n" % self._framing[0])

    # Called by httptools.
    def on_message_begin(self) -> None:
        self.in_head = True
        self._url, self._headers = b"", []  # also without the trailers of the request before (RFC 9112, 7.1.2)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        may_be_large = self._unread + self._slack > MAX_HEAD
        self.in_head = False
        self._came_out()
        if self._resumed:
            self._resumed = False
            return
        parser, headers = self._parser, tuple(self._headers)
        method, version = parser.get_method(), parser.get_http_version()
        if may_be_large and len(self._url) + sum(len(name) + len(value) + 4 for name, value in headers) > MAX_HEAD:
            raise _too_large()
        _require_one_reading(method, version, headers)
        self._offered = parser.should_upgrade()
        if self._offered:
            self._framing = tuple(field for field in headers if field[0] in (b"content-length", b"transfer-encoding"))
            asked = method == b"GET" and version == "1.1" and not self._framing
            self._taken = asked and (b"upgrade", b"websocket") in [(name, value.lower()) for name, value in headers]
        head = (method, self._url, headers)
        self._taker.begun(head, modern=version == "1.1", keeps=parser.should_keep_alive(), upgrade=self._taken)

    def on_body(self, data: bytes) -> None:
        self._came_out()
        self._taker.body(data)

    def on_message_complete(self) -> None:
        self._came_out()
        if not self._offered:
            self._taker.ended()

    def _came_out(self) -> None:
        self._unread, self._slack = 0, self._given


def _require_one_reading(method: bytes, version: str, headers: Headers) -> None:
    if version not in ("1.1", "1.0"):
        raise BadRequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"expected HTTP/1.1, got HTTP/{version}")
    if method == b"CONNECT":
        raise BadRequestError(HTTPStatus.NOT_IMPLEMENTED, "expected a request, got CONNECT: here is no tunnel")
    names = [name for name, _ in headers]
    if version == "1.1" and names.count(b"host") != 1:  # RFC 9112, 3.2
        words = f"expected one Host, got {names.count(b'host')}"
        raise BadRequestError(HTTPStatus.BAD_REQUEST, words)
    if b"transfer-encoding" in names:
        _require_chunks(version, dict(headers)[b"transfer-encoding"])


def _require_chunks(version: str, coding: bytes) -> None:
    if version == "1.0":  # RFC 9112, 6.1: its framing is faulty
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "expected a content-length in HTTP/1.0, got a transfer-encoding")
    if coding.lower() != b"chunked":
        raise BadRequestError(HTTPStatus.NOT_IMPLEMENTED, "expected chunked as the one transfer-encoding, got others")


def _too_large() -> BadRequestError:
    words = f"expected a head of at most {MAX_HEAD} bytes, got more"
    return BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, words)


def _refusal(error: httptools.HttpParserError) -> BaseException:
    if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
        return error.__context__  # ours
    return BadRequestError(HTTPStatus.BAD_REQUEST, f"expected a request in HTTP/1.1, got another: {error}")
