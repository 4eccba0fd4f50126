"""The fuzz targets without the fuzzer: their seeds are calm and reach deep, and what breaks is a finding."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import pytest
import typer
from seeds import SEEDS
from targets import TARGETS

from workshop_kit import cli, tasks
from workshop_kit.channel.enclave_handshake import AttestationNeeded
from workshop_kit.channel.framing import RequestHead, ResponseHead
from workshop_kit.channel.handshake import Answer
from workshop_kit.errors import LabError
from workshop_kit.evidence.cpio import Link
from workshop_kit.service.access import Users
from workshop_kit.service.manifest import Manifest

Answers = list[Any]


def signed_and_not(images: Answers) -> bool:
    ours = [image for image in images if image["Metadata"] == {"ImageName": "small"} and not image["Faults"]]
    return {image["IsSigned"] for image in ours} == {True, False}


def both_heads(answers: Answers) -> bool:
    heads = {type(record.head) for records in answers for record in records}
    return heads == {RequestHead, ResponseHead, type(None)}


def both_files(pairs: Answers) -> bool:
    return any(isinstance(one, Manifest) for one, _ in pairs) and any(
        isinstance(two, Users) and two for _, two in pairs
    )


def both_profiles(answers: Answers) -> bool:
    """Of a transcript a digest, of a session's key itself, where nothing wraps it."""
    needed = [answer.user_data for answer in answers if isinstance(answer, AttestationNeeded)]
    return len(needed) == 2 and bytes(32) in needed and len(set(needed)) == 2


