"""Names inside an enclave: every one has an address of its own there, and is asked of nobody outside.

An enclave has no name server. Its own answers each name with an address that belongs to nothing (198.18.0.0/15, RFC
2544), so that a connection to it says which name was meant; a name that must not be reached is refused when it is
dialled, with its port. So looking a name up tells nobody anything. This file opens no socket.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable

NETWORK = ipaddress.IPv4Network("198.18.0.0/15")
MOST = 4096
"""Names that are remembered beside those on the allowlist; the one asked for longest ago goes first."""

_HEADER = 12
_RESPONSE, _AUTHORITATIVE, _RECURSION = 0x8000, 0x0400, 0x0080
_KEPT = 0x7900  # what a response repeats of its query: the kind of query, and that recursion was desired
_NOT_IMPLEMENTED = 4
_A, _INTERNET = 1, 1
_SECONDS = 60


class Names:
    """Which name stands behind which address."""

    def __init__(self) -> None:
        self._numbers = 0
        self._kept: dict[str, str] = {}
        self._asked: OrderedDict[str, str] = OrderedDict()
        self._names: dict[str, str] = {}

    def keep(self, names: Iterable[str]) -> None:
        """Names that are never forgotten, however many others an app asks for."""
        for name in names:
            if name not in self._kept:
                self._kept[name] = self._next(name)

    def address_of(self, name: str) -> str:
        """The address that stands for `name`, written in any case and with or without its last dot."""
        name = name.lower().removesuffix(".")
        if name in self._kept:
            return self._kept[name]
        if name not in self._asked:
            self._asked[name] = self._next(name)
        self._asked.move_to_end(name)
        while len(self._asked) > MOST:
            _, forgotten = self._asked.popitem(last=False)
            del self._names[forgotten]
        return self._asked[name]

    def name_of(self, address: str) -> str | None:
        """The name for which `address` stands, or None where it is nobody's."""
        return self._names.get(address)

    def _next(self, name: str) -> str:
        while True:
            self._numbers = self._numbers % (NETWORK.num_addresses - 2) + 1
            address = str(NETWORK[self._numbers])
            if address not in self._names:
                self._names[address] = name
                return address


def question_of(query: bytes) -> tuple[str, int] | None:
    """The name and the type of record that a query asks for (RFC 1035, 4.1), or None where it asks for no one thing."""
    if len(query) < _HEADER or query[2] & 0x80 or int.from_bytes(query[4:6], "big") != 1:
        return None
    labels, end = _labels(query)
    if labels is None or len(query) < end + 4:
        return None
    return ".".join(labels), int.from_bytes(query[end : end + 2], "big")


def _labels(query: bytes) -> tuple[list[str] | None, int]:
    labels, place = [], _HEADER
    while place < len(query) and (length := query[place]):
        if length > 63 or place + 1 + length > len(query):  # a pointer has nothing to point back at in a question
            return None, place
        labels.append(query[place + 1 : place + 1 + length].decode("ascii", "backslashreplace"))
        place += 1 + length
    return labels, place + 1


def answer(query: bytes, names: Names) -> bytes | None:
    """The response to a query: an address for each name, no record of any other type; None for what is no query."""
    question = question_of(query)
    if question is None:
        return None
    name, kind = question
    _, end = _labels(query)
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION | int.from_bytes(query[2:4], "big") & _KEPT
    if flags & 0x7800:
        flags |= _NOT_IMPLEMENTED
    has_address = kind == _A and not flags & 0x7800 and bool(name)
    counts = (1, int(has_address), 0, 0)
    head = query[:2] + flags.to_bytes(2, "big") + b"".join(count.to_bytes(2, "big") for count in counts)
    record = _record(names.address_of(name)) if has_address else b""
    return head + query[_HEADER : end + 4] + record


def _record(address: str) -> bytes:
    """An address for the name at the beginning of the question, to which a pointer leads (RFC 1035, 4.1.4)."""
    data = ipaddress.IPv4Address(address).packed
    fields = (0xC000 | _HEADER, _A, _INTERNET)
    return b"".join(field.to_bytes(2, "big") for field in fields) + _SECONDS.to_bytes(4, "big") + b"\0\4" + data
