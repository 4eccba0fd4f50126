"""The client's two dialogues over the carrier, a handshake and an exchange, as bytes out and bytes in.

The sync and the async client drive the same objects; only how they wait for a socket differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from workshop_kit.channel.client_handshake import MAX_ANSWER, ClientHandshake
from workshop_kit.channel.framing import MAX_DATA, Record, RequestHead
from workshop_kit.channel.session import ClientSession
from workshop_kit.edges import carrier
from workshop_kit.edges.message import MessageOpener, MessageSealer, content_length
from workshop_kit.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from workshop_kit.verifier import AppraisalResult


@dataclass(frozen=True)
class Endpoint:
    """Where the enclave's parent instance, or a load balancer before it, listens."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str, port: int | None = None) -> Endpoint:
        """From `http://host:port` or `https://host`; `port` overrides the URL's.

        Raises:
            LocalProtocolError: this is no such URL.
        """
        try:
            parts = urlsplit(url)
            number = port or parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            parts, number = urlsplit(""), 0
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LocalProtocolError(f"expected a URL such as http://127.0.0.1:8080, got {url!r}")
        return cls(parts.hostname, number, parts.scheme == "https")

    @property
    def authority(self) -> str:
        """The value of a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class HandshakeDialogue:
    """Send `request()`, give what comes to `receive()` until it returns an affirming result."""

    def __init__(self, handshake: ClientHandshake, endpoint: Endpoint, now: Callable[[], datetime]) -> None:
        self._handshake = handshake
        self._endpoint = endpoint
        self._now = now
        self._response = carrier.CarrierResponse()
        self._body = b""

    def request(self) -> bytes:
        hello = self._handshake.hello()
        head = carrier.request_head(carrier.HELLO_PATH, self._endpoint.authority, carrier.HELLO_TYPE, len(hello))
        return head + hello

    def receive(self, data: bytes) -> AppraisalResult | None:
        """The affirming result, or None while the answer is incomplete.

        Raises:
            AppraisalError: the evidence is refused.
            AccessDeniedError: the enclave, or somebody before it, does not let this user in.
            RemoteProtocolError: the answer is not the enclave proxy's.
        """
        self._body += self._response.receive(data)
        if len(self._body) > MAX_ANSWER:
            raise RemoteProtocolError(f"expected an answer of at most {MAX_ANSWER} bytes, got more")
        if not self._response.complete:
            return None
        if self._response.status in (401, 403):
            # A refusal is nobody's word: whoever carries the bytes can say it too.
            raise AccessDeniedError(f"not let in: {self._response.refusal(self._body)}", status=self._response.status)
        if self._response.status != 200:
            raise RemoteProtocolError(f"expected an enclave's evidence, got {self._response.refusal(self._body)}")
        return self._handshake.receive_evidence(self._body, now=self._now())

    def session(self) -> ClientSession:
        return self._handshake.session()

    @property
    def reusable(self) -> bool:
        return self._response.reusable


def fits_a_record(head: RequestHead) -> bool:
    """Whether a body of this length fits one record: then it is waited for, and the request goes out in one piece.

    Otherwise the head goes first: whoever has the body may want to see the answer begin before he gives it.
    """
    length = content_length(head.headers)
    return length is not None and length <= MAX_DATA


class ExchangeDialogue:
    """One request and its response. Send `whole()`, or `start()`, `pieces()` and `finish()`; give what comes to
    `receive()`, also while there is more to send.

    Attributes:
        session: in which it is an exchange.
        asked: all of the request has been given out.
    """

    def __init__(self, session: ClientSession, head: RequestHead, endpoint: Endpoint) -> None:
        exchange = session.exchange()
        self.session = session
        self.asked = False
        self._length = content_length(head.headers)
        self._sealer = MessageSealer(exchange.sealer, head, length=self._length)
        self._opener = MessageOpener(exchange.opener, method=head.method)
        self._response = carrier.CarrierResponse()
        self._path = carrier.exchange_path(session.session_id, exchange.stream)
        self._endpoint = endpoint
        self._refusal = b""

    def whole(self, body: bytes = b"") -> bytes:
        """The request with all of its body, as one carrier request of known length."""
        records = self._sealer.seal(body, end=True)
        self.asked = True
        return self._head(len(records)) + records

    def is_whole(self, first: bytes) -> bool:
        """Whether a body that begins with `first` ends with it, and is sent by `whole`."""
        return self._length == len(first) <= MAX_DATA

    def start(self) -> bytes:
        """The carrier's head and the request's, with the body to follow in pieces."""
        return self._head(None) + carrier.chunk(self._sealer.seal(b""))

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """A piece of the body, in such as fit a record; the last of a known length also ends the carrier's request."""
        for at in range(0, len(data), MAX_DATA):
            self.asked = False  # a body that is too long: what raises here has not been given out
            sealed = carrier.chunk(self._sealer.seal(data[at : at + MAX_DATA]))
            self.asked = self._sealer.ended
            yield sealed + carrier.chunk(b"") if self.asked else sealed

    def finish(self) -> bytes:
        """The end, or b"" where it has gone with the last piece.

        Raises:
            LocalProtocolError: the body is shorter than announced.
        """
        last = self._sealer.finish()
        self.asked = True
        return carrier.chunk(last) + carrier.chunk(b"") if last else b""

    def _head(self, length: int | None) -> bytes:
        return carrier.request_head(self._path, self._endpoint.authority, carrier.RECORDS_TYPE, length)

    def receive(self, data: bytes) -> list[Record]:
        """The records that `data` completes; b"" says that no more will come.

        Raises:
            RemoteProtocolError: the response is cut, does not open, or is a refusal of the carrier's.
        """
        body = self._response.receive(data)
        if self._response.status not in (0, 200):
            return self._refuse(body)
        records = list(self._opener.receive(body)) if body else []
        if self._response.complete and not self._opener.ended:
            raise RemoteProtocolError("expected the last record of a response, got its end: it was cut on the way")
        return records

    def _refuse(self, body: bytes) -> list[Record]:
        self._refusal += body[:1000]
        if not self._response.complete:
            return []
        words = self._response.refusal(self._refusal)
        if self._response.status == 404:
            raise SessionLostError(f"the enclave does not know this session ({words}): it restarted, or let it expire")
        raise RemoteProtocolError(f"expected sealed records, got {words}")

    @property
    def answered(self) -> bool:
        """Whether the response has begun."""
        return self._opener.begun

    @property
    def ended(self) -> bool:
        """Whether the response is whole."""
        return self._opener.ended and self._response.complete

    @property
    def reusable(self) -> bool:
        return self.asked and self.ended and self._response.reusable


class SessionLostError(RemoteProtocolError):
    """No such session, somebody says. Nobody vouches for that: the request may have been executed all the same."""
