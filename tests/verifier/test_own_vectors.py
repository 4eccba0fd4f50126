"""The repository's own documents: each is affirmed, or refused by the check that it was made for and by no other.

They are read as another project would read them, from `tests/vectors/nitro` and its manifest. Nothing else is needed.
"""

from __future__ import annotations

import ast
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from attested import refused_by, require_refusal
from vectors import generate
from verdicts import Verdict, decision

from workshop_kit.__main__ import main
from workshop_kit.errors import EndorsementError, MalformedEvidenceError
from workshop_kit.evidence import cbor, cose, document
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.verifier import (
    AppraisalResult,
    Outcome,
    Policy,
    ReferenceValues,
    TrustAnchor,
    UnsafeAnyImagePolicy,
    appraise,
    endorsements,
)
from workshop_kit.verifier.endorsements import endorse, forget_chains
from workshop_kit.verifier.ledger import GATES, RULES, parent_check

Entry = dict[str, Any]

FOLDER = generate.FOLDER / "nitro"
CLAIMS = [number for number in RULES if number not in GATES]
ENTRIES: list[Entry] = json.loads((FOLDER / "MANIFEST.json").read_text(encoding="utf-8"))


def evidence(entry: Entry) -> bytes:
    return (FOLDER / entry["file"]).read_bytes()


def anchor(entry: Entry) -> TrustAnchor:
    return TrustAnchor.from_certificate((FOLDER / entry["trust_root"]).read_bytes())


def at(entry: Entry) -> datetime:
    return datetime.fromisoformat(entry["at"])


def octets(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def policy(entry: Entry) -> Policy:
    demands: dict[str, Any] = {
        "trust_anchor": anchor(entry),
        "max_age": timedelta(seconds=entry["max_age"]),
        "nonce": octets(entry["nonce"]),
        "public_key": octets(entry["public_key"]),
        "user_data": octets(entry["user_data"]),
    }
    if entry["reference_values"] is None:
        return UnsafeAnyImagePolicy(**demands)
    values = ReferenceValues.from_json(json.dumps({"Measurements": entry["reference_values"]}))
    return Policy(reference_values=values, **demands)


def appraised(entry: Entry) -> AppraisalResult:
    return appraise(evidence(entry), policy(entry), now=at(entry))


def of(verdict: Callable[[Entry], bool]) -> list[Any]:
    return [pytest.param(entry, id=entry["name"]) for entry in ENTRIES if verdict(entry)]


@pytest.mark.parametrize("entry", of(lambda entry: entry["check"] is None))
def test_a_document_that_keeps_every_rule_is_affirmed(entry: Entry, verdict: Verdict) -> None:
    result = appraised(entry)
    verdict(f"own/nitro/{entry['name']}", entry["expected"], decision(result))
    assert entry["expected"] == "affirm"
    assert result.affirmed, result.summary
    assert {result[gate].outcome for gate in GATES} == {Outcome.PASSED}


@pytest.mark.parametrize("entry", of(lambda entry: entry["check"] in GATES))
def test_a_deviation_is_refused_by_its_gate_and_what_follows_is_not_evaluated(entry: Entry, verdict: Verdict) -> None:
    result = appraised(entry)
    verdict(f"own/nitro/{entry['name']}", entry["expected"], decision(result))
    assert entry["expected"] == "refuse"
    require_refusal(result, entry["check"])
    require_words(entry, result)


@pytest.mark.parametrize("entry", of(lambda entry: entry["check"] in CLAIMS))
def test_a_deviation_fails_its_claim_and_no_other(entry: Entry, verdict: Verdict) -> None:
    result = appraised(entry)
    verdict(f"own/nitro/{entry['name']}", entry["expected"], decision(result))
    assert entry["expected"] == "refuse"
    assert refused_by(result) is None
    number = entry["check"]
    assert [check.number for check in result.failed] == ([number] if number == parent_check(number) else [10, number])
    assert not result.affirmed
    require_words(entry, result)


def require_words(entry: Entry, result: AppraisalResult) -> None:
    """A document may be refused by the right check for another reason: the ledger's line says for which."""
    line = result[entry["check"]]
    assert entry["ledger"]
    # In any case: of two readers of CBOR one says "undefined" and one the name of its class.
    assert entry["ledger"].casefold() in f"{line.expected}\n{line.actual}".casefold(), line


def test_together_they_reach_every_line_of_a_ledger() -> None:
    assert {entry["check"] for entry in ENTRIES} - {None} == set(RULES)
    assert all(entry["check"] is None or entry["check"] in RULES for entry in ENTRIES)


def test_a_reason_and_a_name_stand_for_one_vector() -> None:
    """Two vectors with the same bytes, circumstances and demands would be one."""
    names = {entry["name"] for entry in ENTRIES}
    whole = {json.dumps({**entry, "name": "", "why": ""}) for entry in ENTRIES}
    assert len(names) == len(whole) == len(ENTRIES)
    assert all(entry["why"] for entry in ENTRIES)


# --- every refusing line is reached ----------------------------------------------------------------------------------

READERS = (cbor, cose, document, endorsements)
UNREACHED = {
    "reader.error(f'at most": "what is longer is no envelope before it is CBOR",
    "a certificate in PEM or DER": "the verifier's owner gave another file as anchor",
    "certificates that can be read to their end": "takes two faults: an unreadable name in a refused certificate",
}
"""Words of the lines that no document with one deviation reaches, and why."""


def refusing(module: ModuleType) -> Iterator[ast.stmt]:
    """The statements that refuse: each `raise` of something new, and each call of a helper that raises if need be."""
    assert module.__file__
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        expects = isinstance(node, ast.Expr) and ast.unparse(node).startswith("_expect(")
        if expects or (isinstance(node, ast.Raise) and node.exc is not None):
            assert isinstance(node, ast.stmt)
            yield node


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


@cache
def reached() -> tuple[set[tuple[str, int]], str]:
    """The lines, by file, through which refusals came, and all that they and their causes said."""
    lines, said = set(), []
    forget_chains()
    for entry in ENTRIES:
        try:
            endorse(decode_unverified(evidence(entry)), anchor(entry), now=at(entry))
        except (MalformedEvidenceError, EndorsementError) as refusal:
            for error in causes(refusal):
                lines |= {(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)}
                said.append(str(error))
    return lines, "\n".join(said)


def is_reached(module: ModuleType, node: ast.stmt) -> bool:
    lines, said = reached()
    assert node.end_lineno
    # A ValueError for the library that follows the chain comes back as text in an error of the library's.
    told = isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) == "ValueError"
    words = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)] if told else []
    return any((module.__file__, line) in lines for line in range(node.lineno, node.end_lineno + 1)) or any(
        word in said for word in words
    )


