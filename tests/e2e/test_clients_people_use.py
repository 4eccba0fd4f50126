"""Clients that people use, unchanged, through the client proxy and before plain uvicorn: the same app answers the same.

The same client is the oracle: whatever it makes of a request, both servers are given, and what comes back is compared.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import versatile
from http_clients import CLIENTS, Answer, Case
from processes import until
from raw_http import Raw, request
from running import client_proxy, running
from services import make_service

from workshop_kit.edges.serving import bind, port_of

ABSENT = {} if shutil.which("curl") else dict.fromkeys(("curl", "curl --http2", "curl --http1.0"), "curl")
ABSENT |= {name: name for name in ("requests", "urllib3") if importlib.util.find_spec(name) is None}
"""Clients that are not installed here; JupyterLab brings the two libraries."""


@dataclass(frozen=True)
class Places:
    """Where the same app answers."""

    enclave: str
    uvicorn: str


def requests() -> Any:
    return pytest.importorskip("requests")


def urllib3() -> Any:
    return pytest.importorskip("urllib3")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    folder = tmp_path_factory.mktemp("versatile") / "service"
    paths = [json.dumps(path, ensure_ascii=False) for path in versatile.PATHS]
    service = make_service(folder, Path(versatile.__file__).read_text(), *paths)
    with (
        running(service) as started,
        client_proxy(started.enclave.url, "Alice", started.policy) as address,
        plain_uvicorn() as plain,
    ):
        yield Places(address, plain)


@contextmanager
def plain_uvicorn() -> Iterator[str]:
    """The app as most people run it."""
    config = uvicorn.Config(versatile.app, log_level="warning", log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    with bind(0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{port_of(listener)}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(20)


OF_ONE_CONNECTION = {"connection", "keep-alive", "te", "upgrade", "http2-settings", "transfer-encoding", "expect"}
OF_THE_SERVER = {"date", "server"}
OF_THE_USER = {"x-oblv-user-name", "x-oblv-user-role"}


def comparable(answer: Answer, base: str) -> tuple[int, list[tuple[str, str]], Any]:
    """What must be equal: an address of its own is that of either."""
    fields = [(name.lower(), value.replace(base, "HERE")) for name, value in answer.fields]
    said = [field for field in fields if field[0] not in OF_ONE_CONNECTION | OF_THE_SERVER | {"content-length"}]
    body = as_asked(answer.body, base) if answer.body.startswith(b'{"method"') else answer.body
    return answer.status, said, body


def length(answer: Answer) -> str | None:
    """What it says of its body's length; an echo's differs with what is echoed."""
    said = [value for name, value in answer.fields if name.lower() == "content-length"]
    assert len(said) <= 1
    return None if not said or answer.body.startswith(b'{"method"') else said[0]


def as_asked(body: bytes, base: str) -> dict[str, Any]:
    """What the app says that it was asked, without what a connection settles and what the enclave adds."""
    found: dict[str, Any] = json.loads(body)
    found["unmeasured"] = ["transfer-encoding", "chunked"] in found["headers"]
    found["headers"] = [
        [name, value.replace(base.removeprefix("http://"), "HERE")]
        for name, value in found["headers"]
        if name not in OF_ONE_CONNECTION | OF_THE_USER
    ]
    del found["version"]  # each connection has its own
    return found


TEXT = ("content-type", "text/plain")
FORM = ("content-type", "application/x-www-form-urlencoded")
LARGE = bytes(range(256)) * 8192  # 2 MiB: curl asks before it sends so much

CASES: dict[str, Case] = {
    "a page": Case("/echo"),
    "a query": Case("/echo?a=1&b=2&a=3&empty=&flag"),
    "a question mark and nothing behind it": Case("/echo?"),
    "escapes in a query": Case("/echo?q=%2Fx%2f%20+%00%C3%A9%ff%zz&%41=%61;b"),
    "odd characters in a query": Case("/echo?q=[]{}|\\^`'\"<>~!$&()*,;:@/?"),
    "escapes in a path": Case("/%65ch%6F"),
    "a path beyond ASCII": Case("/caf%C3%A9"),
    "a path beyond the basic plane": Case("/%D0%B6%f0%9f%a6%80"),
    "all that a path may hold": Case("/x+y;z,2@:$&'()!~?x"),
    "some of it escaped": Case("/x%2By%3bz%2C2%40:$&'()!~"),
    "many fields": Case("/echo", fields=tuple((f"x-{number}", str(number)) for number in range(100))),
    "a long field": Case("/echo", fields=(("x-long", "y" * 30_000),)),
    "an empty field": Case("/echo", fields=(("x-empty", ""), ("x-next", "1"))),
    "many cookies": Case("/echo", fields=(("cookie", "; ".join(f"c{n}={n}" for n in range(200))),)),
    "authorization": Case("/echo", fields=(("authorization", "Basic dXNlcjpwYXNz"),)),
    "authorization for a proxy": Case("/echo", fields=(("proxy-authorization", "Bearer token"),)),
    "an Accept-Encoding of its own": Case("/echo", fields=(("accept-encoding", "br;q=1.0, gzip;q=0.5, *;q=0"),)),
    "a forwarded client": Case("/echo", fields=(("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1"))),
    "a text": Case("/echo", "POST", (TEXT,), b"hello"),
    "a form": Case("/echo", "POST", (FORM,), b"a=1&b=%20+&c=%C3%A9"),
    "an empty body": Case("/echo", "POST", (TEXT,), b""),
    "no body": Case("/echo", "POST"),
    "every byte": Case("/echo", "POST", (TEXT,), bytes(range(256))),
    "a large body": Case("/echo", "PUT", (TEXT,), LARGE),
    "a body in chunks": Case("/echo", "POST", (TEXT,), LARGE[:100_000], chunked=True),
    "an empty body in chunks": Case("/echo", "POST", (TEXT,), b"", chunked=True),
    "a body with a GET": Case("/echo", "GET", (TEXT,), b"hello"),
    "a body with a DELETE": Case("/echo", "DELETE", (TEXT,), b"hello"),
    **{method: Case("/echo", method) for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "REPORT", "TRACE")},
    "HEAD": Case("/download?size=12345", "HEAD"),
    "HEAD of what streams": Case("/stream", "HEAD"),
    "what is not there": Case("/absent"),
    "HEAD of what is not there": Case("/absent", "HEAD"),
    **{
        f"status {code}": Case(f"/status?code={code}")
        for code in (201, 204, 205, 304, 400, 401, 404, 418, 500, 503, 599)
    },
    "a HEAD answered 204": Case("/status?code=204", "HEAD"),
    "a POST answered 204": Case("/status?code=204", "POST", (TEXT,), b"hello"),
    "no body and no length": Case("/empty"),
    "a redirect to a path": Case("/redirect?to=/echo%3Fa=b&code=302"),
    "a redirect to elsewhere": Case("/redirect?to=https://example.com/x%2520y&code=301"),
    "a redirect by name": Case("/redirect/by/name"),
    "a redirect to the folder": Case("/folder?a=b"),
    "a redirect of a POST": Case("/folder", "POST", (TEXT,), b"hello"),
    "cookies": Case("/cookies"),
    "gzip": Case("/gzip", fields=(("accept-encoding", "gzip"),)),
    "deflate": Case("/deflate", fields=(("accept-encoding", "deflate"),)),
    "a version that is new": Case("/conditional", fields=(("if-none-match", '"another"'),)),
    "a version that is known": Case("/conditional", fields=(("if-none-match", '"of this version"'),)),
    "HEAD of a version that is known": Case("/conditional", "HEAD", fields=(("if-none-match", '"of this version"'),)),
    "a range": Case("/ranges", fields=(("range", "bytes=5-104"),)),
    "the rest": Case("/ranges", fields=(("range", "bytes=10000-"),)),
    "a range beyond the end": Case("/ranges", fields=(("range", "bytes=99999-"),)),
    "events": Case("/stream?count=100"),
    "no events": Case("/stream?count=0"),
    "a large answer": Case("/download?size=3000000"),
    "an answer of one record and a byte": Case("/download?size=262145"),
    "an empty answer": Case("/download?size=0"),
    "fields of an answer": Case("/fields"),
    "an answer before the body": Case("/early", "POST", (TEXT,), LARGE),
    "an answer before a body in chunks": Case("/early", "POST", (TEXT,), LARGE, chunked=True),
    "an answer before more work": Case("/background"),
}

UNSAID: dict[tuple[str, str], str] = {
    **{("curl --http1.0", name): "HTTP/1.0 has no chunks" for name, case in CASES.items() if case.chunked},
    **{("http.client", name): "http.client refuses to write it" for name in ("odd characters in a query",)},
}
"""Cases that a client cannot say."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("client", CLIENTS)
def test_an_answer_is_the_one_that_plain_uvicorn_gives(places: Places, client: str, case: str) -> None:
    if client in ABSENT:
        pytest.skip(f"{ABSENT[client]} is not installed here")
    if (client, case) in UNSAID:
        pytest.skip(UNSAID[client, case])
    asked = CASES[case]
    through = CLIENTS[client](places.enclave, asked)
    # uvicorn loses the body of a request that offers HTTP/2: there the oracle is what it says without the offer.
    before = CLIENTS["curl" if client == "curl --http2" else client](places.uvicorn, asked)
    assert comparable(through, places.enclave) == comparable(before, places.uvicorn)
    assert length(before) in (None, length(through))
    assert any(name.lower() == "date" for name, _ in through.fields)


