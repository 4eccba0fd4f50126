"""What an operator can do with what he carries: each attack a small class, its docstring the attack's page.

    run_enclave(image, misbehave=Replay())

An attack sees what every operator sees: hellos, answers to them, and records that he cannot open. It holds no key, and
knows nothing of what a hello or its answer says. It stands between client and enclave and is part of neither, so what
refuses it is what would refuse Mallory. Numbers in brackets are sentences of SPEC.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from workshop_kit.channel.framing import Record, RequestHead, encode_record
from workshop_kit.edges.carrier import exchange_path, parse_exchange_path
from workshop_kit.errors import LabError

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]

_LENGTH = 4  # bytes before each sealed record
_HEAD = 5  # flags and the head's length, before the head


@dataclass(frozen=True)
class Request:
    """A client's request to the carrier; `to` is the URL of another parent instance, "" the own enclave."""

    method: str
    path: str
    headers: Fields
    body: bytes
    to: str = ""


@dataclass(frozen=True)
class Response:
    """The carrier's response; where `cut_after` says so, the connection ends after as many bytes of its body."""

    status: int
    headers: Fields
    body: bytes
    cut_after: int | None = None


Ask: TypeAlias = Callable[[Request], Awaitable[Response]]
Part: TypeAlias = Literal["hello", "evidence", "request", "response"]


class Attack:
    """A parent instance's way with messages. This one is honest; an attack overrides what it needs.

    Both methods are given a client's request and `ask`, which carries one to an enclave, and return what the client
    gets. They run in the parent instance's loop.
    """

    async def hello(self, request: Request, ask: Ask) -> Response:
        """A hello; the response is the enclave's evidence."""
        return await ask(request)

    async def exchange(self, request: Request, ask: Ask) -> Response:
        """An exchange; both bodies are records."""
        return await ask(request)


class Change(Attack):
    """An attack that changes one part of each conversation, and asks as if nothing were."""

    def __init__(self, of: Part) -> None:
        self.of = of

    def change(self, body: bytes) -> bytes:
        """What takes the place of `body`."""
        raise NotImplementedError

    async def hello(self, request: Request, ask: Ask) -> Response:
        return await self._carry(request, ask, "hello", "evidence")

    async def exchange(self, request: Request, ask: Ask) -> Response:
        return await self._carry(request, ask, "request", "response")

    async def _carry(self, request: Request, ask: Ask, asked: Part, answered: Part) -> Response:
        if self.of == asked:
            request = replace(request, body=self.change(request.body))
        response = await ask(request)
        if self.of == answered and response.status == 200:
            response = replace(response, body=self.change(response.body))
        return response


def split_records(body: bytes) -> list[bytes]:
    """The records of a message, each with its length [R-1]; an incomplete one comes as it is."""
    found, start = [], 0
    while start < len(body):
        end = start + _LENGTH + int.from_bytes(body[start : start + _LENGTH], "big")
        found.append(body[start:end])
        start = end
    return found


# --- records ---------------------------------------------------------------------------------------------------------


class Replay(Attack):
    """He delivers every request twice.

    He hopes that what Alice asked for happens twice: another payment, another vote. An enclave accepts each number of
    an exchange once, when its first record opens [E-3], so of two copies one is served.

    Attributes:
        answers: what the enclave said to the second copies; Alice gets the answers to the first.
    """

    def __init__(self) -> None:
        self.answers: list[Response] = []

    async def exchange(self, request: Request, ask: Ask) -> Response:
        first = await ask(request)
        self.answers.append(await ask(request))
        return first


class Reorder(Change):
    """He swaps the last two records of a message.

    He hopes that a text is read in another order: two lines of a ledger, two steps of a plan. A record's place in its
    message is part of its nonce, so in another place it does not open [R-2], and the message is given up there [R-5].
    """

    def __init__(self, of: Literal["request", "response"] = "response") -> None:
        super().__init__(of)

    def change(self, body: bytes) -> bytes:
        *before, one, other = [b"", b"", *split_records(body)]
        return b"".join([*before, other, one])


