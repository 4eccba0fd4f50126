"""The ledger of an appraisal: ten numbered checks, each with what was expected, what came, and what it keeps out.

The numbers are the same here, in SPEC.md, in the tests and in the notebooks. 1 to 5 are gates: the first failure ends
them. 6 to 10 are claims, all evaluated and reported together. Rules stand beside the check they belong to, as 3a or
10a, and their failure fails that check too.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias

Number: TypeAlias = int | str


class Outcome(Enum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_EVALUATED = "not evaluated"


class Rule(NamedTuple):
    """A check as it stands in every ledger: name, source, what an attacker gains where it is skipped, what to do."""

    name: str
    reference: str
    if_skipped: str
    advice: str


RULES: dict[Number, Rule] = {
    1: Rule(
        "envelope is COSE_Sign1",
        "RFC 9052, 4.2; NSM attestation process, 3.1",
        "bytes that two programs read differently: one checks a signature over this, the other acts on that.",
        "Give the document's own bytes, not base64 or another wrapping.",
    ),
    2: Rule(
        "algorithm is ES384",
        "RFC 9052, 3.1; NSM attestation process, 3.1",
        "the sender chooses how he is checked, down to an algorithm that he can forge.",
        "Do not use it: Nitro signs with nothing else.",
    ),
    3: Rule(
        "document is complete",
        "NSM attestation process, 2.2 and 3.2.2",
        "a field given twice or left out: the check reads one value, the program another.",
        "Ask for another document; this one was not made by an NSM, or was damaged.",
    ),
    "3a": Rule(
        "an enclave's document",
        "AWS EC2 User Guide, NitroTPM attestation",
        "an ordinary instance with a NitroTPM passes for an enclave: same root, other meaning of its PCRs.",
        "Ask for a document of the enclave's own NSM.",
    ),
    4: Rule(
        "key is endorsed",
        "NSM attestation process, 3.2.3; RFC 5280, 6.1",
        "anybody makes a root that bears the right names, and signs what he likes.",
        "Name the right trust anchor (a simulator writes a new one at each start); an archived document has its own "
        "time (--at document).",
    ),
    5: Rule(
        "signature verifies",
        "RFC 9052, 4.4; RFC 9053, 2.1",
        "anybody edits the document on its way: PCRs, key and nonce included.",
        "Send nothing: the document was changed after it was signed.",
    ),
    "5a": Rule(
        "leaf is the module's",
        "observed on 114 genuine documents",
        "a key endorsed for one enclave speaks in another's name.",
        "Send nothing: no genuine document looks like this.",
    ),
    "5b": Rule(
        "PCR4 is the instance's",
        "AWS Nitro Enclaves User Guide, PCR4; observed on 113 genuine documents",
        "a document whose parts speak of two parent instances.",
        "Send nothing: no genuine document looks like this.",
    ),
    "5c": Rule(
        "signed in the leaf's life",
        "observed on 114 genuine documents",
        "a key kept beyond its three hours signs documents that look old, or yet to come.",
        "Send nothing: no genuine document looks like this.",
    ),
    6: Rule(
        "nonce is the challenge",
        "RFC 9334, 10; NSM attestation process, 2.2",
        "anyone on the path can put you back into an old session, key and counters included.",
        "Connect again; if it happens again, somebody on the path repeats old answers.",
    ),
    7: Rule(
        "age",
        "RFC 9334, 10",
        "a document recorded before the enclave was replaced or its flaw known still opens doors.",
        "Ask for a fresh document, and check this machine's clock.",
    ),
    8: Rule(
        "not in debug mode",
        "AWS Nitro Enclaves User Guide, debug mode",
        "the operator reads the enclave's console, and every image has the same zero PCRs.",
        "Ask the operator to run it without debug mode.",
    ),
    9: Rule(
        "PCRs are the reference values",
        "RFC 9334, 8.3; AWS Nitro Enclaves User Guide, PCRs",
        "a genuine enclave that runs a thief's program is welcome.",
        "Compare with the author's published values, or build the image yourself.",
    ),
    10: Rule(
        "key is the handshake's",
        "SPEC.md, H-7",
        "a genuine document about somebody else's session is shown to you: the key in yours is not the enclave's.",
        "Connect again; if it happens again, somebody on the path answers with others' documents.",
    ),
    "10a": Rule(
        "user_data is the handshake's",
        "SPEC.md, H-13",
        "whoever carries the answer puts keys of his own beside the document, and reads and writes along.",
        "Connect again; if it happens again, somebody on the path changes what travels beside the document.",
    ),
}
"""In the order of a ledger."""

LEFT_OUT = "Left out by "
"""How a line begins to explain that a policy does not ask for its check; the policy's name follows."""

GATES: tuple[Number, ...] = (1, 2, 3, "3a", 4, 5, "5a", "5b", "5c")


def parent_check(number: Number) -> int:
    """The check that a rule belongs to, 5 for "5a"; a check is its own."""
    return number if isinstance(number, int) else int(number[:-1])


class Check(NamedTuple):
    """One line of a ledger."""

    number: Number
    outcome: Outcome
    expected: str
    actual: str
    explanation: str = ""

    @property
    def rule(self) -> Rule:
        return RULES[self.number]

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def reference(self) -> str:
        """The source that demands the check."""
        return self.rule.reference

    @property
    def if_skipped(self) -> str:
        """What an attacker gains where a verifier leaves the check out."""
        return self.rule.if_skipped

    @property
    def failed(self) -> bool:
        return self.outcome is Outcome.FAILED

    def printable(self) -> Check:
        """Without control characters: names in unverified bytes may hold a terminal's."""
        return self._replace(expected=_printable(self.expected), actual=_printable(self.actual))

    def as_dict(self) -> dict[str, Number]:
        """The members that `workshop verify --json` prints."""
        return {
            "number": self.number,
            "name": self.name,
            "outcome": self.outcome.value,
            "expected": self.expected,
            "actual": self.actual,
            "explanation": self.explanation,
            "reference": self.reference,
            "if_skipped": self.if_skipped,
        }

    def __str__(self) -> str:
        line = f"{self.number!s:>3}  {self.name:<30} {self.outcome.value}"
        if self.outcome is Outcome.PASSED and not self.explanation:
            return line
        detail = [f"expected {self.expected}; got {self.actual}"] if self.failed else []
        detail += [self.explanation] if self.explanation else []
        detail += [f"If this check is skipped: {self.if_skipped}"] if self.failed else []
        return "\n".join([line, *(f"       {text}" for text in detail)])


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
