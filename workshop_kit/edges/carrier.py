"""The carrier: HTTP/1.1 requests whose bodies are handshake messages or sealed records, so that load balancers and
firewalls in front of an enclave keep working.

    POST /attested/hello                         hello → answer, the attestation document in it
    POST /attested/exchange/<session>/<stream>   request records → response records

This file holds both names and a reader of responses. It opens no socket.
"""

from __future__ import annotations

import re

import httptools

from workshop_kit.errors import RemoteProtocolError

HELLO_PATH = "/attested/hello"
EXCHANGE_PREFIX = "/attested/exchange/"
RECORDS_TYPE = b"application/vnd.enclave-workshop.records"
HELLO_TYPE = b"application/cbor"
ANSWER_TYPES = {"seed": b'application/cose; cose-type="cose-sign1"', "modern": b"application/cbor"}

_EXCHANGE_PATH = re.compile(EXCHANGE_PREFIX + r"([0-9a-f]{32})/(0|[1-9][0-9]{0,9})")
_MAX_REASON = 500


def exchange_path(session_id: bytes, stream: int) -> str:
    return f"{EXCHANGE_PREFIX}{session_id.hex()}/{stream}"


def parse_exchange_path(path: str) -> tuple[bytes, int] | None:
    """Session and stream of an exchange's path, or None for another path."""
    match = _EXCHANGE_PATH.fullmatch(path)
    return (bytes.fromhex(match[1]), int(match[2])) if match else None


def request_head(path: str, host: str, content_type: bytes, content_length: int | None) -> bytes:
    """The head of a carrier request; without a length the body follows in chunks."""
    length = b"transfer-encoding: chunked" if content_length is None else b"content-length: %d" % content_length
    return b"POST %s HTTP/1.1\r\nhost: %s\r\ncontent-type: %s\r\n%s\r\n\r\n" % (
        path.encode(),
        host.encode(),
        content_type,
        length,
    )


def chunk(data: bytes) -> bytes:
    """`data` as a chunk of a body without a length (RFC 9112, 7.1); b"" makes the last one."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class CarrierResponse:
    """Reads one HTTP response as its bytes arrive.

    Attributes:
        status: 0 until the head is there.
        complete: the whole response has been read.
        reusable: the connection may carry another exchange.
    """

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        self.reusable = False
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def receive(self, data: bytes) -> bytes:
        """The bytes of the body that `data` adds; b"" as `data` says that no more will come.

        Raises:
            RemoteProtocolError: this is no HTTP response, or it ends too early.
        """
        if not data:
            if not self.complete:
                raise RemoteProtocolError("expected the rest of a response, got the connection's end: it was cut")
            return b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise RemoteProtocolError(f"expected an HTTP response, got something else ({error})") from None
        body, self._body = b"".join(self._body), []
        return body

    def refusal(self, body: bytes) -> str:
        """The words of a response that is not 200. Nobody vouches for them."""
        words = body[:_MAX_REASON].decode("utf-8", "replace")
        printable = "".join(c if c.isprintable() else " " for c in words).strip()
        return f"{self.status}, {printable}" if printable else str(self.status)

    # Called by httptools.
    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True
        self.reusable = self._parser.should_keep_alive()
