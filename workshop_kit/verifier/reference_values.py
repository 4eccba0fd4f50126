"""Reference values: the PCRs that somebody who read the source computed for it, and what a difference means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Self

from workshop_kit.errors import LabError, WorkshopKitError
from workshop_kit.evidence import pcr

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_PCRS = (0, 1, 2)
"""The PCRs that together say which image runs. One alone leaves the boundary between its parts open."""

_MEANING = {
    frozenset(
        {0, 2}
    ): "PCR0 and PCR2 differ, PCR1 agrees: same base image, another application, or other users in its image.",
    frozenset({0, 1}): "PCR0 and PCR1 differ, PCR2 agrees: same application, another base image.",
    frozenset({0, 1, 2}): "PCR0, PCR1 and PCR2 differ: another image altogether.",
    frozenset(
        {1, 2}
    ): "PCR1 and PCR2 differ, PCR0 agrees: the same bytes, divided differently into base and application.",
    frozenset(
        {0}
    ): "PCR0 differs though PCR1 and PCR2 agree: the reference values stem from two builds, or have a typo.",
}


class _Named(NamedTuple):
    pcrs: Mapping[int, bytes]
    name: str = ""


class ReferenceValues(_Named):
    """PCRs to compare with: index to 48 bytes. PCR0, 1 and 2 are always among them.

    Attributes:
        pcrs: as given, ascending.
        name: what a person calls them ("1.4, published 2026-01-15"); ledgers repeat it.

    Raises:
        WorkshopKitError: an index is no PCR's, a value is not 48 bytes, or one of PCR0, 1 and 2 is missing.
    """

    def __new__(cls, pcrs: Mapping[int, bytes], name: str = "") -> Self:
        missing = [f"PCR{index}" for index in IMAGE_PCRS if index not in pcrs]
        if missing:
            raise WorkshopKitError(
                f"reference values need PCR0, PCR1 and PCR2 together, {' and '.join(missing)} missing: "
                "one of them alone does not say which image runs"
            )
        for index, value in pcrs.items():
            if not 0 <= index < pcr.COUNT:
                raise WorkshopKitError(f"reference value PCR{index}: expected an index from 0 to {pcr.COUNT - 1}")
            if len(value) != pcr.SIZE:
                raise WorkshopKitError(f"reference value PCR{index}: expected 48 bytes, got {len(value)}")
        return super().__new__(cls, dict(sorted(pcrs.items())), name)

    @classmethod
    def from_hex(cls, values: Mapping[int, str], *, name: str = "") -> ReferenceValues:
        """From hexadecimal digits by index, as a command line or a published file has them."""
        return cls({index: _from_hex(index, text) for index, text in values.items()}, name)

    @classmethod
    def from_file(cls, file: Path) -> ReferenceValues:
        """From a published file; see `from_json`.

        Raises:
            WorkshopKitError: it cannot be read, or has another form.
        """
        from workshop_kit.files import read_file

        try:
            return cls.from_json(read_file(file).decode())
        except LabError:
            raise
        except WorkshopKitError as error:
            raise WorkshopKitError(f"{file}: {error}") from None
        except UnicodeDecodeError:
            raise WorkshopKitError(f"cannot read {file}: expected text in UTF-8, got something else") from None

    @classmethod
    def from_json(cls, text: str) -> ReferenceValues:
        """From a published file: `{"Measurements": {"PCR0": "…", "PCR1": "…", "PCR2": "…"}}`, as describe-eif prints.

        Raises:
            WorkshopKitError: the text has not that form.
        """
        import json

        try:
            measurements = json.loads(text)["Measurements"]
            values = {int(name[3:]): value for name, value in measurements.items() if name.startswith("PCR")}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise WorkshopKitError('reference values: expected JSON with "Measurements" and PCRs in it') from None
        return cls.from_hex(values)

    def to_json(self) -> str:
        """The published form; `from_json` reads it."""
        import json

        measurements = {"HashAlgorithm": "Sha384 { ... }"}
        measurements |= {f"PCR{index}": value.hex() for index, value in self.pcrs.items()}
        return json.dumps({"Measurements": measurements}, indent=2) + "\n"

    def differing(self, pcrs: Mapping[int, bytes]) -> tuple[int, ...]:
        """The indices whose value in `pcrs` is another or absent. A zero reference value is compared, not skipped."""
        return tuple([index for index, value in self.pcrs.items() if pcrs.get(index) != value])

    def explain(self, pcrs: Mapping[int, bytes]) -> str:
        """What the differences mean to a person, one sentence for the image and one for each other PCR; "" for none."""
        differing = self.differing(pcrs)
        image = frozenset(differing) & set(IMAGE_PCRS)
        sentences = [_image_sentence(image, pcrs)] if image else []
        sentences += [f"PCR{index} differs: {_OTHERS.get(index, 'another value')}." for index in differing if index > 2]
        return " ".join(sentences)

    def __repr__(self) -> str:
        shown = ", ".join(f"PCR{int(index)} {value.hex()[:16]}…" for index, value in self.pcrs.items())
        return f"ReferenceValues({shown})"


def zero_or_absent(pcrs: Mapping[int, bytes]) -> list[int]:
    """Which of PCR0, 1 and 2 do not say what runs: any of them zero is debug mode."""
    return [index for index in IMAGE_PCRS if pcrs.get(index, pcr.ZERO) == pcr.ZERO]


def _image_sentence(image: frozenset[int], pcrs: Mapping[int, bytes]) -> str:
    if all(pcrs.get(index) == pcr.ZERO for index in IMAGE_PCRS):
        return "PCR0, PCR1 and PCR2 are zero: debug mode hides which image runs."
    if image in _MEANING:
        return _MEANING[image]
    names = " and ".join(f"PCR{index}" for index in sorted(image))
    return f"{names} differs though PCR0 agrees: the reference values stem from two builds, or have a typo."


_OTHERS = {
    3: "the parent instance has another IAM role",
    4: "another parent instance",
    8: "the image is signed with another certificate, or not signed",
    16: "other users or another runtime configuration",
}


def _from_hex(index: int, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except (ValueError, TypeError):
        raise WorkshopKitError(
            f"reference value PCR{index}: expected 96 hexadecimal digits, got {text!r:.40}"
        ) from None
