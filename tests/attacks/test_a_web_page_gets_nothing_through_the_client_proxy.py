"""Any page that a browser shows can send requests to this machine; the client proxy's door lets in none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from connected import Connected, connected
from raw_http import Raw, request
from running import Running
from visited import browsing, content_of, site, visited


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with visited(tmp_path_factory.mktemp("visited")) as started:
        yield started


@pytest.fixture(scope="module")
def proxy(service: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connected]:
    with connected(service, tmp_path_factory.mktemp("connected")) as started:
        yield started


def book(service: Running) -> list[str]:
    """What the app was asked, by the names of attempts, read past the door."""
    found: list[str] = service.client("Bob").get("/book").json()
    return found


# Each field's value stands for the proxy's own port where it says PORT.
FOREIGN: dict[str, tuple[str, tuple[str, ...], int]] = {
    "a name that was made to resolve to this machine": ("/act", ("Host: rebound.example:PORT",), 403),
    "such a name without a port": ("/act", ("Host: rebound.example",), 403),
    "a name that begins as this machine's": ("/act", ("Host: localhost.rebound.example:PORT",), 403),
    "a name that ends as this machine's": ("/act", ("Host: rebound.localhost:PORT",), 403),
    "this machine at another port": ("/act", ("Host: localhost:1",), 403),
    "this machine without a port": ("/act", ("Host: localhost",), 403),
    "this machine with a user before it": ("/act", ("Host: rebound.example@localhost:PORT",), 403),
    "this machine with a path behind it": ("/act", ("Host: localhost:PORT/rebound.example",), 403),
    "an empty Host": ("/act", ("Host:",), 403),
    "a foreign Host beside a target with this machine's": (
        "http://rebound.example:PORT/act",
        ("Host: localhost:PORT",),
        403,
    ),
    "a target with this machine's name hidden in a user": (
        "http://localhost:PORT@rebound.example/act",
        ("Host: localhost:PORT",),
        403,
    ),
    "a target of another scheme": ("https://localhost:PORT/act", ("Host: localhost:PORT",), 400),
    "no Host": ("/act", (), 400),
    "two Hosts, the true one first": ("/act", ("Host: localhost:PORT", "Host: rebound.example"), 400),
    "two Hosts, the true one last": ("/act", ("Host: rebound.example", "Host: localhost:PORT"), 400),
    "the true Host twice": ("/act", ("Host: localhost:PORT", "Host: localhost:PORT"), 400),
    "a page of another site": ("/act", ("Host: localhost:PORT", "Origin: https://elsewhere.example"), 403),
    "a page of another port": ("/act", ("Host: localhost:PORT", "Origin: http://localhost:1"), 403),
    "a page of this port by another name": ("/act", ("Host: localhost:PORT", "Origin: http://127.0.0.1:PORT"), 403),
    "a page of this name over TLS": ("/act", ("Host: localhost:PORT", "Origin: https://localhost:PORT"), 403),
    "a page without an origin": ("/act", ("Host: localhost:PORT", "Origin: null"), 403),
    "an empty origin": ("/act", ("Host: localhost:PORT", "Origin:"), 403),
    "two origins": (
        "/act",
        ("Host: localhost:PORT", "Origin: http://localhost:PORT", "Origin: https://elsewhere.example"),
        403,
    ),
    "an image of another site's": ("/act", ("Host: localhost:PORT", "Sec-Fetch-Site: cross-site"), 403),
    "an image of another port's": ("/act", ("Host: localhost:PORT", "Sec-Fetch-Site: same-site"), 403),
    "an image of who knows whose": ("/act", ("Host: localhost:PORT", "Sec-Fetch-Site: something-new"), 403),
    "a link on another site": (
        "/act",
        ("Host: localhost:PORT", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-User: ?1"),
        403,
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_a_page_makes_a_browser_send_never_reaches_the_app(
    service: Running, proxy: Connected, method: str, name: str
) -> None:
    target, fields, status = FOREIGN[name]
    before = book(service)
    with Raw(proxy.port) as client:
        lines = [f"{method} {target} HTTP/1.1", *fields, "Content-Length: 0", "", ""]
        client.send("\r\n".join(lines).replace("PORT", str(proxy.port)).encode())
        answer = client.answer(method)
    assert answer.status == status
    assert answer.body.startswith(b"expected ")
    assert book(service) == before


def test_a_preflight_is_refused_so_the_browser_sends_nothing_behind_it(service: Running, proxy: Connected) -> None:
    asked = {"origin": "https://elsewhere.example", "access-control-request-method": "PUT"}
    asked["access-control-request-private-network"] = "true"
    answer = httpx.options(f"{proxy.address}/act?by=preflight", headers=asked)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert "preflight" not in book(service)


PASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "curl": ("/act", ("Host: 127.0.0.1:PORT",)),
    "curl by name": ("/act", ("Host: localhost:PORT",)),
    "curl by name in capitals": ("/act", ("Host: LOCALHOST:PORT",)),
    "a program that names the whole address": ("http://127.0.0.1:PORT/act", ("Host: 127.0.0.1:PORT",)),
    "an address that was typed": ("/act", ("Host: localhost:PORT", "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate")),
    "a page of its own": (
        "/act",
        ("Host: localhost:PORT", "Sec-Fetch-Site: same-origin", "Origin: http://localhost:PORT"),
    ),
}


@pytest.mark.parametrize("name", PASSES)
def test_what_a_program_or_the_users_own_tab_sends_comes_in(proxy: Connected, name: str) -> None:
    target, fields = PASSES[name]
    with Raw(proxy.port) as client:
        asked = request(target, *fields).decode().replace("PORT", str(proxy.port)).encode()
        assert client.send(asked).answer().body == b"done"


# --- with a real browser ----------------------------------------------------------------------------------------------


def test_a_page_of_another_sites_reaches_the_app_in_no_way_that_a_page_has(
    service: Running, proxy: Connected, tmp_path: Path
) -> None:
    """From another port of this machine, where cookies are shared, and from another name."""
    before = book(service)
    for host in ("localhost", "127.0.0.1", "elsewhere.example"):
        with site(proxy.address) as foreign:
            address = f"http://{host}:{foreign.port}/page"
            with browsing(tmp_path / host, address, "--host-resolver-rules=MAP *.example 127.0.0.1"):
                assert foreign.done.wait(60)
            assert len(foreign.tried) == 21
            assert book(service) == before


def test_the_same_page_reaches_whoever_has_no_door(tmp_path: Path) -> None:
    """Else the test above would show that the browser refuses, or that the page does not try."""
    with site("") as foreign, browsing(tmp_path, f"http://localhost:{foreign.port}/page"):
        assert foreign.done.wait(60)
        assert set(foreign.tried) - set(foreign.asked) <= {"prefetch"}  # which a browser may leave
        assert len(foreign.asked) >= 20


def test_a_name_that_was_made_to_resolve_to_this_machine_shows_a_refusal(
    service: Running, proxy: Connected, tmp_path: Path
) -> None:
    before = book(service)
    address = f"http://rebound.example:{proxy.port}/"
    shown = content_of(tmp_path, address, "--host-resolver-rules=MAP *.example 127.0.0.1")
    assert "expected this machine as Host" in shown
    assert book(service) == before


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_apps_own_page_does_all_of_it(service: Running, proxy: Connected, tmp_path: Path, host: str) -> None:
    before = len(book(service))
    shown = content_of(tmp_path, f"http://{host}:{proxy.port}/")
    assert '"tried":' in shown.replace("&quot;", '"')
    assert {"fetch", "image", "script", "frame", "form-post", "socket", "location"} <= set(book(service)[before:])
