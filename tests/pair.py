"""A client and an enclave wired in memory, with a simulated NSM behind the enclave: no socket, no clock, seeded chance.

What passes between them is bytes in the test's hands, to drop, to flip, to repeat or to hand over one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
from attested import World
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from workshop_kit.channel.client_handshake import ClientHandshake
from workshop_kit.channel.enclave_handshake import EnclaveHandshake
from workshop_kit.channel.framing import Record, RequestHead, ResponseHead
from workshop_kit.channel.handshake import Hello, Profile, signed_part
from workshop_kit.channel.hybrid import Ephemeral, Offer
from workshop_kit.channel.session import (
    CLIENT_LIMITS,
    ENCLAVE_LIMITS,
    ClientSession,
    EnclaveSession,
    Opener,
    SessionKeys,
)
from workshop_kit.edges.primitives import PRIMITIVES
from workshop_kit.edges.user_key import UserKey
from workshop_kit.errors import RemoteProtocolError
from workshop_kit.verifier import Policy

ASK = RequestHead(b"GET", b"/compare", ((b"accept", b"*/*"),))
ANSWER = ResponseHead(200, ((b"content-type", b"text/plain"),))


@cache
def user_key(name: str) -> UserKey:
    """One key a name, for as long as the tests run: making one takes a while."""
    del name
    return UserKey.generate()


def keys(seed: int = 0) -> SessionKeys:
    """The keys of a session without a handshake."""
    return SessionKeys(*(bytes([seed + part]) * size for part, size in ((1, 16), (2, 32), (3, 32))))


def sessions(seed: int = 0, **limits: int) -> tuple[ClientSession, EnclaveSession]:
    """Both ends of a session without a handshake; with limits, the same for both."""
    client, enclave = CLIENT_LIMITS._replace(**limits), ENCLAVE_LIMITS._replace(**limits)
    return ClientSession(keys(seed), limits=client), EnclaveSession(keys(seed), limits=enclave)


def watch_nonces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """Key and nonce of each record that sessions made from now on seal."""
    used: list[tuple[bytes, bytes]] = []

    class Watched:
        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, AESGCM(key)
            self.decrypt = self._cipher.decrypt

        def encrypt(self, nonce: bytes, data: bytes, more: bytes | None) -> bytes:
            used.append((self._key, nonce))
            return self._cipher.encrypt(nonce, data, more)

    monkeypatch.setattr("workshop_kit.channel.session.AESGCM", Watched)
    return used


OFFER = Ephemeral(x25519=bytes(range(32)), ml_kem=bytes(range(64))).offer
"""Two public keys whose private ones nobody keeps secret."""


def hello_of(
    user: str,
    *,
    offer: Offer | None,
    nonce: bytes = bytes(32),
    public_key: bytes | None = None,
    signature: bytes | None = None,
) -> bytes:
    """A hello by a user, with a key in another spelling or another signature where a test says so."""
    key = user_key(user)
    public_key = public_key or key.public_bytes
    signature = key.sign(signed_part(public_key, nonce, offer)) if signature is None else signature
    return Hello(public_key=public_key, nonce=nonce, signature=signature, offer=offer).encode()


class Pair:
    """One handshake, both sides of it. The user is Alice; Alice and Bob are known to the enclave.

    Attributes:
        drawn: what chance gave, in order: to the client the nonce (and two seeds), then to the enclave one key.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        user: str = "Alice",
        policy: Policy | None = None,
        profile: Profile = Profile.MODERN,
    ) -> None:
        self.world = world or World()
        self.key = user_key(user)
        self.drawn: list[bytes] = []
        self.client = ClientHandshake(self.key, policy or self.world.policy(), random=self._random, profile=profile)
        self.nonce = self.drawn[0]
        known = {user_key(name).public_bytes for name in ("Alice", "Bob")}
        self.enclave = EnclaveHandshake(is_known=known.__contains__, random=self._random, primitives=PRIMITIVES)

    def _random(self, size: int) -> bytes:
        self.drawn.append(self.world.random(size))
        return self.drawn[-1]

    def answer(self, hello: bytes, **instead: Any) -> bytes:
        """The enclave's answer to a hello, with other fields in the document where a test says so."""
        needed = self.enclave.receive_hello(hello)
        fields = {"user_data": needed.user_data, "nonce": needed.nonce, "public_key": needed.public_key}
        return self.enclave.provide_evidence(self.world.attest(**(fields | instead)))

    def receive(self, answer: bytes) -> ClientSession:
        """The client's session, where it takes the answer."""
        self.client.receive_evidence(answer, now=self.world.now)
        return self.client.session()

    def roundtrip(
        self,
        *,
        on_hello: Callable[[bytes], bytes] = lambda hello: hello,
        on_answer: Callable[[bytes], bytes] = lambda answer: answer,
    ) -> tuple[ClientSession, EnclaveSession]:
        """Both sessions, whoever stands between them doing to each message what he likes."""
        answer = self.answer(on_hello(self.client.hello()))
        return self.receive(on_answer(answer)), self.enclave.session()


def understand(client: ClientSession, enclave: EnclaveSession) -> bool:
    """Whether a request and its response pass; any refusal to open is the kit's and means no."""
    asked = client.exchange()
    try:
        answered = enclave.accept(asked.stream)
        request = list(answered.opener.receive(asked.sealer.seal(Record(ASK, b"question", end=True))))
        response = list(asked.opener.receive(answered.sealer.seal(Record(ANSWER, b"answer", end=True))))
    except RemoteProtocolError:
        return False
    return [record.data for record in (*request, *response)] == [b"question", b"answer"]


def flip(data: bytes, place: int, bit: int = 0) -> bytes:
    """`data` with one bit of the byte at `place` flipped."""
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def drop(records: Iterable[bytes], place: int) -> bytes:
    """The records on the wire without the one at `place`."""
    return b"".join(record for number, record in enumerate(records) if number != place)


def byte_by_byte(opener: Opener, data: bytes) -> list[Record]:
    """What an opener makes of `data` that arrives one byte at a time."""
    return [record for value in data for record in opener.receive(bytes([value]))]
