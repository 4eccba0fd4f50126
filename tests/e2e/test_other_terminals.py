"""describe, console and terminate: what a second terminal learns of an enclave that the first runs, and does to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import DEADLINE, REPOSITORY, Program, program, until
from services import ASGI, make_service

from workshop_kit.errors import LabError
from workshop_kit.simulator import control
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Enclave, Infrastructure, run_enclave

APP = (
    ASGI
    + """
print("the app was loaded")
print("a warning", file=sys.stderr)

async def answer(scope, receive):
    return as_json("answered")
"""
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminals")
    file = folder / "service.eif"
    file.write_bytes(build_enclave(make_service(folder / "service", APP)).image.encode())
    return file


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The temporary folder of both terminals; its name is short, since the name of a socket must be."""
    with tempfile.TemporaryDirectory(prefix="terminals-") as folder:
        yield Path(folder) / "tmp"


def run(image: Path, *options: str) -> tuple[str, ...]:
    return ("-m", "workshop_kit", "run", str(image), *options)


def second(temporary: Path, *arguments: str) -> tuple[int, str, str]:
    """A command in another terminal: exit code, output, errors."""
    done = subprocess.run(
        [sys.executable, "-m", "workshop_kit", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(temporary)},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def described(temporary: Path) -> list[dict[str, Any]]:
    code, output, errors = second(temporary, "describe")
    assert (code, errors) == (0, "")
    enclaves: list[dict[str, Any]] = json.loads(output)
    return enclaves


def started(command: Program) -> tuple[str, str]:
    """Id and address of an enclave, once it serves."""
    return command.await_line("enclave "), command.await_line("listening on ")


def last_words(command: Program) -> tuple[int, str]:
    """Exit code and last line of standard error of a command that ends by itself."""
    code, _, errors = command.end()
    return code, errors.splitlines()[-1]


# --- in two terminals ------------------------------------------------------------------------------------------------


def test_a_second_terminal_describes_and_terminates(image: Path, temporary: Path) -> None:
    """Two enclaves of two commands; the one that is terminated ends its command as done, the other runs on."""
    with (
        program(*run(image), temporary=temporary) as first,
        program(*run(image, "--debug-mode"), temporary=temporary) as other,
    ):
        (one, url), (debug, _) = started(first), started(other)
        enclaves = {each["EnclaveID"]: each for each in described(temporary)}
        assert set(enclaves) == {one, debug}
        assert (enclaves[one]["State"], enclaves[one]["Flags"], enclaves[one]["Url"]) == ("RUNNING", "NONE", url)
        assert enclaves[debug]["Flags"] == "DEBUG_MODE"
        assert enclaves[one]["EnclaveCID"] == 16
        assert enclaves[one]["ProcessID"] in {each.pid for each in first.record()}
        code, output, errors = second(temporary, "terminate", "--enclave-id", one)
        assert (code, json.loads(output), errors) == (0, {"EnclaveID": one, "Terminated": True}, "")
        assert last_words(first) == (0, "the enclave was terminated")
        first.all_gone()
        assert [each["EnclaveID"] for each in described(temporary)] == [debug]
        other.signal(signal.SIGINT, group=True)
        other.end()
    assert described(temporary) == []
    assert list(temporary.iterdir()) == []


def test_an_enclave_that_does_not_end_by_itself_is_terminated_all_the_same(image: Path, temporary: Path) -> None:
    """It is stopped, so it hears nothing; who asked gets his answer though the command that runs it ends before."""
    with program(*run(image), temporary=temporary) as command:
        enclave_id, _ = started(command)
        (enclave,) = described(temporary)
        os.kill(enclave["ProcessID"], signal.SIGSTOP)
        code, _, errors = second(temporary, "terminate", "--enclave-id", enclave_id)
        assert (code, errors) == (0, "")
        assert last_words(command) == (0, "the enclave was terminated")
        command.all_gone()
    assert list(temporary.iterdir()) == []


def test_an_enclave_can_be_terminated_while_it_starts(image: Path, temporary: Path) -> None:
    """Its service would be ten minutes in starting."""
    slow = image.with_name("slow.eif")
    folder = make_service(image.parent / "slow", "import time\ntime.sleep(600)\n" + APP)
    slow.write_bytes(build_enclave(folder).image.encode())
    with program(*run(slow), temporary=temporary) as command:
        until(lambda: described(temporary), "an enclave")
        (enclave,) = described(temporary)
        code, _, errors = second(temporary, "terminate", "--enclave-id", enclave["EnclaveID"])
        assert (code, errors) == (0, "")
        code, words = last_words(command)
        assert code == 1
        assert words.startswith("workshop: the service does not start: it ended with code")
        command.all_gone()


def test_a_console_can_be_read_in_debug_mode_only(image: Path, temporary: Path) -> None:
    with (
        program(*run(image), temporary=temporary) as first,
        program(*run(image, "--debug-mode"), temporary=temporary) as other,
    ):
        (one, _), (debug, _) = started(first), started(other)
        expected = "the app was loaded\na warning\n"
        assert second(temporary, "console", "--enclave-id", debug) == (0, expected, "")
        code, output, errors = second(temporary, "console", "--enclave-id", one)
        assert (code, output) == (1, "")
        (line,) = errors.splitlines()
        assert line.startswith("workshop: console: expected an enclave in debug mode, got one whose console nobody can")


@pytest.mark.parametrize("command", ["console", "terminate"])
def test_an_id_that_nobody_has_is_one_line(temporary: Path, command: str) -> None:
    temporary.mkdir()
    code, output, errors = second(temporary, command, "--enclave-id", "i-0-enc0")
    assert (code, output) == (1, "")
    assert errors == "workshop: expected the id of an enclave, as `workshop describe` lists them, got 'i-0-enc0'\n"


def test_what_a_killed_infrastructure_left_is_removed(image: Path, temporary: Path) -> None:
    """It and its command are killed at once, so nobody is left to tidy up."""
    with program(*run(image), temporary=temporary) as command:
        started(command)
        command.signal(signal.SIGKILL)
        for each in command.record():
            with contextlib.suppress(ProcessLookupError):  # an enclave's processes take each other along
                os.kill(each.pid, signal.SIGKILL)
        command.end()
        command.all_gone()
    (left,) = temporary.glob("enclave-workshop-*")
    assert described(temporary) == []
    assert not left.exists()


def test_an_enclave_that_ended_by_itself_is_described_so_and_its_command_fails(image: Path, temporary: Path) -> None:
    with program(*run(image), temporary=temporary) as command:
        started(command)
        (enclave,) = described(temporary)
        os.kill(enclave["ProcessID"], signal.SIGKILL)
        assert last_words(command) == (1, "workshop: the enclave has ended by itself; run it again")


# --- from a program --------------------------------------------------------------------------------------------------


@pytest.fixture
def enclave(image: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Enclave]:
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with run_enclave(image, debug_mode=True) as running:
        yield running


def test_a_program_describes_its_enclave_and_reads_its_console(enclave: Enclave) -> None:
    assert enclave.describe() == control.describe_enclaves()[0]
    assert enclave.describe()["EnclaveID"] == enclave.enclave_id
    assert "the app was loaded" in enclave.console()
    enclave.infrastructure.ask("terminate", enclave_id=enclave.enclave_id)
    with pytest.raises(LabError, match="got one that was terminated"):
        enclave.describe()
    enclave.wait()


def test_nothing_but_the_three_can_be_asked_from_another_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """Above all no enclave is started: who runs one holds its parent instance."""
    requests = [{"id": 0, "operation": name} for name in ("root", "run", "close", "", None, [])]
    wrong = [{}, [], 1, {"operation": "describe", "arguments": {"more": 1}}, {"operation": "describe"}]
    infrastructure = Infrastructure()
    try:
        for line in [*map(json.dumps, [*requests, *wrong]), "{", "\xff", ""]:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(DEADLINE)
                connection.connect(str(infrastructure.directory / control.CONTROL))
                connection.sendall(line.encode() + b"\n")
                assert connection.recv(100) == b""
        assert infrastructure.ask("describe") == {"enclaves": []}
    finally:
        infrastructure.close()
    assert capfd.readouterr().err == ""


def test_only_its_user_can_reach_the_socket(enclave: Enclave) -> None:
    assert stat.S_IMODE(enclave.infrastructure.directory.stat().st_mode) == 0o700


def test_folders_of_others_and_of_those_that_start_are_left_alone(enclave: Enclave, temporary: Path) -> None:
    """Locked, or another user's: neither is what a killed infrastructure left, though no socket is in it."""
    starting, lock = control.new_home()
    foreign, killed = temporary / f"{control.FOLDER}foreign", temporary / f"{control.FOLDER}killed"
    for folder in (foreign, killed):
        folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root gives a folder away")
    os.chown(foreign, 12345, 12345)
    assert [each["EnclaveID"] for each in control.describe_enclaves()] == [enclave.enclave_id]
    assert starting.exists()
    assert foreign.exists()
    assert not killed.exists()
    os.chown(foreign, 0, 0)
    os.close(lock)
    control.describe_enclaves()
    assert not foreign.exists()
    assert not starting.exists()
