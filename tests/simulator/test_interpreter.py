"""An enclave's process ahead of its image: it has the machine's libraries, nothing of the kit, and waits to be told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from processes import DEADLINE

from workshop_kit.simulator.interpreter import Interpreter

SAY = """
import os, sys
ours = sorted(name for name in sys.modules if name.partition(".")[0] == "workshop_kit")
print(ours, "httptools" in sys.modules, sys.modules["__main__"].__file__ == __file__ == sys.argv[0], os.getcwd())
print(sys.argv[1], sys.argv[-1], [os.read(int(each), 9).decode() for each in sys.argv[2:-1]], sys.stdin.read())
"""


def console(interpreter: Interpreter) -> str:
    interpreter.close_console()
    with os.fdopen(interpreter.console) as stream:
        return stream.read()


def test_it_becomes_what_it_is_told_with_what_it_is_handed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SAY)
    interpreter = Interpreter()
    pipes = [os.pipe() for _ in range(3)]
    for number, (_, end) in enumerate(pipes):
        os.write(end, b"%d" % number)
    interpreter.run(script, "first", [ours for ours, _ in pipes], ["last"], folder=tmp_path)
    for each in (end for ends in pipes for end in ends):
        os.close(each)
    interpreter.process.communicate(b"handed in", DEADLINE)
    assert console(interpreter) == f"[] True True {tmp_path}\nfirst last ['0', '1', '2'] handed in\n"


def test_one_that_is_told_nothing_can_be_ended(capfd: pytest.CaptureFixture[str]) -> None:
    interpreter = Interpreter()
    interpreter.end()
    assert interpreter.process.poll() == 0
    assert capfd.readouterr() == ("", "")


def test_one_that_has_ended_is_no_error_of_who_tells_it(tmp_path: Path) -> None:
    """Whoever waits for its answer learns it there."""
    interpreter = Interpreter()
    interpreter.process.kill()
    interpreter.process.wait()
    interpreter.run(tmp_path / "script.py", "first", [], [], folder=tmp_path)
    assert console(interpreter) == ""
    assert interpreter.process.stdin is not None
    interpreter.process.stdin.close()


def test_a_script_that_fails_says_so_on_the_console(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise RuntimeError('no way')\n")
    interpreter = Interpreter()
    interpreter.run(script, "first", [], [], folder=tmp_path)
    interpreter.process.communicate(timeout=DEADLINE)
    assert "RuntimeError: no way" in console(interpreter)