# --- what clients do by themselves ------------------------------------------------------------------------------------


def curl(*arguments: str) -> bytes:
    if "curl" in ABSENT:
        pytest.skip("curl is not installed here")
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "20", *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_what_the_app_compressed_is_unpacked_by_whoever_asked_for_it(places: Places) -> None:
    for path in ("/gzip", "/deflate"):
        assert curl("--compressed", places.enclave + path) == versatile.TEXT
        assert httpx.get(places.enclave + path).content == versatile.TEXT
        assert requests().get(places.enclave + path, timeout=20).content == versatile.TEXT
        assert urllib3().request("GET", places.enclave + path).data == versatile.TEXT


@pytest.mark.parametrize("path", ["/redirect?to=/echo%3Fa=b&code=302", "/redirect/by/name", "/folder"])
def test_redirects_of_an_app_stay_at_the_address_where_it_was_asked(places: Places, path: str) -> None:
    """The app makes them of the Host that it sees, which is the client proxy's."""
    for answer in (
        json.loads(curl("--location", places.enclave + path)),
        httpx.get(places.enclave + path, follow_redirects=True).json(),
        requests().get(places.enclave + path, timeout=20).json(),
        urllib3().request("GET", places.enclave + path).json(),
    ):
        assert answer["method"] == "GET"
        assert ["host", places.enclave.removeprefix("http://")] in answer["headers"]


