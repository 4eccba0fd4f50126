"""One deviation each: the shared manifest says what a verifier must do, the tables below by which check we do it.

`policy` cases can be defended either way; `DECISIONS` is what we chose, and workshop_kit/DECISIONS.md says why.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from attested import refused_by
from vectors_location import Entry, cases, entries, read
from verdicts import Verdict, decision

from workshop_kit.verifier import AppraisalResult, Outcome, TrustAnchor, UnsafeAnyAgePolicy, appraise
from workshop_kit.verifier.ledger import GATES, Number

MANIFEST = entries("nitro/SYNTHETIC_MANIFEST.json")

DECISIONS: dict[str, Number | None] = {
    "cab_duplicate_root": 4,  # nothing unused may travel in cabundle
    "cert_chunked_bytes": 3,  # one encoding of a string
    "cose_outer_indef": 1,
    "dbg_unprotected_junk": 1,  # unsigned bytes are not let in, though they could be ignored
    "debug_only_pcr0_zero": 8,  # any of the three is enough
    "indef_unprotected_junk": 1,
    "int2_sha256_sig": 4,  # all genuine certificates have SHA-384
    "leaf_cn_module_mismatch": "5a",
    "leaf_no_bc": 4,  # all genuine leaves say CA:FALSE
    "limit_nonce_1024": None,  # genuine documents go up to 1024
    "limit_public_key_0": None,  # a genuine document has an empty one
    "limit_user_data_513": None,
    "ok_pcrs_single": 8,  # PCR1 and 2 are absent: nothing shows that the enclave is closed
    "pcr4_instance_mismatch": "5b",
    "pcr_len_64": 3,  # no SHA-384
    "prot_nonminimal": 2,
    "unknown_field": 3,
}

REFUSED_BY: dict[str, Number] = {
    # 1: no COSE_Sign1
    "cose_*": 1,
    "unprot_*": 1,
    "deep_outer": 1,
    "json_text": 1,
    "map_instead_of_array": 1,
    "not_cbor": 1,
    "payload_empty": 1,
    "payload_nil_detached": 1,
    "*_trailing": 1,  # but prot_alg_trailing, below
    "*_truncated_*": 1,
    "*_alg_to_unprotected": 1,
    # 2: another algorithm
    "prot_*": 2,
    "*_alg_es256": 2,
    "leaf_p256_es256": 2,
    # 3: no document
    "cab_empty": 3,
    "cab_entry_*": 3,
    "cab_is_map": 3,
    "cert_field_*": 3,
    "digest_*": 3,
    "dup_*": 3,
    "limit_*": 3,
    "missing_*": 3,
    "module_id_*": 3,
    "null_*": 3,
    "payload_*": 3,
    "pcr_*": 3,
    "pcrs_*": 3,
    "tagged_field_value": 3,
    "timestamp_*": 3,
    "type_*": 3,
    "undefined_*": 3,
    "nitrotpm_*": "3a",
    # 4: no endorsement
    "cab_*": 4,
    "fake_*": 4,
    "int?_*": 4,
    "leaf_*": 4,
    "*_expired_now": 4,
    "*_flip_certificate": 4,
    "*_one_sec_after_leaf": 4,
    "*_one_sec_before_leaf": 4,
    "synthetic_under_aws_root": 4,
    # 5: another signature
    "sig_*": 5,
    "splice_*": 5,
    "*_flip_module_id": 5,
    "*_flip_pcr*": 5,
    "*_flip_sig_*": 5,
    "*_flip_timestamp": 5,
}
"""The gate that refuses a `reject` case, by the shape of its name; where several fit, `gate_for` says which."""


def gate_for(stem: str) -> Number | None:
    """By the exact name first, then the shape that begins with most letters of the name; None where none fits."""
    fitting = [shape for shape in REFUSED_BY if fnmatchcase(stem, shape)]
    return REFUSED_BY[max(fitting, key=lambda shape: ("*" not in shape, len(shape.split("*")[0])))] if fitting else None


def appraised(entry: Entry) -> AppraisalResult:
    """Under the case's own root and at its own time. Its age is not the question, so check 7 is left out."""
    anchor = TrustAnchor.from_certificate(read(f"nitro/{entry['trust_root']}"))
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=entry["at_unix"])
    return appraise(read(f"nitro/{entry['file']}"), UnsafeAnyAgePolicy(trust_anchor=anchor), now=now)


def first_failure(result: AppraisalResult) -> Number | None:
    """The gate that refused or, where all passed, the first claim."""
    claims = [check.number for check in result.failed]
    return refused_by(result) or (claims[0] if claims else None)


def of(expected: str) -> list[object]:
    return cases([entry for entry in MANIFEST if entry["expected"] == expected])


@pytest.mark.parametrize("entry", of("accept"))
def test_what_must_be_accepted_passes_every_gate(entry: Entry, verdict: Verdict) -> None:
    result = appraised(entry)
    verdict(f"nitro/{entry['file']}", entry["expected"], decision(result))
    assert not result.failed, result.summary
    assert {result[gate].outcome for gate in GATES} == {Outcome.PASSED}


@pytest.mark.parametrize("entry", of("reject"))
def test_what_must_be_rejected_fails_the_gate_it_was_made_for(entry: Entry, verdict: Verdict) -> None:
    result = appraised(entry)
    verdict(f"nitro/{entry['file']}", entry["expected"], decision(result))
    gate = refused_by(result)
    assert gate is not None
    assert not result.affirmed
    assert gate == (gate_for(Path(entry["file"]).stem) or gate), result.summary


@pytest.mark.parametrize("entry", of("accept-crypto/reject-policy"))
def test_a_genuine_document_of_a_debug_enclave_passes_the_gates_and_fails_check_8(
    entry: Entry, verdict: Verdict
) -> None:
    result = appraised(entry)
    verdict(f"nitro/{entry['file']}", entry["expected"], decision(result))
    assert refused_by(result) is None
    assert [check.number for check in result.failed] == [8]


@pytest.mark.parametrize("entry", of("reject-if-freshness"))
def test_a_document_signed_outside_its_leafs_life_fails_5c(entry: Entry, verdict: Verdict) -> None:
    result = appraised(entry)
    verdict(f"nitro/{entry['file']}", entry["expected"], decision(result))
    assert refused_by(result) == "5c"


@pytest.mark.parametrize("entry", of("policy"))
def test_a_case_that_can_be_defended_either_way_is_decided_as_written_down(entry: Entry, verdict: Verdict) -> None:
    result = appraised(entry)
    verdict(f"nitro/{entry['file']}", entry["expected"], decision(result))
    stem = Path(entry["file"]).stem
    assert first_failure(result) == DECISIONS.get(stem, first_failure(result)), result.summary


def test_every_expectation_of_the_manifest_has_a_test(shared_vectors: object) -> None:
    del shared_vectors
    known = {"accept", "reject", "accept-crypto/reject-policy", "reject-if-freshness", "policy"}
    assert {"accept", "reject"} <= {entry["expected"] for entry in MANIFEST} <= known


def test_the_gate_of_a_rejection_is_known_from_its_name(shared_vectors: object) -> None:
    """A case whose name fits no shape is judged only as refused by some gate: at most one in ten may be."""
    del shared_vectors
    rejected = [Path(entry["file"]).stem for entry in MANIFEST if entry["expected"] == "reject"]
    assert sum(gate_for(stem) is None for stem in rejected) <= len(rejected) // 10