class Reflect(Attack):
    """He answers a request with its own records, and sends an answer's records to the enclave as a new request.

    He hopes that what one side sealed opens at the side that sealed it, and is taken for the other's word. Each
    direction has a key of its own [K-2].

    Attributes:
        answers: what the enclave said to its own records.
    """

    def __init__(self) -> None:
        self.answers: list[Response] = []

    async def exchange(self, request: Request, ask: Ask) -> Response:
        answer = await ask(request)
        fresh = _renumbered(request, 500)  # for its own number the enclave would refuse it as a copy
        self.answers.append(await ask(replace(fresh, body=answer.body)))
        return replace(answer, body=request.body)


class Truncate(Change):
    """He drops the last record of a message, and makes the carrier's lengths right.

    He hopes that the beginning is taken for the whole: a list of debts without its last page, an order without its
    limit. The last record of a message says inside that it is the last, and a message without it is cut, whatever the
    carrier says of its length [R-5].
    """

    def __init__(self, of: Literal["request", "response"] = "response") -> None:
        super().__init__(of)

    def change(self, body: bytes) -> bytes:
        return b"".join(split_records(body)[:-1])


class FlipBit(Change):
    """He flips one bit.

    He hopes that it goes unnoticed, or that the way in which it is noticed tells him something. A hello is signed
    [H-4], evidence is signed (check 5), and a record whose tag does not fit is given up with all that follows it [R-5].

    Args:
        n: which one, from 0; below 0, from the end. Of a body that is shorter, none.
        of: in which part of the conversation.
    """

    def __init__(self, n: int, of: Part = "response") -> None:
        super().__init__(of)
        self._n = n

    def change(self, body: bytes) -> bytes:
        place = self._n + 8 * len(body) if self._n < 0 else self._n
        if not 0 <= place < 8 * len(body):
            return body
        changed = bytearray(body)
        changed[place // 8] ^= 0x80 >> place % 8
        return bytes(changed)


class SwapPath(Change):
    """He swaps the path of a request that he cannot read but knows, as anybody knows what Alice's program asks for.

    AES-GCM encrypts as a stream cipher: where a bit of what is sealed is flipped, the same bit of the plaintext flips.
    So he adds the difference of the two paths to the records, and without the tag the enclave would read the path that
    he chose. With it, the record does not open [R-1], [R-5]; and nothing of a path stands in the carrier [E-4].

    Args:
        old: path and query, as the program asks.
        new: those that he wants, as long as the old ones.

    Raises:
        LabError: they are of different lengths, and a difference cannot make a text longer.
    """

    def __init__(self, old: str, new: str, *, method: str = "GET") -> None:
        super().__init__("request")
        self._at = _HEAD + len(method) + 1
        self._difference = _difference(old.encode(), new.encode())

    def change(self, body: bytes) -> bytes:
        return _add(body, self._at, self._difference)


class SwapHeader(Change):
    """He swaps a header's value in a request that he cannot read but knows, as with `SwapPath`.

    He hopes for another amount, another tenant, another language. The tag covers headers as it covers the path [R-1],
    and the two that say who asks are written inside the enclave [A-2].

    Args:
        known: the request's head as Alice's program writes it.
        name: of the header.
        new: the value that he wants, as long as the known one.

    Raises:
        LabError: there is no such header, or its value is longer or shorter.
    """

    def __init__(self, known: RequestHead, name: bytes, new: bytes) -> None:
        super().__init__("request")
        old = dict(known.headers).get(name)
        if old is None:
            raise LabError(f"expected a header of the known request, got {name!r}, which it has not")
        self._at = encode_record(Record(known)).index(b"\0%s\0%s" % (name, old)) + len(name) + 2
        self._difference = _difference(old, new)

    def change(self, body: bytes) -> bytes:
        return _add(body, self._at, self._difference)


def _difference(old: bytes, new: bytes) -> bytes:
    if len(old) != len(new):
        raise LabError(f"expected {len(old)} bytes in the place of {old!r}, got {new!r}: flipping bits adds none")
    return bytes(one ^ other for one, other in zip(old, new, strict=True))


def _add(body: bytes, at: int, difference: bytes) -> bytes:
    """`body` with the difference added to its first record's plaintext, from its byte `at`."""
    start = _LENGTH + at
    end = start + len(difference)
    changed = bytes(one ^ other for one, other in zip(body[start:end], difference, strict=False))
    return body[:start] + changed + body[end:]


# --- the carrier's own words -----------------------------------------------------------------------------------------


class SwapNumber(Attack):
    """He sends a request under another number than the client gave it; session and number stand in the carrier's path.

    He hopes to have one request taken for two, or for another. The number is part of every nonce, so under another one
    no record opens [R-2], and who only guesses numbers uses up none [E-3].
    """

    def __init__(self, by: int = 1) -> None:
        self._by = by

    async def exchange(self, request: Request, ask: Ask) -> Response:
        return await ask(_renumbered(request, self._by))


class SwapSession(Attack):
    """He sends a request into another session than the one that sealed it, the last other one that he has seen.

    He hopes that Alice's request is served in Bob's name. A session has keys of its own [K-1], and who asks is known
    from the session, not from the carrier [A-2].
    """

    def __init__(self) -> None:
        self._latest: tuple[bytes, ...] = ()  # two at most

    async def exchange(self, request: Request, ask: Ask) -> Response:
        session, number = _exchange(request)
        others = tuple(name for name in self._latest if name != session)[-1:]
        self._latest = (*others, session)
        path = exchange_path(others[0], number) if others else request.path
        return await ask(replace(request, path=path))


def _exchange(request: Request) -> tuple[bytes, int]:
    parsed = parse_exchange_path(request.path)
    assert parsed is not None  # an Attack's exchange() is given no other paths
    return parsed


def _renumbered(request: Request, by: int) -> Request:
    session, number = _exchange(request)
    return replace(request, path=exchange_path(session, number + by))


class DropAfter(Attack):
    """He cuts a client's connection after `n` bytes of a response's records, whose length he has announced in full.

    He hopes that half an answer is believed, or that Alice's client repeats a request that was executed. A message
    without its last record is cut [R-5], and a client repeats nothing by itself [E-5].
    """

    def __init__(self, n: int) -> None:
        self._n = n

    async def exchange(self, request: Request, ask: Ask) -> Response:
        response = await ask(request)
        return response if len(response.body) <= self._n else replace(response, cut_after=self._n)


# --- evidence --------------------------------------------------------------------------------------------------------


class StaleEvidence(Attack):
    """He keeps the first answer to a hello and gives it to every later one.

    He hopes to be believed after the enclave is gone, or has been exchanged for another. The document holds the nonce
    of the hello that it answers (check 6), which no other hello has [H-3]; and its age is checked (checks 4 and 7).

    Attributes:
        kept: that answer, from the first hello on.
    """

    def __init__(self) -> None:
        self.kept: Response | None = None

    async def hello(self, request: Request, ask: Ask) -> Response:
        if self.kept is None:
            self.kept = await ask(request)
        return self.kept


class SwapEvidence(Attack):
    """He answers every hello with evidence of his choice.

    He hopes that signed is believed to be signed for this: a document of another enclave, of another root, of another
    user. Whose signature counts the client's policy says [H-7] (check 4), and whose hello it answers says the nonce
    (check 6).

    Args:
        evidence: the body of the answer.
    """

    def __init__(self, evidence: bytes) -> None:
        self._evidence = evidence

    async def hello(self, request: Request, ask: Ask) -> Response:
        return replace(await ask(request), status=200, body=self._evidence)


class Relay(Attack):
    """He carries everything to another enclave, which runs an image of his own: the impostor.

    He hopes that an honest signature is enough. It is: of what really runs there, which is not what Alice's policy
    names (check 9); and were the impostor started to be read from outside, it would say so (check 8).

    Args:
        to: the URL of the parent instance before the impostor.
    """

    def __init__(self, to: str) -> None:
        self._to = to

    async def hello(self, request: Request, ask: Ask) -> Response:
        return await ask(replace(request, to=self._to))

    async def exchange(self, request: Request, ask: Ask) -> Response:
        return await ask(replace(request, to=self._to))
