"""The few bytes that open a tunnel through the vsock channel, HTTP CONNECT (RFC 9110, 9.3.6), and the tunnel itself.

    CONNECT example.com:443 HTTP/1.1             HTTP/1.1 200 open
    host: example.com:443                        (an empty line; from here on, bytes both ways)
    (an empty line)

Both ends use it, the enclave's and the parent instance's. It decides nothing, and sets no time-outs: its callers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import TypeAlias

from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

Ends: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""A connection: what comes from the peer, and what goes to it."""

MAX_HEAD = 1024
"""Bytes of a request or an answer, its empty line counted. Both are written by the kit; RFC 9112 sets no limit."""

_END = b"\r\n\r\n"
_MAX_REASON = 800
_PIECE = 256 * 1024

# RFC 3986, 3.2.2: a registered name, or an address in brackets. Neither holds what could end it.
_HOST = r"(?P<name>[A-Za-z0-9._~!$&'()*+,;=%-]{1,300})|\[(?P<address>[0-9A-Fa-f:.]{2,45}(%[0-9A-Za-z._~-]{1,32})?)\]"
_REQUEST = re.compile(rf"CONNECT ({_HOST}):(?P<port>[1-9][0-9]{{0,4}}) HTTP/1\.[01]".encode())
_ANSWER = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([ -~]*))?")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")  # RFC 9112, 5: no folding, no bare CR


def request(name: str, port: int) -> bytes:
    """What asks for a tunnel to `name`, a domain or an address.

    Raises:
        LocalProtocolError: they cannot be written in a request's first line.
    """
    host = f"[{name}]" if ":" in name and not name.startswith("[") else name
    target = f"{host}:{port}".encode("utf-8", "surrogatepass")
    head = b"CONNECT %s HTTP/1.1\r\nhost: %s\r\n\r\n" % (target, target)
    if not _opened(head.partition(b"\r\n")[0]):
        raise LocalProtocolError(f"expected a name and a port from 1 to 65535, got {target[:60]!r}: decide first")
    return head


async def read_request(reader: asyncio.StreamReader) -> tuple[str, int]:
    """Name and port that the peer asks for; bytes behind the request stay in `reader`.

    Any field passes and none counts. An address in brackets comes without them.

    Raises:
        RemoteProtocolError: it is no CONNECT request.
        OSError: the connection broke.
    """
    line = await _read_head(reader, "a request")
    if (asked := _opened(line)) is None:
        raise RemoteProtocolError(f"expected CONNECT name:port HTTP/1.1, got {line[:60]!r}: ask for a tunnel")
    return asked


def _opened(line: bytes) -> tuple[str, int] | None:
    match = _REQUEST.fullmatch(line)
    if match is None or int(match["port"]) > 65535:  # RFC 9110, 9.3.6: an invalid port is rejected
        return None
    return (match["name"] or match["address"]).decode("ascii"), int(match["port"])


def answer(status: int, reason: str) -> bytes:
    """What answers a request: 200 opens the tunnel; with any other `reason` says in one line why there is none."""
    phrase = "".join(char if " " <= char <= "~" else "?" for char in reason[:_MAX_REASON])
    # A successful answer has no content and says nothing of its length (RFC 9110, 9.3.6).
    fields = "" if 200 <= status < 300 else "content-length: 0\r\nconnection: close\r\n"
    return f"HTTP/1.1 {status} {phrase}\r\n{fields}\r\n".encode("ascii")


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Status and reason; bytes behind the answer stay in `reader`. Nobody vouches for the reason, which is printable.

    Raises:
        RemoteProtocolError: it is no answer.
        OSError: the connection broke.
    """
    line = await _read_head(reader, "an answer")
    match = _ANSWER.fullmatch(line)
    if match is None:
        raise RemoteProtocolError(f"expected HTTP/1.1, a status and a reason, got {line[:60]!r}: no tunnel is open")
    return int(match[1]), (match[2] or b"").decode("ascii")


async def _read_head(reader: asyncio.StreamReader, what: str) -> bytes:
    """The first line of a head whose fields are well formed."""
    head = bytearray()
    while not head.endswith(_END):
        missing = next(count for count in (1, 2, 3, 4) if head.endswith(_END[: 4 - count]))
        if len(head) + missing > MAX_HEAD:
            raise RemoteProtocolError(f"expected {what} of at most {MAX_HEAD} bytes, got more: shorten its fields")
        try:
            # Never more than the end still needs: what comes behind it is not ours to read.
            head += await reader.readexactly(missing)
        except asyncio.IncompleteReadError:
            raise RemoteProtocolError(f"expected {what}, got the connection's end: it was cut") from None
    line, *fields = bytes(head[:-4]).split(b"\r\n")
    if wrong := next((field for field in fields if not _FIELD.fullmatch(field)), None):
        raise RemoteProtocolError(f"expected fields of {what}, got {wrong[:60]!r}: write name, colon, value")
    return line


async def join(one: Ends, other: Ends, seen: Callable[[int, bytes], None] | None = None) -> None:
    """Carry bytes both ways until both directions have ended or one connection breaks; then close both.

    A direction that ends is half-closed, and the other goes on. What waits in memory is bounded by the streams' limits,
    whatever the speed of the two; whoever does not read is waited for, so only the caller's cancelling sets an end.

    Args:
        seen: is called with each piece before it goes on, and with where it goes: 0 towards `one`, 1 towards `other`.
    """
    carrying = (
        asyncio.ensure_future(_carry(one[0], other[1], 1, seen)),
        asyncio.ensure_future(_carry(other[0], one[1], 0, seen)),
    )
    try:
        with contextlib.suppress(OSError):  # one side broke: the other learns it as its own connection ends
            await asyncio.gather(*carrying)
    except BaseException:  # cancelled, mostly: what waits to be sent is waited for no longer
        for _, writer in (one, other):
            writer.transport.abort()
        raise
    finally:
        for task in carrying:
            task.cancel()
        for _, writer in (one, other):
            writer.close()  # now: a task that is to do it may itself be cancelled before it begins
        await asyncio.gather(*carrying, close(one[1]), close(other[1]), return_exceptions=True)


async def _carry(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, towards: int, seen: Callable[[int, bytes], None] | None
) -> None:
    while data := await source.read(_PIECE):
        if seen is not None:
            seen(towards, data)
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
    else:
        sink.close()  # TLS has no half-closed connection


async def close(writer: asyncio.StreamWriter) -> None:
    """Send what waits, close, and return when it is closed; a connection that broke is closed too."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
