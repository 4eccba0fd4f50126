"""Strangers with hellos of every kind, a user with too many, and readers who do not read: others are served meanwhile.

What the enclave holds is asked of its own process, by an app that looks around there. Waits are long: nobody is timed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from processes import until
from running import Running, running
from services import ASGI, make_service

from workshop_kit.edges.async_client import AsyncAttestedTransport

WAIT = 30.0
"""Seconds in which a user among floods is answered; alone it takes milliseconds."""
MEBIBYTE = 1 << 20

APP = (
    ASGI
    + """
import asyncio, gc, resource
from workshop_kit.edges.http_connection import Connection

async def answer(scope, receive):
    if scope["path"] == "/state":
        gc.collect()
        connections = [each for each in gc.get_objects() if type(each) is Connection]
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return as_json({"connections": len(connections), "tasks": len(asyncio.all_tasks()), "resident": resident})
    return as_json("pong")

inner = app

async def app(scope, receive, send):
    if scope.get("path") == "/blob":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": bytes(1 << 18), "more_body": True})
        await send({"type": "http.response.body"})
    else:
        await inner(scope, receive, send)
"""
)
USERS = {"Alice": "querier", "Bob": "querier", "Mallory": "querier"}


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = make_service(tmp_path_factory.mktemp("floods") / "service", APP, "/ping", "/state", "/blob")
    with running(folder, users=USERS) as started:
        yield started


@pytest.fixture(scope="module")
def bob(enclave: Running) -> httpx.Client:
    """A user who was there before."""
    client = enclave.client("Bob")
    client.get("/ping")
    return client


def state(bob: httpx.Client) -> dict[str, int]:
    found: dict[str, int] = bob.get("/state").json()
    return found


@contextmanager
def survived(enclave: Running, bob: httpx.Client, *, memory: int) -> Iterator[None]:
    """Behind what is begun here, Bob is served in his session and Alice is let in, and memory stays in bounds."""
    before = state(bob)
    yield
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(served, enclave, bob).result(WAIT)
    assert state(bob)["resident"] - before["resident"] < memory


def served(enclave: Running, bob: httpx.Client) -> bool:
    answers = [bob.get("/ping").json() for _ in range(20)]
    for _ in range(5):
        with httpx.Client(transport=enclave.transport("Alice"), base_url="http://enclave") as alice:
            answers.append(alice.get("/ping").json())
    return set(answers) == {"pong"}


class Crowd:
    """Many connections that each do the same again and again, in a thread and a loop of their own, until the end.

    Attributes:
        done: how often something came to its end.
        closing: what is to be closed once nobody does anything any more.
    """

    def __init__(self, port: int) -> None:
        self.done = 0
        self.closing: list[Callable[[], Awaitable[None]]] = []
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._tasks: list[Any] = []

    def add(self, count: int, act: Callable[[], Awaitable[object]]) -> None:
        self._tasks += [asyncio.run_coroutine_threadsafe(self._again(act), self._loop) for _ in range(count)]

    async def _again(self, act: Callable[[], Awaitable[object]]) -> None:
        while True:
            await act()
            self.done += 1

    async def exchange(self, data: bytes) -> bytes:
        """What one connection answers to `data`, until it ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(data)
            return await reader.read()
        except OSError:
            return b""
        finally:
            writer.transport.abort()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(WAIT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        for close in self.closing:
            await close()
        await asyncio.sleep(0)


@pytest.fixture
def crowd(enclave: Running, bob: httpx.Client) -> Iterator[Crowd]:
    """Of strangers and others; once they have gone the enclave holds nothing of theirs."""
    before = state(bob)
    opened = Crowd(enclave.enclave.parent.port)
    yield opened
    opened.close()
    until(lambda: state(bob)["connections"] <= before["connections"], "the enclave to let go of connections")
    until(lambda: state(bob)["tasks"] <= before["tasks"], "the enclave to let go of tasks")


def carried(enclave: Running, beginning: bytes) -> bytes:
    """The last that the parent instance has carried to the enclave and that begins so."""
    sent = [seen.data for seen in enclave.enclave.parent.seen if seen.towards == "the enclave"]
    return next(data for data in reversed(sent) if data.startswith(beginning))


def posted(path: str, body: bytes, *, length: int | None = None) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: "
    return head.encode() + b"%d\r\n\r\n" % (len(body) if length is None else length) + body


def test_two_hundred_connections_of_strangers_keep_nobody_out(
    enclave: Running, bob: httpx.Client, crowd: Crowd
) -> None:
    """Garbage, copies of a genuine hello, halves of hellos, of heads and of first records, each again and again."""
    hello = carried(enclave, b"POST /attested/hello").partition(b"\r\n\r\n")[2]
    name = carried(enclave, b"POST /attested/exchange/").split(b"/")[3].decode()
    halves = {
        "hello": posted("/attested/hello", hello[:200], length=len(hello)),
        "head": b"POST /attested/hello HTTP/1.1\r\nhost: x\r\n",
        "first record": posted(f"/attested/exchange/{name}/7", b"\0\4\0\0" + bytes(200_000), length=300_000),
    }
    with survived(enclave, bob, memory=96 * MEBIBYTE):
        crowd.add(60, lambda: crowd.exchange(posted("/attested/hello", bytes(4000))))
        crowd.add(60, lambda: crowd.exchange(posted("/attested/hello", hello)))
        until(lambda: crowd.done >= 240, "the flood to have begun")
        for half in halves.values():
            crowd.add(27, lambda half=half: crowd.exchange(half))  # type: ignore[misc]
        until(lambda: state(bob)["connections"] >= 80, "halves to have arrived")
    done = crowd.done
    until(lambda: crowd.done > done + 200, "the flood to go on")


def test_halves_are_not_waited_for_longer_than_a_few_seconds(bob: httpx.Client, crowd: Crowd) -> None:
    """Whoever begins and does not go on is shown out by the enclave, and does not hold his place for long."""
    ended = []

    async def begin(half: bytes) -> None:
        ended.append(await crowd.exchange(half))
        await asyncio.Event().wait()

    hello = posted("/attested/hello", bytes(100), length=500)
    for half in (hello, b"POST /attested/hello HTTP/1.1\r\n"):
        crowd.add(5, lambda half=half: begin(half))  # type: ignore[misc]
    until(lambda: state(bob)["connections"] >= 10, "halves to have arrived")
    until(lambda: len(ended) == 10, "the enclave to close them")
    assert sum(answer.startswith(b"HTTP/1.1 408 ") for answer in ended) >= 5


def test_a_user_who_makes_handshakes_without_end_keeps_nobody_out(
    enclave: Running, bob: httpx.Client, crowd: Crowd
) -> None:
    transports = [enclave.async_transport("Mallory") for _ in range(20)]
    crowd.closing += [transport.aclose for transport in transports]

    async def handshake(transport: AsyncAttestedTransport) -> None:
        await transport.connect()

    with survived(enclave, bob, memory=64 * MEBIBYTE):
        for transport in transports:
            crowd.add(1, lambda transport=transport: handshake(transport))  # type: ignore[misc]
        until(lambda: crowd.done >= 40, "the flood to have begun")


@pytest.fixture
def readers(enclave: Running, crowd: Crowd) -> list[httpx.Response]:
    """A hundred answers of 100 MiB that Mallory has asked for and does not read."""
    transport = enclave.async_transport("Mallory")
    client = httpx.AsyncClient(transport=transport, base_url="http://enclave", timeout=WAIT)
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await client.send(client.build_request("GET", "/blob"), stream=True))
        await asyncio.Event().wait()

    crowd.add(100, ask)
    until(lambda: len(answers) == 100, "all answers to have begun")
    crowd.closing += [*(answer.aclose for answer in answers), client.aclose]
    return answers


