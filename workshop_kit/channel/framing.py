"""What one record says: the head of a request or response, a piece of its body, and whether it is the last.

This file knows no key. A record's plaintext is

    flags, 1 byte      1: a head follows; 2: this record ends the message
    length, 4 bytes    of the head, where there is one
    head               fields separated by NUL: method, target, then name, value, name, value...
                       or status, then name, value...
    data               the rest

HTTP allows NUL in no field, so a head splits in one way only: what the proxy allows is what the app is given. What two
programs behind that splitting would read differently is no request: a field twice that HTTP has once, a field of one
connection's, a spelling that CGI folds into another.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import NamedTuple, TypeAlias

from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Names in lower case and values, in order, duplicates kept."""

MAX_HEAD = 64 * 1024
"""Bytes of a head: as much as common HTTP servers take."""

MAX_DATA = 256 * 1024
"""Bytes of body in one record. Larger pieces are cut; a record is opened only when it is whole."""

MAX_PLAINTEXT = 1 + 4 + MAX_HEAD + MAX_DATA

ONE_HOP = frozenset(b"connection expect keep-alive proxy-connection te trailer transfer-encoding upgrade".split())
"""Fields that speak of one connection and stay on it (RFC 9110, 7.6.1), and the one that is answered on it. Those that
a proxy is shown to open (11.7) are none: nobody between asks for them, so they are the app's."""

UPGRADE = (b"upgrade", b"websocket")
"""The one field of a connection that travels: a GET with it asks for WebSocket (RFC 6455, 4.1), and after a response
with status 101 both bodies are that connection's bytes."""

_ONCE = frozenset(
    b"authorization content-length content-type content-range cookie date from host if-modified-since if-range "
    b"if-unmodified-since max-forwards origin range referer user-agent".split()
)
"""Fields of a request that HTTP has once: of two, one program reads the first, another the last or both."""

