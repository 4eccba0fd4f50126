"""A protocol whose flaw is known: Needham and Schroeder's with public keys (1978), and Lowe's repair of it (1995).

    Alice to Bob:  {nonce A, Alice} for Bob
    Bob to Alice:  {nonce A, nonce B} for Alice      repaired: {nonce A, nonce B, Bob}
    Alice to Bob:  {nonce B} for Bob

Alice talks to Mallory, who is honest to nobody, and Bob waits for Alice. Bob's nonce is to be theirs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from workshop_kit.models.attacker import Attacker
from workshop_kit.models.search import Message, Move, Run, State, Violation
from workshop_kit.models.terms import Name, Pack, Public, Term, Wrapped, pack

ALICE, BOB, MALLORY = (Name(f"{who}'s private key") for who in ("Alice", "Bob", "Mallory"))
NONCE_A, NONCE_B, NONCE_M = (Name(f"{who}'s nonce", "nonce") for who in ("Alice", "Bob", "Mallory"))


class Initiator(NamedTuple):
    """Alice, who talks to `peer`."""

    peer: Term
    repaired: bool
    stage: int = 0
    like: str = ""

    @property
    def title(self) -> str:
        return "Alice"

    def moves(self, mallory: Attacker) -> Iterator[Move]:
        if self.stage == 0:
            first = Wrapped(pack(NONCE_A, Public(ALICE)), Public(self.peer))
            yield Move(self, self._replace(stage=1), sent=Message("Alice's first message", first))
        elif self.stage == 1:
            for message in dict.fromkeys(self._seconds(mallory)):
                match message:
                    case Wrapped(Pack((nonce, theirs, *who)), Public(owner)) if owner is ALICE and nonce is NONCE_A:
                        if mallory.can_make(message) and who == ([Public(self.peer)] if self.repaired else []):
                            third = Message("Alice's second message", Wrapped(theirs, Public(self.peer)))
                            yield Move(self, self._replace(stage=2), message, "message", third)

    def _seconds(self, mallory: Attacker) -> Iterator[Term]:
        yield from mallory.all(Wrapped)
        for one, other in product(mallory.names("nonce"), repeat=2):
            yield Wrapped(pack(one, other), Public(ALICE))
            yield from (Wrapped(pack(one, other, who), Public(ALICE)) for who in mallory.all(Public))


class Responder(NamedTuple):
    """Bob, who answers whoever names Alice."""

    repaired: bool
    stage: int = 0
    like: str = ""

    @property
    def title(self) -> str:
        return "Bob"

    def moves(self, mallory: Attacker) -> Iterator[Move]:
        made = [Wrapped(pack(nonce, Public(ALICE)), Public(BOB)) for nonce in mallory.names("nonce")]
        for message in dict.fromkeys([*mallory.all(Wrapped), *made, Wrapped(NONCE_B, Public(BOB))]):
            if mallory.can_make(message) and message.public is Public(BOB):
                yield from self._takes(message)

    def _takes(self, message: Wrapped) -> Iterator[Move]:
        match message.message:
            case Pack((nonce, who)) if self.stage == 0 and who is Public(ALICE):
                inside = (nonce, NONCE_B, Public(BOB)) if self.repaired else (nonce, NONCE_B)
                second = Message("Bob's message", Wrapped(Pack(inside), Public(ALICE)))
                yield Move(self, self._replace(stage=1), message, "message", second)
            case nonce if self.stage == 1 and nonce is NONCE_B:
                yield Move(self, self._replace(stage=2), message, "message")


def judge(state: State) -> Iterator[Violation]:
    if state.mallory.can_make(NONCE_B):
        yield Violation("nonce secret", "Mallory reads it", NONCE_B)
    alice_meant_bob = any(isinstance(run, Initiator) and run.peer is BOB and run.stage for run in state.runs)
    if any(isinstance(run, Responder) and run.stage == 2 for run in state.runs) and not alice_meant_bob:
        yield Violation("Bob agrees", "Bob has talked to Alice, and Alice never to Bob")


def runs(*peers: Term, repaired: bool) -> list[Run]:
    return [*(Initiator(peer, repaired) for peer in peers), Responder(repaired)]


def mallory() -> Attacker:
    return Attacker.who_knows(*map(Public, (ALICE, BOB, MALLORY)), MALLORY, NONCE_M)
