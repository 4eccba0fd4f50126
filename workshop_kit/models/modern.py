"""Profile `modern`: fresh X25519 and ML-KEM keys for each session, and an RSA key that signs and nothing else.

hello:     public key, nonce, X25519 share, ML-KEM key, signature over a label and all of these
answer:    document(image, nonce, public key, digest of the transcript), X25519 share, ML-KEM ciphertext
transcript: hello, X25519 share, ML-KEM ciphertext
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
from workshop_kit.models.terms import (
    Digest,
    KemCiphertext,
    KemPublic,
    KemSecret,
    Name,
    Pack,
    Public,
    Share,
    Signed,
    Term,
    agree,
    decapsulate,
    pack,
)

LABEL = Name("the label of a modern hello", "label")


def exponent(owner: str) -> Name:
    return Name(f"{owner}'s X25519 private key")


def kem_key(owner: str) -> Name:
    return Name(f"{owner}'s ML-KEM private key")


def coins(owner: str) -> Name:
    return Name(f"{owner}'s coins")


class Modern(Profile):
    name = "modern"

    def hello(self, client: int, user: Term) -> Term:
        share = Share(exponent(f"Client {client}")) if self.rules.uses_x25519 else NOTHING
        key = KemPublic(kem_key(f"Client {client}")) if self.rules.uses_ml_kem else NOTHING
        return _hello(Public(user), nonce(client), share, key)

    def possible_hellos(self, mallory: Attacker, users: frozenset[Term]) -> Iterator[Term]:
        yield from (heard for heard in mallory.all(Pack) if self.authenticated(heard))
        shares = mallory.all(Share) if self.rules.uses_x25519 else (NOTHING,)
        keys = mallory.all(KemPublic) if self.rules.uses_ml_kem else (NOTHING,)
        for public, form in product(mallory.all(Public), (_hello, _unsigned)):
            # The enclave's check looks at who signed and not at what the fields are, so one hello speaks for all.
            example = form(public, NOTHING, NOTHING, NOTHING)
            if self.admits(example, users) and mallory.can_make(example):
                yield from (form(public, *fields) for fields in product(mallory.names("nonce"), shares, keys))

    def authenticated(self, hello: Term) -> Term | None:
        match hello:
            case Pack((Public() as public, given, share, key, _)):
                signed = hello is _hello(public, given, share, key)
                return public if signed or not self.rules.verifies_hello else None
        return None

    def answer(self, enclave: int, hello: Term) -> Answer | None:
        match hello:
            case Pack((public, given, theirs, key, _)):
                owner = f"Enclave {enclave}"
                share = Share(exponent(owner)) if self.rules.uses_x25519 else NOTHING
                ciphertext = KemCiphertext(coins(owner), key) if self.rules.uses_ml_kem else NOTHING
                document = Document(GOOD_IMAGE, given, public, _digest(hello, share, ciphertext)).signed()
                message = pack(document, share, ciphertext)
                secret = self._secret(KemSecret(coins(owner), key), agree(exponent(owner), theirs))
                return Answer(message, self.session(secret, hello, message)) if secret else None
        return None

    def possible_answers(self, mallory: Attacker, client: int, user: Term) -> Iterator[Term]:
        public, hello = Public(user), self.hello(client, user)
        heard = self.heard(mallory, nonce=nonce(client), public_key=public)
        forged = self.forged(mallory, nonce=nonce(client), public_key=public)
        shares = mallory.all(Share) if self.rules.uses_x25519 else (NOTHING,)
        for share, ciphertext in product(shares, self._possible_ciphertexts(mallory, client)):
            digest = _digest(hello, share, ciphertext)
            made = (Document(image, nonce(client), public, digest).signed(signer) for image, signer in forged)
            for document in (*heard, *made):
                yield pack(document, share, ciphertext)

    def _possible_ciphertexts(self, mallory: Attacker, client: int) -> tuple[Term, ...]:
        if not self.rules.uses_ml_kem:
            return (NOTHING,)
        own = KemCiphertext(coins("Mallory"), KemPublic(kem_key(f"Client {client}")))
        return (*(heard for heard in mallory.all(KemCiphertext) if heard.public is own.public), own)

    def accept(self, answer: Term, client: int, user: Term) -> Session | None:
        match answer:
            case Pack((document, share, ciphertext)):
                hello = self.hello(client, user)
                expected = _digest(hello, share, ciphertext)
                stated = self.user_data(document, nonce=nonce(client), public_key=Public(user))
                if stated is None or (stated is not expected and self.rules.binds_key):
                    return None
                owner = f"Client {client}"
                secret = self._secret(decapsulate(kem_key(owner), ciphertext), agree(exponent(owner), share))
                return self.session(secret, hello, answer) if secret else None
        return None

    def _secret(self, from_kem: Term | None, from_x25519: Term | None) -> Term | None:
        """Both secrets side by side: whoever wants the session's keys needs every one that is in use."""
        used = [from_kem] if self.rules.uses_ml_kem else []
        used += [from_x25519] if self.rules.uses_x25519 else []
        secrets = [secret for secret in used if secret is not None]
        return pack(*secrets) if len(secrets) == len(used) else None

    def mallorys_own(self) -> tuple[Term, ...]:
        secrets = (exponent("Mallory"), kem_key("Mallory"), coins("Mallory"))
        return (LABEL, *secrets, Share(secrets[0]), KemPublic(secrets[1]))


def _hello(public: Public, given: Term, share: Term, key: Term) -> Term:
    return pack(public, given, share, key, Signed(pack(LABEL, given, share, key, public), public.private))


def _unsigned(public: Public, given: Term, share: Term, key: Term) -> Term:
    return pack(public, given, share, key, NOTHING)


def _digest(hello: Term, share: Term, ciphertext: Term) -> Term:
    return Digest(pack(hello, share, ciphertext))
