"""A reader for as much of ProVerif's language as our models use: names, arities and types, as its manual has them.

A sanity check and no more: what this accepts ProVerif may still refuse, and it proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_WORDS = """
among axiom barrier channel choice clauses const def diff do elimtrue else equation equivalence event expand fail for
forall foreach free fun get if implementation in inj-event insert lemma let letfun letproba new noninterf noselect not
nounif or otherwise out param phase pred proba process proof public_vars putbegin query reduc restriction secret select
set suchthat sync table then type weaksecret yield
"""
RESERVED = frozenset(_WORDS.split())
TOKEN = re.compile(r"\s+|(==>|<>|inj-event|[A-Za-z][\w']*|\d+|[()\[\];:,.=|!])")


class WrongModelError(Exception):
    """What does not fit, and the tokens before it."""


def tokens_of(text: str) -> list[str]:
    code = re.sub(r"\(\*.*?\*\)", " ", text, flags=re.DOTALL)
    found, at = [], 0
    while at < len(code):
        match = TOKEN.match(code, at)
        if match is None:
            raise WrongModelError(f"a character that belongs nowhere: {code[at : at + 20]!r}")
        found += [match[1]] if match[1] else []
        at = match.end()
    return found


class Reader:
    """Reads a whole model: `Reader(text).model()` gives its queries."""

    def __init__(self, text: str) -> None:
        self.tokens, self.at = tokens_of(text), 0
        self.types = {"bitstring", "channel", "bool", "nat"}
        self.functions: dict[str, tuple[list[str], str]] = {}
        self.names: dict[str, str] = {}
        self.events: dict[str, list[str]] = {}
        self.processes: dict[str, list[str]] = {}
        self.queries: list[str] = []

    # Tokens.

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def wrong(self, what: str) -> WrongModelError:
        return WrongModelError(f"{what}, after: {' '.join(self.tokens[max(0, self.at - 12) : self.at + 1])}")

    def take(self, *expected: str) -> str:
        token = self.next
        if expected and token not in expected:
            raise self.wrong(f"expected {' or '.join(expected)}, got {token!r}")
        self.at += 1
        return token

    def skip(self, token: str) -> bool:
        if self.next == token:
            self.at += 1
            return True
        return False

    def name(self) -> str:
        token = self.take()
        if not re.fullmatch(r"[A-Za-z][\w']*", token) or token in RESERVED:
            self.at -= 1
            raise self.wrong(f"expected a name, got {token!r}")
        return token

    def several(self, read: Callable[[], T], end: str) -> list[T]:
        found: list[T] = []
        while not self.skip(end):
            if found:
                self.take(",")
            found.append(read())
        return found

    def a_type(self) -> str:
        found = self.take()
        if found not in self.types:
            raise self.wrong(f"no type {found}")
        return found

    def typed(self) -> tuple[str, str]:
        """`name: type`"""
        found = self.name()
        self.take(":")
        return found, self.a_type()

    # Declarations.

    def model(self) -> list[str]:
        while not self.skip("process"):
            getattr(
                self,
                f"_{self.take('set', 'free', 'type', 'fun', 'reduc', 'equation', 'const', 'event', 'query', 'let')}",
            )()
        self.parallel(dict(self.names))
        if self.at != len(self.tokens):
            raise self.wrong("something behind the process")
        return self.queries

    def _set(self) -> None:
        self.name(), self.take("="), self.name(), self.take(".")

    def _options(self) -> None:
        if self.skip("["):
            self.several(lambda: self.take("private", "data", "typeConverter"), "]")
        self.take(".")

    def _free(self) -> None:
        found, kind = self.typed() if self.tokens[self.at + 1] == ":" else ("", "")
        self.names[found] = kind
        self._options()

    def _const(self) -> None:
        found, kind = self.typed()
        self.names[found] = kind
        self.take(".")

    def _type(self) -> None:
        self.types.add(self.name())
        self.take(".")

    def _fun(self) -> None:
        found = self.name()
        self.take("(")
        arguments = self.several(self.a_type, ")")
        self.take(":")
        self.functions[found] = arguments, self.a_type()
        self._options()

    def _variables(self) -> dict[str, str]:
        found = dict([self.typed()])
        while self.skip(","):
            found.update([self.typed()])
        self.take(";")
        return {**self.names, **found}

    def _reduc(self) -> None:
        self.take("forall")
        known = self._variables()
        found = self.name()
        self.take("(")
        arguments = self.several(lambda: self.term(known), ")")
        self.take("=")
        self.functions[found] = arguments, self.term(known)
        self.take(".")

    def _equation(self) -> None:
        self.take("forall")
        known = self._variables()
        left = self.term(known)
        self.take("=")
        if self.term(known) != left:
            raise self.wrong("two sides of different types")
        self.take(".")

    def _event(self) -> None:
        found = self.name()
        self.take("(")
        self.events[found] = self.several(self.a_type, ")")
        self.take(".")

    def _query(self) -> None:
        start = self.at
        known = dict(self.names) if self.tokens[self.at + 1] == "(" else self._variables()
        self._fact(known)
        if self.skip("==>"):
            self._fact(known)
        self.queries.append("".join(self.tokens[start : self.at]))
        self.take(".")

    def _fact(self, known: dict[str, str]) -> None:
        if self.take("attacker", "inj-event") == "attacker":
            self.take("(")
            self.several(lambda: self.term(known), ")")
        else:
            self.take("(")
            self._happens(known)
            self.take(")")

    def _happens(self, known: dict[str, str]) -> None:
        found = self.name()
        self.take("(")
        self._fits(found, self.events.get(found), self.several(lambda: self.term(known), ")"))

    def _let(self) -> None:
        found = self.name()
        self.take("(")
        parameters = self.several(self.typed, ")")
        self.take("=")
        self.parallel({**self.names, **dict(parameters)})
        self.processes[found] = [kind for _, kind in parameters]
        self.take(".")

    # Terms and patterns; each gives its type.

    def _fits(self, found: str, wanted: list[str] | None, given: list[str]) -> None:
        if wanted != given:
            raise self.wrong(f"{found}: expected {wanted}, got {given}")

    def term(self, known: dict[str, str]) -> str:
        if self.skip("("):
            parts = self.several(lambda: self.term(known), ")")
            return parts[0] if len(parts) == 1 else "bitstring"
        found = self.name()
        if self.skip("("):
            arguments, kind = self.functions.get(found, (None, ""))
            self._fits(found, arguments, self.several(lambda: self.term(known), ")"))
            return kind
        if found not in known:
            raise self.wrong(f"{found} is not declared")
        return known[found]

    def pattern(self, known: dict[str, str], kind: str | None = None) -> None:
        """Adds to `known` what the pattern binds."""
        if self.skip("="):
            self.term(dict(known))
        elif self.skip("("):
            bound: dict[str, str] = {}
            while True:
                inner = dict(known)
                self.pattern(inner)
                bound |= {name: each for name, each in inner.items() if name not in known or known[name] != each}
                if self.take(",", ")") == ")":
                    break
            known |= bound
        elif self.tokens[self.at + 1] == "(":
            found = self.name()
            self.take("(")
            [argument] = self.functions[found][0]
            self.pattern(known, argument)
            self.take(")")
        else:
            found = self.name()
            stated = self.a_type() if self.skip(":") else kind
            if stated is None:
                raise self.wrong(f"{found} has no type")
            known[found] = stated

    # Processes.

    def parallel(self, known: dict[str, str]) -> None:
        self.process(dict(known))
        while self.skip("|"):
            self.process(dict(known))

    def process(self, known: dict[str, str]) -> None:
        if self.skip("("):
            self.parallel(known)
            self.take(")")
        elif self.skip("!"):
            self.process(known)
        elif self.next in ("new", "in", "out", "event", "phase"):
            getattr(self, f"_does_{self.take()}")(known)
            if self.skip(";"):
                self.process(known)
        elif self.skip("let"):
            before = self.at
            while self.take() != "=" or self.tokens[self.at - 2] in "(,":  # "=" of a pattern stands behind ( or ,
                pass
            kind = self.term(dict(known))
            after, self.at = self.at, before
            self.pattern(known, kind)
            self.at = after
            self.take("in")
            self.process(known)
        elif self.skip("if"):
            left = self.term(known)
            self.take("=", "<>")
            if self.term(known) != left:
                raise self.wrong("a comparison of two types")
            self.take("then")
            self.process(known)
        else:
            found = self.name()
            self.take("(")
            self._fits(found, self.processes.get(found), self.several(lambda: self.term(known), ")"))

    def _does_new(self, known: dict[str, str]) -> None:
        known.update([self.typed()])

    def _does_in(self, known: dict[str, str]) -> None:
        self._channel(known)
        self.pattern(known)
        self.take(")")

    def _does_out(self, known: dict[str, str]) -> None:
        self._channel(known)
        self.term(known)
        self.take(")")

    def _channel(self, known: dict[str, str]) -> None:
        self.take("(")
        if self.term(known) != "channel":
            raise self.wrong("no channel")
        self.take(",")

    def _does_event(self, known: dict[str, str]) -> None:
        self._happens(known)

    def _does_phase(self, _known: dict[str, str]) -> None:
        if not self.take().isdigit():
            raise self.wrong("no number of a phase")
