"""Every document of the shared manifest, at its own time, under AWS Nitro Root-G1: the default policy's anchor."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from attested import NOW, World, refused_by
from vectors_location import Entry, cases, entries, read
from verdicts import Verdict, decision

from workshop_kit.evidence import cose, pcr
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.verifier import AppraisalResult, Outcome, Policy, ReferenceValues, appraise
from workshop_kit.verifier.ledger import GATES, Number

MANIFEST = entries("nitro/MANIFEST.json")
GENUINE = [entry for entry in MANIFEST if entry["category"] == "real"]
OTHERS = [entry for entry in MANIFEST if entry["category"] != "real"]
PRODUCTION = [entry for entry in GENUINE if not entry["debug_mode_zero_pcr0_1_2"]]

REFUSED_BY: dict[str, Number] = {
    "mock_nitro_00000000_unknown_b689637d.bin": 1,  # its unprotected header is null
    "nitrotpm_20260202_us-east-1_7877d3db.bin": "3a",
    "nitrotpm_20260203_us-east-1_8df53057.bin": "3a",
    "tampered_nitro_20210909_us-west-1_15d4f223.bin": 5,
    "tampered_nitro_20221109_eu-west-1_7df2cdc0.bin": 5,
}
CATEGORIES: dict[str, tuple[Number, ...]] = {"real-nitrotpm": ("3a",), "mock": GATES, "tampered": GATES}
"""Gates that may refuse a document that no line above names, by what its manifest says of it."""


def own_time(entry: Entry) -> datetime:
    if entry["timestamp_ms"] is None:
        return NOW
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=entry["timestamp_ms"])


def appraised(entry: Entry, policy: Policy | None = None) -> AppraisalResult:
    return appraise(read(f"nitro/{entry['file']}"), policy or Policy(), now=own_time(entry))


@pytest.mark.parametrize("entry", cases(GENUINE))
def test_a_genuine_document_passes_every_gate(entry: Entry, verdict: Verdict) -> None:
    """By the manifest's class, production or debug: a debug enclave fails check 8 and nothing else."""
    result = appraised(entry)
    verdict(f"nitro/{entry['file']}", entry["category"], decision(result))
    assert {result[gate].outcome for gate in GATES} == {Outcome.PASSED}, result.summary
    assert [check.number for check in result.failed] == ([8] if entry["debug_mode_zero_pcr0_1_2"] else [])


@pytest.mark.parametrize("entry", cases(OTHERS))
def test_a_document_that_is_no_enclaves_is_refused(entry: Entry, verdict: Verdict) -> None:
    result = appraised(entry)
    verdict(f"nitro/{entry['file']}", entry["category"], decision(result))
    expected = REFUSED_BY.get(entry["file"])
    allowed = CATEGORIES.get(entry["category"], GATES) if expected is None else (expected,)
    assert refused_by(result) in allowed, result.summary
    assert not result.affirmed


def test_the_manifest_has_enough_to_mean_something(shared_vectors: object) -> None:
    """A manifest that is read wrongly would leave the tests above without cases, and green."""
    del shared_vectors
    debug = len(GENUINE) - len(PRODUCTION)
    assert min(len(PRODUCTION), debug) >= 10
    assert {entry["category"] for entry in OTHERS} == set(CATEGORIES)
    assert {entry["payload_map_encoding"] for entry in PRODUCTION} == {"definite(9)", "indefinite"}


@pytest.mark.parametrize("entry", cases(PRODUCTION[-4:]))
def test_reference_values_decide_over_a_genuine_document(entry: Entry) -> None:
    """Its own PCRs affirm it; with one bit of PCR2 wrong, check 9 alone refuses it."""
    document = decode_unverified(read(f"nitro/{entry['file']}"))
    own = {index: document.pcrs[index] for index in (0, 1, 2)}
    assert appraised(entry, Policy(reference_values=ReferenceValues(own))).affirmed
    other = own | {2: bytes([own[2][0] ^ 1]) + own[2][1:]}
    result = appraised(entry, Policy(reference_values=ReferenceValues(other)))
    assert [check.number for check in result.failed] == [9]


def test_a_genuine_document_is_refused_under_another_root(world: World) -> None:
    entry = next(iter(PRODUCTION), {"file": "absent", "timestamp_ms": None})
    assert refused_by(appraised(entry, world.policy())) == 4


@pytest.mark.parametrize("entry", cases(GENUINE))
def test_what_is_read_is_what_another_reader_read(entry: Entry) -> None:
    """The manifest was made by an independent program: an oracle for every field it reports."""
    document = decode_unverified(read(f"nitro/{entry['file']}"))
    assert document.module_id == entry["module_id"]
    assert document.timestamp == entry["timestamp_ms"]
    assert sorted(document.pcrs) == entry["pcr_indices"]
    nonzero = {str(index): value.hex() for index, value in document.pcrs.items() if value != pcr.ZERO}
    assert nonzero == entry["pcrs_nonzero"]
    assert document.is_debug == entry["debug_mode_zero_pcr0_1_2"]
    assert len(document.cabundle) == entry["cabundle_len"]
    for field in ("public_key", "user_data", "nonce"):
        value = getattr(document, field)
        assert ("null" if value is None else len(value)) in (entry[field], _number(entry[field]))
    assert not document.is_simulated


def _number(text: object) -> object:
    return int(text) if isinstance(text, str) and text.isdecimal() else text


@pytest.mark.parametrize("entry", cases([e for e in GENUINE if e["payload_map_encoding"] == "indefinite"]))
def test_the_encoder_writes_a_genuine_payload_byte_for_byte(entry: Entry) -> None:
    """What the simulator signs has the form of what AWS signs today, or this re-encoding would differ."""
    evidence = read(f"nitro/{entry['file']}")
    assert decode_unverified(evidence).encode() == cose.read_sign1(evidence).payload


@pytest.mark.parametrize("entry", cases(GENUINE))
def test_pcr4_is_the_instances_name_undigested(entry: Entry) -> None:
    """Rule 5b's recipe against AWS's own values, without the verifier that applies it."""
    document = decode_unverified(read(f"nitro/{entry['file']}"))
    assert document.pcrs[pcr.Pcr.PARENT_INSTANCE_ID] == pcr.measure_name(document.module_id.split("-enc")[0])


def test_a_genuine_signing_certificate_measures_to_its_pcr8(shared_vectors: object) -> None:
    del shared_vectors
    measured = pcr.measure(read("nitro/pcr8/pcr8_35235575.der")).hex()
    assert measured in {entry["pcrs_nonzero"].get("8") for entry in GENUINE}


@pytest.mark.parametrize("entry", cases(PRODUCTION[-1:]))
def test_the_ledger_of_a_genuine_document_does_not_call_it_simulated(entry: Entry, verdict: Verdict) -> None:
    result = appraised(entry)
    verdict(f"nitro/{entry['file']}", entry["category"], decision(result))
    assert "imulated" not in str(result)
    assert json.loads(result.to_json())["affirmed"] is False  # no reference values
