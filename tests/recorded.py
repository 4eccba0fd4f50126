"""What an operator keeps of a session, and what comes of it for somebody who gets secrets later."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pair import ANSWER, ASK, Pair

from workshop_kit.channel.framing import Record
from workshop_kit.channel.handshake import Profile, derive_keys
from workshop_kit.channel.session import LENGTH_SIZE

QUESTION, REPLY = b"am I richer than Bob?", b"no, and he is sorry"


@dataclass(frozen=True)
class Recording:
    """Every byte that passed in a handshake and the first exchange behind it; a parent instance has as much."""

    profile: Profile
    hello: bytes
    answer: bytes
    request: bytes
    response: bytes

    def opened_with(self, secret: bytes) -> list[bytes]:
        """The plaintexts of request and response for whoever has the handshake's secret; none where it is another."""
        keys = derive_keys(self.profile, secret, hello=self.hello, answer=self.answer)
        whole = []
        for key, sealed in ((keys.client_to_enclave, self.request), (keys.enclave_to_client, self.response)):
            try:
                whole.append(AESGCM(key).decrypt(bytes(12), sealed[LENGTH_SIZE:], None))
            except InvalidTag:
                continue
        return whole


def record(pair: Pair, profile: Profile) -> Recording:
    """A handshake and an exchange of `pair`, from where the bytes pass."""
    hello = pair.client.hello()
    answer = pair.answer(hello)
    asked = pair.receive(answer).exchange()
    request = asked.sealer.seal(Record(ASK, QUESTION, end=True))
    answered = pair.enclave.session().accept(asked.stream)
    assert list(answered.opener.receive(request))
    response = answered.sealer.seal(Record(ANSWER, REPLY, end=True))
    return Recording(profile, hello, answer, request, response)


def reveals(plaintexts: list[bytes]) -> bool:
    """Whether both the question and the reply are in the open."""
    return [words in text for words, text in zip((QUESTION, REPLY), plaintexts, strict=False)] == [True, True]
