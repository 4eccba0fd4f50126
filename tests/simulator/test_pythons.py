"""Which Python a base image's name means on this machine.

The interpreters here are shell scripts that say what they are told to, and note that they were run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workshop_kit.simulator import pythons
from workshop_kit.simulator.pythons import Python, ask, find_python, own_python, wanted_python

OWN = own_python()


@pytest.mark.parametrize(
    ("base_image", "version"),
    [
        ("oblv_ubuntu_18_04_proxy_python_3_8", "3.8"),
        ("oblv_ubuntu_18_04_proxy_nsm_api_python_3_8", "3.8"),
        ("oblv_ubuntu_18_04_proxy_python_3_10", "3.10"),
        ("ubuntu_18_04_proxy_python_3_8", "3.8"),
        ("python3.9-slim", "3.9"),
        ("oblv_ubuntu_18_04_proxy", ""),
        ("workshop_asgi", ""),
        ("python_3", ""),
    ],
)
def test_the_version_is_read_from_the_base_images_name(base_image: str, version: str) -> None:
    """Not from the version of Ubuntu that stands before it."""
    assert wanted_python(base_image) == version


class Machine:
    """A machine with the interpreters that are put on it, and no others but this Python's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"

    def put(self, place: str, minor: str, *, says: str | None = None, has_pip: bool = True, base: str = "") -> Path:
        """`python3.8` in a folder such as `path/bin`, which answers for itself unless it is told what to say."""
        file = self.root / place / f"python{minor}"
        file.parent.mkdir(parents=True, exist_ok=True)
        answer = {
            "version": f"{minor}.5 (by hand)",
            "minor": [int(number) for number in minor.split(".")],
            "base": str(self.root / base if base else file.parent.parent),
            "executable": str(file),
            "is_base": not base,
            "name": "cpython",
            "has_pip": has_pip,
        }
        said = json.dumps(answer) if says is None else says
        file.write_text(f"#!/bin/sh\necho {file} >> {self.log}\nprintf '%s\\n' '{said}'\n")
        file.chmod(0o755)
        return file

    def ran(self) -> list[str]:
        """What was run, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [str(Path(line).relative_to(self.root)) for line in lines]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """An empty one, on whose PATH are the folders one/ and two/."""
    for name, folder in (("HOME", "home"), ("PYENV_ROOT", "pyenv"), ("XDG_DATA_HOME", "data")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.delenv("UV_PYTHON_INSTALL_DIR", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/one/bin:{tmp_path}/two/bin::relative")
    monkeypatch.setattr(pythons, "_USUAL", (f"{tmp_path}/usual/{{}}/bin",))
    monkeypatch.setattr(pythons, "own_python", lambda: OWN._replace(minor="3.11"))
    return Machine(tmp_path)


def test_without_a_version_it_is_this_pythons_installation_and_nothing_is_run(machine: Machine) -> None:
    machine.put("one/bin", "3.8")
    assert find_python("") == find_python("3.11") == (OWN.path, "")
    assert machine.ran() == []


@pytest.mark.parametrize(
    "place",
    [
        *("one/bin", "pyenv/versions/3.8.18/bin", "data/uv/python/cpython-3.8.20-linux/bin", "usual/3.8/bin"),
        *("home/.asdf/installs/python/3.8.1/bin", "data/mise/installs/python/3.8.1/bin"),
    ],
)
def test_the_wanted_version_is_found_where_it_may_be_installed(machine: Machine, place: str) -> None:
    found = machine.put(place, "3.8")
    assert find_python("3.8") == (found, "")


def test_what_is_on_path_comes_first_and_nothing_after_it_is_run(machine: Machine) -> None:
    found = machine.put("one/bin", "3.8")
    machine.put("two/bin", "3.8")
    machine.put("pyenv/versions/3.8.18/bin", "3.8")
    machine.put("two/bin", "3.9")
    assert find_python("3.8") == (found, "")
    assert machine.ran() == ["one/bin/python3.8"]


def test_each_file_is_run_once_however_often_it_is_found(machine: Machine) -> None:
    machine.put("one/bin", "3.8", says="nothing of use")
    (machine.root / "two/bin").mkdir(parents=True)
    (machine.root / "two/bin/python3.8").symlink_to(machine.root / "one/bin/python3.8")
    find_python("3.8")
    find_python("3.8")
    assert machine.ran() == ["one/bin/python3.8"]


@pytest.mark.parametrize(
    "says",
    ["", "{}", "[1]", "null", "pyenv: python3.8: command not found", '{"name": "cpython", "minor": 3, "base": ""}'],
)
def test_a_file_of_the_right_name_that_is_none_is_passed_over(machine: Machine, says: str) -> None:
    machine.put("one/bin", "3.8", says=says)
    found = machine.put("two/bin", "3.8")
    assert find_python("3.8") == (found, "")


def test_a_shim_of_a_version_that_is_not_switched_on_is_passed_over(machine: Machine) -> None:
    """pyenv puts one on PATH for every version that it has; it ends with 127."""
    shim = machine.put("one/bin", "3.8")
    shim.write_text("#!/bin/sh\nexit 127\n")
    found = machine.put("pyenv/versions/3.8.18/bin", "3.8")
    assert find_python("3.8") == (found, "")


def test_an_interpreter_that_does_not_answer_is_passed_over(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.put("one/bin", "3.8").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    found = machine.put("two/bin", "3.8")
    assert ask(found) is not None  # and is not asked again: it might be slow on a busy machine
    monkeypatch.setattr(pythons, "_SECONDS", 0.3)
    assert find_python("3.8") == (found, "")


def test_another_version_or_another_python_under_the_name_is_passed_over(machine: Machine) -> None:
    other = {"version": "", "minor": [3, 9], "base": "/", "executable": "", "is_base": True, "has_pip": True}
    machine.put("one/bin", "3.8", says=json.dumps(other | {"name": "cpython"}))
    machine.put("two/bin", "3.8", says=json.dumps(other | {"minor": [3, 8], "name": "pypy"}))
    assert find_python("3.8") == (OWN.path, nearest("3.8", "3.11"))


def test_of_several_in_pyenv_the_latest_is_taken(machine: Machine) -> None:
    """By number: 10 comes after 9."""
    machine.put("pyenv/versions/3.8.9/bin", "3.8")
    found = machine.put("pyenv/versions/3.8.10/bin", "3.8")
    assert find_python("3.8") == (found, "")


def test_of_a_virtual_environment_the_base_is_taken(machine: Machine) -> None:
    base = machine.put("base/bin", "3.8")
    machine.put("one/bin", "3.8", base="base")
    assert find_python("3.8") == (base, "")
    assert machine.ran() == ["one/bin/python3.8"]


def test_a_virtual_environment_whose_base_is_gone_is_passed_over(machine: Machine) -> None:
    machine.put("one/bin", "3.8", base="gone")
    assert find_python("3.8")[0] == OWN.path


def nearest(wanted: str, found: str) -> str:
    return (
        f"this machine has no Python {wanted}, which base_image names; the nearest, {found}, is used; "
        "pins may need another"
    )


@pytest.mark.parametrize(
    ("there", "wanted", "found"),
    [
        (["3.9"], "3.8", "3.9"),
        (["3.7", "3.9"], "3.8", "3.9"),
        (["3.7", "3.10"], "3.8", "3.7"),
        (["3.10"], "3.8", "3.10"),
        ([], "3.8", "3.11"),
        (["3.6"], "3.7", "3.11"),
        (["3.12", "3.13"], "3.14", "3.13"),
        (["3.15"], "3.14", "3.15"),
        (["3.9"], "3.10", "3.11"),
    ],
)
def test_the_nearest_version_is_taken_and_said(machine: Machine, there: list[str], wanted: str, found: str) -> None:
    """By distance, the newer of two that are as near, and none before 3.7. This machine's own is 3.11."""
    for minor in there:
        machine.put("one/bin", minor)
    path, note = find_python(wanted)
    assert path == (OWN.path if found == "3.11" else machine.root / f"one/bin/python{found}")
    assert note == nearest(wanted, found)


@pytest.mark.parametrize("wanted", ["3.6", "2.7"])
def test_a_version_before_the_oldest_is_not_used_even_where_it_is_there(machine: Machine, wanted: str) -> None:
    machine.put("one/bin", wanted)
    found = machine.put("one/bin", "3.7")
    path, note = find_python(wanted)
    assert path == found
    assert note.startswith(f"Python {wanted}, which base_image names, is older than 3.7, the oldest that is used; 3.7")


def test_a_python_that_can_make_no_environment_is_not_used_and_the_note_says_why(machine: Machine) -> None:
    """Some distributions of Linux keep ensurepip in another package."""
    machine.put("one/bin", "3.8", has_pip=False)
    path, note = find_python("3.8")
    assert path == OWN.path
    assert note.startswith("this machine has no Python 3.8 with ensurepip (its package for venv brings it), which")


def test_a_real_virtual_environment_gives_its_base(tmp_path: Path) -> None:
    """Also when the environment is made from another one, as here where the tests run in one."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    found = ask(tmp_path / "env/bin/python")
    assert isinstance(found, Python)
    assert found == OWN
    assert str(tmp_path) not in str(found.path)
