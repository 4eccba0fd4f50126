"""What a clone holds: nothing of the machine that it was written on, no secret, and the same bytes everywhere."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

ROOT = Path(__file__).resolve().parents[2]
# As the Apache Software Foundation publishes it, with its appendix unfilled.
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
LARGEST = 1 << 20
# A pattern, and in two halves, so that this file is searched as well, what it has to find.
TRACES = {
    "a path of the machine it was written on": (
        r"(?<![\w.~-])/(?:home|root|Users|work|opt)/\w",
        ("see /", "home/alice"),
    ),
    "the host of a package registry": (
        r"(?:pypi|pythonhosted|npmjs|anaconda)\.(?:org|com)\b",
        ("https://pypi", ".org/"),
    ),
    "an installer's address": (r"(?:--(?:extra-)?index-url|--find-links)[ =]", ("pip --index", "-url x")),
    "a private key": (r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----", ("-----BEGIN ", "PRIVATE KEY-----")),
}


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this folder is no git checkout: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Regular files only: a tracked file may be gone from the work tree until its removal is committed."""
    return [ROOT / name for name in git("ls-files", "-z").split("\0") if name and (ROOT / name).is_file()]


def is_text(content: bytes) -> bool:
    return b"\0" not in content[:8000]


@pytest.mark.parametrize("kind", TRACES)
def test_no_tracked_text_holds(kind: str, tracked: list[Path]) -> None:
    pattern = re.compile(TRACES[kind][0])
    found = []
    for file in tracked:
        if is_text(content := file.read_bytes()):
            lines = enumerate(content.decode(errors="replace").splitlines(), start=1)
            found += [f"{file.relative_to(ROOT)}:{number}" for number, line in lines if pattern.search(line)]
    assert found == []


@pytest.mark.parametrize("kind", TRACES)
def test_the_search_finds(kind: str) -> None:
    """A pattern that matches nothing passes on every repository."""
    pattern, halves = TRACES[kind]
    assert re.search(pattern, "".join(halves))


def test_no_tracked_file_is_a_private_key_in_binary(tracked: list[Path]) -> None:
    """DER has no banner to search for."""
    for file in tracked:
        for load in (load_der_private_key, load_pem_private_key):
            with pytest.raises((ValueError, TypeError)):
                load(file.read_bytes(), None)


def test_every_tracked_file_is_either_binary_or_ends_its_lines_with_lf(tracked: list[Path]) -> None:
    """Measurements are digests of files: one CRLF from a checkout on Windows is another enclave."""
    names = [str(file.relative_to(ROOT)) for file in tracked]
    fields = git("check-attr", "-z", "text", "eol", "--", *names).split("\0")
    attributes: dict[str, dict[str, str]] = {}
    for name, attribute, value in zip(fields[0::3], fields[1::3], fields[2::3], strict=False):
        attributes.setdefault(name, {})[attribute] = value
    for file, name in zip(tracked, names, strict=True):
        binary = attributes[name]["text"] == "unset"
        assert binary or attributes[name]["eol"] == "lf", name
        assert binary or b"\r\n" not in file.read_bytes(), name
        assert binary or is_text(file.read_bytes()), f"{name} is binary and .gitattributes does not say so"


def test_the_licence_is_apache_2_to_the_byte() -> None:
    """Services that detect licences compare the text, and a project that says one thing and ships another has none."""
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])


def test_no_tracked_file_is_large(tracked: list[Path]) -> None:
    """What is once in the history is in every clone for good."""
    assert [file.relative_to(ROOT) for file in tracked if file.stat().st_size > LARGEST] == []


def test_nothing_that_a_tool_makes_is_tracked(tracked: list[Path]) -> None:
    """Lock files store addresses of the registry they were made from; a learner's pages are the learner's."""
    made = re.compile(
        r"(^|/)(uv|poetry|pdm|pylock)[^/]*\.(lock|toml)$|(^|/)(\.venv|my-work|\.ipynb_checkpoints)/|\.pyc$"
    )
    assert [file for file in tracked if made.search(file.relative_to(ROOT).as_posix())] == []


@pytest.mark.parametrize(
    "name",
    [
        "uv.lock",
        ".venv/x",
        ".venv-colab/x",
        ".venv-peers/x",
        ".coverage",
        "my-work/x",
        "dist/x",
        "a/.ipynb_checkpoints/x",
    ],
)
def test_git_ignores_what_the_two_commands_and_their_tools_leave_behind(name: str) -> None:
    """`git add .` after a lesson takes none of it."""
    git("rev-parse")
    asked = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", name], cwd=ROOT, check=False)
    assert asked.returncode == 0
