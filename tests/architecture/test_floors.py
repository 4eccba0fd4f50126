"""The floors of the house: a module imports lower floors and its own package only, type hints included.

The table is workshop_kit's plan in short. A module that is not in it fails the first test: give it a floor.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "workshop_kit"

# Names of modules, or patterns of them, floor by floor.
FLOORS = tuple(
    floor.split()
    for floor in (
        "errors",
        "files evidence evidence.* service service.manifest service.*yaml* service.wording service.rules channel"
        " channel.framing models models.terms models.attacker models.search models.handshake models.seed models.modern"
        " models.parties models.properties models.words models.story models.variants models.examine models.proverif"
        " models.proverif_models",
        "verifier verifier.* service.access service.egress service.addresses service.routes service.advice simulator"
        " simulator.pki simulator.register simulator.issuing simulator.image simulator.nsm simulator.comparison"
        " simulator.container simulator.names simulator.messages",
        "channel.session channel.hybrid channel.handshake channel.client_handshake channel.enclave_handshake",
        "edges edges.*",
        "simulator.isolation simulator.isolation.* simulator.requirements simulator.build simulator.hypervisor"
        " simulator.machine simulator.control simulator.enclave simulator.parent simulator.relay simulator.boot"
        " simulator.interception simulator.misbehaving simulator.gate simulator.inside simulator.doctor"
        " simulator.stand_in simulator.pythons simulator.dockerfile*"
        " simulator.installing simulator.pip_words simulator.requirement_lines simulator.layout simulator.launch"
        " simulator.supervisor simulator.interpreter simulator.loader simulator.shared_pki simulator.reading"
        " simulator.way_out simulator.infrastructure simulator.measured simulator.watchdog"
        " simulator.folders simulator.report"
        " shipped models.recording",
        "notebook notebook.* arguments inspection models.__main__",
        "cli demo tasks __main__",
    )
)
LAST_PURE_FLOOR = 3

# Below the edges nobody opens a socket, reads a clock or throws dice: `now` and randomness are arguments.
FORBIDDEN_BELOW = {"socket", "asyncio", "ssl", "subprocess", "threading", "time", "os", "random", "secrets"}
FORBIDDEN_BELOW |= {"httpx", "fastapi", "uvicorn", "tempfile", "select", "uuid", "multiprocessing", "signal"}

# Who must not know whom, whatever the floors say.
APART = {
    "verifier": ("simulator",),
    "simulator": ("verifier",),
    "edges": ("simulator",),
    "edges.client": ("simulator", "service"),
    "edges.async_client": ("simulator", "service"),
    "edges.dialogue": ("simulator", "service"),
    "edges.client_proxy": ("simulator", "service"),
    "edges.connecting": ("simulator", "service"),
    "edges.connection": ("simulator", "service"),
    "edges.http_call": ("simulator", "service"),
    "edges.http_connection": ("simulator", "service"),
    "edges.http_reader": ("simulator", "service"),
    "edges.http_server": ("simulator", "service"),
    "edges.door": ("simulator", "service"),
    "edges.sessions": ("simulator", "service"),
    "edges.stream": ("simulator", "service"),
}


@dataclass(frozen=True)
class Import:
    """`module`, seen from the package's root for our own, at a line."""

    module: str
    line: int
    ours: bool


