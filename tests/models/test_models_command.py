"""`python -m workshop_kit.models`: the table, a trace, and what is written with ProVerif and without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workshop_kit.errors import LabError
from workshop_kit.models import VARIANTS, Property, examine, proverif, recording
from workshop_kit.models import __main__ as command
from workshop_kit.models.proverif_models import MODELS

STUB = """\
#!/bin/sh
if [ "$1" = -help ]; then echo "Proverif 9.87. Cryptographic protocol verifier"; exit; fi
cat {output}
"""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results file of the test's own."""
    file = tmp_path / "results.json"
    monkeypatch.setattr(recording, "RESULTS", file)
    monkeypatch.setattr(recording, "read_results", lambda: json.loads(file.read_text()))
    return file


@pytest.fixture
def without_proverif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def stub(folder: Path, monkeypatch: pytest.MonkeyPatch, *, payload: str = "true") -> None:
    """A program named proverif that says one thing of every model."""
    output = folder / "output"
    lines = [
        f"Query not attacker(payload[]) is {payload}.",
        "Query not attacker(result[]) is true.",
        *(f"Query inj-event({event}(k,n)) ==> … is true." for event in ("ClientHas", "EnclaveTook", "ClientTook")),
    ]
    output.write_text("Verification summary:\n\n" + "\n\n".join(lines))
    program = folder / "proverif"
    program.write_text(STUB.format(output=output))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_a_trace_is_told_and_is_the_same_in_every_process() -> None:
    """Terms lie elsewhere in the memory of another process."""
    run = [sys.executable, "-m", "workshop_kit.models", "trace", "modern-unbound"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == f"{examine(VARIANTS['modern-unbound'])}\n"
    assert "Mallory is the operator" in done.stdout
    assert "1. Client 1 sends modern hello 1" in done.stdout


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two variants for a table; the whole one is searched elsewhere."""
    monkeypatch.setattr(command, "VARIANTS", {name: VARIANTS[name] for name in ("modern-no-nonce", "seed-no-nonce")})


@pytest.mark.usefixtures("few")
def test_the_table_has_a_line_for_each_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "variant runs states what falls",
        "modern-no-nonce 2x2 68 nothing",
        "seed-no-nonce 2x2 122 keys fresh, client agrees",
    ]


def test_a_table_that_differs_from_what_was_expected_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = vars(VARIANTS["seed-no-nonce"]) | {"falls": frozenset({Property.PAYLOAD})}
    monkeypatch.setattr(command, "VARIANTS", {"seed-no-nonce": type(VARIANTS["seed"])(**wrong)})
    assert command.main([]) == 1
    assert "which was not expected" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["bogus"], ["trace"], ["trace", "bogus"], ["export"], ["--bogus"]], ids=" ".join)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("workshop: ")


@pytest.mark.usefixtures("without_proverif")
def test_recording_without_proverif_is_one_line_and_writes_nothing(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["record"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("workshop: expected ProVerif on the path")
    assert not results.exists()


def test_what_proverif_says_is_written_with_its_version_the_date_and_the_digest(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(tmp_path, monkeypatch)
    assert command.main(["record"]) == 1
    surprises = capsys.readouterr().err.splitlines()
    assert "seed-no-nonce, client agrees: expected false, ProVerif says true" in surprises
    assert not [line for line in surprises if line.startswith(("seed,", "modern,"))]
    entry = json.loads(results.read_text())["seed"]
    assert entry["sha256"] == MODELS["seed"].digest
    assert entry["checked"]["proverif"] == "9.87"
    assert entry["checked"]["verdicts"] == MODELS["seed"].expected
    assert "note" not in entry


def test_a_result_is_kept_while_its_model_is_the_same_and_dropped_when_it_changes(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path, monkeypatch)
    command.main(["record"])
    written = json.loads(results.read_text())
    written["modern"]["sha256"] = "of other bytes"
    results.write_text(json.dumps(written))
    assert command.main(["record", "--without-proverif"]) == 0
    kept = json.loads(results.read_text())
    assert kept["seed"] == written["seed"]
    assert kept["modern"]["checked"] is None
    assert kept["modern"]["note"] == proverif.NOT_RUN
    assert kept["modern"]["sha256"] == MODELS["modern"].digest


def test_a_proverif_that_ends_without_a_verdict_is_one_line_with_its_words(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path, monkeypatch)
    (tmp_path / "output").write_text("File seed.pv, line 3:\nError: syntax error\n")
    with pytest.raises(LabError, match=r"seed: expected one verdict.*Error: syntax error") as raised:
        recording.record()
    assert "\n" not in str(raised.value)
    assert not results.exists()


def test_exported_models_are_the_bytes_whose_digests_are_recorded(tmp_path: Path) -> None:
    assert command.main(["export", str(tmp_path / "new" / "folder")]) == 0
    written = {file.stem: file.read_bytes().decode() for file in (tmp_path / "new" / "folder").iterdir()}
    assert written == {name: model.text for name, model in MODELS.items()}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert command.main(["export", str(tmp_path / "file")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("workshop: expected a folder")
