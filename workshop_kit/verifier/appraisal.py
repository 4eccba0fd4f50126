"""Appraisal: from bytes that anyone may have sent to claims that somebody vouches for. Explained in notebook 05.

The steps bear the numbers of the ledger:

    gates, stopping at the first failure          claims, all evaluated and reported together
    1  the envelope is COSE_Sign1                 6   the nonce is the challenge
    2  its algorithm is ES384 and nothing else    7   the document is young enough
    3  the document is complete, within limits    8   the enclave is not in debug mode
    4  the anchor endorses the leaf's key, now    9   the PCRs are the reference values
    5  the signature is that key's                10  the key is the handshake's
                                                  10a so is user_data, where it is demanded

This file decides; what a ledger then says stands in `wording`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from hmac import compare_digest

from workshop_kit.errors import EndorsementError, MalformedEvidenceError
from workshop_kit.evidence import cose, pcr
from workshop_kit.evidence.document import AttestationDocument, read_document, read_envelope, require_es384
from workshop_kit.verifier import wording
from workshop_kit.verifier.endorsements import Endorsement, TrustAnchor, endorse
from workshop_kit.verifier.ledger import GATES, Check, Number, Outcome, parent_check
from workshop_kit.verifier.policy import CLOCK_SKEW, AnyPolicy, Demands
from workshop_kit.verifier.reference_values import zero_or_absent
from workshop_kit.verifier.result import AppraisalResult, Claims

__all__ = ["AppraisalResult", "Check", "Claims", "Outcome", "appraise"]

PASSED, FAILED, NOT_EVALUATED = Outcome.PASSED, Outcome.FAILED, Outcome.NOT_EVALUATED


def appraise(evidence: bytes, policy: AnyPolicy, *, now: datetime) -> AppraisalResult:
    """Appraise an attestation document under `policy`, at the aware time `now`.

    Always returns a ledger, for any bytes at all; only `.claims` of the result raises. Not guaranteed by an affirming
    result: that `evidence` is unique. (r, n - s) is as valid a signature as (r, s), so a document's bytes or their
    digest identify nothing; the nonce does.

    Raises:
        TypeError, ValueError: the caller's mistakes: `evidence` is no bytes, `now` has no time zone.
    """
    if not isinstance(evidence, bytes):
        raise TypeError(f"appraise() needs the document's bytes, got {type(evidence).__name__}")
    if now.utcoffset() is None:
        raise ValueError("appraise() needs an aware time: datetime.now(UTC), not datetime.now()")
    gates: _Gates | None = None
    results = []
    for demands in policy.alternatives:
        # Gates depend on the anchor alone, so alternatives under one anchor share them.
        if gates is None or gates.anchors != demands.anchors:
            gates = _Gates(evidence, demands.anchors, now)
        results.append(_result(gates, demands, now))
        if results[-1].affirmed:
            return results[-1]
    return _nearest(results)


def _result(gates: _Gates, demands: Demands, now: datetime) -> AppraisalResult:
    document = gates.document
    if document is None or gates.failed is not None:
        return AppraisalResult(False, document, gates.lines)
    outcomes: dict[Number, Outcome] = {number: decide(document, demands, now) for number, decide in _CLAIMS.items()}
    passed = {number for number, outcome in outcomes.items() if outcome is PASSED}
    affirmed = passed >= demands.required and FAILED not in outcomes.values()

    def lines() -> dict[Number, Check]:
        claims = {number: wording.claim(number, outcomes[number], document, demands, now) for number in _CLAIMS}
        return gates.lines() | _failing_together(claims)

    return AppraisalResult(affirmed, document, lines)


def _failing_together(claims: dict[Number, Check]) -> dict[Number, Check]:
    """The same lines, but that a failed rule such as 10a fails the check that it stands beside."""
    failed = {parent_check(number): check for number, check in claims.items() if check.failed}
    return claims | {
        number: check._replace(number=number) for number, check in failed.items() if not claims[number].failed
    }


def _nearest(results: list[AppraisalResult]) -> AppraisalResult:
    """Of refusals under one policy the one with most checks passed; it knows the others."""
    if len(results) == 1:
        return results[0]
    nearest = max(results, key=lambda result: sum(check.outcome is PASSED for check in result.checks))
    return AppraisalResult(False, nearest.document, nearest.lines, tuple(results))


class _Gates:
    """Checks 1 to 5 with the rules beside them, up to the first that fails."""

    def __init__(self, evidence: bytes, anchors: tuple[TrustAnchor, ...], now: datetime) -> None:
        self.size = len(evidence)
        self.anchors = anchors
        self.document: AttestationDocument | None = None
        self.leaf: Endorsement | None = None
        self.said: wording.Pair | None = None  # by the reader that refused
        self.failed: Number | None
        try:
            self.failed = self.first_failure(evidence, now)
        except MalformedEvidenceError as error:
            self.failed, self.said = error.check, (error.expected, error.actual)
        except EndorsementError as error:
            self.failed, self.said = 4, (error.expected, error.actual)

    def first_failure(self, evidence: bytes, now: datetime) -> Number | None:
        envelope = read_envelope(evidence)  # 1
        require_es384(envelope)  # 2
        document = self.document = read_document(envelope.payload)  # 3, 3a
        for anchor in self.anchors:
            leaf = self.leaf = endorse(document, anchor, now=now)  # 4
        # Over the bytes as received, by the key that check 4 endorsed.
        if not envelope.verifies(leaf.key, cose.Algorithm.ES384):
            return 5
        return _disagreement(document, leaf)

    def lines(self) -> dict[Number, Check]:
        """What the ledger says. A failed rule such as 5a fails the check that it belongs to."""
        if self.failed is None:
            return {number: Check(number, PASSED, *self.words(number)) for number in GATES}
        words = self.said or self.words(self.failed)
        both = {number: Check(number, FAILED, *words) for number in (parent_check(self.failed), self.failed)}
        before = [number for number in GATES[: GATES.index(self.failed)] if number not in both]
        return {number: Check(number, PASSED, *self.words(number)) for number in before} | both

    def words(self, number: Number) -> wording.Pair:
        return wording.gate(number, self.size, self.anchors[0], self.document, self.leaf, failed=number == self.failed)


def _disagreement(document: AttestationDocument, leaf: Endorsement) -> Number | None:
    """The first that is broken of the rules that no text states and every genuine document keeps."""
    if leaf.leaf_name.partition(".")[0] != document.module_id:
        return "5a"
    measured = document.pcrs.get(pcr.Pcr.PARENT_INSTANCE_ID)
    if measured is not None and measured != pcr.measure_name(document.instance_id):
        return "5b"
    # Certificates count whole seconds, documents milliseconds: the last second belongs to the life.
    return None if leaf.not_before <= document.time.replace(microsecond=0) <= leaf.not_after else "5c"


def _nonce(document: AttestationDocument, demands: Demands, _: datetime) -> Outcome:
    """Check 6. Absent differs from empty: neither is ever the challenge."""
    return _equal_to_each(demands.nonces, document.nonce)


def _age(document: AttestationDocument, demands: Demands, now: datetime) -> Outcome:
    """Check 7."""
    return NOT_EVALUATED if 7 in demands.waived else _outcome(-CLOCK_SKEW <= now - document.time <= demands.max_age)


def _debug(document: AttestationDocument, demands: Demands, _: datetime) -> Outcome:
    """Check 8. A document that leaves one of them out does not show that the enclave is closed."""
    return NOT_EVALUATED if 8 in demands.waived else _outcome(not zero_or_absent(document.pcrs))


def _reference_values(document: AttestationDocument, demands: Demands, _: datetime) -> Outcome:
    """Check 9. A reference value that is zero is compared like any other."""
    if 9 in demands.waived or not demands.reference_values:
        return NOT_EVALUATED
    return _outcome(not any(values.differing(document.pcrs) for values in demands.reference_values))


def _key(document: AttestationDocument, demands: Demands, _: datetime) -> Outcome:
    """Check 10."""
    return _equal_to_each(demands.public_keys, document.public_key)


def _user_data(document: AttestationDocument, demands: Demands, _: datetime) -> Outcome:
    """Rule 10a."""
    return _equal_to_each(demands.user_datas, document.user_data)


_CLAIMS: dict[Number, Callable[[AttestationDocument, Demands, datetime], Outcome]] = {
    6: _nonce,
    7: _age,
    8: _debug,
    9: _reference_values,
    10: _key,
    "10a": _user_data,
}


def _equal_to_each(wanted: tuple[bytes, ...], came: bytes | None) -> Outcome:
    if not wanted:
        return NOT_EVALUATED
    return _outcome(came is not None and all(compare_digest(came, value) for value in wanted))


def _outcome(passed: bool) -> Outcome:
    return PASSED if passed else FAILED
