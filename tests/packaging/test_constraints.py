"""The pins keep in step with `pyproject.toml`, and Colab's pins allow what the project asks for."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from itertools import product
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = ROOT / "constraints.txt"
COLAB = ROOT / "tests" / "colab-constraints.txt"
[EXTRAS] = re.findall(r'"\.\[([a-z,]+)\]"', (ROOT / "workshop.py").read_text())
LAUNCHED = EXTRAS.split(",")
"""The extras that the launcher installs. The fuzzer is not among them: one machine's wheels are another one's build."""
MACHINES = [
    {"python_version": version, "python_full_version": f"{version}.{patch}", "sys_platform": system}
    for version, patch, system in product(("3.11", "3.12", "3.13"), (0, 9), ("linux", "darwin"))
]


def asked(*parts: str) -> list[Requirement]:
    """What `pyproject.toml` asks for: the package's own needs, and those of the extras named."""
    lines = [*PROJECT["dependencies"], *(line for part in parts for line in PROJECT["optional-dependencies"][part])]
    return [Requirement(line) for line in lines]


def lines_of(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def pins(file: Path, machine: dict[str, str]) -> dict[str, list[str]]:
    """Name → versions pinned on that machine; more than one is a contradiction."""
    found: dict[str, list[str]] = {}
    for requirement in map(Requirement, lines_of(file)):
        if applies(requirement.marker, machine):
            found.setdefault(requirement.name, []).append(str(requirement.specifier).removeprefix("=="))
    return found


def applies(marker: Marker | None, machine: dict[str, str]) -> bool:
    return marker is None or marker.evaluate({**machine, "os_name": "posix", "extra": ""})


@pytest.mark.parametrize("file", [CONSTRAINTS, COLAB], ids=lambda file: file.name)
def test_a_pin_is_a_name_and_one_version_and_no_more(file: Path) -> None:
    """An address or a path holds on one machine only; with a hash pip refuses `-e .`; a range pins nothing."""
    for line in lines_of(file):
        pin = Requirement(line)
        assert pin.url is None
        assert not pin.extras
        assert re.fullmatch(r"==[0-9][0-9a-z.+]*", str(pin.specifier)), line
        assert re.split("[=;]", line)[0] == canonicalize_name(pin.name), line
        assert not re.search(r"--|@|/|\\", line), line


@pytest.mark.parametrize("file", [CONSTRAINTS, COLAB], ids=lambda file: file.name)
def test_the_pins_stand_in_order(file: Path) -> None:
    """In order, a pin that is there twice stands beside itself, and a change shows as one line."""
    names = [Requirement(line).name for line in lines_of(file)]
    assert names == sorted(names)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_every_machine_finds_one_pin_for_a_package(machine: dict[str, str]) -> None:
    """Markers that overlap leave an installer without an answer."""
    assert {name: versions for name, versions in pins(CONSTRAINTS, machine).items() if len(versions) > 1} == {}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_what_the_project_asks_for_is_pinned_to_a_version_that_it_accepts(machine: dict[str, str]) -> None:
    """An unpinned package is another one next week; a pin below its bound ends every installation."""
    pinned = pins(CONSTRAINTS, machine)
    for requirement in asked(*LAUNCHED):
        if applies(requirement.marker, machine):
            [version] = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), requirement


def test_what_was_installed_by_the_launcher_is_pinned_down_to_the_last_need() -> None:
    """`pyproject.toml` names some two dozen packages; the other hundred come with them and move as well."""
    if Path(sys.prefix).resolve() != ROOT / ".venv":
        pytest.skip("this environment was not installed by workshop.py, so its packages are not the pinned ones")
    needed = reached("workshop-kit", {"", *LAUNCHED})
    assert needed - {"workshop-kit"} - set(pins(CONSTRAINTS, {})) == set()


def reached(name: str, extras: set[str], seen: set[tuple[str, str]] | None = None) -> set[str]:
    """The names of all that an installed package needs here, with those extras, itself included."""
    seen = set() if seen is None else seen
    names = {canonicalize_name(name)}
    for requirement in map(Requirement, importlib.metadata.requires(name) or []):
        for extra in extras:
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            wanted = {"", *requirement.extras}
            if not {(requirement.name, part) for part in wanted} <= seen:
                seen |= {(requirement.name, part) for part in wanted}
                names |= reached(requirement.name, wanted, seen)
    return names


def test_colabs_version_of_a_package_is_new_enough_for_the_project() -> None:
    """A bound above Colab's version makes the first cell replace what Colab's own front end stands on."""
    shipped = {name: version for name, [version] in pins(COLAB, MACHINES[-1]).items()}
    wanted = asked(*PROJECT["optional-dependencies"])
    held = [requirement for requirement in wanted if canonicalize_name(requirement.name) in shipped]
    assert {requirement.name for requirement in held} >= {"cryptography", "ipywidgets", "pytest"}
    for requirement in held:
        assert requirement.specifier.contains(shipped[canonicalize_name(requirement.name)], prereleases=True), (
            requirement
        )


def test_on_colab_the_package_brings_cbor2_and_itself() -> None:
    """Each further package would be a download in the first cell, and a chance to disturb Colab's own."""
    missing = {canonicalize_name(requirement.name) for requirement in asked()} - set(pins(COLAB, MACHINES[-1]))
    assert missing == {"cbor2"}


def test_colabs_pins_hold_on_every_machine_alike() -> None:
    """The lane reads a line as name and version, and runs on whichever Python is there: a marker would mislead it."""
    assert [line for line in lines_of(COLAB) if Requirement(line).marker] == []
