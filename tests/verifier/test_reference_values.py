"""Reference values: what they must hold, and the published file they come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attested import MEASUREMENTS, changed

from workshop_kit.errors import WorkshopKitError
from workshop_kit.evidence import pcr
from workshop_kit.verifier import ReferenceValues

HEX = {int(index): value.hex() for index, value in MEASUREMENTS.items()}


def test_values_are_read_from_hexadecimal_digits() -> None:
    assert ReferenceValues.from_hex(HEX) == ReferenceValues(MEASUREMENTS)
    assert ReferenceValues.from_hex({i: text.upper() for i, text in HEX.items()}) == ReferenceValues(MEASUREMENTS)


def test_the_published_file_survives_the_round_trip() -> None:
    values = ReferenceValues(MEASUREMENTS | {16: pcr.ZERO, 8: changed(pcr.ZERO)})
    text = values.to_json()
    assert ReferenceValues.from_json(text) == values
    assert list(json.loads(text)["Measurements"]) == ["HashAlgorithm", "PCR0", "PCR1", "PCR2", "PCR8", "PCR16"]


def test_the_output_of_describe_eif_is_a_published_file() -> None:
    """Other members beside `Measurements`, and others than PCRs within it, are left alone."""
    measurements = {"HashAlgorithm": "Sha384 { ... }"} | {f"PCR{index}": text for index, text in HEX.items()}
    text = json.dumps({"EifVersion": 4, "Measurements": measurements, "IsSigned": False})
    assert ReferenceValues.from_json(text) == ReferenceValues(MEASUREMENTS)


@pytest.mark.parametrize("absent", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_the_three_pcrs_of_the_image_stand_together(absent: tuple[int, ...]) -> None:
    """PCR0 alone does not say where the kernel ends and the application begins."""
    values = {index: value for index, value in MEASUREMENTS.items() if index not in absent}
    with pytest.raises(WorkshopKitError, match=f"PCR{absent[0]}.* missing"):
        ReferenceValues(values)


@pytest.mark.parametrize(
    ("index", "value"), [(0, b""), (0, bytes(32)), (2, bytes(49)), (3, bytes(47)), (32, bytes(48)), (-1, bytes(48))]
)
def test_a_value_is_48_bytes_of_a_pcr_that_exists(index: int, value: bytes) -> None:
    with pytest.raises(WorkshopKitError, match=f"reference value PCR{index}"):
        ReferenceValues(MEASUREMENTS | {index: value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"Measurements": null}',
        '{"Measurements": []}',
        '{"Measurements": {"PCRx": ""}}',
        '{"Measurements": {}}',
        '{"Measurements": {"PCR0": 1, "PCR1": 2, "PCR2": 3}}',
        '{"Measurements": {"PCR0": "zz", "PCR1": "zz", "PCR2": "zz"}}',
        '{"Measurements": {"PCR0": null, "PCR1": null, "PCR2": null}}',
    ],
)
def test_another_text_is_refused_with_an_error_of_ours(text: str) -> None:
    with pytest.raises(WorkshopKitError, match=r"^reference value") as caught:
        ReferenceValues.from_json(text)
    assert str(caught.value).isprintable()


def test_a_pcr_that_is_absent_differs() -> None:
    values = ReferenceValues(MEASUREMENTS | {5: pcr.ZERO})
    assert values.differing(MEASUREMENTS) == (5,)
    assert values.differing(MEASUREMENTS | {5: pcr.ZERO, 6: bytes(48)}) == ()
    assert values.differing({}) == (0, 1, 2, 5)
    assert values.explain(MEASUREMENTS | {5: pcr.ZERO}) == ""


def test_debug_mode_is_not_mistaken_for_another_image() -> None:
    zero = dict.fromkeys((0, 1, 2), pcr.ZERO)
    assert ReferenceValues(MEASUREMENTS).explain(zero) == (
        "PCR0, PCR1 and PCR2 are zero: debug mode hides which image runs."
    )


def test_published_values_are_read_from_their_file(tmp_path: Path) -> None:
    file = tmp_path / "values.json"
    file.write_text(ReferenceValues(MEASUREMENTS).to_json())
    assert ReferenceValues.from_file(file) == ReferenceValues(MEASUREMENTS)
    with pytest.raises(WorkshopKitError, match="cannot read"):
        ReferenceValues.from_file(tmp_path / "none.json")


def test_a_file_that_is_no_text_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "values.json").write_bytes(b"\xff\xfe")
    with pytest.raises(WorkshopKitError, match=r"values\.json: expected text in UTF-8, got something else$"):
        ReferenceValues.from_file(tmp_path / "values.json")


def test_values_show_their_beginnings() -> None:
    assert repr(ReferenceValues(MEASUREMENTS)).startswith(f"ReferenceValues(PCR0 {HEX[0][:16]}…, PCR1 ")
