"""The main job over real processes and real sockets: build, run, prove, compare, and whatever a client sends."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Running, client_proxy, running
from services import ASGI, make_service

from workshop_kit.channel.framing import RequestHead, ResponseHead
from workshop_kit.channel.handshake import Profile
from workshop_kit.edges.async_client import AsyncAttestedTransport
from workshop_kit.edges.dialogue import Endpoint, ExchangeDialogue
from workshop_kit.errors import AccessDeniedError, AppraisalError, RemoteProtocolError
from workshop_kit.notebook.lab import Lab
from workshop_kit.simulator.isolation.levels import Level
from workshop_kit.verifier import AWS_NITRO_ROOT_G1, AppraisalResult, Outcome, UnsafeAnyImagePolicy

MEBIBYTE = bytes(range(256)) * 4096

ECHO = (
    ASGI
    + """
import asyncio, hashlib

CALLS = []
WAITING = []
LET_GO = None

async def answer(scope, receive):
    global LET_GO
    path, query = scope["path"], scope["query_string"].decode()
    CALLS.append(path)
    if path == "/headers":
        return as_json([[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]])
    if path == "/request":
        body = await body_of(receive)
        digest = hashlib.sha256(body).hexdigest()
        raw = scope["raw_path"].decode()
        said = {"method": scope["method"], "path": path, "raw": raw, "query": query}
        return as_json(said | {"size": len(body), "sha256": digest})
    if path == "/echo":
        return 200, [(b"content-type", b"application/octet-stream")], await body_of(receive)
    if path == "/download":
        return 200, [(b"content-length", query.encode())], (bytes(range(256)) * (int(query) // 256 + 1))[: int(query)]
    if path == "/calls":
        return as_json(CALLS)
    if path == "/process":
        return as_json({"pid": os.getpid(), "parent": os.getppid(), "folder": os.getcwd()})
    if path == "/together":
        LET_GO = LET_GO or asyncio.Event()
        WAITING.append(1)
        if len(WAITING) == int(query):
            LET_GO.set()
        await asyncio.wait_for(LET_GO.wait(), 20)
        return as_json("together")
    if path == "/head":
        return 200, [(b"content-length", b"12345")], b"" if scope["method"] == "HEAD" else b"x" * 12345
    if path == "/not_modified":
        return 304, [(b"content-length", b"12345"), (b"etag", b"x")], b""
    if path == "/status":
        return int(query), [], b""
    if path == "/injects":
        return 200, [(b"x", b"1\\r\\nx-injected: 1")], b"body"
    if path == "/fails":
        raise RuntimeError("the app's own mistake")
    return 404, [], b"no such route"

inner = app

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/breaks":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        raise RuntimeError("in the middle of a response")
    if scope["type"] == "http" and scope["path"] == "/silent":
        return
    if scope["type"] == "http" and scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in range(20):
            await send({"type": "http.response.body", "body": bytes([piece]) * 50_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    await inner(scope, receive, send)
"""
)
PATHS = (
    *("/headers", "/request", "/echo", "/download", "/calls", "/process", "/together", "/head", "/not_modified"),
    *("/status", "/fails", "/breaks", "/stream", "/injects", "/silent", "/unrouted", "/audit=auditor"),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("millionaires") as opened:
        yield opened


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    users = {"Alice": "querier", "Bob": "querier", "Carol": "auditor"}
    with running(make_service(tmp_path_factory.mktemp("echo") / "echo", ECHO, *PATHS), users=users) as started:
        yield started


@pytest.fixture(scope="module")
def alice(echo: Running) -> httpx.Client:
    return echo.client("Alice")


# --- Alice and Bob ---------------------------------------------------------------------------------------------------


def test_alice_and_bob_learn_who_is_richer_by_three_kinds_of_client(lab: Lab) -> None:
    """Alice's program calls and waits, Bob's is an asyncio program, and curl would come through the client proxy."""
    alice = lab.connect("Alice")
    assert alice.get("/hello").json() == "hello Alice, your role is querier"
    assert alice.get("/submit_value", params={"value": 5}).json() == "the value of Alice is in"

    async def bob() -> Any:
        transport = AsyncAttestedTransport(lab.enclave.url, lab.keys["Bob"], lab.policy)
        async with httpx.AsyncClient(transport=transport, base_url="http://enclave") as client:
            assert (await client.get("/hello")).json() == "hello Bob, your role is querier"
            assert (await client.get("/submit_value?value=6")).status_code == 200
            return (await client.get("/compare")).json()

    assert asyncio.run(bob()) == "Alice < Bob"
    assert alice.get("/compare").json() == "Alice < Bob"
    assert alice.get("/submit_value?value=7").status_code == 401


def test_the_parent_instance_saw_no_plaintext(lab: Lab) -> None:
    """Nothing of what was asked or answered, while the carrier's own words are there to be seen."""
    client = lab.connect("Alice")
    client.get("/hello", headers={"x-secret-header": "a secret header"}, params={"secret-query": "1"})
    carried = b"".join(seen.data for seen in lab.enclave.parent.seen)
    assert b"POST /attested/hello" in carried
    assert b"POST /attested/exchange/" in carried
    assert {seen.towards for seen in lab.enclave.parent.seen} == {"the enclave", "the client"}
    for words in (
        "hello Alice",
        "querier",
        "/hello?",
        "secret",
        "submit_value",
        "/compare",
        "Alice <",
        "OBLV",
        "detail",
    ):
        assert words.encode().lower() not in carried.lower(), words


def test_two_labs_run_at_once_and_do_not_mix(lab: Lab) -> None:
    with Lab("millionaires", users=("Alice", "Carol")) as other:
        other.keys["Alice"] = lab.keys["Alice"]
        client = other.connect("Carol")
        assert client.get("/submit_value?value=1").status_code == 200
        assert client.get("/compare").status_code == 409
        assert other.infrastructure.root != lab.infrastructure.root
        assert other.connect("Alice").get("/hello").status_code == 200
        with pytest.raises(AppraisalError) as caught:
            lab.connect("Alice", enclave=other.enclave)
        assert [check.number for check in caught.value.result.failed] == [4]


def test_a_user_whom_the_image_does_not_know_is_not_let_in(lab: Lab) -> None:
    with Lab("millionaires", users=("Mallory",)) as other:
        lab.keys["Mallory"] = other.keys["Mallory"]
    with pytest.raises(AccessDeniedError, match="not let in: 401"):
        lab.connect("Mallory")


# --- what a request and a response may be ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_method_path_and_query_arrive_as_they_were_sent(alice: httpx.Client, method: str) -> None:
    said = alice.request(method, "/request?a=1&b=%20%2F&a=2").json()
    assert said == {
        "method": method,
        "path": "/request",
        "raw": "/request",
        "query": "a=1&b=%20%2F&a=2",
        "size": 0,
        "sha256": hashlib.sha256().hexdigest(),
    }


def pieces(data: bytes) -> Iterator[bytes]:
    """A body whose length nobody announces, in pieces of odd sizes, one of them empty."""
    sizes = [1, 0, 65_537, 262_144, 262_145, len(data)]
    for size in sizes:
        piece, data = data[:size], data[size:]
        yield piece


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 1 << 20])
def test_a_body_of_any_size_goes_up_and_comes_down(alice: httpx.Client, size: int) -> None:
    data = MEBIBYTE[:size]
    assert alice.post("/request", content=data).json()["sha256"] == hashlib.sha256(data).hexdigest()
    assert alice.get(f"/download?{size}").content == data
    assert alice.post("/echo", content=data).content == data


def test_a_body_of_unknown_length_goes_up_and_comes_down(alice: httpx.Client) -> None:
    assert alice.post("/echo", content=pieces(MEBIBYTE)).content == MEBIBYTE
    streamed = alice.get("/stream").content
    assert streamed == b"".join(bytes([piece]) * 50_000 for piece in range(20))


def test_a_response_can_be_read_as_it_comes(alice: httpx.Client) -> None:
    with alice.stream("GET", "/stream") as response:
        assert sum(map(len, response.iter_raw())) == 1_000_000


def test_a_response_that_is_left_unread_does_not_spoil_the_next(alice: httpx.Client) -> None:
    with alice.stream("GET", "/stream") as response:
        next(response.iter_raw())
    assert alice.get("/download?10").content == MEBIBYTE[:10]


@pytest.mark.parametrize("path", ["/absent", "/audit", "/unrouted", "/calls"])
def test_a_large_body_to_whom_nobody_listens_still_gets_its_answer(alice: httpx.Client, path: str) -> None:
    """The proxy refuses, or the app answers, without having read it."""
    expected = {"/absent": 404, "/audit": 403, "/unrouted": 404, "/calls": 200}
    assert alice.post(path, content=MEBIBYTE * 4).status_code == expected[path]


@pytest.mark.parametrize("path", ["/head", "/not_modified"])
def test_a_response_without_a_body_may_say_how_long_it_would_be(alice: httpx.Client, path: str) -> None:
    """RFC 9110, 8.6: to HEAD and with 304, content-length speaks of a body that is not sent."""
    response = alice.head(path) if path == "/head" else alice.get(path)
    assert response.status_code in (200, 304)
    assert response.headers["content-length"] == "12345"
    assert response.content == b""


def test_head_gets_no_body_though_the_app_sends_one(alice: httpx.Client) -> None:
    """Frameworks leave it to the server to drop it; inside an enclave, the proxy is the server."""
    response = alice.head("/download?1000")
    assert response.headers["content-length"] == "1000"
    assert response.content == b""


@pytest.mark.parametrize("status", [200, 201, 204, 301, 404, 418, 500, 503])
def test_every_status_of_the_apps_arrives(alice: httpx.Client, status: int) -> None:
    assert alice.get(f"/status?{status}").status_code == status


def test_the_demonstrations_refusals_arrive(lab: Lab) -> None:
    client = lab.connect("Alice")
    assert client.head("/hello").status_code == 405
    assert client.post("/hello").status_code == 405
    assert client.get("/absent").status_code == 404
    assert client.get("/submit_value?value=many").status_code == 422


@pytest.mark.parametrize("path", ["/fails", "/injects", "/silent"])
def test_an_app_that_fails_answers_500_and_goes_on(alice: httpx.Client, path: str) -> None:
    """Its traceback stays on the enclave's console: it may hold somebody's data."""
    response = alice.get(path)
    assert response.status_code == 500
    assert "the app gave no answer" in response.text
    assert "mistake" not in response.text
    assert "x-injected" not in response.headers
    assert alice.get("/status?200").status_code == 200


def test_a_response_that_breaks_off_is_known_to_be_cut(alice: httpx.Client) -> None:
    with pytest.raises(RemoteProtocolError, match="cut"):
        alice.get("/breaks")
    assert alice.get("/status?200").status_code == 200


# --- many at once ----------------------------------------------------------------------------------------------------


def test_threads_share_a_client(echo: Running) -> None:
    """Twenty requests of which none is answered before all have arrived, then two hundred more."""
    with echo.client("Bob") as client, ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: client.get("/together?20").json(), range(20))) == {"together"}
        sizes = [(number * 7919) % 5000 for number in range(200)]
        bodies = list(pool.map(lambda size: client.get(f"/download?{size}").content, sizes))
        assert bodies == [MEBIBYTE[:size] for size in sizes]


