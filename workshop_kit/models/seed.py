"""Profile `seed`: one RSA key signs the hello and unwraps the session's key.

hello:     public key, nonce, signature over a label, the nonce and the public key
answer:    document(image, nonce, public key, the session's key wrapped for that public key)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from workshop_kit.models.attacker import Attacker
from workshop_kit.models.handshake import (
    GOOD_IMAGE,
    NOTHING,
    Answer,
    Document,
    Profile,
    Session,
    nonce,
)
from workshop_kit.models.terms import Name, Pack, Public, Signed, Term, Wrapped, pack

LABEL = Name("the label of a seed hello", "label")
MALLORYS_KEY = Name("Mallory's session key")


def session_key(enclave: int) -> Name:
    return Name(f"key {enclave}")


class Seed(Profile):
    name = "seed"

    def hello(self, client: int, user: Term) -> Term:
        return _hello(nonce(client), user)

    def possible_hellos(self, mallory: Attacker, users: frozenset[Term]) -> Iterator[Term]:
        yield from (heard for heard in mallory.all(Pack) if self.authenticated(heard))
        for public, given in product(mallory.all(Public), mallory.names("nonce")):
            yield from (hello for hello in _forms(public, given) if self.admits(hello, users))

    def authenticated(self, hello: Term) -> Term | None:
        match hello:
            case Pack((Public(user) as public, Name(_, "nonce") as given, _)):
                return public if hello is _hello(given, user) or not self.rules.verifies_hello else None
        return None

    def answer(self, enclave: int, hello: Term) -> Answer | None:
        match hello:
            case Pack((Public() as public, given, _)):
                wrapped = Wrapped(session_key(enclave), public)
                message = self._message(Document(GOOD_IMAGE, given, public, wrapped))
                return Answer(message, self.session(session_key(enclave), hello, message))
        return None

    def _message(self, document: Document) -> Term:
        """The document; without the rule that binds the key, the wrapped key travels beside it."""
        if self.rules.binds_key:
            return document.signed()
        return pack(document._replace(user_data=NOTHING).signed(), document.user_data)

    def possible_answers(self, mallory: Attacker, client: int, user: Term) -> Iterator[Term]:
        public = Public(user)
        heard = self.heard(mallory, nonce=nonce(client), public_key=public)
        forged = self.forged(mallory, nonce=nonce(client), public_key=public)
        for wrapped in (*mallory.all(Wrapped), Wrapped(MALLORYS_KEY, public)):
            inside = wrapped if self.rules.binds_key else NOTHING
            made = (Document(image, nonce(client), public, inside).signed(signer) for image, signer in forged)
            for document in (*heard, *made):
                yield document if self.rules.binds_key else pack(document, wrapped)

    def accept(self, answer: Term, client: int, user: Term) -> Session | None:
        match answer:
            case Pack((document, beside)) if not self.rules.binds_key:
                wrapped = self.user_data(document, nonce=nonce(client), public_key=Public(user)) and beside
            case _:
                wrapped = self.user_data(answer, nonce=nonce(client), public_key=Public(user))
        match wrapped:
            case Wrapped(key, Public(owner)) if owner is user:
                return self.session(key, self.hello(client, user), answer)
        return None

    def mallorys_own(self) -> tuple[Term, ...]:
        return (LABEL, MALLORYS_KEY)


def _hello(given: Term, user: Term) -> Term:
    public = Public(user)
    return pack(public, given, Signed(pack(LABEL, given, public), user))


def _forms(public: Public, given: Term) -> tuple[Term, Term]:
    """Signed, and with no signature."""
    return _hello(given, public.private), pack(public, given, NOTHING)
