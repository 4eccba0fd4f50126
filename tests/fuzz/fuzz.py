"""`workshop fuzz`: bytes that nobody thought of, chosen by the code that they reach (atheris, which is libFuzzer).

Each target has a process of its own and its share of the time, since libFuzzer ends the process at a finding. With a
file it is run on that alone, here and without atheris: the traceback is the finding.
"""

from __future__ import annotations

import argparse
import faulthandler
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from seeds import SEEDS
from targets import TARGETS

CHILD = Path(__file__).with_name("guided.py")
ROOT = Path(__file__).resolve().parents[2]
FINDINGS = ROOT / "fuzz-findings"
SLOW = 5
"""Seconds after which an input counts as a hang."""
LARGEST = 16 * 1024
MEMORY = 1024
"""Mebibytes for a whole process, interpreter and libraries included."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--target")
    given = parser.parse_args(arguments)
    if given.target not in (None, *TARGETS):
        print(f"workshop: expected a target of {', '.join(TARGETS)}, got {given.target!r}", file=sys.stderr)
        return 2
    if given.file:
        return replay(given.target, given.file)
    names = [given.target] if given.target else list(TARGETS)
    return max([fuzz(name, given.seconds / len(names)) for name in names])


def replay(name: str, file: Path) -> int:
    """Run one input; what it raises is not caught, and where it hangs is shown."""
    faulthandler.dump_traceback_later(SLOW, exit=True)
    TARGETS[name](file.read_bytes())
    faulthandler.cancel_dump_traceback_later()
    print(f"{name}: no finding in {file}")
    return 0


def fuzz(name: str, seconds: float) -> int:
    """Run a target for its share of the time; 1 where there is a finding, or where the run did not begin."""
    with tempfile.TemporaryDirectory() as folder:
        seeds, found = Path(folder, "seeds"), Path(folder, "found")
        for made in (seeds, found):
            made.mkdir()
        for number, seed in enumerate(SEEDS[name]()):
            (seeds / f"{number:04}").write_bytes(seed)
        limits = [f"-max_total_time={max(1, round(seconds))}", f"-timeout={SLOW}", f"-rss_limit_mb={MEMORY}"]
        options = [*limits, f"-max_len={LARGEST}", "-print_final_stats=1", f"-artifact_prefix={found}/"]
        command = [sys.executable, str(CHILD), name, *options, str(seeds)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        kept = [_keep(name, file) for file in sorted(found.iterdir())]
    lines = _findings(name, done, kept)
    runs = re.search(r"^stat::number_of_executed_units: +([1-9][0-9]*)$", done.stderr, re.MULTILINE)
    if not lines and (done.returncode or not runs):
        lines = [f"{name}: expected a run, it ended with code {done.returncode}: {_last(done.stderr)}"]
    print("\n".join(lines) if lines else f"{name}: {runs[1] if runs else 0} runs, no finding", flush=True)
    return 1 if lines else 0


def _keep(name: str, file: Path) -> Path:
    FINDINGS.mkdir(exist_ok=True)
    return Path(shutil.move(file, FINDINGS / f"{name}-{file.name}"))


def _findings(name: str, done: subprocess.CompletedProcess[str], kept: list[Path]) -> list[str]:
    raised = re.search(r"^finding: (.*)$", done.stderr, re.MULTILINE)
    return [f"{name}: {raised[1] if raised else _kind(file)}; again: {_again(name, file)}" for file in kept]


def _kind(file: Path) -> str:
    """libFuzzer puts it into the file's name, and nothing was raised where the process was ended from outside."""
    kinds = {"timeout": f"more than {SLOW} s", "oom": f"more than {MEMORY} MiB"}
    return next((words for kind, words in kinds.items() if f"-{kind}-" in file.name), "the process died")


def _again(name: str, file: Path) -> str:
    place = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    return f"workshop fuzz --target {name} {place}"


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