def test_tasks_share_an_async_client(echo: Running) -> None:
    async def ask() -> list[bytes]:
        transport = echo.async_transport("Bob")
        async with httpx.AsyncClient(transport=transport, base_url="http://enclave") as client:
            sizes = [(number * 7919) % 300_000 for number in range(60)]
            posts = [client.post("/echo", content=MEBIBYTE[:size]) for size in sizes]
            answers = [response.content for response in await asyncio.gather(*posts)]
            return [MEBIBYTE[:size] == answer for size, answer in zip(sizes, answers, strict=True)]

    assert asyncio.run(ask()) == [True] * 60


def test_a_program_with_a_thousand_open_files_keeps_its_connections(echo: Running) -> None:
    """select(), the usual way to look whether a connection is still open, knows descriptors up to 1023 only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"this system allows {hard} open files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    opened: list[int] = []
    try:
        while not opened or opened[-1] < 1030:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        with echo.client("Alice") as client:
            for _ in range(3):
                assert client.get("/status?200").status_code == 200
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("profile", Profile)
def test_both_clients_speak_both_profiles(echo: Running, profile: Profile) -> None:
    """10a passes where keys travel beside the document, and is no question where none do."""
    results: list[AppraisalResult] = []
    with echo.client("Alice", profile=profile, on_result=results.append) as client:
        assert client.post("/echo", content=b"asked").content == b"asked"

    async def ask() -> bytes:
        transport = echo.async_transport("Bob", profile=profile, on_result=results.append)
        async with httpx.AsyncClient(transport=transport, base_url="http://enclave") as client:
            return (await client.post("/echo", content=b"asked")).content

    assert asyncio.run(ask()) == b"asked"
    bound = Outcome.PASSED if profile is Profile.MODERN else Outcome.NOT_EVALUATED
    assert [result["10a"].outcome for result in results] == [bound, bound]


def test_a_first_request_makes_one_handshake_however_many_wait_for_it(echo: Running) -> None:
    results: list[object] = []
    with echo.client("Alice", on_result=results.append) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.get("/status?200"), range(16)))
    assert len(results) == 1


# --- the client proxy ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxied(echo: Running) -> Iterator[httpx.Client]:
    """Plain HTTP to Alice's client proxy."""
    with client_proxy(echo.enclave.url, "Alice", echo.policy) as address, httpx.Client(base_url=address) as client:
        yield client


