"""What the client proxy answers when a request cannot be delivered: one line, no half of an answer, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import httpx
import pytest
from operated import DONE, LARGE, Operated, new_order, operated
from raw_http import Raw, request
from running import Running, client_proxy, running
from services import ASGI, make_service

from workshop_kit.simulator.enclave import Infrastructure
from workshop_kit.simulator.misbehaving import Attack, DropAfter, FlipBit, Replay, Truncate

MORE = """
async def plain(scope, receive, send, inner=plain):
    if scope["type"] == "http" and scope["path"] == "/refund":
        return await send({"type": "http.response.start", "status": 103, "headers": []}) or await send(
            {"type": "http.response.body", "body": b""}
        )
    await inner(scope, receive, send)
"""


@pytest.fixture(scope="module")
def _enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    with operated(tmp_path_factory.mktemp("operated"), more=MORE) as started:
        yield started


@pytest.fixture(scope="module")
def _address(_enclave: Operated) -> Iterator[str]:
    with proxied(_enclave.running) as address:
        yield address


@pytest.fixture
def enclave(_enclave: Operated) -> Iterator[Operated]:
    yield _enclave
    _enclave.misbehave(Attack())


@pytest.fixture
def proxy(_address: str, enclave: Operated) -> Iterator[httpx.Client]:
    """Plain HTTP to Alice's proxy, whose session is whole as a test begins."""
    enclave.misbehave(Attack())
    with httpx.Client(base_url=_address) as client:
        assert client.get(f"/pay?{new_order()}").json() == DONE
        yield client


ON_THE_WAY: dict[str, tuple[Attack, str]] = {
    "no answer": (DropAfter(0), "cut"),
    "the head of an answer": (DropAfter(40), "cut"),
    "an answer with a flipped bit": (FlipBit(-1), "does not open"),
    "a part of an answer": (Truncate(), "cut"),
}


@pytest.mark.parametrize("name", ON_THE_WAY)
def test_an_answer_that_does_not_come_whole_is_a_502_and_its_request_was_made_once(
    enclave: Operated, proxy: httpx.Client, name: str
) -> None:
    """It may have been executed, so only whoever asked knows whether to ask again."""
    attack, words = ON_THE_WAY[name]
    order = new_order()
    enclave.misbehave(attack)
    answer = proxy.post(f"/pay?{order}", content=b"x" * 10)
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.count("\n") == 1
    assert words in answer.text
    assert answer.text.endswith("the request may have been executed, and is not repeated\n")
    assert len(enclave.executed(order)) <= 1
    enclave.misbehave(Attack())
    assert proxy.get(f"/pay?{new_order()}").json() == DONE


def test_an_answer_that_breaks_off_later_is_cut_for_its_client_too(enclave: Operated, proxy: httpx.Client) -> None:
    enclave.misbehave(DropAfter(250_000))
    with pytest.raises(httpx.RemoteProtocolError):
        proxy.get("/download")
    enclave.misbehave(Attack())
    assert len(proxy.get("/download").content) == 400_000


def test_a_request_that_somebody_repeats_is_executed_once(enclave: Operated, proxy: httpx.Client) -> None:
    order = new_order()
    enclave.misbehave(Replay())
    assert proxy.post(f"/pay?{order}", content=bytes(LARGE)).json() == DONE
    assert len(enclave.executed(order)) == 1


def test_an_interim_status_of_the_apps_is_no_answer(proxy: httpx.Client) -> None:
    """A client would wait for another behind it, for ever."""
    answer = proxy.get("/refund")
    assert (answer.status_code, "interim status 103" in answer.text) == (502, True)


NOT_CARRIED: dict[str, tuple[str, ...]] = {
    "a field twice that HTTP has once": ("Cookie: a=1", "Cookie: b=2"),
    "a spelling of it that others fold": ("Content_Length: 5",),
    "a field beyond ASCII's printable letters": ("Host: localhost:PORT", "X-\xe9: 1"),
}


@pytest.mark.parametrize("name", NOT_CARRIED)
def test_a_head_that_no_session_carries_is_its_writers_mistake(proxy: httpx.Client, name: str) -> None:
    port = proxy.base_url.port
    assert port is not None
    with Raw(port) as client:
        fields = [field.replace("PORT", str(port)) for field in NOT_CARRIED[name]]
        host = [] if any(field.startswith("Host") for field in fields) else [f"Host: localhost:{port}"]
        answer = client.send(request(f"/pay?{new_order()}", *host, *fields)).answer()
        assert (answer.status, answer.body[:9]) == (400, b"expected ")


def test_where_nobody_carries_anything_any_more_each_request_says_so(tmp_path: Path) -> None:
    with operated(tmp_path) as started, proxied(started.running) as address:
        assert httpx.get(f"{address}/pay?{new_order()}").json() == DONE
        started.running.enclave.parent.close()
        for _ in range(2):
            answer = httpx.post(f"{address}/pay?{new_order()}", content=bytes(LARGE))
            assert answer.status_code == 502
            assert "nothing answers at" in answer.text


def test_another_enclave_at_the_same_place_is_given_nothing(tmp_path: Path) -> None:
    """Each session is made anew under the policy that was chosen at the start."""
    kept = ASGI + "\nGOT = []\n\nasync def answer(scope, receive):\n    GOT.append(1)\n    return as_json(len(GOT))\n"
    first = make_service(tmp_path / "first", kept, "/")
    second = make_service(tmp_path / "second", kept + "# one line more\n", "/")
    with closing(Infrastructure()) as infrastructure, ExitStack() as stack:
        with running(first, infrastructure=infrastructure) as honest:
            port, address = honest.enclave.parent.port, stack.enter_context(proxied(honest))
            assert httpx.get(address).json() == 1
        with running(second, infrastructure=infrastructure, port=port) as other:
            for _ in range(2):
                answer = httpx.get(f"{address}/?secret")
                assert answer.status_code == 502
                assert "refused by check" in answer.text
            assert asked_of(other) == 1


def proxied(running: Running) -> AbstractContextManager[str]:
    return client_proxy(running.enclave.url, "Alice", running.policy)


def asked_of(other: Running) -> int:
    """How often its app was asked, this time included."""
    found: int = other.client().get("/").json()
    return found
