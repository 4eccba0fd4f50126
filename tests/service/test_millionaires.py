"""The demonstration service as an application: what it answers to whom, with no enclave around it."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from workshop_kit.service.manifest import parse_manifest

SERVICE = Path(__file__).parents[2] / "data/services/millionaires"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("millionaires_app", SERVICE / "src/app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The folder is what gets measured: a test leaves no __pycache__ in it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        spec.loader.exec_module(module)
    return module


MODULE = load()


@pytest.fixture
def app() -> FastAPI:
    fresh = MODULE.make_app()
    assert isinstance(fresh, FastAPI)
    return fresh


def as_user(name: str) -> dict[str, str]:
    return {"X-OBLV-USER-NAME": name, "X-OBLV-USER-ROLE": "querier"}


def get(app: FastAPI, target: str, headers: dict[str, str] | None = None, method: str = "GET") -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://enclave") as client:
            return await client.request(method, target, headers=as_user("Alice") if headers is None else headers)

    return asyncio.run(send())


def submit(app: FastAPI, name: str, value: Any) -> httpx.Response:
    return get(app, f"/submit_value?value={value}", as_user(name))


def answer(app: FastAPI, target: str, name: str = "Alice") -> Any:
    response = get(app, target, as_user(name))
    assert response.status_code == 200, response.text
    return response.json()


# --- what the manifest and the application say of each other ---------------------------------------------------------


def test_every_path_of_the_manifest_has_a_route_that_answers() -> None:
    """A misspelt path in the manifest silently blocks its route."""
    text = (SERVICE / ".oblivious/service.yaml").read_text(encoding="utf-8")
    for rule in parse_manifest(text).paths:
        assert get(MODULE.make_app(), rule.path).status_code != 404, rule.path


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/openapi.json"])
def test_there_is_no_route_beside_them(app: FastAPI, path: str) -> None:
    assert get(app, path).status_code == 404


@pytest.mark.parametrize("path", ["/hello", "/settings", "/call?url=x", "/submit_value?value=1", "/compare"])
def test_every_route_is_get_only_and_refuses_a_request_without_either_header(app: FastAPI, path: str) -> None:
    assert get(app, path, method="POST").status_code == 405
    for missing in as_user("Alice"):
        headers = {key: value for key, value in as_user("Alice").items() if key != missing}
        response = get(app, path, headers)
        assert response.status_code == 401
        assert missing in response.json()["detail"]
        assert get(app, path, {**headers, missing: ""}).status_code == 401
    assert app.state.values == {}


def test_the_module_has_an_app_and_a_fresh_one_shares_no_state_with_it(app: FastAPI) -> None:
    assert submit(app, "Alice", 5).status_code == 200
    assert isinstance(MODULE.app, FastAPI)
    assert MODULE.app.state.values == {}
    assert MODULE.make_app().state.values == {}


def test_hello_repeats_name_and_role(app: FastAPI) -> None:
    assert answer(app, "/hello", "Bob") == "hello Bob, your role is querier"


# --- the two millionaires --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alice", "bob", "verdict"),
    [
        (5, 6, "Alice < Bob"),
        (6, 5, "Alice >= Bob"),
        (5, 5, "Alice >= Bob"),
        (-2, -1, "Alice < Bob"),
        (9, 10, "Alice < Bob"),
        (2**70 + 1, 2**70, "Alice >= Bob"),
        (10**400, 10**400 + 1, "Alice < Bob"),
    ],
)
@pytest.mark.parametrize("first", ["Alice", "Bob"])
def test_compare_says_who_is_richer_whoever_submits_first(
    app: FastAPI, alice: int, bob: int, verdict: str, first: str
) -> None:
    values = {"Alice": alice, "Bob": bob}
    for name in sorted(values, reverse=first == "Bob"):
        assert submit(app, name, values[name]).status_code == 200
    assert answer(app, "/compare", "Alice") == verdict
    assert answer(app, "/compare", "Bob") == verdict


def test_names_are_sorted_and_written_as_they_are(app: FastAPI) -> None:
    submit(app, "zoe", 1)
    submit(app, "Yan", 2)
    assert answer(app, "/compare") == "Yan >= zoe"


def test_a_user_submits_once_and_the_first_value_stands(app: FastAPI) -> None:
    submit(app, "Alice", 5)
    assert submit(app, "Alice", 100).status_code == 401
    submit(app, "Bob", 6)
    assert answer(app, "/compare") == "Alice < Bob"


def test_two_submissions_at_once_are_one(app: FastAPI) -> None:
    async def both() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://enclave") as client:
            targets = [f"/submit_value?value={value}" for value in range(8)]
            responses = await asyncio.gather(*(client.get(target, headers=as_user("Alice")) for target in targets))
        return sorted(response.status_code for response in responses)

    assert asyncio.run(both()) == [200] + [401] * 7


@pytest.mark.parametrize("names", [[], ["Alice"], ["Alice", "Bob", "Carol"]])
def test_compare_refuses_clearly_unless_two_users_have_submitted(app: FastAPI, names: list[str]) -> None:
    for name in names:
        submit(app, name, 1)
    response = get(app, "/compare")
    assert response.status_code == 409
    assert f"exactly 2 users, got {len(names)}" in response.json()["detail"]


@pytest.mark.parametrize("value", ["", "five", "5.5", "0x5", "1e3", "9" * 5000])
def test_what_is_no_integer_is_refused_and_leaves_the_turn_open(app: FastAPI, value: str) -> None:
    assert submit(app, "Alice", value).status_code == 422
    assert submit(app, "Alice", 5).status_code == 200


def test_no_answer_of_submit_value_holds_the_value(app: FastAPI) -> None:
    """An answer may be logged on the way."""
    assert "31337" not in submit(app, "Alice", 31337).text
    assert "31337" not in submit(app, "Alice", 31338).text


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_read_from_the_named_file_at_each_request(
    app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runtime.yaml"
    monkeypatch.setenv("WORKSHOP_RUNTIME_CONFIG", str(file))
    assert answer(app, "/settings") == {}
    file.write_text("greeting: größe\nlimits: [1, 2]\n", encoding="utf-8")
    assert answer(app, "/settings") == {"greeting": "größe", "limits": [1, 2]}
    file.write_text("", encoding="utf-8")
    assert answer(app, "/settings") == {}


def test_settings_without_the_variable_come_from_usr(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKSHOP_RUNTIME_CONFIG", raising=False)
    monkeypatch.setattr(MODULE, "DEFAULT_SETTINGS", "/nonexistent/runtime.yaml")
    assert load().DEFAULT_SETTINGS == "/usr/runtime.yaml"
    assert answer(app, "/settings") == {}


# --- call ------------------------------------------------------------------------------------------------------------


class Redirector(BaseHTTPRequestHandler):
    """`/` leads to `/there`, which answers "arrived"; `/cut` hangs up."""

    def do_GET(self) -> None:
        if self.path == "/cut":
            return
        body = b"" if self.path == "/" else b"arrived"
        self.send_response(302 if self.path == "/" else 200)
        self.send_header("Location", "/there")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def running_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Redirector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_call_follows_redirects_and_returns_the_text(app: FastAPI) -> None:
    with running_server() as url:
        assert answer(app, f"/call?url={url}/") == "arrived"


def test_call_goes_where_the_url_says_whatever_the_environment_names_as_proxy(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("NO_PROXY", "")
    with running_server() as url:
        assert answer(app, f"/call?url={url}/there") == "arrived"


def test_call_answers_408_and_the_reason_when_the_server_hangs_up(app: FastAPI) -> None:
    with running_server() as url:
        response = get(app, f"/call?url={url}/cut")
    assert response.status_code == 408
    assert "disconnected" in response.json()["detail"]


def test_call_answers_408_when_nobody_listens(app: FastAPI) -> None:
    response = get(app, f"/call?url=http://127.0.0.1:{closed_port()}/")
    assert response.status_code == 408
    assert response.json()["detail"]


@pytest.mark.parametrize(
    "url", ["", "nowhere", "ftp://example.com/", "file:///etc/passwd", "http://", "http://a:b:c/", "http://%00/"]
)
def test_call_answers_408_to_what_is_no_url(app: FastAPI, url: str) -> None:
    response = get(app, str(httpx.URL("/call", params={"url": url})))
    assert response.status_code == 408
    assert response.json()["detail"]


def test_call_gives_up_after_ten_seconds_and_says_why(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "CALL_SECONDS", 0.05)
    assert load().CALL_SECONDS == 10
    with socket.create_server(("127.0.0.1", 0)) as silent:
        response = get(app, f"/call?url=http://127.0.0.1:{silent.getsockname()[1]}/")
    assert response.status_code == 408
    assert "Timeout" in response.json()["detail"]


def test_call_needs_a_url(app: FastAPI) -> None:
    assert get(app, "/call").status_code == 422
