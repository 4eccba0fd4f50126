"""WebSocket through client proxy, parent instance and enclave proxy, to an app in the enclave and to one by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import httpx
import pytest
from processes import until
from running import client_proxy, running
from services import make_service
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

APP = """\
from fastapi import FastAPI, HTTPException, WebSocket

app = FastAPI()
app.state.ended = []

@app.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept(subprotocol="second" if "second" in socket.scope["subprotocols"] else None)
    async for text in socket.iter_text():
        await socket.send_text(text)

@app.websocket("/bytes")
async def octets(socket: WebSocket):
    await socket.accept(headers=[(b"x-mine", b"1")])
    while True:
        await socket.send_bytes(await socket.receive_bytes())

@app.websocket("/whoami")
async def whoami(socket: WebSocket):
    await socket.accept()
    await socket.send_json([socket.headers["x-oblv-user-name"], socket.headers["x-oblv-user-role"], socket.url.path])
    await socket.close(4001, "that is all")

@app.websocket("/denied")
async def denied(socket: WebSocket):
    raise HTTPException(418, "no")

@app.websocket("/refused")
async def refused(socket: WebSocket):
    await socket.close()

@app.websocket("/broken")
async def broken(socket: WebSocket):
    await socket.accept()
    raise RuntimeError("broken")

@app.websocket("/goes")
async def goes(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.receive_text()
    except Exception as error:
        app.state.ended.append(repr(error))

@app.get("/ended")
async def ended():
    return app.state.ended

@app.get("/echo")
async def plain():
    return "plain"
"""
PATHS = ("/echo", "/bytes", "/whoami", "/denied", "/refused", "/broken", "/goes", "/ended", "/secret=auditor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_service(tmp_path_factory.mktemp("websockets") / "service", APP, *PATHS)


@pytest.fixture(scope="module", params=["in the enclave proxy's process", "by itself"])
def proxy(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Alice's client proxy."""
    if request.param == "by itself":
        folder = by_itself(folder, tmp_path_factory.mktemp("alone") / "service")
    with running(folder) as made, client_proxy(made.enclave.url, "Alice", made.policy) as address:
        yield address


def by_itself(folder: Path, copy: Path) -> Path:
    """The same app under a server of its own."""
    made = make_service(copy, (folder / "src/app.py").read_text(), *PATHS)
    manifest = made / ".oblivious/service.yaml"
    manifest.write_text(manifest.read_text().replace("workshop_asgi", "somebodys_ubuntu"))
    script = made / ".oblivious/services/server/run"
    script.parent.mkdir(parents=True)
    command = f"{sys.executable} -m uvicorn app:app --host 0.0.0.0 --port 80 --log-level critical"
    script.write_text(f"#!/bin/sh\ncd /code\nexec {command}\n")
    return made


def open_socket(proxy: str, path: str, **options: Any) -> ClientConnection:
    return connect(proxy.replace("http", "ws", 1) + path, proxy=None, open_timeout=20, **options)


def test_messages_come_back_one_by_one(proxy: str) -> None:
    with open_socket(proxy, "/echo") as socket:
        for text in ("first", "", "grüße", "x" * 100_000):
            socket.send(text)
            assert socket.recv(timeout=20) == text


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_536, 300_000, 1_000_000])
def test_binary_messages_of_any_size_pass(proxy: str, size: int) -> None:
    with open_socket(proxy, "/bytes", max_size=None, compression=None) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-mine"] == "1"
        socket.send(bytes(size))
        assert socket.recv(timeout=20) == bytes(size)


def test_a_message_in_fragments_is_one_message(proxy: str) -> None:
    with open_socket(proxy, "/echo") as socket:
        socket.send(iter(["in ", "three ", "pieces"]))
        assert socket.recv(timeout=20) == "in three pieces"


def test_the_app_chooses_among_the_protocols_that_are_offered(proxy: str) -> None:
    with open_socket(proxy, "/echo", subprotocols=["first", "second"]) as socket:
        assert socket.subprotocol == "second"


def test_a_ping_is_answered(proxy: str) -> None:
    with open_socket(proxy, "/echo") as socket:
        assert socket.ping().wait(20)


def test_the_app_knows_who_speaks_and_its_close_arrives(proxy: str) -> None:
    with open_socket(proxy, "/whoami", additional_headers={"X-OBLV-USER-NAME": "Mallory"}) as socket:
        assert socket.recv(timeout=20) == '["Alice","querier","/whoami"]'
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "that is all")


@pytest.mark.parametrize(("path", "status"), [("/denied", 418), ("/refused", 403), ("/secret", 403), ("/no", 404)])
def test_what_is_refused_is_refused_with_its_status(proxy: str, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, open_socket(proxy, path):
        pass
    assert refused.value.response.status_code == status


def test_an_app_that_breaks_closes_with_an_error(proxy: str) -> None:
    """With 1011 by the enclave proxy; a server of the app's own may drop the connection."""
    with open_socket(proxy, "/broken") as socket, pytest.raises(ConnectionClosedError) as closed:
        socket.recv(timeout=20)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1011


@pytest.mark.parametrize("how", ["closes", "vanishes"])
def test_the_app_learns_that_the_client_has_gone(proxy: str, how: str) -> None:
    before = len(httpx.get(f"{proxy}/ended").json())
    with open_socket(proxy, "/goes") as socket:
        if how == "vanishes":
            socket.socket.shutdown(SHUT_RDWR)
    until(lambda: len(httpx.get(f"{proxy}/ended").json()) > before, "the app to learn it")
    assert ("1000" in httpx.get(f"{proxy}/ended").json()[-1]) is (how == "closes")


def test_a_get_without_an_upgrade_is_a_request_like_any(proxy: str) -> None:
    assert httpx.get(f"{proxy}/echo").json() == "plain"


def test_a_page_of_another_sites_opens_no_socket(proxy: str) -> None:
    with pytest.raises(InvalidStatus) as refused, open_socket(proxy, "/echo", origin="http://mallory.example"):
        pass
    assert refused.value.response.status_code == 403
