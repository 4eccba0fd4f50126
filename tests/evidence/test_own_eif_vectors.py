"""The repository's own enclave images: what each measures, and the one fault that each faulty one was made for."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from vectors import generate
from verdicts import Verdict

from workshop_kit.__main__ import main
from workshop_kit.errors import ImageError
from workshop_kit.evidence import eif, eif_signature
from workshop_kit.evidence.eif import read_image
from workshop_kit.inspection import describe_image

Entry = dict[str, Any]

FOLDER = generate.FOLDER / "eif"
ENTRIES: list[Entry] = json.loads((FOLDER / "MANIFEST.json").read_text(encoding="utf-8"))


def image(entry: Entry) -> bytes:
    return (FOLDER / entry["file"]).read_bytes()


def described(entry: Entry) -> dict[str, Any]:
    return describe_image(image(entry), now=datetime.fromisoformat(entry["at"]))


def each() -> list[Any]:
    return [pytest.param(entry, id=Path(entry["file"]).stem) for entry in ENTRIES]


@pytest.mark.parametrize("entry", each())
def test_an_image_has_its_fault_and_no_other(entry: Entry, verdict: Verdict) -> None:
    """In one case a deviation breaks two rules: `also` begins the second."""
    wanted = [entry["fault"], *entry["also"]] if entry["fault"] else []
    found = described(entry)["Faults"]
    verdict(f"own/eif/{entry['file']}", entry["fault"] or "no fault", "; ".join(found) or "no fault")
    assert len(found) == len(wanted), found
    assert all(fault.startswith(beginning) for fault, beginning in zip(found, wanted, strict=True)), found


@pytest.mark.parametrize("entry", each())
def test_an_image_has_its_measurements_with_or_without_a_fault(entry: Entry) -> None:
    measured = described(entry)["Measurements"]
    digits = {name: value for name, value in (measured or {}).items() if name.startswith("PCR")}
    assert digits == (entry["measurements"] or {})
    assert (measured is None) == (entry["measurements"] is None)


@pytest.mark.parametrize("entry", each())
def test_an_image_is_read_unless_its_form_is_at_fault(entry: Entry) -> None:
    """What a signature says, and whose it is, is not asked while reading."""
    fault = entry["fault"] or ""
    if not fault or (fault.startswith(("certificate:", "signature:")) and "at most" not in fault):
        assert read_image(image(entry)).encode()
    else:
        with pytest.raises(ImageError, match=f"^enclave image: {re.escape(fault)}"):
            read_image(image(entry))


def test_boundaries_are_not_measured_and_ramdisks_are_told_apart() -> None:
    by_name = {Path(entry["file"]).stem: entry["measurements"] for entry in ENTRIES}
    moved = by_name["ok_ramdisk_boundary"]
    assert by_name["ok_kernel_boundary"] == by_name["ok"]
    assert [name for name in moved if moved[name] != by_name["ok"][name]] == ["PCR1", "PCR2"]
    assert by_name["ok_one_ramdisk"]["PCR0"] == by_name["ok_one_ramdisk"]["PCR1"] == by_name["ok"]["PCR1"]


# --- every fault is reached ------------------------------------------------------------------------------------------

ELSEWHERE = ("sign_image", "image")
"""Functions whose errors are not about an image's bytes, or repeat its first fault."""


def said(module: ModuleType) -> Iterator[ast.expr]:
    """What each fault of a module says: what it yields or raises, and the texts that it returns or keeps."""
    assert module.__file__
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    others = {id(node) for function in ast.walk(tree) if _is_elsewhere(function) for node in ast.walk(function)}
    for node in ast.walk(tree):
        if id(node) not in others:
            yield from _fault(node)


def _is_elsewhere(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name in ELSEWHERE


def _fault(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Yield) and node.value:
        yield node.value
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield node.exc.args[0]
    elif (
        isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and isinstance(node.value.elts[1], ast.List)
    ):
        yield from node.value.elts[1].elts
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "fault":
        yield node.value


def pattern(text: ast.expr) -> str:
    """A string, or one with values in it, as a regular expression."""
    if isinstance(text, ast.Constant):
        return re.escape(str(text.value))
    assert isinstance(text, ast.JoinedStr), ast.unparse(text)
    return "".join(pattern(part) if isinstance(part, ast.Constant) else ".+" for part in text.values)


@pytest.mark.parametrize("module", [eif, eif_signature], ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_fault_that_the_format_knows_is_reached(module: ModuleType) -> None:
    """A new fault needs an image that has it, and no other."""
    found = [fault for entry in ENTRIES for fault in described(entry)["Faults"]]
    texts = [pattern(text) for text in said(module)]
    assert len(texts) > 5
    assert [text for text in texts if not any(re.fullmatch(text, fault) for fault in found)] == []


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("ok", 0), ("ok_version_3", 0), ("crc", 1), ("magic", 1), ("no_kernel", 1)])
def test_the_command_ends_with_0_without_a_fault_and_with_1_for_any(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = [entry for entry in ENTRIES if entry["file"] == f"{name}.eif"]
    monkeypatch.setattr(sys, "argv", ["workshop", "describe-eif", str(FOLDER / entry["file"])])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    assert json.loads(capsys.readouterr().out)["Faults"] == described(entry)["Faults"]