def test_a_redirected_upload_is_sent_again_by_its_client(places: Places) -> None:
    body = curl("--location", "--data-binary", "hello", places.enclave + "/folder")
    assert json.loads(body)["start"] == "hello"
    assert httpx.post(places.enclave + "/folder", content=b"hello", follow_redirects=True).json()["start"] == "hello"
    assert requests().post(places.enclave + "/folder", data=b"hello", timeout=20).json()["start"] == "hello"


def test_cookies_are_kept_and_come_back(places: Places, tmp_path: Path) -> None:
    jar = str(tmp_path / "jar")
    curl("--cookie-jar", jar, places.enclave + "/cookies")
    answers = [json.loads(curl("--cookie", jar, places.enclave + "/echo"))]
    with httpx.Client(base_url=places.enclave) as client:
        client.get("/cookies")
        answers.append(client.get("/echo").json())
    with requests().Session() as session:
        session.get(places.enclave + "/cookies", timeout=20)
        answers.append(session.get(places.enclave + "/echo", timeout=20).json())
    for answer in answers:
        (cookies,) = [value for name, value in answer["headers"] if name == "cookie"]
        assert sorted(cookies.split("; ")) == ['and more"', "first=1", 'second="2', "third=3"] or sorted(
            cookies.split("; ")
        ) == ["first=1", 'second="2\\073 and more"', "third=3"]


