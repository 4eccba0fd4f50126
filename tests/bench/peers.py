"""`workshop bench --peers`: ours and other verifiers on the same genuine documents, as ratios from one run.

The peers live in an environment of their own. Most know only the present, so each document is timed by a process that
`faketime` starts at the document's own time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from itertools import groupby
from pathlib import Path
from typing import NoReturn

from interleave import ratio
from peer_adapters import PEERS, Peer, Subject
from peer_timing import BASE, OURS, OURS_KNOWN, one_line

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vectors_location import vectors

from workshop import wanted_stamp, working_uv

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-peers"
PYTHON = ENVIRONMENT / "bin" / "python"
ENOUGH = 3
"""How many peers must have run for the bench to say anything."""

Seconds = Mapping[str, list[float]]


class InstallationError(Exception):
    pass


def run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallationError(one_line(done.stderr or done.stdout))


def install(*what: str) -> None:
    """Under the workshop's own pins, so that every verifier runs on the same libraries."""
    uv = working_uv()
    pip = [PYTHON, "-I", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    command = [uv, "pip", "install", "--quiet", "--python", PYTHON] if uv else pip
    run(*command, "-c", "constraints.txt", *what)


def prepare_environment() -> None:
    """An environment with this checkout in it, made or renewed where the pins, the project or Python are others."""
    stamp, wanted = ENVIRONMENT / ".installed", wanted_stamp()
    if not stamp.is_file() or stamp.read_text() != wanted:
        note(f"making {ENVIRONMENT.name}, once")
        run(sys.executable, "-m", "venv", "--clear", *(["--without-pip"] if working_uv() else []), ENVIRONMENT)
        install("-e", str(ROOT))
        stamp.write_text(wanted)


def is_installed(peer: Peer) -> bool:
    places = [str(place) for place in ENVIRONMENT.glob("lib/python*/site-packages")]
    return any(distributions(name=peer.package, path=places))


def without_installation(peers: Sequence[Peer]) -> dict[str, str]:
    """Install each peer that is missing, by itself; of those that cannot be installed, why."""
    skipped = {}
    for peer in peers:
        if not is_installed(peer):
            note(f"installing {peer.package}, once")
            try:
                install(peer.package)
            except InstallationError as error:
                skipped[peer.package] = f"cannot be installed: {error}"
    return skipped


def without_another_time(peers: Sequence[Peer], faketime: str | None) -> dict[str, str]:
    """The peers that nothing can take to a document's time here."""
    reason = "knows only the present, and faketime is not here (Debian, Ubuntu: sudo apt install faketime)"
    return {peer.package: reason for peer in peers if peer.knows_only_the_present and not faketime}


def time_one(file: Path, peers: Sequence[Peer], faketime: str | None) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The seconds of ours and of `peers` on one document, and why a peer was skipped."""
    at = Subject(file).now.strftime("@%Y-%m-%d %H:%M:%S")
    # perf_counter must stay real: what is faked is the date alone.
    another_time = ["env", "TZ=UTC", faketime, "--exclude-monotonic", "-f", at] if faketime else []
    script = Path(__file__).with_name("peer_timing.py")
    command = [*another_time, str(PYTHON), str(script), str(file), *(peer.package for peer in peers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        stop(f"{file.name} could not be timed: {one_line(done.stderr.strip().rpartition(chr(10))[2])}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"], answer["skipped"]


def over_the_base(seconds: Seconds) -> dict[str, float]:
    """The ratio of each case, the quickest first. What is printed is what is judged."""
    ratios = {name: ratio(seconds, name, BASE) for name in seconds if name != BASE}
    return dict(sorted(ratios.items(), key=lambda row: row[1]))


def table(seconds: Seconds, document: str) -> list[str]:
    rows = [f"{name:<32} {value:.2f}" for name, value in over_the_base(seconds).items()]
    return [f"{'what':<32} ratio", *rows, f"over {BASE}, ratios of tenth percentiles, one interleaved run: {document}"]


def complaint(runs: Sequence[Seconds]) -> str:
    """What the bench fails for, "" where ours was faster than each of enough peers."""
    ran, ahead = 0, []
    for ratios in map(over_the_base, runs):
        peers = ratios.keys() - {OURS, OURS_KNOWN}
        ran += len(peers)
        ahead += [name for name in ratios if name in peers and ratios[name] <= ratios[OURS]]
    if ran < ENOUGH:
        return f"expected at least {ENOUGH} peers to run, got {ran}: see why the others were skipped"
    return (
        f"expected ours, at first sight, to be faster than each peer; not so with {', '.join(ahead)}" if ahead else ""
    )


def genuine_documents() -> dict[str, Path]:
    """The files by name, or none where one of them is missing."""
    folder = vectors()
    files = {peer.document: folder / "nitro" / peer.document for peer in PEERS} if folder else {}
    return files if all(file.is_file() for file in files.values()) else {}


def main() -> int:
    files = genuine_documents()
    if not files:
        stop("the genuine documents are not here: see tests/README.md")
    try:
        prepare_environment()
    except InstallationError as error:
        stop(f"{ENVIRONMENT.name} could not be made: {error}")
    faketime = shutil.which("faketime")
    skipped = without_installation(PEERS) | without_another_time(PEERS, faketime)
    runs = []
    for document, peers in groupby(PEERS, key=lambda peer: peer.document):
        if able := [peer for peer in peers if peer.package not in skipped]:
            seconds, refused = time_one(files[document], able, faketime)
            print("\n".join(table(seconds, document)), flush=True)
            skipped |= refused
            runs.append(seconds)
    for package, reason in skipped.items():
        note(f"skipped {package}: {reason}")
    if failure := complaint(runs):
        stop(failure)
    return 0


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def stop(text: str) -> NoReturn:
    note(f"workshop bench: {text}")
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
