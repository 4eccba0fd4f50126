"""What a ledger says of each check: expected, actual, and what that means to a person.

Nothing is decided here. `appraisal` has decided before it asks, and most ledgers are never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

from workshop_kit.evidence import pcr
from workshop_kit.evidence.document import AttestationDocument
from workshop_kit.verifier.endorsements import Endorsement, TrustAnchor, show
from workshop_kit.verifier.ledger import LEFT_OUT, Check, Number, Outcome, parent_check
from workshop_kit.verifier.policy import CLOCK_SKEW, Demands
from workshop_kit.verifier.reference_values import zero_or_absent

Pair = tuple[str, str]
"""Expected and actual."""


def gate(
    number: Number,
    size: int,
    anchor: TrustAnchor,
    document: AttestationDocument | None,
    leaf: Endorsement | None,
    *,
    failed: bool,
) -> Pair:
    """Of a gate that passed, or that compared what had been read and failed."""
    if number == 1:
        return "a COSE_Sign1", f"a COSE_Sign1 of {size} bytes"
    if number == 2:
        return "ES384 and nothing else", "ES384"
    assert document is not None  # check 3 has read it
    if number == 3:
        return "the nine fields, each once and within limits", f"all, with {len(document.pcrs)} PCRs"
    if number == "3a":
        return "an enclave's document", "an enclave's"
    assert leaf is not None  # check 4 has found it
    if number == 4:
        return f"a path from {anchor.name} to the leaf", leaf.leaf_name
    if number == 5:
        return "a signature by the leaf's key", "one that does not verify" if failed else "one that verifies"
    return agreement(number, document, leaf)


def agreement(number: Number, document: AttestationDocument, leaf: Endorsement) -> Pair:
    """Of 5a, 5b and 5c."""
    if number == "5a":
        return f"a leaf for {document.module_id}", leaf.leaf_name or "one without a name"
    if number == "5b":
        measured = document.pcrs.get(pcr.Pcr.PARENT_INSTANCE_ID)
        return f"PCR4 of {document.instance_id}, or none", _short(measured)
    return f"a time from {show(leaf.not_before)} to {show(leaf.not_after)}", show(document.time)


def claim(number: Number, outcome: Outcome, document: AttestationDocument, demands: Demands, now: datetime) -> Check:
    """The line of a claim, 6 to 10a."""
    if outcome is Outcome.NOT_EVALUATED:
        waived = demands.waived.get(parent_check(number))
        return Check(number, outcome, "", "", f"{LEFT_OUT}{waived}." if waived else _NOT_GIVEN[number])
    said, explanation = _CLAIMS[number](document, demands, now)
    return Check(number, outcome, *said, explanation)


_NOT_GIVEN: dict[Number, str] = {
    6: "No challenge was given: nothing shows that the document answers anybody.",
    9: "No reference values were given: any image at all may be running.",
    10: "No handshake: there is no key to compare.",
    "10a": "No keys travel beside the document: it has nothing to vouch for but itself.",
}


def _nonce(document: AttestationDocument, demands: Demands, _: datetime) -> tuple[Pair, str]:
    came = document.nonce
    expected = f"this challenge's {len(demands.nonces[0])} bytes"
    if came is None:
        explanation = "The document answers nobody's question: it may be of any time, and meant for anyone."
        return (expected, "none"), explanation
    if all(came == nonce for nonce in demands.nonces):
        return (expected, "the same"), ""
    return (expected, f"{len(came)} others"), "The document answers another question: it was recorded and replayed."


def _age(document: AttestationDocument, demands: Demands, now: datetime) -> tuple[Pair, str]:
    age, explanation = now - document.time, ""
    if not age:
        explanation = "Appraised at the document's own time: its age then shows nothing."
    elif age < -CLOCK_SKEW:
        explanation = "It was signed in the verifier's future: one of the two clocks is wrong."
    return (f"at most {_duration(demands.max_age)}", _duration(age)), explanation


def _debug(document: AttestationDocument, _: Demands, __: datetime) -> tuple[Pair, str]:
    zero = zero_or_absent(document.pcrs)
    shown = ", ".join(f"PCR{index} {_short(document.pcrs.get(index))}" for index in zero)
    return ("PCR0, PCR1 and PCR2, none of them zero", shown or "none of them zero"), ""


def _measurements(document: AttestationDocument, demands: Demands, _: datetime) -> tuple[Pair, str]:
    """The values that differ, of the first set where any does; all of the first set where none does."""
    sets = demands.reference_values
    wanted = next((values for values in sets if values.differing(document.pcrs)), sets[0])
    shown = wanted.differing(document.pcrs) or tuple(wanted.pcrs)
    expected = ", ".join(f"PCR{index} {_short(wanted.pcrs[index])}" for index in shown)
    actual = ", ".join(f"PCR{index} {_short(document.pcrs.get(index))}" for index in shown)
    return (f"{wanted.name}: {expected}" if wanted.name else expected, actual), wanted.explain(document.pcrs)


def _key(document: AttestationDocument, demands: Demands, _: datetime) -> tuple[Pair, str]:
    wanted, came = demands.public_keys[0], document.public_key
    return (f"the key with SHA-256 {_fingerprint(wanted)}", "none" if came is None else _fingerprint(came)), ""


def _user_data(document: AttestationDocument, demands: Demands, _: datetime) -> tuple[Pair, str]:
    wanted, came = demands.user_datas[0], document.user_data
    expected = f"this handshake's {len(wanted)} bytes"
    if came is None:
        return (expected, "none"), "The document vouches for nothing that travels beside it."
    if all(came == value for value in demands.user_datas):
        return (expected, "the same"), ""
    return (expected, f"{len(came)} others"), "What travels beside the document is not what the enclave sent."


_CLAIMS: dict[Number, Callable[[AttestationDocument, Demands, datetime], tuple[Pair, str]]] = {
    6: _nonce,
    7: _age,
    8: _debug,
    9: _measurements,
    10: _key,
    "10a": _user_data,
}


def _short(value: bytes | None) -> str:
    return "absent" if value is None else "zero" if value == pcr.ZERO else f"{value.hex()[:16]}…"


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16] + "…"


def _duration(age: timedelta) -> str:
    seconds = age.total_seconds()
    return f"{seconds:.1f} s" if abs(seconds) < 120 else str(timedelta(seconds=round(seconds)))
