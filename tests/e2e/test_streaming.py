"""Bodies stream both ways, in flat memory and at once, and end where anybody leaves: by three kinds of client."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import KINDS, PATIENCE, client_of
from between import between
from processes import descendants, until
from running import Running, running
from services import ASGI, make_service

MEBIBYTE = 1 << 20
LARGE = 192
"""Mebibytes: far beyond what buffers hold anywhere."""
FLAT = 16 * MEBIBYTE
TRANSPORTS = ("sync", "async")

APP = (
    ASGI
    + """
import asyncio, hashlib

LOG = []
SEEN = {}
PIECE = bytes(range(256)) * 1024

def seen(what):
    return SEEN.setdefault(what, asyncio.Event())

async def answer(scope, receive):
    path, query = scope["path"], scope["query_string"].decode()
    if path == "/log":
        return as_json(LOG)
    if path == "/seen":
        seen(query).set()
        return as_json(query)
    if path == "/hangs":
        await body_of(receive)
        LOG.append(f"begun {query}")
        LOG.append((await receive())["type"] + f" {query}")
    if path == "/whole":
        return 200, [], PIECE * 4 * int(query)
    if path == "/together":
        LOG.append(query)
        if len([each for each in LOG if each == query]) == int(query):
            seen(query).set()
        await asyncio.wait_for(seen(query).wait(), 30)
        return as_json("together")
    return 404, [], b"no such route"

