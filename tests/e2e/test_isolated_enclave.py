"""A running enclave's app, from its first line on, does not reach the machine; what keeps it in is said everywhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running import Running, running
from services import ASGI, make_service

from workshop_kit.simulator.isolation.levels import OBTAINED, Level
from workshop_kit.verifier import AppraisalResult

APP = (
    ASGI
    + """
import pathlib, socket, subprocess, urllib.parse

def tried(parameters):
    folder = pathlib.Path(__file__).resolve().parents[4]  # of the vsock addresses, on the machine
    def control():
        with socket.socket(socket.AF_UNIX) as any_socket:
            any_socket.connect(str(folder / "control"))
    attempts = {
        "secret": lambda: pathlib.Path(parameters["secret"]).read_text(),
        "users": lambda: pathlib.Path("/etc/passwd").read_text().index("root:"),
        "neighbours": lambda: [path for path in folder.iterdir() if not path.name.isdecimal()][0],
        "control": control,
        "loopback": lambda: socket.create_connection(("127.0.0.1", int(parameters["port"])), 2),
        "signal": lambda: os.kill(int(parameters["pid"]), 0),
        "own code": lambda: pathlib.Path(__file__).write_text(""),
        "base": lambda: pathlib.Path(folder, "16", "base", "workshop_kit", "errors.py").write_text(""),
    }
    worked = []
    for name, attempt in attempts.items():
        try:
            attempt()
            worked.append(name)
        except (OSError, ValueError, IndexError):
            pass
    return worked

async def answer(scope, receive):
    if scope["path"] == "/settings":
        file = pathlib.Path("/usr/runtime.yaml")
        return as_json(file.read_text() if file.exists() else None)
    return as_json(tried(dict(urllib.parse.parse_qsl(scope["query_string"].decode()))))
"""
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("isolated") / "service"
    return make_service(folder, APP, "/try", "/settings")


@pytest.fixture(params=[Level.NAMESPACES, Level.SECCOMP, Level.NONE], ids=lambda level: level.value)
def enclave(request: pytest.FixtureRequest, service: Path) -> Iterator[Running]:
    with running(service, isolation=request.param, runtime_config=b"greeting: hello\n") as started:
        if started.enclave.isolation.level is not request.param:
            pytest.skip(f"this machine gives no more: {started.enclave.isolation}")
        yield started


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("of the machine's user")
    return tmp_path / "secret"


def attempts(client: httpx.Client, secret: Path) -> list[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = {"secret": str(secret), "port": server.getsockname()[1], "pid": os.getpid()}
        worked: list[str] = client.get("/try", params=there).json()
    return worked


def test_an_app_reaches_the_machine_only_where_its_operator_said_so(enclave: Running, secret: Path) -> None:
    """The last level shows that the attempts work where nothing stands in their way."""
    worked = attempts(enclave.client(), secret)
    if enclave.enclave.isolation.level is Level.NONE:
        assert {"secret", "users", "control", "loopback", "signal"} <= set(worked)
    else:
        assert worked == []


def test_the_level_is_said_by_the_enclave_its_description_and_its_evidence(enclave: Running) -> None:
    isolation = enclave.enclave.isolation
    assert enclave.enclave.describe()["Isolation"] == isolation.as_dict()
    results: list[AppraisalResult] = []
    enclave.client(on_result=results.append).get("/settings")
    (result,) = results
    assert result.affirmed
    assert ("Unisolated: nothing keeps its app" in str(result)) == (isolation.level is Level.NONE)
    assert ("Unisolated" in result._repr_html_()) == (isolation.level is Level.NONE)
    if isolation.level is not Level.NONE:
        assert isolation.layers["seccomp"] == OBTAINED


def test_a_tree_of_its_own_has_the_configuration_where_services_look(enclave: Running) -> None:
    found = enclave.client().get("/settings").json()
    assert found == ("greeting: hello\n" if enclave.enclave.isolation.level is Level.NAMESPACES else None)
    assert not Path("/usr/runtime.yaml").exists()
