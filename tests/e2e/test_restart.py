"""What a client does when its enclave ends, is run anew or is another: a handshake first, and nothing is done twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import KINDS, client_of, failure
from between import Between, between
from pair import user_key
from processes import until
from services import ASGI, make_service

from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Enclave, Infrastructure, run_enclave
from workshop_kit.verifier import AppraisalResult, Policy, ReferenceValues, TrustAnchor

MAYBE = "; the request may have been executed, and is not repeated"

COUNTING = (
    ASGI
    + """
import asyncio

CALLS = []

async def answer(scope, receive):
    path = scope["path"]
    if path == "/forget":
        CALLS.clear()
    elif path != "/calls":
        CALLS.append(path)
    if path == "/hangs":
        await asyncio.Event().wait()
    if path == "/reads":
        await body_of(receive)
    return as_json(CALLS)

inner = app

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/streams":
        CALLS.append("/streams")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.Event().wait()
    await inner(scope, receive, send)
"""
)
PATHS = ("/counts", "/calls", "/forget", "/hangs", "/reads", "/streams")
ALICE = Users((User("Alice", "querier", user_key("Alice").public_bytes),))


@pytest.fixture(scope="module")
def infrastructure() -> Iterator[Infrastructure]:
    started = Infrastructure()
    yield started
    started.close()


def _image(folder: Path, app: str) -> EnclaveImage:
    return build_enclave(make_service(folder / "service", app, *PATHS), users=ALICE).image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> EnclaveImage:
    return _image(tmp_path_factory.mktemp("one"), COUNTING)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> EnclaveImage:
    """Another program; it would do the same."""
    return _image(tmp_path_factory.mktemp("other"), COUNTING + "\n# another\n")


class Place:
    """A port of the parent instance's, behind which enclaves come and go."""

    def __init__(self, infrastructure: Infrastructure, image: EnclaveImage) -> None:
        self._infrastructure = infrastructure
        self._image = image
        self.enclave: Enclave = run_enclave(image, infrastructure=infrastructure)
        self.url = self.enclave.url
        self.results: list[AppraisalResult] = []
        anchor = TrustAnchor.from_certificate(infrastructure.root)
        self.policy = Policy(reference_values=ReferenceValues(image.measurements()), trust_anchor=anchor)

    def end(self) -> None:
        self.enclave.terminate()

    def begin(self, image: EnclaveImage | None = None) -> None:
        port = self.enclave.parent.port
        self.enclave = run_enclave(image or self._image, port=port, infrastructure=self._infrastructure)

    def again(self, image: EnclaveImage | None = None) -> None:
        self.end()
        self.begin(image)

    @property
    def handshakes(self) -> int:
        return len(self.results)

    @contextmanager
    def client(self, kind: str, url: str = "", **more: Any) -> Iterator[Any]:
        with client_of(kind, url or self.url, self.policy, on_result=self.results.append, **more) as client:
            yield client

    def arrived(self) -> bytes:
        """What the enclave that runs now was sent."""
        return b"".join(seen.data for seen in self.enclave.parent.seen if seen.towards == "the enclave")


@pytest.fixture(scope="module")
def _place(infrastructure: Infrastructure, image: EnclaveImage) -> Iterator[Place]:
    opened = Place(infrastructure, image)
    yield opened
    opened.end()


@pytest.fixture
def place(_place: Place) -> Place:
    """The same for all tests, as after a start."""
    with _place.client("sync") as client:
        client.get("/forget")
    _place.results.clear()
    return _place


# --- between requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_restart_the_next_request_makes_a_handshake_first(place: Place, kind: str) -> None:
    with place.client(kind) as client:
        assert client.get("/counts").json() == ["/counts"]
        place.again()
        assert client.get("/counts").json() == ["/counts"]
        assert client.get("/counts").json() == ["/counts", "/counts"]
        assert place.handshakes == 2


@pytest.mark.parametrize("kind", KINDS)
def test_of_many_idle_connections_that_a_restart_closed_one_handshake_is_made(place: Place, kind: str) -> None:
    with place.client(kind) as client:
        hanging(client, 5, lambda: place.again())
        assert client.get("/counts").json() == ["/counts"]
        before = place.handshakes
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda _: client.get("/counts"), range(20)))
        place.again()
        assert client.get("/counts").json() == ["/counts"]
        assert place.handshakes == before + 1


@pytest.mark.parametrize("kind", KINDS)
def test_another_image_is_refused_and_is_told_nothing_of_the_request(
    place: Place, other: EnclaveImage, kind: str
) -> None:
    """Not even sealed: what arrives at it is a hello."""
    with place.client(kind) as client:
        client.get("/counts")
        place.again(other)
        for _ in range(2):
            line = failure(lambda: client.post("/counts", content=b"for the enclave that I know"))
            assert "refused by check 9" in line
            assert "executed" not in line
        assert place.arrived().count(b"POST /attested/hello") == 2
        assert b"/attested/exchange/" not in place.arrived()
        place.again()
        assert client.get("/counts").json() == ["/counts"]


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_answers_the_error_says_so_and_later_requests_go_through(place: Place, kind: str) -> None:
    with place.client(kind) as client:
        client.get("/counts")
        place.end()
        for _ in range(2):
            line = failure(lambda: client.get("/counts"))
            assert line.startswith("nothing answers at 127.0.0.1:")
            assert "executed" not in line
        place.begin()
        assert client.get("/counts").json() == ["/counts"]


# --- in the middle ---------------------------------------------------------------------------------------------------


