"""What a ledger says of each check: expected, actual, and what that means to a person.

Nothing is decided here. `appraisal` has decided before it asks, and most ledgers are never read.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from workshop_kit.evidence import pcr
from workshop_kit.evidence.document import AttestationDocument
from workshop_kit.verifier.endorsements import Endorsement, TrustAnchor, show
from workshop_kit.verifier.policy import CLOCK_SKEW
from workshop_kit.verifier.reference_values import ReferenceValues

Line = tuple[str, str, str]


def envelope(size: int) -> Line:
    return "a COSE_Sign1", f"a COSE_Sign1 of {size} bytes", ""


def algorithm() -> Line:
    return "ES384 and nothing else", "ES384", ""


def complete(document: AttestationDocument) -> Line:
    return "the nine fields, each once and within limits", f"all, with {len(document.pcrs)} PCRs", ""


def of_an_enclave() -> Line:
    return "an enclave's document", "an enclave's", ""


def endorsed(anchor: TrustAnchor, leaf: Endorsement) -> Line:
    return f"a path from {anchor.name} to the leaf", leaf.leaf_name, ""


def signature(verifies: bool) -> Line:
    return "a signature by the leaf's key", "one that verifies" if verifies else "one that does not verify", ""


def module(document: AttestationDocument, leaf: Endorsement) -> Line:
    return f"a leaf for {document.module_id}", leaf.leaf_name or "one without a name", ""


def instance(document: AttestationDocument, measured: bytes | None) -> Line:
    return f"PCR4 of {document.instance_id}, or none", _short(measured), ""


def life(document: AttestationDocument, leaf: Endorsement) -> Line:
    return f"a time from {show(leaf.not_before)} to {show(leaf.not_after)}", show(document.time), ""


def nonce(challenge: bytes, came: bytes | None, same: bool) -> Line:
    expected = f"this challenge's {len(challenge)} bytes"
    if same:
        return expected, "the same", ""
    if came is None:
        return expected, "none", "The document answers nobody's question: it may be of any time, and meant for anyone."
    return expected, f"{len(came)} others", "The document answers another question: it was recorded and replayed."


def age(age: timedelta, most: timedelta) -> Line:
    explanation = ""
    if not age:
        explanation = "Appraised at the document's own time: its age then shows nothing."
    elif age < -CLOCK_SKEW:
        explanation = "It was signed in the verifier's future: one of the two clocks is wrong."
    return f"at most {_duration(most)}", _duration(age), explanation


def debug(document: AttestationDocument, zero: list[int]) -> Line:
    shown = ", ".join(f"PCR{index} {_short(document.pcrs.get(index))}" for index in zero)
    return "PCR0, PCR1 and PCR2, none of them zero", shown or "none of them zero", ""


def measurements(document: AttestationDocument, wanted: ReferenceValues) -> Line:
    """Those that differ, or all where none does."""
    shown = wanted.differing(document.pcrs) or tuple(wanted.pcrs)
    expected = ", ".join(f"PCR{index} {_short(wanted.pcrs[index])}" for index in shown)
    actual = ", ".join(f"PCR{index} {_short(document.pcrs.get(index))}" for index in shown)
    return f"{wanted.name}: {expected}" if wanted.name else expected, actual, wanted.explain(document.pcrs)


def key(wanted: bytes, came: bytes | None) -> Line:
    return f"the key with SHA-256 {_fingerprint(wanted)}", "none" if came is None else _fingerprint(came), ""


def _short(value: bytes | None) -> str:
    return "absent" if value is None else "zero" if value == pcr.ZERO else f"{value.hex()[:16]}…"


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16] + "…"


def _duration(age: timedelta) -> str:
    seconds = age.total_seconds()
    return f"{seconds:.1f} s" if abs(seconds) < 120 else str(timedelta(seconds=round(seconds)))
