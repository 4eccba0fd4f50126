"""What an enclave runs of the kit is what PCR1 measures: no module more, none less, and from nowhere else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Running, running
from services import ASGI, make_service

from workshop_kit.simulator.image import ENCLAVE_MODULES, KIT

LATE = (
    "workshop_kit.simulator.gate",  # a process of its own: once something goes out
    "workshop_kit.edges.egress_httpx",  # by an app that goes out with the kit's client
    "workshop_kit.simulator.launch",  # a process of its own, like the two below: for services that listen by themselves
    "workshop_kit.simulator.supervisor",
    "workshop_kit.edges.forwarder",
    "workshop_kit.edges.websocket",  # once somebody asks for it
)

APP = (
    ASGI
    + """
async def answer(scope, receive):
    if scope["path"] == "/body":
        await body_of(receive)
    modules = {name: sys.modules[name].__file__ for name in sorted(sys.modules) if name.split(".")[0] == "workshop_kit"}
    return as_json({"modules": modules, "main": sys.modules["__main__"].__file__, "path": sys.path})
"""
)


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(make_service(tmp_path_factory.mktemp("modules") / "service", APP, "/", "/body")) as started:
        yield started


@pytest.fixture(scope="module")
def loaded(enclave: Running) -> Any:
    """What the enclave's process has loaded after handshakes, a refusal, and requests with and without a body."""
    client = enclave.client()
    assert client.get("/absent").status_code == 404
    assert client.post("/body", content=b"x" * 300_000).status_code == 200
    return client.get("/").json()


def root_of(enclave: Running) -> Path:
    """Where the image of the running enclave was unpacked."""
    return enclave.enclave.infrastructure.directory / "16"


def test_the_loaded_modules_are_those_that_are_measured(enclave: Running, loaded: Any) -> None:
    """One in the list that nobody loads is approved for nothing; one that is not in it is approved by nobody.

    What else an enclave may need is loaded late or by another process of it: `LATE`, and whatever that imports.
    """
    script = f"import sys; sys.path.insert(0, {str(root_of(enclave) / 'base')!r}); import {', '.join(LATE)}; "
    script += "print(*(each.__file__ for name, each in sys.modules.items() if name.split('.')[0] == 'workshop_kit'))"
    late = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    files = map(Path, [*loaded["modules"].values(), loaded["main"], *late.stdout.split()])
    relative = {"/".join(file.parts[file.parts.index("workshop_kit") + 1 :]) for file in files}
    assert sorted(relative) == sorted(ENCLAVE_MODULES)


def test_they_come_from_the_image_and_not_from_this_machines_kit(enclave: Running, loaded: Any) -> None:
    base = root_of(enclave) / "base/workshop_kit"
    for name, file in loaded["modules"].items():
        assert Path(file).is_relative_to(base), name
        assert not Path(file).is_relative_to(KIT), name
    assert Path(loaded["main"]) == base / "simulator/boot.py"


def test_what_is_unpacked_is_what_was_measured(enclave: Running) -> None:
    base = root_of(enclave) / "base/workshop_kit"
    for module in ENCLAVE_MODULES:
        assert (base / module).read_bytes() == (KIT / module).read_bytes()
    sources = {path.relative_to(base).as_posix() for path in base.rglob("*.py")}
    assert sources == set(ENCLAVE_MODULES)


def test_the_working_directory_and_the_users_site_are_not_on_the_enclaves_path(loaded: Any) -> None:
    """Else a file that happens to lie where the simulator was started would run in the enclave."""
    assert "" not in loaded["path"]
    assert not any(Path(entry).is_relative_to(Path.home() / ".local") for entry in loaded["path"])


def test_the_modules_are_enough_to_import_each_other(tmp_path: Path) -> None:
    """Unpacked alone, every one of them imports: none needs a module that is not measured."""
    for module in ENCLAVE_MODULES:
        file = tmp_path / "workshop_kit" / module
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((KIT / module).read_bytes())
    names = [f"workshop_kit/{module}".removesuffix(".py").removesuffix("/__init__") for module in ENCLAVE_MODULES]
    imports = "".join(f"import {name.replace('/', '.')}\n" for name in names)
    script = f"""import sys
sys.path.insert(0, {str(tmp_path)!r})
{imports}
print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "workshop_kit"), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # None where boot.py's folder, which has no __init__.py here, is a namespace.
    assert all(file == "None" or Path(file).is_relative_to(tmp_path) for file in done.stdout.split())