_HEAD, _END = 1, 2
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110, 5.6.2
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Z]{1,32}")  # no small letters: some programs take `head` for HEAD
_TARGET = re.compile(rb"(?:/[!-~]*|\*)")  # origin-form or asterisk-form in visible ASCII (RFC 9112, 3.2)
_VALUE = rb"[\t -~\x80-\xff]*"  # RFC 9110, 5.5
_FIELD = re.compile(_TOKEN + rb"\0" + _VALUE)
# All fields at once: no byte of one alternative begins another, so nothing is ever tried twice.
_FIELDS = re.compile(rb"(?:\0" + _TOKEN + rb"\0" + _VALUE + rb")*+")
# Some programs write a URL from it and read the path out of that: a slash or a question mark here would move the path.
_HOST = re.compile(rb"(?:[0-9A-Za-z._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LOWER = b"0123456789abcdefghijklmnopqrstuvwxyz"
_FOLDED = bytes(code if code in _LOWER else ord("-") for code in range(256))  # CGI and WSGI write `-` as `_`


class RequestHead(NamedTuple):
    """`target` is the path with its query as the client wrote it, percent-encoding kept."""

    method: bytes
    target: bytes
    headers: Headers

    @property
    def asks_for_websocket(self) -> bool:
        return UPGRADE in self.headers


class ResponseHead(NamedTuple):
    status: int
    headers: Headers


Head: TypeAlias = RequestHead | ResponseHead


class Record(NamedTuple):
    """A piece of a message: its head in the first one, data in any, `end` on the last."""

    head: Head | None = None
    data: bytes = b""
    end: bool = False


def encode_record(record: Record) -> bytes:
    """The plaintext of `record`.

    Raises:
        LocalProtocolError: head or data is beyond its limit, or a field holds what HTTP does not allow.
    """
    if len(record.data) > MAX_DATA:
        raise LocalProtocolError(f"expected at most {MAX_DATA} bytes of data in a record, got {len(record.data)}")
    end = _END if record.end else 0
    if record.head is None:
        return bytes([end]) + record.data
    head = _encode_head(record.head)
    return bytes([_HEAD | end]) + len(head).to_bytes(4, "big") + head + record.data


def _encode_head(head: Head) -> bytes:
    first = (head.method, head.target) if isinstance(head, RequestHead) else (str(head.status).encode(),)
    fields = [*first, *chain.from_iterable(head.headers)]
    encoded = b"\0".join(fields)
    if encoded.count(b"\0") != len(fields) - 1:
        raise LocalProtocolError("expected fields without NUL in a head, got one that would be read as several")
    try:
        if isinstance(head, RequestHead):
            _read_request(encoded)
        else:
            _read_response(encoded)
    except RemoteProtocolError as error:
        raise LocalProtocolError(str(error)) from None
    return encoded


def decode_request_record(plaintext: bytes) -> Record:
    """A record of a request.

    Raises:
        RemoteProtocolError: the peer sealed what SPEC.md does not allow.
    """
    head, data, end = _split(plaintext)
    return Record(None if head is None else _read_request(head), data, end)


def decode_response_record(plaintext: bytes) -> Record:
    """A record of a response.

    Raises:
        RemoteProtocolError: the peer sealed what SPEC.md does not allow.
    """
    head, data, end = _split(plaintext)
    return Record(None if head is None else _read_response(head), data, end)


def _split(plaintext: bytes) -> tuple[bytes | None, bytes, bool]:
    flags = plaintext[0] if plaintext else 0xFF
    if flags > _HEAD | _END:
        raise RemoteProtocolError(f"expected a record's flags, 0 to 3, got {flags}")
    if not flags & _HEAD:
        return None, plaintext[1:], bool(flags & _END)
    length = int.from_bytes(plaintext[1:5], "big")
    if len(plaintext) < 5 + length:
        raise RemoteProtocolError(f"expected a head of {length} bytes, got {max(0, len(plaintext) - 5)}")
    return plaintext[5 : 5 + length], plaintext[5 + length :], bool(flags & _END)


def _read_request(head: bytes) -> RequestHead:
    method, _, rest = head.partition(b"\0")
    target, separator, fields = rest.partition(b"\0")
    headers = _headers(head, separator + fields)
    if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
        raise RemoteProtocolError(f"expected a method and a target, got {method[:40]!r} and {target[:80]!r}")
    _require_one_reading(headers, method)
    return RequestHead(method, target, headers)


def _require_one_reading(headers: Headers, method: bytes) -> None:
    seen: set[bytes] = set()
    for name, value in headers:
        folded = name.translate(_FOLDED)
        if folded in ONE_HOP and not ((name, value) == UPGRADE and method == b"GET" and name not in seen):
            raise RemoteProtocolError(f"expected fields that travel on, got {name!r}, which stays on its connection")
        if folded in _ONCE and (name != folded or name in seen):
            raise RemoteProtocolError(f"expected {folded.decode()} once, in this spelling, got {name!r} besides")
        seen.add(folded)
        if name == b"host" and not _HOST.fullmatch(value):
            raise RemoteProtocolError(f"expected a name and perhaps a port as the host, got {value[:40]!r}")


def _read_response(head: bytes) -> ResponseHead:
    status, separator, fields = head.partition(b"\0")
    if not (len(status) == 3 and status.isdigit() and status[:1] in b"12345"):
        raise RemoteProtocolError(f"expected a status from 100 to 599, got {status[:20]!r}")
    return ResponseHead(int(status), _headers(head, separator + fields))


def _headers(head: bytes, fields: bytes) -> Headers:
    """`fields` are NUL, name, NUL, value, as often as there are any."""
    if len(head) > MAX_HEAD:
        raise RemoteProtocolError(f"expected a head of at most {MAX_HEAD} bytes, got {len(head)}")
    parts = fields.split(b"\0")
    if len(parts) % 2 == 0:
        raise RemoteProtocolError("expected pairs of name and value in a head, got an odd field")
    if not _FIELDS.fullmatch(fields):
        pairs = zip(parts[1::2], parts[2::2], strict=True)
        name, value = next(pair for pair in pairs if not _FIELD.fullmatch(b"\0".join(pair)))
        raise RemoteProtocolError(f"expected a header that HTTP allows, got {name[:40]!r}: {value[:40]!r}")
    return tuple(zip(map(bytes.lower, parts[1::2]), parts[2::2], strict=True))
