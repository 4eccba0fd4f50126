"""A session: keys for each direction, and records that open only once, in their place, in their direction.

A session carries exchanges, each a request and its response. An exchange has a number, its `stream`, that the client
counts up and the enclave accepts once. On the wire a message is a sequence of records,

    length, 4 bytes, big-endian     of what follows
    sealed                          AES-256-GCM(plaintext of framing.py), tag included

with the nonce `stream (4 bytes) || index (8 bytes)`, index counting the records of that message from 0. So a record
that is repeated, moved, reflected or sent into another exchange does not open, and a message without its last record is
known to be cut.

No key serves for ever: within a message the key changes after each 2^20 records, and a session ends, for its client by
a new handshake, before its numbers do or AES-GCM's bounds come near.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from workshop_kit.channel.framing import (
    MAX_PLAINTEXT,
    Record,
    decode_request_record,
    decode_response_record,
    encode_record,
)
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError

MAX_STREAM = 2**32 - 1
TAG_SIZE = 16
LENGTH_SIZE = 4
_MAX_SEALED = MAX_PLAINTEXT + TAG_SIZE
_SEGMENT_LABEL = b"enclave workshop, attested channel, message key"


class Limits(NamedTuple):
    """How far keys and sessions go.

    Attributes:
        segment: records of one message under one key; both ends must have the same.
        volume: bytes sealed and opened in a session, then it takes no further exchange.
        exchanges: as many as a client makes in it; each has a number of 32 bits, and a few are kept back.
    """

    segment: int = 2**20
    volume: int = 2**38
    exchanges: int = 2**32 - 1024


CLIENT_LIMITS = Limits()
ENCLAVE_LIMITS = Limits(volume=2**39)
"""Twice the client's: an enclave counts what its client never received too, and an honest client is never refused."""


@dataclass(frozen=True)
class SessionKeys:
    """What both sides derive from a handshake: an AES-256 key for each direction, and a public name of 16 bytes."""

    session_id: bytes
    client_to_enclave: bytes
    enclave_to_client: bytes

    def __repr__(self) -> str:
        return f"SessionKeys(session_id={self.session_id.hex()})"  # keys stay out of logs and tracebacks


class Direction:
    """One direction of a session: its key, and how many bytes have passed.

    Attributes:
        cipher: of the first segment of every message.
        segment: records under one key.
        volume: bytes of sealed records. Threads may share a session, and a sum that misses one of theirs does no harm.
    """

    __slots__ = ("_key", "cipher", "segment", "volume")

    def __init__(self, key: bytes, segment: int) -> None:
        self._key = key
        self.cipher = AESGCM(key)
        self.segment = segment
        self.volume = 0

    def later_cipher(self, stream: bytes, segment: int) -> AESGCM:
        """Of segment 1 or later of a message."""
        info = _SEGMENT_LABEL + stream + segment.to_bytes(8, "big")
        return AESGCM(HKDFExpand(hashes.SHA256(), 32, info).derive(self._key))


class _Message:
    """Where a message stands: under which key and which nonce its next record is sealed."""

    def __init__(self, direction: Direction, stream: int) -> None:
        self._direction = direction
        self._cipher = direction.cipher
        self._stream = stream.to_bytes(4, "big")
        self._index = 0
        self._segment_ends = direction.segment

    def _nonce(self) -> bytes:
        """The next record's. Where a segment has ended, the cipher is the next one's from here on."""
        if self._index == self._segment_ends:
            segment = self._index // self._direction.segment
            self._cipher = self._direction.later_cipher(self._stream, segment)
            self._segment_ends += self._direction.segment
        return self._stream + self._index.to_bytes(8, "big")


class Sealer(_Message):
    """One direction of one exchange: seals its records in order."""

    def __init__(self, direction: Direction, stream: int) -> None:
        super().__init__(direction, stream)
        self._ended = False

    def seal(self, record: Record) -> bytes:
        """The next record as it goes on the wire.

        Raises:
            LocalProtocolError: the message has ended, or its head does not come first and once.
        """
        if self._ended:
            raise LocalProtocolError("expected no record after the last of a message")
        if (record.head is not None) != (self._index == 0):
            raise LocalProtocolError("expected the head in a message's first record, and there only")
        nonce = self._nonce()
        sealed = self._cipher.encrypt(nonce, encode_record(record), None)
        self._direction.volume += len(sealed)
        self._index += 1
        self._ended = record.end
        return len(sealed).to_bytes(LENGTH_SIZE, "big") + sealed


