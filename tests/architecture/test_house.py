"""The house's order, kept by its own tools: style, types, sizes, and a sentence for every public name."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import workshop_kit

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "workshop_kit"
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if "_shipped" not in file.parts)

MAX_LINES = 400


def tool(name: str, *arguments: str) -> None:
    """Run a tool of this environment's; what it says is the failure."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed here")
    command = [sys.executable, "-m", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_and_its_tests_keep_the_style() -> None:
    tool("ruff", "check", "--quiet", "workshop_kit", "tests")


def test_the_package_and_its_tests_are_formatted() -> None:
    tool("ruff", "format", "--check", "--quiet", "workshop_kit", "tests")


def test_the_package_is_typed_strictly() -> None:
    tool("mypy", "--strict", "workshop_kit")


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_module_can_be_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_module_begins_with_what_it_is_for(file: Path) -> None:
    assert file.read_text().startswith('"""')


@pytest.mark.parametrize("name", workshop_kit.__all__)
def test_every_public_class_and_function_says_what_it_does(name: str) -> None:
    """Its own docstring, and not the one that a dataclass makes of its fields."""
    member = getattr(workshop_kit, name)
    if not inspect.isclass(member) and not inspect.isfunction(member):
        return
    assert (member.__doc__ or "").strip(), name
    assert not member.__doc__.startswith(f"{name}("), name