@pytest.mark.parametrize("module", READERS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_line_that_refuses_is_reached(module: ModuleType) -> None:
    """A new rule needs a vector that breaks it, and nothing else."""
    missed = [ast.unparse(node) for node in refusing(module) if not is_reached(module, node)]
    assert [text for text in missed if not any(words in text for words in UNREACHED)] == []


def test_a_line_that_is_excused_is_there() -> None:
    texts = [ast.unparse(node) for module in READERS for node in refusing(module)]
    assert [words for words in UNREACHED if not any(words in text for text in texts)] == []


# --- the generator and the command -----------------------------------------------------------------------------------


def test_the_vectors_are_as_their_generator_makes_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0
    assert capsys.readouterr().out == "the vectors are as made\n"


def test_the_generator_names_what_is_stale_missing_or_extra(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate.write(tmp_path)
    assert generate.main(["--check"], folder=tmp_path) == 0
    (tmp_path / "nitro/empty.bin").write_bytes(b"\0")
    (tmp_path / "nitro/root.pem").unlink()
    (tmp_path / "eif/more.eif").touch()
    capsys.readouterr()
    assert generate.main(["--check"], folder=tmp_path) == 1
    assert capsys.readouterr().out.split("\n")[:-1] == [
        "extra: eif/more.eif",
        "stale: nitro/empty.bin",
        "missing: nitro/root.pem",
    ]
    assert generate.main([], folder=tmp_path) == generate.main(["--check"], folder=tmp_path) == 0


def one_each() -> list[Any]:
    """For each check the first vector that the command can be asked about: it knows no handshake but its nonce."""
    sayable = [
        entry
        for entry in reversed(ENTRIES)
        if (entry["public_key"], entry["user_data"]) == (None, None) and entry["nonce"] != ""
    ]
    chosen = {entry["check"]: entry for entry in sayable if entry["reference_values"]}
    return [pytest.param(entry, id=entry["name"]) for entry in chosen.values()]


@pytest.mark.parametrize("entry", one_each())
def test_the_command_ends_with_0_for_what_is_affirmed_and_1_for_what_is_refused(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps({"Measurements": entry["reference_values"]}))
    arguments = ["--reference-values", values, "--root", FOLDER / entry["trust_root"], "--at", entry["at"], "--json"]
    arguments += ["--max-age", entry["max_age"], *(["--nonce", entry["nonce"]] if entry["nonce"] else [])]
    monkeypatch.setattr(sys, "argv", ["workshop", "verify", str(FOLDER / entry["file"]), *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == (0 if entry["check"] is None else 1)
    checks = json.loads(capsys.readouterr().out)["checks"]
    failed = [check["number"] for check in checks if check["outcome"] == "failed"]
    assert failed[-1:] == ([] if entry["check"] is None else [entry["check"]])
