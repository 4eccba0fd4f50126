"""Messages as trees. Cryptography is perfect here: a term is made of its parts, and nothing else is to be known of it.

This file knows what can be built; who can build it, and who can take it apart, `attacker` knows. Equal terms are one
and the same object, so that comparing two large messages is as quick as comparing two small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MADE: dict[tuple[object, ...], Any] = {}


class _MadeOnce(type):
    """Equal arguments, given by position, give the same object."""

    def __call__(cls, *parts: Any) -> Any:
        key = (cls, *parts)
        if key not in _MADE:
            _MADE[key] = super().__call__(*parts)
        return _MADE[key]


class Term(metaclass=_MadeOnce):
    """A message or a part of one."""


@dataclass(frozen=True, eq=False)
class Name(Term):
    """Something without parts: a private key, a nonce, a payload. Nobody guesses it.

    Attributes:
        text: what a trace calls it.
        kind: what it is drawn as, such as "nonce"; Mallory tries names where their kind belongs.
    """

    text: str
    kind: str = ""


@dataclass(frozen=True, eq=False)
class Pack(Term):
    """Several terms side by side, which anybody takes apart."""

    parts: tuple[Term, ...]


@dataclass(frozen=True, eq=False)
class Public(Term):
    """The public key of an RSA or ECDSA key."""

    private: Term


@dataclass(frozen=True, eq=False)
class Signed(Term):
    """A message with a signature over it; the message is legible."""

    message: Term
    private: Term


@dataclass(frozen=True, eq=False)
class Wrapped(Term):
    """Encrypted for whoever has the private key (RSA-OAEP)."""

    message: Term
    public: Term


@dataclass(frozen=True, eq=False)
class Sealed(Term):
    """Encrypted and authenticated under a key that both have (AES-GCM)."""

    message: Term
    key: Term


@dataclass(frozen=True, eq=False)
class Digest(Term):
    """A hash: two are equal only where the messages are."""

    message: Term


@dataclass(frozen=True, eq=False)
class Derived(Term):
    """A key out of a secret (HKDF); another label or another context gives another key."""

    label: str
    secret: Term
    context: Term


@dataclass(frozen=True, eq=False)
class Share(Term):
    """One side's public half of a Diffie-Hellman exchange (X25519)."""

    exponent: Term


@dataclass(frozen=True, eq=False)
class Agreed(Term):
    """What two exponents agree on. Made by `agree`, which gives both sides the same term."""

    one: Term
    other: Term


@dataclass(frozen=True, eq=False)
class KemPublic(Term):
    """The key that one encapsulates to (ML-KEM)."""

    private: Term


@dataclass(frozen=True, eq=False)
class KemCiphertext(Term):
    """What travels when somebody encapsulates with fresh coins."""

    coins: Term
    public: Term


@dataclass(frozen=True, eq=False)
class KemSecret(Term):
    """What whoever encapsulated, and whoever has the private key, then share."""

    coins: Term
    public: Term


def pack(*parts: Term) -> Pack:
    return Pack(parts)


def agree(exponent: Term, share: Term) -> Term | None:
    """The secret of one's own exponent and the other's share; None where that is no share."""
    if not isinstance(share, Share):
        return None
    return Agreed(*sorted((exponent, share.exponent), key=repr))


def decapsulate(private: Term, ciphertext: Term) -> Term | None:
    """The secret in a ciphertext for this key; None for any other term.

    ML-KEM answers a foreign ciphertext with a secret that nobody else has, which no session survives: left out here.
    """
    match ciphertext:
        case KemCiphertext(coins, KemPublic(owner) as public) if owner is private:
            return KemSecret(coins, public)
    return None