def hanging(client: Any, count: int, then: Callable[[], None]) -> list[str]:
    """What becomes of requests that the app has begun and not answered when `then` happens."""
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(failure, lambda: client.get("/hangs")) for _ in range(count)]
        until(lambda: client.get("/calls").json().count("/hangs") == count, "the app to have begun")
        then()
        return [each.result(30) for each in asked]


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_breaks_before_its_answer_may_have_been_executed_and_is_not_repeated(
    place: Place, kind: str
) -> None:
    """It was, here: repeated by the kit, it would be done twice."""
    with place.client(kind) as client:
        (line,) = hanging(client, 1, place.again)
        assert line.endswith(MAYBE)
        assert client.get("/calls").json() == []


@pytest.mark.parametrize("kind", KINDS)
def test_all_requests_in_flight_break_and_the_next_ones_share_a_handshake(place: Place, kind: str) -> None:
    with place.client(kind) as client:
        lines = hanging(client, 8, place.again)
        assert all(line.endswith(MAYBE) for line in lines)
        before = place.handshakes
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: client.get("/counts"), range(8)))
        assert client.get("/calls").json() == ["/counts"] * 8
        assert place.handshakes == before + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_breaks_in_its_middle_may_have_been_executed_and_is_not_repeated(
    place: Place, kind: str
) -> None:
    ended = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"first"
        ended.wait(30)
        for _ in range(100):  # of which the first may find room in the system's buffers
            yield bytes(100_000)

    def end() -> None:
        until(lambda: client.get("/calls").json() == ["/reads"], "the app to have begun")
        place.end()
        ended.set()

    with place.client(kind) as client:
        ending = threading.Thread(target=end)
        ending.start()
        line = failure(lambda: client.post("/reads", content=body()))
        ending.join(30)
        assert line.endswith(MAYBE)
        place.begin()
        assert client.get("/calls").json() == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_breaks_is_cut_and_the_next_request_makes_a_handshake(place: Place, kind: str) -> None:
    """That the request was executed is no question here; its session is over all the same."""
    with place.client(kind) as client:
        with client.stream("GET", "/streams") as response:
            pieces = response.iter_raw()
            assert next(pieces) == b"first"
            place.again()
            with pytest.raises(Exception, match=r"cut|broke|peer closed|incomplete") as caught:
                list(pieces)
        assert "executed" not in str(caught.value)
        assert client.get("/counts").json() == ["/counts"]
        assert place.handshakes == 2


# --- who stands between ----------------------------------------------------------------------------------------------


@pytest.fixture
def relay(place: Place) -> Iterator[Between]:
    with between(place.enclave.parent.port) as opened:
        yield opened


def refusal(status: int) -> bytes:
    return b"HTTP/1.1 %d x\r\ncontent-length: 16\r\n\r\nno such session\n" % status


@pytest.mark.parametrize("kind", KINDS)
def test_a_404_of_anybodys_is_no_proof_that_nothing_was_done_and_nothing_is_repeated(
    place: Place, relay: Between, kind: str
) -> None:
    """The one who says so may have let the enclave have the request. The next one makes a handshake first."""
    with place.client(kind, relay.url) as client:
        client.get("/counts")
        relay.says = refusal(404)
        line = failure(lambda: client.get("/counts"))
        assert line.startswith("the enclave does not know this session (404, no such session)")
        assert line.endswith(MAYBE)
        assert len(relay.asked) == 1
        line = failure(lambda: client.get("/counts"))
        assert line == "expected an enclave's evidence, got 404, no such session"
        assert relay.asked[1].startswith(b"POST /attested/hello")
        assert len(relay.asked) == 2, "of the second request itself nothing was sent"
        relay.says = b""
        assert client.get("/calls").json() == ["/counts"]
        assert place.handshakes == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", [refusal(500), refusal(400), b"no HTTP\r\n\r\n"], ids=["500", "400", "no HTTP"])
def test_whatever_else_is_answered_in_its_place_leaves_it_open_too(
    place: Place, relay: Between, kind: str, answer: bytes
) -> None:
    with place.client(kind, relay.url) as client:
        client.get("/counts")
        relay.says = answer
        assert failure(lambda: client.get("/counts")).endswith(MAYBE)
        relay.says = b""
        assert client.get("/calls").json() == ["/counts"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_relay_that_closes_each_connection_and_says_so_costs_no_handshake(
    place: Place, relay: Between, kind: str
) -> None:
    relay.closes = "announced"
    with place.client(kind, relay.url) as client:
        for number in range(1, 4):
            assert client.get("/counts").json() == ["/counts"] * number
        assert place.handshakes == 1


def test_a_relay_that_closes_the_handshakes_connection_unannounced_brings_no_endless_loop(
    place: Place, relay: Between
) -> None:
    """A closed connection means a new handshake, and its connection is closed as well: then a new one must do."""

    def closed(result: AppraisalResult) -> None:
        place.results.append(result)
        assert relay.closed.acquire(timeout=10)
        relay.closes = ""

    relay.closes = "unannounced"
    with client_of("sync", relay.url, place.policy, on_result=closed) as client:
        assert client.get("/counts").json() == ["/counts"]
        assert place.handshakes == 1


@pytest.mark.parametrize("kind", ["sync", "async"])  # the proxy waits as long as its clients do
def test_a_request_that_times_out_may_have_been_executed(place: Place, kind: str) -> None:
    with place.client(kind) as client:
        line = failure(lambda: client.get("/hangs", timeout=httpx.Timeout(5, read=0.3)))
        assert line == "expected an answer from the enclave within 0.3 s, got none" + MAYBE
        assert client.get("/calls").json() == ["/hangs"]
        assert place.handshakes == 1, "who is slow has not ended"
