"""A strict reader for the CBOR that attestation speaks (RFC 8949). This file does not know what the items mean.

General decoders forgive what a verifier must not: the last of two equal keys wins, bytes after the item are ignored,
`1`, `1.0` and `true` are one key. Here an item has one accepted encoding: shortest lengths, no duplicate keys, no
floats, no tags, nothing behind it. The single liberty is that maps and arrays may be of indefinite length, as the
payloads of genuine Nitro documents have been since July 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import cbor2

from workshop_kit.errors import MalformedEvidenceError

Key: TypeAlias = int | str
Value: TypeAlias = "int | str | bytes | bool | list[Value] | dict[Key, Value] | None"

MAX_DEPTH = 8
"""Nesting that is still read. An attestation document needs 3, an NSM request 2."""

MAX_SIZE = 1 << 16
"""Bytes that are still read: twice an envelope. An item of one byte costs sixty in memory, so size bounds memory."""

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_INDEFINITE = 31
_BREAK = 0xFF
_SHORTEST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""Smallest argument that may stand in 1, 2, 4 or 8 bytes (RFC 8949, 4.2.1)."""


def encode(value: object) -> bytes:
    """The deterministic encoding of `value` (definite lengths, shortest arguments, maps in the order given)."""
    return cbor2.dumps(value)


def encode_indefinite_map(value: Mapping[str, object]) -> bytes:
    """`value` as an indefinite-length map, the outer form of today's genuine attestation documents."""
    # A map's head is as long as the number of its entries would be by itself.
    return b"\xbf" + encode(value)[len(encode(len(value))) :] + b"\xff"


def decode(data: bytes) -> Value:
    """Read exactly one item from `data`.

    Raises:
        MalformedEvidenceError: `data` is not one item in its one accepted encoding; the message names the offset.
    """
    reader = _Reader(data)
    if len(data) > MAX_SIZE:
        raise reader.error(f"at most {MAX_SIZE} bytes", "more")
    value = reader.item(0)
    if reader.offset != len(data):
        raise reader.error("the end of the item", f"{len(data) - reader.offset} more bytes")
    return value


def decode_quickly(data: bytes) -> object | None:
    """What `decode` gives, by cbor2's compiled reader, or None where that cannot be vouched for.

    cbor2 is taken at its word only if encoding its answer gives `data` again, an indefinite outermost map aside: then
    no key was dropped, no length was longer than needed, and nothing stands behind the item. Not guaranteed: the types
    inside; floats, simple values and undefined survive the round trip, so the caller checks what it uses.
    """
    if len(data) > MAX_SIZE:
        return None
    try:
        value: object = cbor2.loads(data, **_WITHOUT_TAGS)
        again = cbor2.dumps(value)
    except (cbor2.CBORError, TypeError, ValueError, RecursionError):
        return None
    if data[:1] == b"\xbf" and isinstance(value, dict) and len(value) < 24:
        return value if data[1:-1] == again[1:] and data[-1] == _BREAK else None
    return value if again == data else None


def _refuse_tag(*_: object) -> None:
    raise ValueError("a tag")


# Tags run code of the decoder's: big numbers, regular expressions, shared references. Where it cannot be told to refuse
# them, before version 6, nothing is decoded quickly.
_WITHOUT_TAGS: dict[str, Any] = {
    "semantic_decoders": dict.fromkeys([*range(64), 100, 256, 258, 260, 261, 1004, 43000, 55799], _refuse_tag),
    "max_depth": MAX_DEPTH,
}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def error(self, expected: str, actual: str) -> MalformedEvidenceError:
        return MalformedEvidenceError(
            f"not strict CBOR at byte {self.offset}: expected {expected}, got {actual}",
            expected=f"{expected} at byte {self.offset}",
            actual=actual,
        )

    def take(self, length: int) -> bytes:
        start, end = self.offset, self.offset + length
        if end > len(self.data):
            raise self.error(f"{length} more bytes", f"{len(self.data) - start}")
        self.offset = end
        return self.data[start:end]

    def head(self) -> tuple[int, int | None]:
        """Major type and argument; None where the length is indefinite (RFC 8949, 3)."""
        start = self.offset
        initial = self.take(1)[0]
        major, info = initial >> 5, initial & 31
        if info < 24:
            return major, info
        if info in _SHORTEST:
            argument = int.from_bytes(self.take(1 << (info - 24)), "big")
            if argument < _SHORTEST[info] and major != _SIMPLE:
                self.offset = start
                raise self.error("the shortest form of a number", f"{argument} in {1 << (info - 24)} bytes")
            return major, argument
        if info == _INDEFINITE and major in (_ARRAY, _MAP):
            return major, None
        self.offset = start
        if info == _INDEFINITE and major in (_BYTES, _TEXT):
            raise self.error("a string in one piece", "a string in chunks")
        raise self.error("a well-formed item", f"initial byte 0x{initial:02x}")

    def item(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise self.error(f"at most {MAX_DEPTH} levels of nesting", "more")
        start = self.offset
        major, argument = self.head()
        if major == _ARRAY:
            return self.array(argument, depth)
        if major == _MAP:
            return self.map(argument, depth)
        assert argument is not None  # head() lets only arrays and maps be indefinite
        if major == _UINT:
            return argument
        if major == _NINT:
            return -1 - argument
        if major == _BYTES:
            return self.take(argument)
        if major == _TEXT:
            return self.text(argument)
        self.offset = start
        return self.simple(self.data[start])

    def text(self, length: int) -> str:
        raw = self.take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.error("text in UTF-8", "bytes that are not") from None

    def simple(self, initial: int) -> bool | None:
        values = {0xF4: False, 0xF5: True, 0xF6: None}
        if initial not in values:
            kind = "a tag" if initial >> 5 == _TAG else "undefined, a float or a simple value"
            raise self.error("a number, string, array, map, true, false or null", f"{kind} (0x{initial:02x})")
        self.offset += 1
        return values[initial]

    def more(self, remaining: int | None) -> bool:
        """Whether another element follows: counted down, or until the break byte, which is consumed."""
        if remaining is not None:
            return remaining > 0
        if self.offset < len(self.data) and self.data[self.offset] == _BREAK:
            self.offset += 1
            return False
        return True

    def array(self, length: int | None, depth: int) -> list[Value]:
        values: list[Value] = []
        while self.more(None if length is None else length - len(values)):
            values.append(self.item(depth + 1))
        return values

    def map(self, length: int | None, depth: int) -> dict[Key, Value]:
        values: dict[Key, Value] = {}
        while self.more(None if length is None else length - len(values)):
            start = self.offset
            key = self.item(depth + 1)
            # A bool is an int in Python: {0: a, false: b} would silently become one entry.
            if isinstance(key, bool) or not isinstance(key, int | str):
                self.offset = start
                raise self.error("a number or text as key", type(key).__name__)
            if key in values:
                self.offset = start
                raise self.error("each key once", f"{key!r:.40} again")
            values[key] = self.item(depth + 1)
        return values
