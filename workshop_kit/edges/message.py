"""From an HTTP message to sealed records and back: what the client and both proxies share. It opens no socket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from workshop_kit.channel.framing import MAX_DATA, ONE_HOP, Head, Headers, Record, ResponseHead
from workshop_kit.channel.session import Opener, Sealer
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers that travel on, names in lower case, without those of one hop, `Connection`'s own list included."""
    lowered = [(name.lower(), value) for name, value in headers]
    listed = {part.strip().lower() for name, value in lowered if name == b"connection" for part in value.split(b",")}
    return tuple((name, value) for name, value in lowered if name not in ONE_HOP and name not in listed)


def content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """The one content-length, or None where there is none.

    Raises:
        RemoteProtocolError: several, or one that is no number: two programs might read two lengths.
    """
    values = [value for name, value in headers if name == b"content-length"]
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > 18:
        raise RemoteProtocolError(f"expected one content-length in digits, got {b', '.join(values)[:60]!r}")
    return int(values[0])


def has_no_body(method: bytes, status: int) -> bool:
    """Whether no body follows a response, whatever its content-length says (RFC 9112, 6.3)."""
    return method == b"HEAD" or status in (204, 304)


class MessageSealer:
    """Seals one message: its head with the first piece of its body, the others as they come, and its end."""

    def __init__(self, sealer: Sealer, head: Head, *, length: int | None) -> None:
        """`length` is the body's, where it is known: then the last piece also ends the message."""
        self._sealer = sealer
        self._head: Head | None = head
        self._left = length
        self.ended = False

    def seal(self, data: bytes, *, end: bool = False) -> bytes:
        """Records for a piece of the body, b"" included; with `end`, it is the last.

        Raises:
            LocalProtocolError: the body is longer or shorter than announced.
        """
        self._count(len(data), end)
        if len(data) <= MAX_DATA:
            return self._record(data, end or self._left == 0)
        pieces = [data[at : at + MAX_DATA] for at in range(0, len(data), MAX_DATA)]
        ends = end or self._left == 0
        return b"".join(self._record(piece, ends and piece is pieces[-1]) for piece in pieces)

    def finish(self) -> bytes:
        """The record that ends the message, or b"" where it has ended."""
        return b"" if self.ended else self.seal(b"", end=True)

    def _count(self, size: int, end: bool) -> None:
        if self._left is None:
            return
        self._left -= size
        if self._left < 0 or (end and self._left):
            raise LocalProtocolError("the body is not as long as its content-length says")

    def _record(self, data: bytes, end: bool) -> bytes:
        head, self._head = self._head, None
        self.ended = end
        return self._sealer.seal(Record(head, data, end))


class MessageOpener:
    """Opens one message as its bytes arrive."""

    def __init__(self, opener: Opener, *, method: bytes = b"") -> None:
        """`method` is the request's, where the message is a response."""
        self._opener = opener
        self._method = method
        self._left: int | None = None

    @property
    def begun(self) -> bool:
        return self._opener.begun

    @property
    def ended(self) -> bool:
        return self._opener.ended

    def receive(self, data: bytes) -> Iterator[Record]:
        """The records that `data` completes; b"" says that no more will come.

        Raises:
            RemoteProtocolError: the message is cut, does not open, or is not as long as its head says.
        """
        if not data:
            self._opener.finish()
        for record in self._opener.receive(data):
            self._count(record)
            yield record

    def _count(self, record: Record) -> None:
        if record.head is not None:
            self._left = content_length(record.head.headers)
        if isinstance(record.head, ResponseHead) and has_no_body(self._method, record.head.status):
            self._left = 0
        if self._left is None:
            return
        self._left -= len(record.data)
        if self._left < 0 or (record.end and self._left):
            raise RemoteProtocolError("expected a body as long as its content-length says, got another")