def test_any_http_client_speaks_to_the_client_proxy(proxied: httpx.Client) -> None:
    assert proxied.get("/request?a=%20b").json()["query"] == "a=%20b"
    assert proxied.post("/echo", content=MEBIBYTE).content == MEBIBYTE
    assert proxied.post("/echo", content=pieces(MEBIBYTE)).content == MEBIBYTE
    assert proxied.get("/stream").content[-50_000:] == bytes([19]) * 50_000
    assert proxied.get("/absent").status_code == 404
    assert proxied.post("/audit").status_code == 403
    head = proxied.head("/head")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "12345", b"")
    assert proxied.get("/not_modified").status_code == 304
    assert proxied.get("/fails").status_code == 500


def test_many_clients_share_the_client_proxy(proxied: httpx.Client) -> None:
    with ThreadPoolExecutor(10) as pool:
        bodies = list(pool.map(lambda size: proxied.get(f"/download?{size}").content, range(1000, 1100)))
    assert bodies == [MEBIBYTE[:size] for size in range(1000, 1100)]


def test_a_response_that_breaks_off_is_cut_for_the_proxys_client_too(proxied: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        proxied.get("/breaks")
    assert proxied.get("/status?200").status_code == 200


# --- who is asking ---------------------------------------------------------------------------------------------------

SPELLINGS = [
    b"X-OBLV-USER-NAME",
    b"x-oblv-user-name",
    b"X-Oblv-User-Name",
    b"X_OBLV_USER_NAME",
    b"x-oblv_user-name",
    b"x.oblv.user.name",
    b"X-OBLV-USER-ROLE",
    b"x_oblv_user_role",
    b"X-Oblv_User-Role",
]


def said_of(headers: list[list[str]]) -> list[list[str]]:
    """What the app is told of the user, whatever it makes of - and _."""
    return [header for header in headers if "oblv" in header[0].lower()]


TRUE = [["x-oblv-user-name", "Alice"], ["x-oblv-user-role", "querier"]]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=bytes.decode)
def test_no_spelling_of_the_two_headers_reaches_the_app(
    alice: httpx.Client, proxied: httpx.Client, spelling: bytes
) -> None:
    for client in (alice, proxied):
        forged = [(spelling, b"Mallory"), (b"x-other", b"1"), (spelling, b"auditor"), (spelling, b"")]
        headers = client.get("/headers", headers=forged).json()
        assert said_of(headers) == TRUE
        assert ["x-other", "1"] in headers


