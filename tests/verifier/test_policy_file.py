"""A policy in a file: what it demands, and one line for each mistake."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from attested import MEASUREMENTS, NOW, World
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from workshop_kit.errors import WorkshopKitError
from workshop_kit.verifier import AWS_NITRO_ROOT_G1, AppraisalResult, ReferenceValues, appraise
from workshop_kit.verifier.policy_file import load_policy

VALUES = ReferenceValues(MEASUREMENTS)
INLINE = "{ " + ", ".join(f'PCR{int(index)} = "{value.hex()}"' for index, value in MEASUREMENTS.items()) + " }"
OTHER = INLINE.replace(MEASUREMENTS[0].hex(), "ab" * 48)


@pytest.fixture
def folder(tmp_path: Path, world: World) -> Path:
    root = x509.load_der_x509_certificate(world.pki.root).public_bytes(Encoding.PEM)
    (tmp_path / "root.pem").write_bytes(root)
    (tmp_path / "values.json").write_text(VALUES.to_json())
    (tmp_path / "company.toml").write_text('trust_anchor = "root.pem"\nmax_age = 60\n')
    return tmp_path


def judged(folder: Path, world: World, text: str, *, after: timedelta = timedelta(seconds=1)) -> AppraisalResult:
    (folder / "policy.toml").write_text(text)
    return appraise(world.attest(), load_policy(folder / "policy.toml"), now=NOW + after)


ROOT = 'trust_anchor = "root.pem"\n'
RIGHT, WRONG = f"{{ reference_values = {{ b = {INLINE} }} }}", f"{{ reference_values = {{ a = {OTHER} }} }}"


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        (ROOT + f'reference_values = {{ "1.5" = {INLINE} }}', []),
        (ROOT + 'reference_values = { "1.5" = "values.json" }', []),
        (ROOT + f'reference_values = {{ "1.4" = {OTHER}, "1.5" = "values.json" }}', []),
        (ROOT + f'reference_values = {{ "1.4" = {OTHER} }}', [9]),
        (ROOT + f'max_age = 0.5\nreference_values = {{ "1.5" = {INLINE} }}', [7]),
        (ROOT + 'unsafe = "any image"', []),
        (f'reference_values = {{ "1.5" = {INLINE} }}', [4]),
        ('all_of = ["company.toml"]\nreference_values = { "1.5" = "values.json" }', []),
        ('all_of = ["company.toml", { reference_values = { "1.5" = "values.json" } }]', []),
        (f'all_of = ["company.toml"]\nreference_values = {{ "1.4" = {OTHER} }}', [9]),
        (
            f"{ROOT}any_of = [{{ reference_values = {{ a = {OTHER} }} }}, {{ reference_values = {{ b = {INLINE} }} }}]",
            [],
        ),
        (f"{ROOT}any_of = [{{ reference_values = {{ a = {OTHER} }} }}]", [9]),
        ('any_of = [{ trust_anchor = "root.pem", unsafe = "any image" }]', []),
        (f'{ROOT}unsafe = "any image"\nall_of = [{WRONG}]', [9]),
    ],
)
def test_what_a_file_says_is_demanded(folder: Path, world: World, text: str, failed: list[int]) -> None:
    result = judged(folder, world, text)
    assert [check.number for check in result.failed] == failed
    assert result.affirmed == (not failed)


def test_a_set_is_named_in_the_ledger(folder: Path, world: World) -> None:
    result = judged(folder, world, ROOT + 'reference_values = { "1.5, of May" = "values.json" }')
    assert result[9].expected.startswith("1.5, of May: PCR0 ")


def test_a_file_without_reference_values_affirms_nothing(folder: Path, world: World) -> None:
    result = judged(folder, world, ROOT)
    assert (result.affirmed, result.failed) == (False, ())


@pytest.mark.parametrize("unsafe", ["any age", "debug"])
def test_an_unsafe_file_leaves_out_what_it_names(folder: Path, world: World, unsafe: str) -> None:
    result = judged(
        folder,
        world,
        f'{ROOT}unsafe = "{unsafe}"\n' + ('reference_values = { a = "values.json" }' if unsafe == "any age" else ""),
        after=timedelta(hours=2),
    )
    assert [check.number for check in result.failed] == ([] if unsafe == "any age" else [7])
    assert "policy" in result[7 if unsafe == "any age" else 8].explanation.lower()


def test_the_default_anchor_and_the_named_one_are_the_root_of_aws(folder: Path) -> None:
    for text in ("", 'trust_anchor = "aws"'):
        (folder / "policy.toml").write_text(text)
        (demands,) = load_policy(folder / "policy.toml").alternatives
        assert demands.anchors == (AWS_NITRO_ROOT_G1,)


MISTAKES = {
    "no TOML": ("max_age 60", "expected TOML"),
    "a key twice": ("max_age = 60\nmax_age = 61", "expected TOML"),
    "a key that nobody knows": (
        "max_ages = 60",
        "policy.toml: expected keys among trust_anchor, max_age, reference_values, all_of, any_of, unsafe, got 'max_",
    ),
    "a key that nobody knows, inside": ("any_of = [{ pcr0 = 1 }]", "any_of[0]: expected keys among trust_anchor"),
    "an age that is no number": ('max_age = "60"', "max_age: expected seconds"),
    "an age that is true": ("max_age = true", "max_age: expected seconds"),
    "an age below 0": ("max_age = -1", "max_age: expected seconds"),
    "an age beyond all time": ("max_age = 1e300", "max_age: expected seconds"),
    "an age that is not a number at all": ("max_age = nan", "max_age: expected seconds"),
    "an anchor that is a number": ("trust_anchor = 1", 'trust_anchor: expected "aws" or'),
    "an anchor that is not there": ('trust_anchor = "absent.pem"', "absent.pem: No such file"),
    "an anchor that is no certificate": ('trust_anchor = "values.json"', "expected a certificate in PEM or DER"),
    "no sets": ("reference_values = {}", "reference_values: expected a table of named sets, at least one"),
    "a set without a name": ('reference_values = ["values.json"]', "reference_values: expected a table"),
    "a set that is a number": ("reference_values = { a = 1 }", "reference_values.a: expected the name of a file"),
    "a set with another key": ('reference_values = { a = { x = "00" } }', "reference_values.a: expected the name"),
    "a set with PCR0 alone": (f'reference_values = {{ a = {{ PCR0 = "{"00" * 48}" }} }}', "PCR1 and PCR2 missing"),
    "a set with a number": ("reference_values = { a = { PCR0 = 1 } }", "reference_values.a: "),
    "a set with odd digits": ('reference_values = { a = { PCR0 = "0" } }', "expected 96 hexadecimal digits"),
    "a set in another form": ('reference_values = { a = "company.toml" }', 'expected JSON with "Measurements"'),
    "an empty any_of": ("any_of = []", "any_of: expected policies, at least one"),
    "an empty all_of": ("all_of = []", "all_of: expected policies, at least one"),
    "parts in a table": ("all_of = {}", "all_of: expected policies, at least one"),
    "a set in a file of another form, with its place": (
        'reference_values = { a = "company.toml" }',
        "policy.toml: reference_values.a: ",
    ),
    "a part that is a number": ("all_of = [1]", "all_of[0]: expected a table or the name of a file"),
    "a part that is not there": ('all_of = ["absent.toml"]', "absent.toml: No such file"),
    "a part that names itself": ('all_of = ["policy.toml"]', "do they name each other?"),
    "another danger": ('unsafe = "everything"', 'unsafe: expected "any image" or "any age" or "debug"'),
    "a danger that is true": ("unsafe = true", "unsafe: expected"),
    "values beside a danger that leaves them out": (
        'unsafe = "debug"\nreference_values = { a = "values.json" }',
        "reference_values: expected none beside unsafe, which leaves it out (debug)",
    ),
    "an age beside a danger that leaves it out": (
        'unsafe = "any age"\nmax_age = 1',
        "max_age: expected none beside unsafe",
    ),
    "an index that is no PCR's": (
        f'reference_values = {{ a = {{ PCR99 = "00", {INLINE[2:]} }}',
        "PCR99: expected an index from 0 to 31",
    ),
    "a deep nest": ("all_of = " + "[" * 5000 + "]" * 5000, "expected"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_with_the_file_and_the_key(folder: Path, world: World, name: str) -> None:
    text, message = MISTAKES[name]
    with pytest.raises(WorkshopKitError) as caught:
        judged(folder, world, text)
    line = str(caught.value)
    assert message in line
    assert "\n" not in line
    assert len(line) < 600


@pytest.mark.parametrize(
    ("name", "message"), [("/dev/zero", "at most 1048576 bytes, got more"), ("long", "at most 1048576 bytes, got more")]
)
def test_a_file_without_an_end_is_not_read_to_it(folder: Path, name: str, message: str) -> None:
    (folder / "long").write_bytes(bytes(1 << 20) + b"#")
    with pytest.raises(WorkshopKitError, match=message):
        load_policy(folder / name)


def test_a_file_that_is_no_text_gets_one_line(folder: Path) -> None:
    (folder / "policy.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(WorkshopKitError, match="expected TOML"):
        load_policy(folder / "policy.toml")
