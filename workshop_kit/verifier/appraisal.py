"""Appraisal: from bytes that anyone may have sent to claims that somebody vouches for. Explained in notebook 05.

The steps bear the numbers of the ledger:

    gates, stopping at the first failure          claims, all evaluated and reported together
    1  the envelope is COSE_Sign1                 6   the nonce is the challenge
    2  its algorithm is ES384 and nothing else    7   the document is young enough
    3  the document is complete, within limits    8   the enclave is not in debug mode
    4  the anchor endorses the leaf's key, now    9   the PCRs are the reference values
    5  the signature is that key's                10  the key is the handshake's
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from hmac import compare_digest

from workshop_kit.errors import EndorsementError, MalformedEvidenceError
from workshop_kit.evidence import cose, pcr
from workshop_kit.evidence.document import AttestationDocument, read_document, read_envelope, require_es384
from workshop_kit.verifier.endorsements import Endorsement, endorse, show
from workshop_kit.verifier.ledger import (
    GATES,
    RULES,
    AppraisalResult,
    Check,
    Claims,
    Number,
    Outcome,
    parent_check,
)
from workshop_kit.verifier.policy import CLOCK_SKEW, Policy
from workshop_kit.verifier.reference_values import IMAGE_PCRS

__all__ = ["AppraisalResult", "Check", "Claims", "Outcome", "appraise"]


def appraise(evidence: bytes, policy: Policy, *, now: datetime) -> AppraisalResult:
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
    appraisal = _Appraisal(policy, now)
    if appraisal.gates(evidence):
        appraisal.claims()
    return appraisal.result()


class _Appraisal:
    def __init__(self, policy: Policy, now: datetime) -> None:
        self.policy = policy
        self.now = now
        self.lines: dict[Number, Check] = {}
        self.document: AttestationDocument | None = None

    def note(self, number: Number, passed: bool, expected: str, actual: str, explanation: str = "") -> None:
        outcome = Outcome.PASSED if passed else Outcome.FAILED
        self.lines[number] = Check(number, outcome, _printable(expected), _printable(actual), explanation)

    def close(self, number: Number, expected: str, actual: str) -> bool:
        """Write down a failed gate and, for a rule such as 5a, the check that it belongs to; nothing follows."""
        self.note(parent_check(number), False, expected, actual)
        self.note(number, False, expected, actual)
        return False

    def skip(self, number: Number, reason: str) -> None:
        self.lines[number] = Check(number, Outcome.NOT_EVALUATED, "", "", reason)

    def gates(self, evidence: bytes) -> bool:
        try:
            envelope = read_envelope(evidence)
            self.note(1, True, "a COSE_Sign1", f"a COSE_Sign1 of {len(evidence)} bytes")
            require_es384(envelope)
            self.note(2, True, "ES384 and nothing else", "ES384")
            document = self.document = read_document(envelope.payload)
            self.note(3, True, "the nine fields, each once and within limits", f"all, with {len(document.pcrs)} PCRs")
            self.note("3a", True, "an enclave's document", "an enclave's")
            endorsement = endorse(document, self.policy.trust_anchor, now=self.now)
            self.note(4, True, f"a path from {self.policy.trust_anchor.name} to the leaf", endorsement.leaf_name)
        except MalformedEvidenceError as error:
            return self.close(error.check, error.expected, error.actual)
        except EndorsementError as error:
            return self.close(4, error.expected, error.actual)
        # Check 5: over the bytes as received, by the key that check 4 endorsed.
        if not envelope.verifies(endorsement.key, cose.Algorithm.ES384):
            return self.close(5, "a signature by the leaf's key", "one that does not verify")
        self.note(5, True, "a signature by the leaf's key", "one that verifies")
        return self.consistency(document, endorsement)

    def consistency(self, document: AttestationDocument, endorsement: Endorsement) -> bool:
        """Rules that no text states and that every genuine document keeps (5a, 5b, 5c)."""
        expected = f"a leaf for {document.module_id}"
        if endorsement.leaf_name.split(".")[0] != document.module_id:
            return self.close("5a", expected, endorsement.leaf_name or "one without a name")
        self.note("5a", True, expected, endorsement.leaf_name)
        measured, expected = document.pcrs.get(pcr.Pcr.PARENT_INSTANCE_ID), f"PCR4 of {document.instance_id}, or none"
        if measured not in (None, pcr.measure_name(document.instance_id)):
            return self.close("5b", expected, _short(measured))
        self.note("5b", True, expected, _short(measured))
        expected = f"a time from {show(endorsement.not_before)} to {show(endorsement.not_after)}"
        # Certificates count whole seconds, documents milliseconds: the last second belongs to the life.
        if not endorsement.not_before <= document.time.replace(microsecond=0) <= endorsement.not_after:
            return self.close("5c", expected, show(document.time))
        self.note("5c", True, expected, show(document.time))
        return True

    def claims(self) -> None:
        document = self.document
        assert document is not None  # all gates passed
        self.nonce(document)
        self.age(document)
        self.debug(document)
        self.reference_values(document)
        self.key(document)

    def nonce(self, document: AttestationDocument) -> None:
        """Check 6. Absent differs from empty: neither is ever the challenge."""
        challenge = self.policy.nonce
        if challenge is None:
            self.skip(6, "No challenge was given: nothing shows that the document answers anybody.")
            return
        came = document.nonce
        same = came is not None and compare_digest(came, challenge)
        self.note(
            6,
            same,
            f"this challenge's {len(challenge)} bytes",
            "the same" if same else "none" if came is None else f"{len(came)} others",
            "" if same else _not_the_answer(came),
        )

    def age(self, document: AttestationDocument) -> None:
        """Check 7."""
        if 7 in self.policy.waived:
            self.skip(7, f"Left out by {type(self.policy).__name__}.")
            return
        age = self.now - document.time
        explanation = ""
        if age == timedelta():
            explanation = "Appraised at the document's own time: its age then shows nothing."
        elif age < -CLOCK_SKEW:
            explanation = "It was signed in the verifier's future: one of the two clocks is wrong."
        passed = -CLOCK_SKEW <= age <= self.policy.max_age
        self.note(7, passed, f"at most {_duration(self.policy.max_age)}", _duration(age), explanation)

    def debug(self, document: AttestationDocument) -> None:
        """Check 8."""
        if 8 in self.policy.waived:
            self.skip(8, f"Left out by {type(self.policy).__name__}.")
            return
        # A document that leaves one out does not show that the enclave is closed.
        open_ = [index for index in IMAGE_PCRS if document.pcrs.get(index, pcr.ZERO) == pcr.ZERO]
        actual = ", ".join(f"PCR{index} {_short(document.pcrs.get(index))}" for index in open_)
        self.note(8, not open_, "PCR0, PCR1 and PCR2, none of them zero", actual or "none of them zero")

    def reference_values(self, document: AttestationDocument) -> None:
        """Check 9. A reference value that is zero is compared like any other."""
        expected = self.policy.reference_values
        if 9 in self.policy.waived:
            self.skip(9, f"Left out by {type(self.policy).__name__}.")
            return
        if expected is None:
            self.skip(9, "No reference values were given: any image at all may be running.")
            return
        differing = expected.differing(document.pcrs)
        shown = differing or tuple(sorted(expected.pcrs))
        self.note(
            9,
            not differing,
            ", ".join(f"PCR{index} {_short(expected.pcrs[index])}" for index in shown),
            ", ".join(f"PCR{index} {_short(document.pcrs.get(index))}" for index in shown),
            expected.explain(document.pcrs),
        )

    def key(self, document: AttestationDocument) -> None:
        """Check 10."""
        wanted = self.policy.public_key
        if wanted is None:
            self.skip(10, "No handshake: there is no key to compare.")
            return
        came = document.public_key
        self.note(
            10,
            came is not None and compare_digest(came, wanted),
            f"the key with SHA-256 {_fingerprint(wanted)}",
            "none" if came is None else _fingerprint(came),
        )

    def result(self) -> AppraisalResult:
        for number in RULES.keys() - self.lines.keys():
            self.skip(number, "An earlier check failed.")
        checks = tuple(self.lines[number] for number in RULES)
        passed = {check.number for check in checks if check.outcome is Outcome.PASSED}
        failed = any(check.failed for check in checks)
        affirmed = not failed and passed.issuperset(GATES) and passed.issuperset(self.policy.required)
        return AppraisalResult(checks, affirmed, self.document)


def _not_the_answer(nonce: bytes | None) -> str:
    if nonce is None:
        return "The document answers nobody's question: it may be of any time, and meant for anyone."
    return "The document answers another question: it was recorded and replayed."


def _printable(text: str) -> str:
    """Names in unverified bytes may hold anything, a terminal's control sequences too."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _short(value: bytes | None) -> str:
    return "absent" if value is None else "zero" if value == pcr.ZERO else f"{value.hex()[:16]}…"


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16] + "…"


def _duration(age: timedelta) -> str:
    seconds = age.total_seconds()
    return f"{seconds:.1f} s" if abs(seconds) < 120 else str(timedelta(seconds=round(seconds)))