def test_all_spellings_at_once_leave_one_user(alice: httpx.Client) -> None:
    forged = [(spelling, b"Mallory") for spelling in SPELLINGS * 2]
    assert said_of(alice.get("/headers", headers=forged).json()) == TRUE


def sealed(echo: Running, head: RequestHead) -> tuple[int, bytes]:
    """Status and body of the answer to a head that is sealed as it is, without an HTTP client that keeps its rules."""
    with echo.transport() as transport:
        transport.connect()
        assert transport._sessions._session is not None
        endpoint = Endpoint.parse(echo.enclave.url)
        dialogue, records = ExchangeDialogue(transport._sessions._session, head, endpoint), []
        with socket.create_connection((endpoint.host, endpoint.port), 10) as connection:
            connection.sendall(dialogue.whole())
            while not dialogue.ended:
                records += dialogue.receive(connection.recv(65536))
    answer = records[0].head
    assert isinstance(answer, ResponseHead)
    return answer.status, b"".join(record.data for record in records)


def test_a_header_that_names_the_two_as_its_connections_own_removes_neither(
    alice: httpx.Client, proxied: httpx.Client
) -> None:
    """`Connection` lists headers that end here: who could list the proxy's would make the app meet nobody."""
    listing = {"connection": "x-oblv-user-name, X-OBLV-USER-ROLE, x-mine", "x-mine": "1", "x-other": "2"}
    for client in (alice, proxied):
        headers = client.get("/headers", headers=listing).json()
        assert said_of(headers) == TRUE
        assert ["x-other", "2"] in headers
        assert not {"connection", "x-mine"} & {name for name, _ in headers}