DEPTHS: dict[str, Callable[[Answers], bool]] = {
    "document": lambda results: any(result.affirmed and result.document.is_simulated for result in results),
    "payload": lambda results: any(result.affirmed for result in results),
    # The first ten: each of the five, whole and by its content.
    "certificates": lambda results: all(result.affirmed for result in results[:10]),
    "eif": signed_and_not,
    "signer": lambda images: any(not image["Faults"] for image in images),
    "ramdisk": lambda answers: any(
        isinstance(each, dict) and (0o777, Link("b/c")) in each.values() for each in answers
    ),
    "cbor": lambda values: any(isinstance(value, dict) and "pcrs" in value for value in values),
    "nsm": lambda lives: any("document" in answer for answers in lives for answer in answers[1:]),
    "frames": both_heads,
    "hello": both_profiles,
    "answer": lambda answers: any(isinstance(answer, Answer) and answer.document for answer in answers),
    "manifest": both_files,
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_of_a_target_are_calm_and_reach_what_is_deepest(name: str) -> None:
    assert DEPTHS[name]([TARGETS[name](seed) for seed in SEEDS[name]()])


def test_genuine_documents_are_seeds_that_pass_every_gate(shared_vectors: Path) -> None:
    del shared_vectors
    results: Answers = [TARGETS["document"](seed) for seed in SEEDS["document"]()]
    assert any(result.affirmed and not result.document.is_simulated for result in results)


BREAKS = {
    "document": "inspection._pcr",
    "payload": "evidence.cbor.decode_quickly",
    "certificates": "inspection._certificate",
    "eif": "simulator.comparison.read_archive",
    "signer": "evidence.eif_signature.measure",
    "ramdisk": "evidence.cpio.write_archive",
    "cbor": "evidence.cbor.decode_quickly",
    "nsm": "evidence.nsm_api.decode_response",
    "frames": "channel.framing._encode_head",
    "hello": "channel.enclave_handshake.load_der_public_key",
    "answer": "channel.hybrid.X25519PublicKey.from_public_bytes",
    "manifest": "service.access._repeated_users",
}


def broken(*_: object) -> None:
    raise LookupError("broken on purpose")


@pytest.mark.parametrize("name", TARGETS)
def test_what_breaks_behind_a_target_is_a_finding(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(f"workshop_kit.{BREAKS[name]}", broken)
    with pytest.raises(LookupError, match="on purpose"):  # noqa: PT012  any of the seeds may be the one
        for seed in SEEDS[name]():
            (tmp_path / "input").write_bytes(seed)
            fuzz.replay(name, tmp_path / "input")


# --- the command -----------------------------------------------------------------------------------------------------


def test_one_file_is_run_again_by_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input").write_bytes(b"\x01\0\0\0\x03200")
    with pytest.raises(typer.Exit) as end:
        cli.fuzz(file=tmp_path / "input", seconds=60, target="frames")
    assert end.value.exit_code == 0
    assert capfd.readouterr().out == f"frames: no finding in {tmp_path / 'input'}\n"


def test_a_target_that_does_not_exist_is_a_bad_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--target", "documents"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("workshop: expected a target of document, payload, ")


def test_without_atheris_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(LabError) as refusal:
        tasks.run_fuzz(file=None, seconds=60, target=None)
    assert "[fuzz]" in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_the_time_is_split_and_a_finding_ends_no_other_target(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def fuzzed(name: str, seconds: float) -> int:
        asked[name] = seconds
        return int(name == "document")

    monkeypatch.setattr(fuzz, "fuzz", fuzzed)
    assert fuzz.main(["--seconds", "50"]) == 1
    assert asked == dict.fromkeys(TARGETS, 50 / len(TARGETS))
    assert fuzz.main(["--target", "nsm"]) == 0


ATHERIS = """
import contextlib, pathlib, sys

def instrument_imports(include):
    assert include == ["workshop_kit"] and "workshop_kit" not in sys.modules
    return contextlib.nullcontext()

def Setup(arguments, target):
    global options, run
    options, run = arguments, target

def Fuzz():
    prefix = next(each.partition("=")[2] for each in options if each.startswith("-artifact_prefix="))
    {first}
    for place, file in enumerate(sorted(pathlib.Path(options[-1]).iterdir()), start=1):
        try:
            run(file.read_bytes())
        except BaseException:
            pathlib.Path(prefix + "crash-0").write_bytes(file.read_bytes())
            sys.exit(77)
    print("stat::number_of_executed_units:", place, file=sys.stderr)
"""


@pytest.fixture
def fuzzing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Fuzz the records under a stand-in for atheris that runs the seeds alone; the code, and the one line."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(fuzz, "FINDINGS", tmp_path / "findings")

    def run(first: str = "pass") -> tuple[int, str]:
        (tmp_path / "atheris.py").write_text(ATHERIS.format(first=first))
        code = fuzz.fuzz("frames", 1)
        [line] = capfd.readouterr().out.splitlines()
        return code, line

    return run


def test_a_run_without_a_finding_says_how_many_inputs_it_had(fuzzing: Callable[..., Any], tmp_path: Path) -> None:
    assert fuzzing() == (0, f"frames: {len(list(SEEDS['frames']()))} runs, no finding")
    assert not (tmp_path / "findings").exists()


def test_a_finding_is_kept_and_said_in_a_line_with_the_way_back_to_it(
    fuzzing: Callable[..., Any], tmp_path: Path
) -> None:
    code, line = fuzzing("from workshop_kit.channel import framing; framing._split = len")
    file = tmp_path / "findings" / "frames-crash-0"
    assert (code, line.partition("; again: ")[2]) == (1, f"workshop fuzz --target frames {file}")
    assert line.startswith("frames: TypeError(")
    assert file.read_bytes() == next(iter(SEEDS["frames"]()))
    assert fuzz.replay("frames", file) == 0


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("sys.exit('no such thing')", "frames: expected a run, it ended with code 1: no such thing"),
        ("pathlib.Path(prefix + 'timeout-0').touch(); sys.exit(70)", "frames: more than 5 s; again: "),
    ],
    ids=["its beginning", "a hang"],
)
def test_a_run_that_ends_otherwise_is_no_success(fuzzing: Callable[..., Any], first: str, words: str) -> None:
    code, line = fuzzing(first)
    assert code == 1
    assert words in line


def test_a_run_without_any_input_is_no_success(fuzzing: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEEDS, "frames", list)  # type: ignore[index]
    code, line = fuzzing("place = 0")
    assert (code, "expected a run" in line) == (1, True)
