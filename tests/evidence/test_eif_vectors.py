"""Enclave images from elsewhere, good and hostile: their measurements, and the fault of each that has one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from verdicts import Verdict

from workshop_kit.evidence.eif import Reading, SectionType, examine_image
from workshop_kit.evidence.eif_signature import read_signature

NOW = datetime(2026, 11, 23, tzinfo=UTC)

# Where the first fault is; what is in no row has none.
FAULTS = {
    "bad_huge_section_size.eif": "section at 548",
    "bad_magic.eif": "magic",
    "bad_offsets_lie.eif": "offsets",
    "bad_section_type_6.eif": "section at 7944",
    "bad_truncated.eif": "section at 5423",
    "signed_expired_cert.eif": "certificate",
    "signed_register_index_8.eif": "signature",
}


def findings(reading: Reading) -> tuple[dict[str, str], list[str]]:
    """PCRs in hexadecimal digits and all faults, the signature's among them."""
    measured, faults = dict(reading.measurements()), list(reading.faults)
    for section in reading.data(SectionType.SIGNATURE):
        signature = read_signature(section)
        measured[8] = signature.pcr8
        faults += signature.faults(measured[0], now=NOW)
    return {f"PCR{int(index)}": value.hex() for index, value in measured.items()}, faults


def test_every_image_has_the_measurements_and_the_fault_of_its_manifest(shared_vectors: Path, verdict: Verdict) -> None:
    folder = shared_vectors / "nitro" / "eif"
    manifest: list[dict[str, Any]] = json.loads((folder / "MANIFEST.json").read_text())
    assert manifest
    for entry in manifest:
        measured, faults = findings(examine_image((folder / entry["file"]).read_bytes()))
        verdict(f"nitro/eif/{entry['file']}", "measured" if entry["measurements"] else "not measured", _short(faults))
        wanted = {name: value for name, value in (entry["measurements"] or {}).items() if name.startswith("PCR")}
        assert measured == wanted, entry["file"]
        places = {fault.partition(":")[0] for fault in faults}
        assert (FAULTS.get(entry["file"]) in places) if faults else entry["file"] not in FAULTS, (entry["file"], faults)


def _short(faults: list[str]) -> str:
    return "; ".join(fault.partition(":")[0] for fault in faults) or "no fault"


def test_a_signing_certificate_gives_the_pcr8_of_a_genuine_document(shared_vectors: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from workshop_kit.evidence.document import decode_unverified
    from workshop_kit.evidence.pcr import measure

    certificates = list((shared_vectors / "nitro" / "pcr8").glob("*.der"))
    assert certificates
    pcr8s = set()
    for file in (shared_vectors / "nitro").glob("nitro_*.bin"):
        pcr8s.add(decode_unverified(file.read_bytes()).pcrs.get(8))
    for file in certificates:
        der = x509.load_der_x509_certificate(file.read_bytes()).public_bytes(Encoding.DER)
        assert measure(der) in pcr8s


@pytest.mark.parametrize("cut", [0, 4, 547, 548, 559, 560, 4000])
def test_a_cut_image_has_a_fault_and_raises_nothing(shared_vectors: Path, cut: int) -> None:
    data = (shared_vectors / "nitro" / "eif" / "v4_unsigned.eif").read_bytes()
    assert examine_image(data[:cut]).faults
