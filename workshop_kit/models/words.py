"""Terms in words: what a trace calls them. It knows the kinds of terms and how names are spelled, and no protocol."""

from __future__ import annotations

from workshop_kit.models.terms import (
    Agreed,
    Derived,
    Digest,
    KemCiphertext,
    KemPublic,
    KemSecret,
    Name,
    Pack,
    Public,
    Sealed,
    Share,
    Signed,
    Term,
    Wrapped,
)


class Vocabulary:
    """Says terms in words, and those that have a title by it."""

    def __init__(self) -> None:
        self.titles: dict[Term, str] = {}

    def learn(self, title: str, term: Term) -> None:
        self.titles.setdefault(term, title)

    def say(self, term: Term) -> str:
        return self.titles.get(term) or self.describe(term)

    def describe(self, term: Term) -> str:
        """In words even where it has a title; its parts are called by theirs."""
        match term:
            case Name(text, _):
                return text
            case Pack(parts):
                return f"({', '.join(self._part(part, parts) for part in parts)})"
            case Signed(message, private):
                return f"{self.say(message)} signed by {_owner(private)}"
            case Wrapped(message, Public(private)):
                return f"{self.say(message)} wrapped for {_owner(private)}"
            case Sealed(message, key):
                return f"{self.say(message)} sealed under {self.say(key)}"
            case Digest(message):
                return f"digest of {self.say(message)}"
            case Derived(label, secret, context):
                return f"the key '{label}' from {self.say(secret)} and {self.say(context)}"
        return _describe_halves(term)

    def _part(self, part: Term, beside: tuple[Term, ...]) -> str:
        """A signature over what stands beside it anyway is no second copy of that."""
        match part:
            case Signed(Pack((label, *rest)), private) if {*rest} <= {*beside} and isinstance(label, Name):
                return f"signature of {_owner(private)} over these and {label.text}"
        return self.say(part)


def _describe_halves(term: Term) -> str:
    """Public halves of keys, and what two of them give."""
    match term:
        case Public(private):
            return f"{_owner(private)}'s public key"
        case Share(exponent):
            return f"{_owner(exponent)}'s X25519 share"
        case KemPublic(private):
            return f"{_owner(private)}'s ML-KEM key"
        case Agreed(one, other):
            return f"the X25519 secret of {_owner(one)} and {_owner(other)}"
        case KemCiphertext(coins, KemPublic(private)):
            return f"{_owner(coins)}'s ML-KEM ciphertext for {_owner(private)}"
        case KemSecret(coins, KemPublic(private)):
            return f"the ML-KEM secret of {_owner(coins)} and {_owner(private)}"
    return repr(term)


def _owner(term: Term) -> str:
    """Alice, of "Alice's private key"."""
    return term.text.partition("'s ")[0] if isinstance(term, Name) else repr(term)