def test_what_a_connection_settles_by_itself_stays_on_it(proxied: httpx.Client) -> None:
    """curl asks before a large body: the client proxy answers, and the enclave, which would refuse it, is not asked."""
    fields = {"expect": "100-continue", "te": "trailers", "connection": "te"}
    assert proxied.post("/request", content=MEBIBYTE, headers=fields).json()["size"] == len(MEBIBYTE)
    fields |= {"upgrade": "h2c", "connection": "upgrade, te"}
    assert not set(fields) & {name for name, _ in proxied.get("/headers", headers=fields).json()}


def test_a_sealed_head_with_forged_names_in_capitals_leaves_one_user(echo: Running) -> None:
    """Names are put in lower case where they are opened, whatever the client sealed."""
    forged = tuple((spelling, b"Mallory") for spelling in SPELLINGS)
    _, body = sealed(echo, RequestHead(b"GET", b"/headers", forged))
    assert json.loads(body) == TRUE


def test_a_role_opens_its_own_paths_and_no_others(echo: Running, alice: httpx.Client) -> None:
    carol = echo.client("Carol")
    assert (alice.get("/audit").status_code, carol.get("/audit").status_code) == (403, 404)  # 404: the app's
    assert carol.get("/audit").text == "no such route"
    assert (alice.get("/headers").status_code, carol.get("/headers").status_code) == (200, 403)


@pytest.mark.parametrize(
    "target",
    ["/", "/calls/", "//calls", "/Calls", "/calls%00", "/calls%2f", "/./calls", "/x/../calls", "/calls;x", "*"],
)
def test_a_path_that_is_not_spelt_as_listed_is_refused(echo: Running, target: str) -> None:
    """httpx normalises some of these, so the request's raw target is set by hand."""
    with echo.client("Alice") as client:
        before = client.get("/calls").json()
        request = client.build_request("GET", "/", extensions={"target": target.encode()})
        assert client.send(request).status_code == 404
        assert len(client.get("/calls").json()) == len(before) + 1


# --- around the proxy ------------------------------------------------------------------------------------------------


def raw(echo: Running, data: bytes) -> bytes:
    """What the parent's port answers to bytes: one response, or what comes until the connection ends."""
    with socket.create_connection(("127.0.0.1", echo.enclave.parent.port), 10) as connection:
        connection.sendall(data)
        if not data:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while not whole(answer) and (part := connection.recv(65536)):
            answer += part
        return answer


