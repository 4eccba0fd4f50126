"""No change to a genuine document is accepted: every bit of it, every length, every field of another."""

from __future__ import annotations

from functools import cache

import pytest
from attested import envelope, refused_by, twin
from vectors_location import read

from workshop_kit.evidence import cbor, cose
from workshop_kit.evidence.document import MANDATORY, OPTIONAL, decode_unverified
from workshop_kit.verifier import AppraisalResult, Policy, ReferenceValues, appraise

NEW = "nitro_20260630_us-east-1_277e236b.bin"
ONE, OTHER = "nitro_20220804_us-east-2_b4d6a236.bin", "nitro_20241231_us-east-2_ff5b1b51.bin"
"""Two in production of which every field differs but `digest`."""

pytestmark = pytest.mark.usefixtures("shared_vectors")


@cache
def genuine(name: str) -> bytes:
    return read(f"nitro/{name}")


def appraised(evidence: bytes, name: str = NEW) -> AppraisalResult:
    """Under a policy that affirms the genuine document at its own time."""
    document = decode_unverified(genuine(name))
    values = ReferenceValues({index: document.pcrs[index] for index in (0, 1, 2)})
    policy = Policy(reference_values=values, nonce=document.nonce, public_key=document.public_key)
    return appraise(evidence, policy, now=document.time)


@pytest.mark.parametrize("name", [NEW, ONE, OTHER])
def test_the_genuine_document_is_affirmed(name: str) -> None:
    """Or the refusals below would prove nothing."""
    assert appraised(genuine(name), name).affirmed


def test_every_flipped_bit_is_refused_by_a_gate() -> None:
    for bit in range(len(genuine(NEW)) * 8):
        flipped = bytearray(genuine(NEW))
        flipped[bit // 8] ^= 0x80 >> bit % 8
        assert refused_by(appraised(bytes(flipped))) is not None, bit


def test_every_truncation_is_refused_by_check_1() -> None:
    for length in range(len(genuine(NEW))):
        assert refused_by(appraised(genuine(NEW)[:length])) == 1, length


@pytest.mark.parametrize(("into", "of"), [(ONE, OTHER), (OTHER, ONE)])
@pytest.mark.parametrize("field", [*MANDATORY, *OPTIONAL])
def test_a_field_of_another_genuine_document_is_refused_by_a_gate(into: str, of: str, field: str) -> None:
    """`digest` is one for all: its swap gives the document itself, and shows that the others change nothing else."""
    signed = cose.read_sign1(genuine(into))
    own, other = cbor.decode(signed.payload), cbor.decode(cose.read_sign1(genuine(of)).payload)
    assert isinstance(own, dict)
    assert isinstance(other, dict)
    swapped = envelope(signed.protected, {}, cbor.encode({**own, field: other[field]}), signed.signature)
    if field == "digest":
        assert swapped == genuine(into)
    else:
        assert refused_by(appraised(swapped, into)) in (4, 5)


def test_the_twin_of_a_genuine_signature_is_affirmed() -> None:
    """(r, n - s): so neither a document's bytes nor their digest tell whether it was seen before."""
    assert twin(genuine(NEW)) != genuine(NEW)
    assert appraised(twin(genuine(NEW))).affirmed
