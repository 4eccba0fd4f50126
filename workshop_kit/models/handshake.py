"""What both profiles of the handshake have in common, in the words of SPEC.md: names, documents, keys, and the rules.

A rule is something that a party does or checks. A weakened variant leaves one out. What the messages are is for the
profiles, in `seed` and `modern`; who sends them when is for `parties`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from workshop_kit.models.attacker import Attacker
from workshop_kit.models.terms import Derived, Digest, Name, Pack, Public, Signed, Term, pack

ALICE = Name("Alice's private key")
BOB = Name("Bob's private key")
MALLORY = Name("Mallory's private key")
INFRASTRUCTURE = Name("the infrastructure's private key")
"""Signs documents about whatever image runs: Mallory may run any, in genuine enclaves."""

GOOD_IMAGE = Name("the good image")
OTHER_IMAGE = Name("an image of Mallory's")
NOTHING = Name("nothing")
"""Stands where a variant leaves a field out."""
REFUSAL = Name("a refusal, which nobody signs")
MALLORYS_WORDS = Name("words of Mallory's", "data")

PUBLIC_NAMES: tuple[Term, ...] = (
    *(Public(key) for key in (ALICE, BOB, INFRASTRUCTURE)),
    GOOD_IMAGE,
    OTHER_IMAGE,
    NOTHING,
    REFUSAL,
    MALLORYS_WORDS,
    MALLORY,
    Public(MALLORY),
    Name("Mallory's nonce", "nonce"),
)
"""What Mallory knows before anything is sent, in either profile."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the parties do and check, each beside its place in SPEC.md; False leaves it out."""

    checks_signature: bool = True  # checks 4 and 5: the infrastructure signed the document
    checks_nonce: bool = True  # check 6
    checks_pcrs: bool = True  # check 9
    checks_public_key: bool = True  # check 10
    binds_key: bool = True  # the key's material is in the document, or its digest is compared
    knows_its_users: bool = True  # H-5: the enclave refuses keys that none of its users has
    verifies_hello: bool = True  # H-5: the enclave verifies the signature in the hello
    has_two_keys: bool = True  # K-2: each direction has a key of its own
    uses_x25519: bool = True  # `modern` alone
    uses_ml_kem: bool = True  # `modern` alone


AS_SPECIFIED = Rules()


class Session(NamedTuple):
    """What a side holds after the handshake.

    Attributes:
        secret: what was agreed on, before it was bound to the messages.
    """

    secret: Term
    to_enclave: Term
    to_client: Term


class Answer(NamedTuple):
    """An enclave's answer to a hello, and the session that it then holds."""

    message: Term
    session: Session


class Document(NamedTuple):
    """The fields of an attestation document that matter here."""

    image: Term
    nonce: Term
    public_key: Term
    user_data: Term

    def signed(self, key: Term = INFRASTRUCTURE) -> Signed:
        return Signed(Pack(tuple(self)), key)


class Profile(ABC):
    """A profile of the handshake, as both sides follow it, and the messages that Mallory may put in its place.

    A run has a number, and what it draws afresh is named after it, as `nonce(1)`.
    """

    name: str

    def __init__(self, rules: Rules = AS_SPECIFIED) -> None:
        self.rules = rules

    @abstractmethod
    def hello(self, client: int, user: Term) -> Term:
        """The first message of a client's run, by a user's private key."""

    @abstractmethod
    def possible_hellos(self, mallory: Attacker, users: frozenset[Term]) -> Iterator[Term]:
        """Every hello that these users' enclave may take, with fields that Mallory has heard or has of his own."""

    @abstractmethod
    def authenticated(self, hello: Term) -> Term | None:
        """The public key in a hello whose signature the enclave finds good; None refuses the hello."""

    @abstractmethod
    def answer(self, enclave: int, hello: Term) -> Answer | None:
        """The answer of an enclave's run."""

    @abstractmethod
    def possible_answers(self, mallory: Attacker, client: int, user: Term) -> Iterator[Term]:
        """Every answer that this client may accept, with fields that Mallory has heard or has of his own."""

    @abstractmethod
    def accept(self, answer: Term, client: int, user: Term) -> Session | None:
        """The session that a client takes from an answer; None where a check refuses it."""

    @abstractmethod
    def mallorys_own(self) -> tuple[Term, ...]:
        """What Mallory draws for messages of his own."""

    def admits(self, hello: Term, users: frozenset[Term]) -> Term | None:
        """The public key of the user for whom an enclave with these users takes its client; None refuses the hello."""
        public_key = self.authenticated(hello)
        return public_key if public_key in users or not self.rules.knows_its_users else None

    def user_data(self, document: Term, *, nonce: Term, public_key: Term) -> Term | None:
        """The field of that name, where the client's checks find nothing wrong."""
        match document:
            case Signed(Pack((image, quoted_nonce, quoted_key, user_data)), signer):
                affirmed = (
                    (signer is INFRASTRUCTURE or not self.rules.checks_signature)
                    and (quoted_nonce is nonce or not self.rules.checks_nonce)
                    and (image is GOOD_IMAGE or not self.rules.checks_pcrs)
                    and (quoted_key is public_key or not self.rules.checks_public_key)
                )
                return user_data if affirmed else None
        return None

    def heard(self, mallory: Attacker, *, nonce: Term, public_key: Term) -> list[Signed]:
        """The infrastructure's documents that Mallory has heard and that pass this client's checks."""
        return [
            document
            for document in mallory.all(Signed)
            if document.private is INFRASTRUCTURE
            and self.user_data(document, nonce=nonce, public_key=public_key) is not None
        ]

    def forged(self, mallory: Attacker, *, nonce: Term, public_key: Term) -> list[tuple[Term, Term]]:
        """Image and signer of documents that Mallory can have made, and that pass with any user_data.

        In all else he writes what the client expects: a field that nobody checks gains nothing by another value.
        """
        return [
            (image, signer)
            for image, signer in product((GOOD_IMAGE, OTHER_IMAGE), (INFRASTRUCTURE, MALLORY))
            if mallory.can_have_signed(image, signer)
            and self.user_data(
                Document(image, nonce, public_key, NOTHING).signed(signer), nonce=nonce, public_key=public_key
            )
        ]

    def session(self, secret: Term, hello: Term, answer: Term) -> Session:
        """Both keys, out of the secret and the two messages as they travelled (K-1)."""
        transcript = Digest(pack(hello, answer))
        labels = ("to the enclave", "to the client") if self.rules.has_two_keys else ("both ways", "both ways")
        return Session(secret, *(Derived(f"{self.name}, {label}", secret, transcript) for label in labels))


# What a run draws, and what it has to say, named after it.
def nonce(client: int) -> Name:
    return Name(f"nonce {client}", "nonce")


def payload(client: int) -> Name:
    return Name(f"payload {client}", "data")


def result(enclave: int) -> Name:
    return Name(f"result {enclave}", "data")