def name_of(file: Path) -> str:
    """`edges.client` of edges/client.py, `edges` of edges/__init__.py, "" of the package's own façade."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) >= 1 else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(file): file for file in sorted(PACKAGE.rglob("*.py")) if "_shipped" not in file.parts}


@cache
def imports(name: str) -> tuple[Import, ...]:
    """Every import of a module, wherever it stands: in a function, under TYPE_CHECKING, or by name at run time."""
    return tuple(_imports(name, ast.parse(modules()[name].read_text())))


def _imports(name: str, tree: ast.Module) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(name, node)
            for alias in node.names:
                member = f"{source}.{alias.name}"
                yield _import(member if member.removeprefix("workshop_kit.") in modules() else source, node.lineno)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and node.args:
            text = node.args[0]
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield _import(text.value, node.lineno)


def _absolute(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = modules()[name].name == "__init__.py"
    parts = ["workshop_kit", *name.split(".")]
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def _import(module: str, line: int) -> Import:
    ours = module.partition(".")[0] == "workshop_kit"
    return Import(module.removeprefix("workshop_kit").removeprefix(".") if ours else module, line, ours)


def floor_of(name: str) -> int:
    found = [number for number, patterns in enumerate(FLOORS) for pattern in patterns if fnmatch(name, pattern)]
    assert found, f"{name} has no floor: add it to the table"
    return found[0]


def package_of(name: str) -> str:
    """The package that a module is in; the modules at the top are one, each floor of theirs by itself."""
    return name.partition(".")[0] if "." in name or (PACKAGE / name).is_dir() else ""


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


NAMES = sorted(name for name in modules() if name)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_imports_downwards_or_in_its_own_package(name: str) -> None:
    """In its own package it still imports nothing from above."""
    for each in imports(name):
        if not each.ours or each.module == name:
            continue
        place = f"{name}, line {each.line}, imports {each.module}"
        assert each.module, f"{place}: the façade is for others"
        if package_of(each.module) == package_of(name):
            assert floor_of(each.module) <= floor_of(name), f"{place}, from above"
        else:
            assert floor_of(each.module) < floor_of(name), f"{place}, from floor {floor_of(each.module)}"


@pytest.mark.parametrize("name", [name for name in NAMES if floor_of(name) <= LAST_PURE_FLOOR])
def test_a_module_below_the_edges_has_no_socket_no_clock_and_no_dice(name: str) -> None:
    for each in imports(name):
        assert each.module.partition(".")[0] not in FORBIDDEN_BELOW or each.ours, (
            f"{name}, line {each.line}: {each.module}"
        )
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = ast.unparse(node.func)
            assert node.func.attr not in ("now", "utcnow", "today"), f"{name}, line {node.lineno}: {call}()"
            assert not call.endswith("generate_private_key"), f"{name}, line {node.lineno}: {call}()"


@pytest.mark.parametrize("name", NAMES)
def test_coverage_counts_the_modules_below_the_edges_and_no_others(name: str) -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    left_out = project["tool"]["coverage"]["run"]["omit"]
    path = modules()[name].relative_to(PACKAGE.parent).as_posix()
    assert any(fnmatch(path, pattern) for pattern in left_out) == (floor_of(name) > LAST_PURE_FLOOR)


@pytest.mark.parametrize("name", [name for name in NAMES if any(within(name, owner) for owner in APART)])
def test_those_who_must_not_know_each_other_do_not(name: str) -> None:
    """Verifier and simulator share formats only, or the simulator could hide the verifier's mistake."""
    strangers = {stranger for owner, others in APART.items() if within(name, owner) for stranger in others}
    for each in imports(name):
        assert not (each.ours and any(within(each.module, other) for other in strangers)), f"{name}, line {each.line}"


@pytest.mark.parametrize("name", NAMES)
def test_only_the_command_knows_the_notebook(name: str) -> None:
    if within(name, "notebook") or name in ("cli", "demo", "tasks"):
        return
    assert not [each for each in imports(name) if each.ours and within(each.module, "notebook")]


@pytest.mark.parametrize("name", NAMES)
def test_only_a_page_needs_the_models(name: str) -> None:
    """What they show is of the protocol; code that leant on them would be shown nothing."""
    if within(name, "models") or within(name, "notebook"):
        return
    assert not [each for each in imports(name) if each.ours and within(each.module, "models")]


@pytest.mark.parametrize("name", NAMES)
def test_no_two_modules_import_each_other(name: str) -> None:
    """Floors forbid circles between them; here, within a package."""
    reached, queue = set(), [each.module for each in imports(name) if each.ours and each.module in modules()]
    while queue:
        module = queue.pop()
        if module not in reached:
            reached.add(module)
            queue += [each.module for each in imports(module) if each.ours and each.module in modules()]
    assert name not in reached


def test_the_table_names_no_module_that_is_gone() -> None:
    for patterns in FLOORS:
        for pattern in patterns:
            assert any(fnmatch(name, pattern) for name in NAMES), pattern


def test_every_import_of_the_house_is_found() -> None:
    """The reader of imports reads those in functions, under TYPE_CHECKING, and of a module out of its package."""
    assert "simulator.build" in {each.module for each in imports("cli")}
    assert "edges.client" in {each.module for each in imports("")}
    assert "shipped" in {each.module for each in imports("notebook.lab")}
    assert "verifier" in {each.module for each in imports("edges.client")}


HEAVY = (
    "IPython",
    "ipywidgets",
    "matplotlib",
    "fastapi",
    "uvicorn",
    "httpx",
    "cryptography",
    "pydantic",
    "typer",
    "yaml",
)


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh process has loaded after `statement`."""
    script = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import workshop_kit") & set(HEAVY)


def test_the_verifier_loads_no_network_and_no_service() -> None:
    """`workshop_kit.verifier` and `workshop_kit.evidence` can be lifted out."""
    strangers = {"httpx", "httpcore", "uvicorn", "fastapi", "pydantic", "yaml", "asyncio", "ssl"}
    assert not loaded_by("import workshop_kit.verifier") & strangers


def test_the_command_starts_without_a_notebook_or_a_server() -> None:
    assert not loaded_by("import workshop_kit.cli") & {
        "IPython",
        "ipywidgets",
        "matplotlib",
        "fastapi",
        "nbformat",
        "uvicorn",
    }


def test_every_public_name_is_found_and_lives_where_the_facade_says() -> None:
    import workshop_kit

    assert len(set(workshop_kit.__all__)) == len(workshop_kit.__all__) >= 10
    for name in workshop_kit.__all__:
        assert getattr(workshop_kit, name) is not None
        assert name in dir(workshop_kit)
    for module, line in [(each.module, each.line) for each in imports("") if each.ours]:
        assert module in modules(), line
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = workshop_kit.absent
