"""`environment.yml` says nothing of its own: the packages, and from which version on, stand in `pyproject.toml`.

No conda runs here. What conda and repo2docker read is compared with what they have to find.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def test_the_environment_has_a_name_and_one_channel() -> None:
    """Without a name `conda env create` stops; a second channel would mix builds."""
    assert re.fullmatch(r"[a-z][a-z0-9-]+", ENVIRONMENT["name"])
    assert ENVIRONMENT["channels"] == ["conda-forge"]


def test_conda_brings_python_and_pip_and_nothing_else() -> None:
    """A package listed here as well would be a second list, and one of two lists is forgotten."""
    named = [item for item in ENVIRONMENT["dependencies"] if isinstance(item, str)]
    assert [re.split("[=<>]", item)[0] for item in named] == ["python", "pip"]


def test_the_python_of_the_environment_is_one_that_the_project_names() -> None:
    """Bare `python` means the newest, which may be newer than anything tried."""
    [version] = [
        item.removeprefix("python=") for item in ENVIRONMENT["dependencies"] if str(item).startswith("python=")
    ]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.0")


def test_pip_comes_last_and_installs_this_folder_with_the_launchers_extras() -> None:
    """`-e .` holds for the folder of the file only, and an extra that does not exist is a warning, not an error."""
    last = ENVIRONMENT["dependencies"][-1]
    assert list(last) == ["pip"]
    [line] = last["pip"]
    extras = re.fullmatch(r"-e (\.\[(.+)\])", line)
    assert extras is not None
    assert f'"{extras[1]}"' in (ROOT / "workshop.py").read_text()
    assert set(extras[2].split(",")) <= set(PROJECT["optional-dependencies"])
