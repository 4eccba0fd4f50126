"""What this machine gives an enclave to keep its app in: each level tried in a process of its own, none assumed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from workshop_kit.errors import LabError
from workshop_kit.simulator.isolation.levels import Isolation, Level, isolate

_TRIAL = "import sys; from workshop_kit.simulator import doctor; doctor.main(*sys.argv[1:])"
_SECONDS = 30


def examine(at_most: Level = Level.NAMESPACES) -> Isolation:
    """The strongest isolation that this machine gives, obtained once by a process that ends.

    Raises:
        LabError: not even seccomp is to be had.
    """
    with tempfile.TemporaryDirectory(prefix="enclave-workshop-") as directory:
        for name in ("tree", "tmp"):
            Path(directory, name).mkdir()
        command = [sys.executable, "-c", _TRIAL, at_most.value, directory]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS, cwd="/")
    if done.returncode or not done.stdout:
        words = (done.stderr.strip() or f"the trial ended with code {done.returncode}").splitlines()[-1]
        raise LabError(words.partition("LabError: ")[2] or words)
    return Isolation.from_dict(json.loads(done.stdout))


def report() -> list[str]:
    """What was found, in plain words, a line each."""
    try:
        isolation = examine()
    except LabError as error:
        return [f"isolation: none. {error}"]
    lines = [f"isolation: {isolation.level.value}"]
    lines += [f"  {name}: {state}" for name, state in isolation.layers.items()]
    return [*lines, "An enclave's app can still:", *(f"  - {text}" for text in isolation.open)]


def main(level: str, root: str) -> None:
    """The trial itself: confine this process, and say how far it went."""
    print(json.dumps(isolate(Path(root), at_most=Level(level)).as_dict()))
