"""Appraisal: from bytes that anyone may have sent to claims that somebody vouches for. Explained in notebook 05.

The steps bear the numbers of the ledger:

    gates, stopping at the first failure          claims, all evaluated and reported together
    1  the envelope is COSE_Sign1                 6   the nonce is the challenge
    2  its algorithm is ES384 and nothing else    7   the document is young enough
    3  the document is complete, within limits    8   the enclave is not in debug mode
    4  the anchor endorses the leaf's key, now    9   the PCRs are the reference values
    5  the signature is that key's                10  the key is the handshake's

This file decides; what a ledger then says stands in `wording`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hmac import compare_digest

from workshop_kit.errors import EndorsementError, MalformedEvidenceError
from workshop_kit.evidence import cose, pcr
from workshop_kit.evidence.document import AttestationDocument, read_document, read_envelope, require_es384
from workshop_kit.verifier import wording
from workshop_kit.verifier.endorsements import Endorsement, TrustAnchor, endorse
from workshop_kit.verifier.ledger import Check, Note, Number, Outcome, Words, parent_check
from workshop_kit.verifier.policy import CLOCK_SKEW, AnyPolicy, Demands
from workshop_kit.verifier.reference_values import IMAGE_PCRS
from workshop_kit.verifier.result import AppraisalResult, Claims

__all__ = ["AppraisalResult", "Check", "Claims", "Outcome", "appraise"]


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
    gates: dict[tuple[TrustAnchor, ...], _Gates] = {}
    results = []
    for demands in policy.alternatives:
        # Gates depend on the anchor alone, so alternatives under one anchor share them.
        passed = gates.get(demands.anchors) or _Gates(evidence, demands.anchors, now)
        gates[demands.anchors] = passed
        results.append(_result(passed, demands, now))
        if results[-1].affirmed:
            break
    return results[-1] if results[-1].affirmed else _nearest(results)


def _result(gates: _Gates, demands: Demands, now: datetime) -> AppraisalResult:
    if not gates.passed or gates.document is None:
        return AppraisalResult(False, gates.document, gates.notes)
    claims = _Claims(gates.document, demands, now).notes
    outcomes = {number: outcome for number, (outcome, _) in claims.items()}
    required = [outcomes[number] is Outcome.PASSED for number in demands.required]
    affirmed = all(required) and Outcome.FAILED not in outcomes.values()
    return AppraisalResult(affirmed, gates.document, gates.notes | claims)


def _nearest(results: list[AppraisalResult]) -> AppraisalResult:
    """Of refusals under one policy the one with most checks passed; it knows the others."""
    nearest = max(results, key=lambda result: sum(check.outcome is Outcome.PASSED for check in result.checks))
    if len(results) == 1:
        return nearest
    return AppraisalResult(False, nearest.document, nearest.notes, tuple(results))


class _Gates:
    """Checks 1 to 5 with the rules beside them. They depend on the trust anchor alone, not on further demands."""

    def __init__(self, evidence: bytes, anchors: tuple[TrustAnchor, ...], now: datetime) -> None:
        self.notes: dict[Number, Note] = {}
        self.document: AttestationDocument | None = None
        try:
            self.passed = self.through(evidence, anchors, now)
        except MalformedEvidenceError as error:
            self.passed = self.note(error.check, False, _said(error))
        except EndorsementError as error:
            self.passed = self.note(4, False, _said(error))

    def note(self, number: Number, passed: bool, words: Words) -> bool:
        """Write a line down; a failed rule such as 5a fails the check that it belongs to."""
        self.notes[number] = (Outcome.PASSED if passed else Outcome.FAILED, words)
        if not passed:
            self.notes[parent_check(number)] = self.notes[number]
        return passed

    def through(self, evidence: bytes, anchors: tuple[TrustAnchor, ...], now: datetime) -> bool:
        envelope = read_envelope(evidence)
        self.note(1, True, lambda: wording.envelope(len(evidence)))
        require_es384(envelope)
        self.note(2, True, wording.algorithm)
        document = self.document = read_document(envelope.payload)
        self.note(3, True, lambda: wording.complete(document))
        self.note("3a", True, wording.of_an_enclave)
        for anchor in anchors:
            endorsement = endorse(document, anchor, now=now)
        self.note(4, True, lambda: wording.endorsed(anchors[0], endorsement))
        # Over the bytes as received, by the key that check 4 endorsed.
        verifies = envelope.verifies(endorsement.key, cose.Algorithm.ES384)
        return self.note(5, verifies, lambda: wording.signature(verifies)) and self.agree(document, endorsement)

    def agree(self, document: AttestationDocument, leaf: Endorsement) -> bool:
        """Rules that no text states and that every genuine document keeps."""
        same = leaf.leaf_name.partition(".")[0] == document.module_id
        measured = document.pcrs.get(pcr.Pcr.PARENT_INSTANCE_ID)
        instances = measured is None or measured == pcr.measure_name(document.instance_id)
        # Certificates count whole seconds, documents milliseconds: the last second belongs to the life.
        lives = leaf.not_before <= document.time.replace(microsecond=0) <= leaf.not_after
        return (
            self.note("5a", same, lambda: wording.module(document, leaf))
            and self.note("5b", instances, lambda: wording.instance(document, measured))
            and self.note("5c", lives, lambda: wording.life(document, leaf))
        )


class _Claims:
    """Checks 6 to 10 of a document that passed the gates."""

    def __init__(self, document: AttestationDocument, demands: Demands, now: datetime) -> None:
        self.notes: dict[Number, Note] = {}
        self.demands = demands
        self.nonce(document.nonce)
        self.age(now - document.time)
        self.debug(document)
        self.reference_values(document)
        self.key(document.public_key)

    def note(self, number: int, passed: bool, words: Words) -> None:
        self.notes[number] = (Outcome.PASSED if passed else Outcome.FAILED, words)

    def leave_out(self, number: int, reason: str) -> None:
        self.notes[number] = (Outcome.NOT_EVALUATED, lambda: ("", "", reason))

    def is_waived(self, number: int) -> bool:
        if number not in self.demands.waived:
            return False
        self.leave_out(number, f"Left out by {self.demands.waived[number]}.")
        return True

    def nonce(self, came: bytes | None) -> None:
        """Check 6. Absent differs from empty: neither is ever the challenge."""
        challenges = self.demands.nonces
        if not challenges:
            return self.leave_out(6, "No challenge was given: nothing shows that the document answers anybody.")
        same = came is not None and all(compare_digest(came, challenge) for challenge in challenges)
        return self.note(6, same, lambda: wording.nonce(challenges[0], came, same))

    def age(self, age: timedelta) -> None:
        """Check 7."""
        if not self.is_waived(7):
            most = self.demands.max_age
            self.note(7, -CLOCK_SKEW <= age <= most, lambda: wording.age(age, most))

    def debug(self, document: AttestationDocument) -> None:
        """Check 8."""
        if not self.is_waived(8):
            # A document that leaves one out does not show that the enclave is closed.
            zero = [index for index in IMAGE_PCRS if document.pcrs.get(index, pcr.ZERO) == pcr.ZERO]
            self.note(8, not zero, lambda: wording.debug(document, zero))

    def reference_values(self, document: AttestationDocument) -> None:
        """Check 9. A reference value that is zero is compared like any other."""
        wanted = self.demands.reference_values
        if self.is_waived(9):
            return None
        if not wanted:
            return self.leave_out(9, "No reference values were given: any image at all may be running.")
        differing = [values for values in wanted if values.differing(document.pcrs)]
        return self.note(9, not differing, lambda: wording.measurements(document, (differing or wanted)[0]))

    def key(self, came: bytes | None) -> None:
        """Check 10."""
        wanted = self.demands.public_keys
        if not wanted:
            return self.leave_out(10, "No handshake: there is no key to compare.")
        same = came is not None and all(compare_digest(came, key) for key in wanted)
        return self.note(10, same, lambda: wording.key(wanted[0], came))


def _said(error: MalformedEvidenceError | EndorsementError) -> Words:
    expected, actual = error.expected, error.actual
    return lambda: (expected, actual, "")
