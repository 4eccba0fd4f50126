"""The wheel carries what a page reads on Colab, where there is no repository, and nothing that stays at home."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = re.compile(r"dns|network|resolv|connection|offline|Retrying|No matching distribution", re.IGNORECASE)
SHIPPED = "workshop_kit/_shipped/"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git has or would take: strays such as notebook checkpoints are not the wheel's fault."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"this folder is no git checkout: {listed.stderr.strip()}")
    copy = tmp_path_factory.mktemp("source")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    out = tmp_path_factory.mktemp("wheel")
    if uv := shutil.which("uv"):
        command = [uv, "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", str(out)]
    else:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out)]
    # As a variable, since the pip that fetches the build backend is one that pip starts.
    patience = {**os.environ, "PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}
    built = subprocess.run([*command, str(source)], env=patience, capture_output=True, text=True, check=False)
    if "No module named pip" in built.stderr:
        pytest.skip("neither uv nor pip is here to build a wheel with")
    if built.returncode and OFFLINE.search(built.stderr):
        pytest.skip(f"the build backend cannot be fetched without a network: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr[-3000:]
    [file] = out.glob("*.whl")
    with zipfile.ZipFile(file) as opened:
        yield opened


@pytest.fixture
def names(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if not name.endswith("/")}


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    [found] = [entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}")]
    return wheel.read(found).decode()


@pytest.mark.parametrize("folder", ["data", "notebooks"])
def test_a_shipped_folder_travels_whole(folder: str, source: Path, names: set[str]) -> None:
    """One file left behind is a page that works in a clone and fails on Colab; dot folders are left behind first."""
    here = {path.relative_to(source).as_posix() for path in (source / folder).rglob("*") if path.is_file()}
    assert here
    assert {name.removeprefix(SHIPPED) for name in names if name.startswith(f"{SHIPPED}{folder}/")} == here


def test_every_module_travels(source: Path, names: set[str]) -> None:
    """`py.typed` included: without it a reader's type checker takes every call for untyped."""
    package = [path for path in (source / "workshop_kit").rglob("*") if path.is_file()]
    assert {path.relative_to(source).as_posix() for path in package} <= names
    assert "workshop_kit/py.typed" in names


def test_nothing_lands_beside_the_package(names: set[str]) -> None:
    """A second folder at the top would be a module named `tests` or `data` in every learner's site-packages."""
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"workshop_kit"}
    assert len(top) == 2


def test_no_test_and_no_key_travels(wheel: zipfile.ZipFile, names: set[str]) -> None:
    assert [name for name in names if re.search(r"(^|/)(tests?|conftest\.py|test_[^/]*)(/|$)", name)] == []
    assert [name for name in names if re.search(r"\.(key|p12|pfx)$|private", name)] == []
    for name in names:
        assert b"PRIVATE KEY-----" not in wheel.read(name), name


def test_the_wheel_says_its_python_its_licence_and_its_command(wheel: zipfile.ZipFile) -> None:
    stated: Message = Parser().parsestr(metadata(wheel, "METADATA"))
    assert stated["Requires-Python"] == ">=3.11"
    assert stated["License-Expression"] == "Apache-2.0"
    assert stated.get_all("License-File") == ["LICENSE"]
    assert "workshop = workshop_kit.__main__:main" in metadata(wheel, "entry_points.txt")


def test_an_unpacked_wheel_finds_its_own_data_and_pages(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """What Colab does: no repository around the package. `-I` keeps this folder out of the way of the answer."""
    wheel.extractall(tmp_path)
    ask = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from workshop_kit.shipped import folder\n"
        "print(folder('data') / 'README.md', sorted(folder('notebooks').glob('*.ipynb'))[0])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", ask], capture_output=True, text=True, check=True)
    for answer in done.stdout.split():
        assert Path(answer).is_relative_to(tmp_path / SHIPPED)
        assert Path(answer).is_file()
