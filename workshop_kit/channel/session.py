"""A session: keys for each direction, and records that open only once, in their place, in their direction.

A session carries exchanges, each a request and its response. An exchange has a number, its `stream`, that the client
counts up and the enclave accepts once. On the wire a message is a sequence of records,

    length, 4 bytes, big-endian     of what follows
    sealed                          AES-256-GCM(plaintext of framing.py), tag included

with the nonce `stream (4 bytes) || index (8 bytes)`, index counting the records of that message from 0. So a record
that is repeated, moved, reflected or sent into another exchange does not open, and a message without its last record is
known to be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

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


@dataclass(frozen=True)
class SessionKeys:
    """What both sides derive from a handshake: an AES-256 key for each direction, and a public name of 16 bytes."""

    session_id: bytes
    client_to_enclave: bytes
    enclave_to_client: bytes

    def __repr__(self) -> str:
        return f"SessionKeys(session_id={self.session_id.hex()})"  # keys stay out of logs and tracebacks


class Sealer:
    """One direction of one exchange: seals its records in order."""

    def __init__(self, cipher: AESGCM, stream: int) -> None:
        self._cipher = cipher
        self._stream = stream.to_bytes(4, "big")
        self._index = 0
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
        nonce = self._stream + self._index.to_bytes(8, "big")
        sealed = self._cipher.encrypt(nonce, encode_record(record), None)
        self._index += 1
        self._ended = record.end
        return len(sealed).to_bytes(LENGTH_SIZE, "big") + sealed


class Opener:
    """One direction of one exchange: opens records as their bytes arrive."""

    def __init__(
        self,
        cipher: AESGCM,
        stream: int,
        decode: Callable[[bytes], Record],
        on_first: Callable[[], None] = lambda: None,
    ) -> None:
        self._cipher = cipher
        self._stream = stream.to_bytes(4, "big")
        self._decode = decode
        self._on_first = on_first
        self._index = 0
        self._buffer = bytearray()
        self.ended = False

    def receive(self, data: bytes) -> Iterator[Record]:
        """The records that `data` completes, in order.

        Raises:
            RemoteProtocolError: a record does not open, or comes where none may.
        """
        self._buffer += data
        while len(self._buffer) >= LENGTH_SIZE:
            length = int.from_bytes(self._buffer[:LENGTH_SIZE], "big")
            if not TAG_SIZE < length <= _MAX_SEALED:
                raise RemoteProtocolError(f"expected a record of {TAG_SIZE + 1} to {_MAX_SEALED} bytes, got {length}")
            if len(self._buffer) < LENGTH_SIZE + length:
                return
            sealed = bytes(self._buffer[LENGTH_SIZE : LENGTH_SIZE + length])
            del self._buffer[: LENGTH_SIZE + length]
            yield self._open(sealed)

    def _open(self, sealed: bytes) -> Record:
        if self.ended:
            raise RemoteProtocolError("expected no record after the last of a message, got one")
        nonce = self._stream + self._index.to_bytes(8, "big")
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
        self._index += 1
        self.ended = record.end
        return record

    def finish(self) -> None:
        """Say that no more bytes will come.

        Raises:
            RemoteProtocolError: the message's last record has not arrived, so somebody cut it.
        """
        if not self.ended or self._buffer:
            raise RemoteProtocolError("expected the last record of a message, got its end: it was cut on the way")


@dataclass(frozen=True)
class Exchange:
    """One request and its response, as one side sees them."""

    stream: int
    sealer: Sealer
    opener: Opener


class ClientSession:
    """The client's end: opens exchanges."""

    def __init__(self, keys: SessionKeys) -> None:
        self.session_id = keys.session_id
        self._seal, self._open = AESGCM(keys.client_to_enclave), AESGCM(keys.enclave_to_client)
        self._next = 0

    @property
    def exhausted(self) -> bool:
        """Whether it has no number left."""
        return self._next > MAX_STREAM

    def exchange(self) -> Exchange:
        """A new exchange, with a number that no other of this session has.

        Raises:
            LocalProtocolError: the numbers are used up; a new handshake gives new keys.
        """
        stream = self._next
        if stream > MAX_STREAM:
            raise LocalProtocolError("expected at most 2^32 exchanges in a session; make a new handshake")
        self._next += 1
        return Exchange(stream, Sealer(self._seal, stream), Opener(self._open, stream, decode_response_record))


class EnclaveSession:
    """The enclave's end: accepts each exchange once."""

    def __init__(self, keys: SessionKeys) -> None:
        self.session_id = keys.session_id
        self._open, self._seal = AESGCM(keys.client_to_enclave), AESGCM(keys.enclave_to_client)
        self._accepted = ReplayWindow()

    def accept(self, stream: int) -> Exchange:
        """The exchange with the client's number `stream`.

        The number counts as used once the first record has opened under it: who only guesses numbers uses up none.
        Opening that record raises RemoteProtocolError where the number is used, and so does this method.
        """
        self._accepted.check(stream)
        opener = Opener(self._open, stream, decode_request_record, lambda: self._accepted.accept(stream))
        return Exchange(stream, Sealer(self._seal, stream), opener)


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