def test_a_hundred_clients_who_ask_for_much_and_read_nothing_keep_nobody_waiting(
    enclave: Running, bob: httpx.Client, readers: list[httpx.Response]
) -> None:
    """10,000 MiB are asked for. A connection holds what fits between two reads, and the app is made to wait."""
    with survived(enclave, bob, memory=128 * MEBIBYTE):
        assert {answer.status_code for answer in readers} == {200}


def test_an_upload_that_nobody_reads_waits_outside(enclave: Running, bob: httpx.Client, crowd: Crowd) -> None:
    """An app that does not read makes its clients wait, and the enclave keeps no more than a piece for each."""
    sent = [0]

    async def body() -> AsyncIterator[bytes]:
        while True:
            sent[0] += MEBIBYTE
            yield bytes(MEBIBYTE)

    async def send() -> None:
        async with httpx.AsyncClient(transport=enclave.async_transport("Mallory"), base_url="http://enclave") as client:
            await client.post("/blob", content=body(), timeout=None)

    with survived(enclave, bob, memory=128 * MEBIBYTE):
        crowd.add(30, send)
        until(lambda: sent[0] >= 30 * MEBIBYTE, "uploads to have begun")


def test_the_app_of_these_tests_finds_what_there_is(bob: httpx.Client) -> None:
    """Else nothing would be found, whatever were left."""
    found = state(bob)
    assert found["connections"] >= 1
    assert found["tasks"] >= 2