async def digest(query, receive, send):
    size, digest, more = 0, hashlib.sha256(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return LOG.append(f"cut {query}")
        size, more = size + len(message["body"]), message["more_body"]
        digest.update(message["body"])
    body = json.dumps([size, digest.hexdigest()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

async def blob(query, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(4 * int(query)):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body"})

async def events(query, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(5):
        event = b"data: %d\\n\\n" % number
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.wait_for(seen(f"{query}{number}").wait(), 30)
    await send({"type": "http.response.body"})

async def echo(query, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": True})
    await send({"type": "http.response.body", "body": b" and the end"})

async def early(query, receive, send):
    body = b"too large " * 100_000
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

async def first_sends(query, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(4 * int(query)):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.body", "body": b"%d" % size})

async def at_once(query, receive, send):
    async def read():
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        return size
    reading = asyncio.ensure_future(read())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(4 * int(query)):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b"%d" % await reading})

async def after_the_end(query, receive, send):
    body = await body_of(receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"read %d" % len(body), "more_body": True})
    await asyncio.wait_for(seen(query).wait(), 30)
    await send({"type": "http.response.body", "body": b", and more"})

async def endless(query, receive, send):
    await body_of(receive)
    async def listen():
        while (await receive())["type"] != "http.disconnect":
            pass
        LOG.append(f"disconnect {query}")
    listening = asyncio.ensure_future(listen())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while True:
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    except OSError:
        LOG.append(f"ended {query}")
        await listening

ROUTES = {
    "/digest": digest, "/blob": blob, "/events": events, "/echo": echo, "/early": early, "/first_sends": first_sends,
    "/at_once": at_once, "/after_the_end": after_the_end, "/endless": endless,
}
inner = app

async def app(scope, receive, send):
    if route := ROUTES.get(scope.get("path")):
        await route(scope["query_string"].decode(), receive, send)
    else:
        await inner(scope, receive, send)
"""
)
PATHS = (
    *("/digest", "/blob", "/events", "/echo", "/early", "/first_sends", "/at_once", "/after_the_end", "/endless"),
    *("/log", "/seen", "/hangs", "/whole", "/together"),
)


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(make_service(tmp_path_factory.mktemp("streaming") / "service", APP, *PATHS)) as started:
        yield started


@pytest.fixture(scope="module")
def clients(enclave: Running) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(client_of(kind, enclave.enclave.url, enclave.policy, timeout=60))
            for kind in KINDS
        }


@pytest.fixture
def client(clients: dict[str, Any], kind: str) -> Any:
    """One for all tests of its kind: what one test leaves behind must not hurt the next."""
    return clients[kind]


kinds = pytest.mark.parametrize("kind", KINDS)
transports = pytest.mark.parametrize("kind", TRANSPORTS)


def blocks(count: int, pulled: list[int] | None = None) -> Iterator[bytes]:
    """So many mebibytes; `pulled` counts those that were asked for."""
    block = bytes(range(256)) * 4096
    for number in range(count):
        if pulled is not None:
            pulled.append(number)
        yield block


def digest_of(count: int) -> str:
    digest = hashlib.sha256()
    for block in blocks(count):
        digest.update(block)
    return digest.hexdigest()


# --- flat memory -----------------------------------------------------------------------------------------------------


def peak(enclave: Running) -> int:
    """The most that each process of the enclave has had resident so far, added up, in bytes."""
    described = enclave.enclave.describe()
    pids = {described["ProcessID"], *(each.pid for each in descendants(described["ProcessID"]))}
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(line.split()[1]) * 1024 for text in statuses for line in text.splitlines() if "VmHWM" in line)


@contextmanager
def flat(enclave: Running) -> Iterator[None]:
    """Neither the enclave nor this process, with its client, client proxy and parent instance, grows by what passes."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this system")
    before = peak(enclave)
    tracemalloc.start()
    try:
        yield
        _, here = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert here < FLAT
    assert peak(enclave) - before < FLAT


@kinds
def test_an_upload_of_unknown_length_takes_no_memory(enclave: Running, client: Any) -> None:
    client.post("/digest", content=blocks(8))
    with flat(enclave):
        said = client.post("/digest", content=blocks(LARGE)).json()
    assert said == [LARGE * MEBIBYTE, digest_of(LARGE)]


@kinds
def test_a_download_takes_no_memory(enclave: Running, client: Any) -> None:
    with client.stream("GET", "/blob?8") as response:
        list(response.iter_raw())
    size, digest = 0, hashlib.sha256()
    with flat(enclave), client.stream("GET", f"/blob?{LARGE}") as response:
        for piece in response.iter_raw():
            size += len(piece)
            digest.update(piece)
    assert (size, digest.hexdigest()) == (LARGE * MEBIBYTE, digest_of(LARGE))


def test_a_body_that_an_app_gives_in_one_piece_is_sealed_and_sent_record_by_record(
    enclave: Running, clients: dict[str, Any]
) -> None:
    """The app has it whole; the proxy adds no second copy, and no third."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this system")
    before, size = peak(enclave), 64
    with clients["sync"].stream("GET", f"/whole?{size}") as response:
        assert sum(map(len, response.iter_raw())) == size * MEBIBYTE
    assert peak(enclave) - before < size * MEBIBYTE + FLAT


# --- piece by piece --------------------------------------------------------------------------------------------------


@kinds
def test_events_arrive_one_by_one(client: Any, kind: str) -> None:
    """The app sends the next only once the one before was seen here."""
    with client.stream("GET", f"/events?{kind}") as response:
        events = response.iter_raw()
        for number in range(5):
            assert next(events) == b"data: %d\n\n" % number
            client.get(f"/seen?{kind}{number}")
        assert list(events) == []


@kinds
def test_an_answer_goes_on_after_the_requests_end(client: Any, kind: str) -> None:
    with client.stream("POST", f"/after_the_end?{kind}", content=blocks(1)) as response:
        pieces = response.iter_raw()
        assert next(pieces) == b"read 1048576"
        client.get(f"/seen?{kind}")
        assert b"".join(pieces) == b", and more"


def nothing_until(event: threading.Event) -> Iterator[bytes]:
    """What a body says that has nothing to say yet."""
    end = time.monotonic() + PATIENCE
    while not event.is_set():
        assert time.monotonic() < end, "the answer did not have its turn"
        yield b""


@transports
def test_an_answer_begins_before_the_requests_end(client: Any) -> None:
    """A program that waits for its own answer in the middle of its request: nothing holds either back."""
    answered = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"question"
        yield from nothing_until(answered)
        yield b", question"

    with client.stream("POST", "/echo", content=body()) as response:
        pieces = response.iter_raw()
        assert next(pieces) == b"question"
        answered.set()
        assert b"".join(pieces) == b", question and the end"


@transports
def test_an_answer_may_begin_before_the_request_has_a_body_at_all(client: Any) -> None:
    answered = threading.Event()

    def body() -> Iterator[bytes]:
        yield from nothing_until(answered)
        yield b"question"

    with client.stream("POST", "/first_sends?1", content=body()) as response:
        pieces = response.iter_raw()
        first = next(pieces)
        answered.set()
        assert (first + b"".join(pieces))[MEBIBYTE:] == b"8"


def test_through_the_client_proxy_an_answer_begins_before_the_requests_end(clients: dict[str, Any]) -> None:
    """Written by hand: httpx sends all of a request before it reads."""
    base = clients["proxy"].base_url
    head = f"POST /echo HTTP/1.1\r\nhost: {base.host}:{base.port}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    with socket.create_connection((base.host, base.port), 20) as connection:
        connection.sendall(head + b"8\r\nquestion\r\n")
        begun = received(connection, b"question")
        assert begun.startswith(b"HTTP/1.1 200")
        connection.sendall(b"a\r\n, question\r\n0\r\n\r\n")
        received(connection, b" and the end")


def received(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    return data


@transports
def test_an_answer_that_comes_before_the_request_is_read_is_whole_and_ends_the_upload(client: Any) -> None:
    pulled: list[int] = []
    response = client.post("/early", content=blocks(LARGE, pulled))
    assert (response.status_code, len(response.content)) == (413, 1_000_000)
    assert len(pulled) < LARGE / 2
    assert client.get("/log").status_code == 200


def test_through_the_client_proxy_an_early_answer_is_whole(clients: dict[str, Any]) -> None:
    response = clients["proxy"].post("/early", content=blocks(64))
    assert (response.status_code, len(response.content)) == (413, 1_000_000)


@kinds
def test_an_answer_whose_end_comes_by_itself_is_whole(enclave: Running, kind: str) -> None:
    """The last record has said that nothing follows; of the carrier's response a few bytes still do."""
    with between(enclave.enclave.parent.port) as relay, client_of(kind, relay.url, enclave.policy) as client:
        relay.holds = threading.Event()
        with client.stream("GET", "/blob?1") as response:
            pieces, size = response.iter_raw(), 0
            while size < MEBIBYTE:
                size += len(next(pieces))
            relay.holds.set()
            assert list(pieces) == []
        assert client.get("/log").status_code == 200


# --- a lot at once ---------------------------------------------------------------------------------------------------


@kinds
def test_both_sides_send_a_lot_at_once(client: Any) -> None:
    with client.stream("POST", "/at_once?48", content=blocks(48)) as response:
        size, last = drained(response)
    assert (size, last[-8:]) == (48 * MEBIBYTE + 8, b"50331648")


@transports
def test_an_app_that_sends_all_before_it_reads_anything_does_not_stop_a_client_that_sends(client: Any) -> None:
    """Each waits for the other, were the client to read only once it had sent."""
    with client.stream("POST", "/first_sends?48", content=blocks(48)) as response:
        size, last = drained(response)
    assert (size, last[-8:]) == (48 * MEBIBYTE + 8, b"50331648")


def drained(response: Any) -> tuple[int, bytes]:
    size, last = 0, b""
    for piece in response.iter_raw():
        size, last = size + len(piece), (last + piece)[-8:]
    return size, last


def test_two_hundred_requests_of_an_asyncio_program_are_in_flight_at_once(enclave: Running) -> None:
    """None is answered before all have arrived."""

    async def ask() -> set[str]:
        transport = enclave.async_transport("Bob")
        async with httpx.AsyncClient(transport=transport, base_url="http://enclave", timeout=60) as client:
            answers = await asyncio.gather(*(client.get("/together?200") for _ in range(200)))
            return {answer.json() for answer in answers}

    assert asyncio.run(ask()) == {"together"}


def test_fifty_threads_have_requests_in_flight_on_one_transport(enclave: Running) -> None:
    url, policy = enclave.enclave.url, enclave.policy
    with client_of("sync", url, policy, user="Bob", timeout=60) as client, ThreadPoolExecutor(50) as pool:
        assert set(pool.map(lambda _: client.get("/together?50").json(), range(50))) == {"together"}


def test_a_body_whose_first_piece_is_slow_does_not_lose_its_place(enclave: Running) -> None:
    """Numbers are given out as requests go: one that was taken early would be refused behind a thousand others."""

    async def ask() -> tuple[int, int]:
        transport = enclave.async_transport("Bob")
        async with httpx.AsyncClient(transport=transport, base_url="http://enclave", timeout=60) as client:
            ready = asyncio.Event()

            async def body() -> Any:
                await ready.wait()
                yield b"slow"

            slow = asyncio.create_task(client.post("/digest", content=body(), headers={"content-length": "4"}))
            for _ in range(11):
                await asyncio.gather(*(client.get("/log") for _ in range(100)))
            ready.set()
            response = await slow
            return response.status_code, response.json()[0]

    assert asyncio.run(ask()) == (200, 4)


# --- leaving ---------------------------------------------------------------------------------------------------------


def log(enclave: Running) -> list[str]:
    answer: list[str] = enclave.client("Bob").get("/log").json()
    return answer


@kinds
def test_a_client_that_closes_an_answer_ends_it_in_the_enclave_and_no_other(
    enclave: Running, client: Any, kind: str
) -> None:
    with client.stream("GET", f"/events?leaving-{kind}-") as going_on:
        events = going_on.iter_raw()
        assert next(events) == b"data: 0\n\n"
        with client.stream("GET", f"/endless?{kind}") as response:
            next(response.iter_raw())
        until(lambda: {f"ended {kind}", f"disconnect {kind}"} <= set(log(enclave)), "the app to have seen it")
        for number in range(5):
            client.get(f"/seen?leaving-{kind}-{number}")
        assert b"".join(events) == b"".join(b"data: %d\n\n" % number for number in range(1, 5))


def test_a_task_that_is_cancelled_ends_its_request_in_the_enclave(enclave: Running) -> None:
    async def ask() -> None:
        transport = enclave.async_transport("Bob")
        async with httpx.AsyncClient(transport=transport, base_url="http://enclave") as client:

            async def logged(line: str) -> None:
                while line not in (await client.get("/log")).json():
                    await asyncio.sleep(0.02)

            asking = asyncio.create_task(client.get("/hangs?cancelled"))
            await logged("begun cancelled")
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            await logged("http.disconnect cancelled")

    asyncio.run(asyncio.wait_for(ask(), 30))


@transports
def test_a_request_that_times_out_ends_in_the_enclave(enclave: Running, client: Any, kind: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.get(f"/hangs?{kind}", timeout=httpx.Timeout(10, read=0.3))
    until(lambda: f"http.disconnect {kind}" in log(enclave), "the app to have seen it")


@kinds
def test_an_upload_that_its_program_gives_up_is_cut_for_the_app(enclave: Running, client: Any, kind: str) -> None:
    """Never whole: an app must not take half a file for a file."""

    def body() -> Iterator[bytes]:
        yield from blocks(2)
        raise ZeroDivisionError("the program's own mistake")

    with pytest.raises(ZeroDivisionError, match="the program's own mistake"):
        client.post(f"/digest?{kind}", content=body())
    until(lambda: f"cut {kind}" in log(enclave), "the app to have seen it")
    assert client.get("/log").status_code == 200


# --- time-outs -------------------------------------------------------------------------------------------------------


@contextmanager
def silent(*, accepts: bool) -> Iterator[str]:
    """A port where connections stay unanswered, or where even they are not made."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64 if accepts else 0))
        while not accepts:
            filling = stack.enter_context(socket.socket())
            filling.settimeout(0.2)
            try:
                filling.connect(listener.getsockname())
            except TimeoutError:
                break
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def failing(ask: Callable[[], object], error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        ask()
    return str(caught.value)


@transports
def test_the_time_out_to_connect_is_the_programs(enclave: Running, kind: str) -> None:
    with silent(accepts=False) as url, client_of(kind, url, enclave.policy) as client:
        line = failing(lambda: client.get("/log", timeout=httpx.Timeout(30, connect=0.3)), httpx.ConnectTimeout)
        assert line.startswith("nothing answers at 127.0.0.1:")


@transports
def test_the_time_out_to_read_holds_for_a_handshake_too(enclave: Running, kind: str) -> None:
    with silent(accepts=True) as url, client_of(kind, url, enclave.policy) as client:
        line = failing(lambda: client.get("/log", timeout=httpx.Timeout(30, read=0.3)), httpx.ReadTimeout)
        assert line == "expected an answer from the enclave within 0.3 s, got none"


@transports
def test_a_handshake_is_not_waited_for_for_ever_though_the_answer_may_be(
    enclave: Running, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has time for what an app does, as the client proxy has, does not mean an enclave that says nothing at all."""
    monkeypatch.setattr("workshop_kit.edges.connection.SILENCE", 0.3)
    with silent(accepts=True) as url, client_of(kind, url, enclave.policy) as client:
        line = failing(lambda: client.get("/log", timeout=None), httpx.ReadTimeout)
    assert line == "expected an answer from the enclave within 0.3 s, got none"


@transports
def test_who_waits_for_the_handshake_of_another_request_waits_as_long_as_for_a_connection(
    enclave: Running, kind: str
) -> None:
    with silent(accepts=True) as url, client_of(kind, url, enclave.policy) as client, ThreadPoolExecutor(2) as pool:
        times = httpx.Timeout(30, connect=0.5, read=1.5)
        asking = [pool.submit(lambda: client.get("/log", timeout=times)) for _ in range(2)]
        errors = {type(each.exception(30)) for each in asking}
        assert errors == {httpx.ConnectTimeout, httpx.ReadTimeout}


@transports
def test_the_time_out_to_write_is_the_programs(client: Any) -> None:
    """An app that reads nothing makes whoever sends wait, once all buffers on the way are full."""

    def upload() -> object:
        return client.post("/together?1000000", content=blocks(LARGE), timeout=httpx.Timeout(30, write=0.5))

    line = failing(upload, httpx.WriteTimeout)
    assert line.startswith("expected the enclave to take what is sent within 0.5 s, it takes nothing")
    assert line.endswith("the request may have been executed, and is not repeated")