def test_forms_with_files_arrive_part_by_part(places: Places, tmp_path: Path) -> None:
    file = tmp_path / 'na\xefve "file".bin'
    file.write_bytes(LARGE)
    url = places.enclave + "/form"
    found = [json.loads(curl("--form", "text=a b&c", "--form", f"file=@{quoted(file)};type=image/png", url))]
    found.append(httpx.post(url, data={"text": "a b&c"}, files={"file": (file.name, LARGE, "image/png")}).json())
    files = {"file": (file.name, LARGE, "image/png")}
    found.append(requests().post(url, data={"text": "a b&c"}, files=files, timeout=20).json())
    found.append(urllib3().request("POST", url, fields={"text": "a b&c", **files}).json())
    for text, sent in found:
        assert text["sha256"] == hashlib.sha256(b"a b&c").hexdigest()
        assert 'name="text"' in text["disposition"]
        assert (sent["type"], sent["sha256"]) == ("image/png", hashlib.sha256(LARGE).hexdigest())
        assert "ve" in sent["disposition"]


def quoted(file: Path) -> str:
    """As curl wants a name that has quotes."""
    return '"' + str(file).replace('"', '\\"') + '"'


def test_threads_share_a_pool_of_kept_connections(places: Places) -> None:
    with urllib3().PoolManager(maxsize=8, block=True, timeout=20) as pool, ThreadPoolExecutor(16) as threads:
        sizes = list(range(1000, 1200))
        asked = threads.map(lambda size: pool.request("GET", f"{places.enclave}/download?size={size}").data, sizes)
        assert [len(body) for body in asked] == sizes
        connections = pool.connection_from_url(places.enclave).num_connections
    assert connections <= 8


def test_events_arrive_as_the_app_sends_them(places: Places) -> None:
    with httpx.Client(base_url=places.enclave, timeout=20) as client, client.stream("GET", "/gated") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: first"
        assert httpx.get(places.enclave + "/open").text == "open"
        assert list(lines) == ["", "data: second", ""]


def test_an_answer_begins_while_its_request_still_comes(places: Places) -> None:
    """Each waits for the other, so neither is kept anywhere to be whole."""
    port = int(places.enclave.rpartition(":")[2])
    with Raw(port) as client:
        client.send(request("/upper", f"Host: 127.0.0.1:{port}", "Transfer-Encoding: chunked", method="POST"))
        client.send(b"3\r\nabc\r\n")
        received = b""
        while not received.endswith(b"3\r\nABC\r\n"):
            received += client.some()
        client.send(b"2\r\nde\r\n0\r\n\r\n")
        assert client.rest() == b"2\r\nDE\r\n0\r\n\r\n"


@pytest.mark.parametrize("what", ["gated", "swallow"])
def test_what_a_client_asked_for_ends_when_it_goes(places: Places, what: str) -> None:
    """In the middle of an answer, or of an upload."""
    port = int(places.enclave.rpartition(":")[2])
    before = httpx.get(places.enclave + "/gone").json()
    with Raw(port) as client:
        length = "Content-Length: 10" if what == "swallow" else "X-None: 1"
        client.send(request(f"/{what}", f"Host: 127.0.0.1:{port}", length, method="POST"))
        if what == "swallow":
            client.send(b"part")
        else:
            client.exactly(15)
    until(lambda: httpx.get(places.enclave + "/gone").json() == [*before, what], "the app to see that its client goes")
