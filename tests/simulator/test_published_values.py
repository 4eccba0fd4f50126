"""What a careful author publishes: the values in data/reference_values are those of a build."""

from __future__ import annotations

from pathlib import Path

from workshop_kit.simulator.build import build_enclave
from workshop_kit.verifier import ReferenceValues

DATA = Path(__file__).resolve().parents[2] / "data"


def test_published_reference_values_are_those_of_the_services_image_without_users() -> None:
    """After a change of the service or of the enclave's own code, data/README.md says how to publish anew."""
    published = ReferenceValues.from_file(DATA / "reference_values" / "millionaires.json")
    built = build_enclave(DATA / "services" / "millionaires").image
    assert ReferenceValues(built.measurements()) == published
