"""What an appraisal gives back: a ledger for everybody, claims for those whom it affirms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

from workshop_kit.errors import AppraisalError
from workshop_kit.evidence.document import AttestationDocument
from workshop_kit.verifier.ledger import GATES, LEFT_OUT, RULES, Check, Number, Outcome, parent_check


class Claims(NamedTuple):
    """What a document says, after an appraisal has affirmed it.

    Not guaranteed: that the measured program is right, or that its operator delivers your bytes. Affirmed evidence says
    which program, on whose word, and when.
    """

    document: AttestationDocument

    @property
    def pcrs(self) -> dict[int, bytes]:
        return dict(self.document.pcrs)

    @property
    def user_data(self) -> bytes | None:
        return self.document.user_data


class AppraisalResult:
    """The outcome of one appraisal: the ledger, and the claims for those whom it affirms.

    Attributes:
        affirmed: whether every check that the policy requires passed, and none failed.
        document: as read, unverified; None where the bytes hold none. For explaining a refusal, never for use.
        alternatives: where the policy offers several ways to pass and none affirms, the results of all. This one came
            nearest.
    """

    def __init__(
        self,
        affirmed: bool,
        document: AttestationDocument | None,
        lines: Callable[[], Mapping[Number, Check]],
        alternatives: tuple[AppraisalResult, ...] = (),
    ) -> None:
        self.affirmed = affirmed
        self.document = document
        self.lines = lines
        self.alternatives = alternatives

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The ledger's lines, in its order. Words are made here: most ledgers are never read."""
        lines = self.lines()
        unreached = ("", "", "An earlier check failed.")
        ledger = [lines.get(number, Check(number, Outcome.NOT_EVALUATED, *unreached)) for number in RULES]
        return tuple([check.printable() for check in ledger])

    @property
    def claims(self) -> Claims:
        """The verified claims.

        Raises:
            AppraisalError: unless the result affirms.
        """
        if not self.affirmed or self.document is None:
            raise AppraisalError(self.summary, result=self)
        return Claims(self.document)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed, in the ledger's order."""
        return tuple(check for check in self.checks if check.failed)

    def __getitem__(self, number: Number) -> Check:
        for check in self.checks:
            if check.number == number:
                return check
        raise KeyError(f"expected the number of a check, {', '.join(map(str, RULES))}, got {number!r}")

    def __repr__(self) -> str:
        return f"AppraisalResult({self.summary})"

    @property
    def summary(self) -> str:
        """One line: affirmed, or the first failure with expected and actual."""
        if self.affirmed:
            return "affirmed: every check that the policy requires passed"
        if not self.failed:
            return f"not affirmed: {self[9].explanation}"  # the one claim that every plain policy wants to be told
        worst = self._telling()
        told = {*GATES, worst.number, parent_check(worst.number)}
        more = ", ".join(str(check.number) for check in self.failed if check.number not in told)
        text = f"refused by check {worst.number}{f' (and {more})' if more else ''}, {worst.name}: "
        text += f"expected {worst.expected}; got {worst.actual}"
        ways = len(self.alternatives)
        others = f"None of {ways} alternatives affirms; this one came nearest" if ways else ""
        parts = (text, worst.explanation, worst.rule.advice, others)
        return ". ".join(part.removesuffix(".") for part in parts if part) + "."

    def _telling(self) -> Check:
        """The failure to name first: of a check and the rule beside it that says the same, the rule."""
        first, *others = self.failed
        same = [check for check in others if check._replace(number=first.number) == first]
        return same[0] if same else first

    def to_json(self) -> str:
        """The object that `workshop verify --json` prints: `affirmed` and `checks`."""
        import json

        checks = [check.as_dict() for check in self.checks]
        return json.dumps({"affirmed": self.affirmed, "checks": checks}, indent=2, ensure_ascii=False)

    def __bool__(self) -> bool:
        """`affirmed`: a refusal that counted as true would be taken for one."""
        return self.affirmed

    @property
    def verdict(self) -> str:
        """What stands below a ledger: the summary, what a policy left out, and whether the evidence is simulated."""
        verdict = "affirmed" if self.affirmed else self.summary
        left_out = [check for check in self.checks if check.explanation.startswith(LEFT_OUT)]
        if self.affirmed and left_out:
            names = " and ".join(f"{check.number}, {check.name}" for check in left_out)
            verdict += f", with check {names}, left out: {left_out[0].explanation}"
        if self.document is not None and self.document.is_simulated:
            verdict += "\nSimulated evidence: no hardware stands behind it."
        if self.document is not None and self.document.is_unisolated:
            verdict += "\nUnisolated: nothing keeps its app from the machine that it runs on."
        return verdict

    def __str__(self) -> str:
        return "\n".join([*(str(check) for check in self.checks), self.verdict])

    def _repr_html_(self) -> str:
        """What a notebook shows of a result."""
        from workshop_kit.verifier.view import as_html

        return as_html(self.checks, self.verdict)