def whole(answer: bytes) -> bool:
    """Whether these are all bytes of a response that says its length."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return bool(end and length) and len(body) >= int(length[1])  # type: ignore[index]


def http(method: str, path: str, body: bytes = b"", more: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
    return head.encode() + body


SESSION = "0123456789abcdef" * 2
DIRECT = {
    "the app's own path": http("GET", "/calls", more="X-OBLV-USER-NAME: Alice\r\nX-OBLV-USER-ROLE: querier\r\n"),
    "a full URL": http("GET", "http://enclave/calls"),
    "the hello's path, asked for": http("GET", "/attested/hello"),
    "an exchange's path, asked for": http("GET", f"/attested/exchange/{SESSION}/0"),
    "a session that nobody has": http("POST", f"/attested/exchange/{SESSION}/0", b"x" * 100),
    "a number that is none": http("POST", f"/attested/exchange/{SESSION}/00", b"x"),
    "a hello that is none": http("POST", "/attested/hello", b"x"),
    "a hello that does not end": http("POST", "/attested/hello", b"x" * 100_000),
    "an upgrade": http(
        "GET",
        "/calls",
        more="Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nConnection: upgrade\r\n",
    ),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "nothing": b"",
}


@pytest.mark.parametrize("name", DIRECT)
def test_bytes_sent_to_the_parents_port_never_reach_the_app(echo: Running, alice: httpx.Client, name: str) -> None:
    before = alice.get("/calls").json()
    answer = raw(echo, DIRECT[name])
    assert not answer.startswith(b"HTTP/1.1 2"), answer
    assert b"Traceback" not in answer
    assert alice.get("/calls").json() == [*before, "/calls"]


def test_a_recorded_request_is_not_served_again(echo: Running) -> None:
    """The parent instance repeats, byte for byte, what it carried a moment ago."""
    with echo.client("Alice") as client:
        client.get("/status?200")
        before = client.get("/calls").json()
        sent = [seen.data for seen in echo.enclave.parent.seen if seen.towards == "the enclave"]
        recorded = next(data for data in reversed(sent) if data.startswith(b"POST /attested/exchange/"))
        answer = raw(echo, recorded)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"recorded and repeated" in answer
        assert client.get("/calls").json() == [*before, "/calls"]


def test_a_recorded_hello_is_not_answered_again(echo: Running) -> None:
    """It would cost a signature; and the answer would be of use to nobody but its user."""
    with echo.client("Alice") as client:
        client.get("/status?200")
        sent = [seen.data for seen in echo.enclave.parent.seen if seen.towards == "the enclave"]
        recorded = next(data for data in reversed(sent) if data.startswith(b"POST /attested/hello"))
        answer = raw(echo, recorded)
        assert answer.startswith(b"HTTP/1.1 409 ")
        assert b"accepted before" in answer
        assert client.get("/status?200").status_code == 200  # and Alice's session is what it was


def test_a_changed_request_is_refused_and_its_session_lives_on(echo: Running) -> None:
    with echo.client("Alice") as client:
        client.get("/status?200")
        before = client.get("/calls").json()
        sent = [seen.data for seen in echo.enclave.parent.seen if seen.towards == "the enclave"]
        recorded = next(data for data in reversed(sent) if data.startswith(b"POST /attested/exchange/"))
        line, _, rest = recorded.partition(b" HTTP/1.1\r\n")
        moved = line.rpartition(b"/")[0] + b"/4000000000 HTTP/1.1\r\n" + rest
        assert b"does not open" in raw(echo, moved)
        assert client.get("/calls").json() == [*before, "/calls"]


# --- where the app runs ----------------------------------------------------------------------------------------------


def test_the_app_runs_in_the_enclaves_process_and_not_in_this_one(echo: Running, alice: httpx.Client) -> None:
    process = alice.get("/process").json()
    (described,) = echo.enclave.infrastructure.ask("describe")["enclaves"]
    if echo.enclave.isolation.level is Level.NAMESPACES:  # a process tree of its own: nobody is above its first
        assert (process["pid"], process["parent"]) == (1, 0)
    else:
        assert (process["pid"], process["parent"]) == (described["ProcessID"], echo.enclave.infrastructure.pid)
    assert len({described["ProcessID"], echo.enclave.infrastructure.pid, os.getpid()}) == 3
    assert Path(process["folder"]).is_relative_to(echo.enclave.infrastructure.directory)


def test_nobody_else_can_reach_the_enclaves_socket(echo: Running) -> None:
    """The folder of the vsock addresses is its owner's alone."""
    directory = echo.enclave.infrastructure.directory
    assert directory.stat().st_mode & 0o077 == 0


def test_a_debug_enclave_and_a_foreign_root_are_refused_though_pcrs_are_not_checked(
    echo: Running, tmp_path: Path
) -> None:
    """--disable-pcr-check leaves check 9 out, and nothing else."""
    anchor = echo.policy.trust_anchor
    with (
        echo.client(policy=UnsafeAnyImagePolicy(trust_anchor=AWS_NITRO_ROOT_G1)) as client,
        pytest.raises(AppraisalError, match="refused by check 4"),
    ):
        client.get("/headers")
    with echo.client(policy=UnsafeAnyImagePolicy(trust_anchor=anchor)) as client:
        assert client.get("/headers").status_code == 200
    folder = make_service(tmp_path / "debug", ECHO, "/headers")
    with (
        running(folder, infrastructure=echo.enclave.infrastructure, debug_mode=True) as debug,
        debug.client(policy=UnsafeAnyImagePolicy(trust_anchor=anchor)) as client,
        pytest.raises(AppraisalError, match="refused by check 8"),
    ):
        client.get("/headers")