class Opener(_Message):
    """One direction of one exchange: opens records as their bytes arrive."""

    def __init__(
        self,
        direction: Direction,
        stream: int,
        decode: Callable[[bytes], Record],
        on_first: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(direction, stream)
        self._decode = decode
        self._on_first = on_first
        self._parts: list[bytes] = []  # what has come and not opened, and how much of it there must be to go on
        self._waiting, self._wanted = 0, LENGTH_SIZE
        self._given_up = False
        self.ended = False

    @property
    def begun(self) -> bool:
        """Whether a record has opened."""
        return self._index > 0

    def receive(self, data: bytes) -> Iterator[Record]:
        """The records that `data` completes, in order.

        Raises:
            RemoteProtocolError: a record does not open, or comes where none may; then no other of this message opens.
        """
        if self._given_up:
            raise RemoteProtocolError("expected nothing more of a message of which a record did not open, got more")
        self._given_up = True  # unless all of this opens: else a caller that goes on would not see what was put in
        self._parts.append(data)
        self._waiting += len(data)
        if self._waiting >= self._wanted:
            yield from self._open_all(memoryview(b"".join(self._parts)))
        self._given_up = False

    def _open_all(self, data: memoryview) -> Iterator[Record]:
        """Every record that is whole; the rest waits until the next can be."""
        at = 0
        while (sealed := self._whole_record(data[at:])) is not None:
            yield self._open(sealed)
            at += LENGTH_SIZE + len(sealed)
        self._parts, self._waiting = [bytes(data[at:])], len(data) - at

    def _whole_record(self, data: memoryview) -> memoryview | None:
        self._wanted = LENGTH_SIZE
        if len(data) < LENGTH_SIZE:
            return None
        length = int.from_bytes(data[:LENGTH_SIZE], "big")
        if not TAG_SIZE < length <= _MAX_SEALED:
            raise RemoteProtocolError(f"expected a record of {TAG_SIZE + 1} to {_MAX_SEALED} bytes, got {length}")
        if len(data) < LENGTH_SIZE + length:
            self._wanted = LENGTH_SIZE + length
            return None
        return data[LENGTH_SIZE : LENGTH_SIZE + length]

    def _open(self, sealed: memoryview) -> Record:
        if self.ended:
            raise RemoteProtocolError("expected no record after the last of a message, got one")
        nonce = self._nonce()
        try:
            record = self._decode(self._cipher.decrypt(nonce, sealed, None))
        except InvalidTag:
            raise RemoteProtocolError(
                f"record {self._index} does not open: it was changed, repeated, moved or sealed under another key"
            ) from None
        if (record.head is not None) != (self._index == 0):
            raise RemoteProtocolError("expected the head in a message's first record, and there only")
        if self._index == 0:
            self._on_first()
        self._direction.volume += len(sealed)
        self._index += 1
        self.ended = record.end
        return record

    def finish(self) -> None:
        """Say that no more bytes will come.

        Raises:
            RemoteProtocolError: the message's last record has not arrived, so somebody cut it.
        """
        if not self.ended or self._waiting:
            raise RemoteProtocolError("expected the last record of a message, got its end: it was cut on the way")


class Exchange(NamedTuple):
    """One request and its response, as one side sees them."""

    stream: int
    sealer: Sealer
    opener: Opener


class _Session:
    """What both ends have: a public name, and a direction each way."""

    def __init__(self, session_id: bytes, sealing: bytes, opening: bytes, limits: Limits) -> None:
        self.session_id = session_id
        self._limits = limits
        self._sealing = Direction(sealing, limits.segment)
        self._opening = Direction(opening, limits.segment)

    @property
    def _full(self) -> bool:
        """Whether its keys have had their share of bytes."""
        return self._sealing.volume + self._opening.volume >= self._limits.volume


class ClientSession(_Session):
    """The client's end: opens exchanges."""

    def __init__(self, keys: SessionKeys, *, limits: Limits = CLIENT_LIMITS) -> None:
        super().__init__(keys.session_id, keys.client_to_enclave, keys.enclave_to_client, limits)
        self._next = 0

    @property
    def exhausted(self) -> bool:
        """Whether the next exchange belongs in a new session: numbers run out, or the keys have had their share."""
        return self._next >= self._limits.exchanges or self._full

    def exchange(self) -> Exchange:
        """A new exchange, with a number that no other of this session has.

        Raises:
            LocalProtocolError: the numbers are used up; a new handshake gives new keys.
        """
        stream = self._next
        if stream > MAX_STREAM:
            raise LocalProtocolError("expected at most 2^32 exchanges in a session; make a new handshake")
        self._next += 1
        return Exchange(stream, Sealer(self._sealing, stream), Opener(self._opening, stream, decode_response_record))


class EnclaveSession(_Session):
    """The enclave's end: accepts each exchange once."""

    def __init__(self, keys: SessionKeys, *, limits: Limits = ENCLAVE_LIMITS) -> None:
        super().__init__(keys.session_id, keys.enclave_to_client, keys.client_to_enclave, limits)
        self._accepted = ReplayWindow()

    def accept(self, stream: int) -> Exchange:
        """The exchange with the client's number `stream`.

        The number counts as used once the first record has opened under it: who only guesses numbers uses up none.
        Opening that record raises RemoteProtocolError where the number is used, and so does this method; it also does
        where the session's keys have had their share.
        """
        if self._full:
            raise RemoteProtocolError("expected an exchange of a new session, got one of a session that is used up")
        self._accepted.check(stream)
        opener = Opener(self._opening, stream, decode_request_record, lambda: self._accepted.accept(stream))
        return Exchange(stream, Sealer(self._sealing, stream), opener)


class ReplayWindow:
    """Numbers that may be accepted still: all above the highest so far, and those among the last 1024 not yet used.

    Exchanges travel on several connections and overtake each other; a plain counter would refuse the slower ones.
    """

    SIZE = 1024

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0  # bit i: highest - i was accepted

    def check(self, number: int) -> None:
        """Whether `number` may be accepted.

        Raises:
            RemoteProtocolError: it is used, out of range, or older than the window.
        """
        if not 0 <= number <= MAX_STREAM:
            raise RemoteProtocolError(f"expected an exchange number from 0 to {MAX_STREAM}, got {number}")
        back = self._highest - number
        if back >= self.SIZE or (back >= 0 and self._seen >> back & 1):
            raise RemoteProtocolError(f"exchange {number} was used before: it was recorded and repeated")

    def accept(self, number: int) -> None:
        """Mark `number` as used; raises as `check` does."""
        self.check(number)
        ahead = number - self._highest
        if ahead > 0:
            self._seen = self._seen << ahead & (1 << self.SIZE) - 1 if ahead < self.SIZE else 0
            self._highest = number
        self._seen |= 1 << (self._highest - number)
