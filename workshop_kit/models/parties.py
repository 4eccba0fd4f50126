"""Who takes part: a client's run and an enclave's run, each with the moves that it can make next.

A move may take a message, whatever Mallory hands over, and may send one, which Mallory gets. What the messages are, the
profile says. One exchange follows the handshake: a sealed request, and a sealed result.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from workshop_kit.models.attacker import Attacker
from workshop_kit.models.handshake import ALICE, MALLORYS_WORDS, REFUSAL, Profile, Session, payload, result
from workshop_kit.models.search import Message, Move
from workshop_kit.models.terms import Public, Sealed, Term


class Stage(Enum):
    NEW = "has done nothing"
    ASKED = "has sent a hello"
    AGREED = "has a session"
    DONE = "has exchanged"


class Client(NamedTuple):
    """A run of a client.

    Attributes:
        wants: the profile that its policy asks for.
        falls_back_to: a profile for the next try where an answer says no; None is the protocol as it stands.
        speaks: the profile that it speaks now.
        took: what it took for the enclave's result.
    """

    number: int
    wants: Profile
    user: Term = ALICE
    falls_back_to: Profile | None = None
    stage: Stage = Stage.NEW
    speaks: Profile | None = None
    session: Session | None = None
    took: Term | None = None

    @property
    def title(self) -> str:
        return f"Client {self.number}"

    @property
    def like(self) -> str:
        policy = f"{self.wants.name}, {'nothing else' if self.falls_back_to is None else 'or another'}"
        return f"client that wants {policy}" if self.stage is Stage.NEW else ""

    @property
    def profile(self) -> Profile:
        return self.speaks or self.wants

    @property
    def hello(self) -> Term:
        return self.profile.hello(self.number, self.user)

    def moves(self, mallory: Attacker) -> Iterator[Move]:
        if self.stage is Stage.NEW:
            yield self._asks(self.wants)
        elif self.stage is Stage.ASKED:
            yield from self._is_answered(mallory)
            if self.falls_back_to and self.speaks is self.wants:
                yield self._asks(self.falls_back_to)._replace(received=REFUSAL, takes_for="refusal")
        elif self.stage is Stage.AGREED:
            yield from self._is_served(mallory)

    def _asks(self, profile: Profile) -> Move:
        hello = Message(f"{profile.name} hello {self.number}", profile.hello(self.number, self.user))
        return Move(self, self._replace(stage=Stage.ASKED, speaks=profile), sent=hello)

    def _is_answered(self, mallory: Attacker) -> Iterator[Move]:
        for answer in dict.fromkeys(self.profile.possible_answers(mallory, self.number, self.user)):
            if not mallory.can_make(answer):
                continue
            if session := self.profile.accept(answer, self.number, self.user):
                request = Message(f"request {self.number}", Sealed(payload(self.number), session.to_enclave))
                after = self._replace(stage=Stage.AGREED, session=session)
                yield Move(self, after, answer, "answer", request)

    def _is_served(self, mallory: Attacker) -> Iterator[Move]:
        assert self.session is not None  # the only way to AGREED makes it
        for message in _possible_records(mallory, self.session.to_client):
            yield Move(self, self._replace(stage=Stage.DONE, took=message.message), message, "response")


class Enclave(NamedTuple):
    """A run of the good image's code, in a genuine enclave.

    Attributes:
        serves: the profiles that it answers in.
        users: the public keys that it knows.
        user: whom it takes its client for.
        took: what it took for the client's request.
    """

    number: int
    serves: tuple[Profile, ...]
    users: frozenset[Term] = frozenset({Public(ALICE)})
    stage: Stage = Stage.NEW
    speaks: Profile | None = None
    hello: Term | None = None
    user: Term | None = None
    session: Session | None = None
    took: Term | None = None

    @property
    def title(self) -> str:
        return f"Enclave {self.number}"

    @property
    def like(self) -> str:
        return "enclave" if self.stage is Stage.NEW else ""

    def moves(self, mallory: Attacker) -> Iterator[Move]:
        if self.stage is Stage.NEW:
            for profile in self.serves:
                for hello in dict.fromkeys(profile.possible_hellos(mallory, self.users)):
                    if mallory.can_make(hello):
                        yield from self._answers(profile, hello)
        elif self.stage is Stage.AGREED:
            yield from self._serves(mallory)

    def _answers(self, profile: Profile, hello: Term) -> Iterator[Move]:
        user = profile.admits(hello, self.users)
        if user and (answer := profile.answer(self.number, hello)):
            after = self._replace(stage=Stage.AGREED, speaks=profile, hello=hello, user=user, session=answer.session)
            yield Move(self, after, hello, "hello", Message(f"answer {self.number}", answer.message))

    def _serves(self, mallory: Attacker) -> Iterator[Move]:
        assert self.session is not None  # the only way to AGREED makes it
        for message in _possible_records(mallory, self.session.to_enclave):
            response = Message(f"response {self.number}", Sealed(result(self.number), self.session.to_client))
            after = self._replace(stage=Stage.DONE, took=message.message)
            yield Move(self, after, message, "request", response)


def _possible_records(mallory: Attacker, key: Term) -> Iterator[Sealed]:
    """What opens under `key`: records that Mallory has heard, and one of his own if he has the key."""
    yield from (record for record in mallory.all(Sealed) if record.key is key)
    if mallory.can_make(own := Sealed(MALLORYS_WORDS, key)):
        yield own
