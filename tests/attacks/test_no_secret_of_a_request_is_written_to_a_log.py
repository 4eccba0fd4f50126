"""What is asked through the client proxy is its user's secret: nothing of it is in what `workshop connect` writes.

Neither where all goes well nor where anything fails, at whichever end.
"""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
from connected import Connected, connected
from operated import Operated
from raw_http import Raw, request

from workshop_kit.simulator.misbehaving import Attack, DropAfter, FlipBit

SECRET = "c0nfidential"
MARKS = (SECRET, base64.b64encode(SECRET.encode()).decode().rstrip("="), SECRET.encode().hex(), SECRET.upper())

Ask = Callable[[Connected, Operated], object]


def raw(*pieces: bytes, then: str = "rest") -> Ask:
    """Send these bytes, and read what comes, or break the connection."""

    def ask(proxy: Connected, _: Operated) -> None:
        with Raw(proxy.port) as client:
            for piece in pieces:
                client.send(piece.replace(b"Host: a", b"Host: localhost:%d" % proxy.port))
            if then == "rest":
                client.half_close()
                client.rest()
            elif then == "head":
                client.exactly(15)
                client.reset()
            else:
                client.reset()

    return ask


def refused(attack: Attack, status: int = 502) -> Ask:
    def ask(proxy: Connected, enclave: Operated) -> None:
        enclave.misbehave(attack)
        answer = httpx.post(f"{proxy.address}/pay?{SECRET}", headers={"x-amount": SECRET}, content=SECRET)
        assert answer.status_code == status

    return ask


def gone(proxy: Connected, enclave: Operated) -> None:
    """Nobody carries anything any more."""
    enclave.misbehave(DropAfter(0))
    for _ in range(3):
        assert httpx.post(f"{proxy.address}/pay?{SECRET}", content=SECRET * 100_000).status_code == 502


def everywhere(proxy: Connected, _: Operated) -> None:
    """In every place that a request has."""
    headers = {"authorization": f"Bearer {SECRET}", "x-amount": SECRET, "content-type": f"text/{SECRET}"}
    with httpx.Client(base_url=proxy.address, headers=headers, cookies={"session": SECRET}) as client:
        assert client.post(f"/pay?{SECRET}", content=SECRET).status_code == 200
        assert client.get(f"/{SECRET}").status_code == 404
        assert client.get("/download").status_code == 200


ASKED: dict[str, Ask] = {
    "all goes well": everywhere,
    "a foreign Host": raw(request("/pay?" + SECRET, f"Host: {SECRET}.example")),
    "a foreign Origin": raw(request("/pay?" + SECRET, f"Origin: https://{SECRET}.example")),
    "no HTTP": raw(f"{SECRET}\r\n\r\n".encode()),
    "a header that is none": raw(request("/pay?" + SECRET, f"a b: {SECRET}")),
    "a header beyond the limit": raw(request("/pay?" + SECRET, f"X-Large: {SECRET * 10_000}")),
    "a head that no session carries": raw(request("/pay?" + SECRET, f"Cookie: {SECRET}", f"Cookie: {SECRET}")),
    "a target of another form": raw(request(f"ftp://{SECRET}.example/{SECRET}")),
    "a chunk that is none": raw(
        request("/pay?" + SECRET, "Transfer-Encoding: chunked", method="POST") + SECRET.encode() + b"\r\n"
    ),
    "a path that ends the request": raw(request(f"/%2f{SECRET}"), request(f"/..;{SECRET}")),
    "an upload that is left": raw(
        request("/pay?" + SECRET, "Content-Length: 1000000", method="POST") + SECRET.encode() * 1000, then="reset"
    ),
    "an upload in chunks that is left": raw(
        request("/pay?" + SECRET, "Transfer-Encoding: chunked", method="POST") + b"c\r\n" + SECRET.encode() + b"\r\n",
        then="reset",
    ),
    "an answer that is left": raw(request("/download?" + SECRET), then="head"),
    "many that are left": raw(request("/download?" + SECRET) * 20, then="head"),
    "an offer of another protocol": raw(request("/pay?" + SECRET, "Connection: upgrade", f"Upgrade: {SECRET}")),
    "a WebSocket where there is none": raw(
        request("/pay?" + SECRET, "Connection: upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {SECRET}")
    ),
    "an answer that is cut": refused(DropAfter(40)),
    "an answer that is forged": refused(FlipBit(-1)),
    "an enclave that is gone": gone,
}


def test_nothing_that_was_asked_is_written(enclave: Operated, tmp_path: Path) -> None:
    """What is written, is: that an enclave was affirmed, and where it is offered."""
    with connected(enclave.running, tmp_path) as proxy:
        for name, ask in ASKED.items():
            ask(proxy, enclave)
            enclave.misbehave(Attack())
            assert httpx.get(f"{proxy.address}/book").status_code == 200, name  # it serves on
        proxy.program.signal(signal.SIGTERM)
        code, output, errors = proxy.program.end()
    assert code == 128 + signal.SIGTERM
    assert [line for line in errors.splitlines() if not line.startswith("affirmed i-simulated")] == []
    assert not [mark for mark in MARKS if mark in output + errors]
    assert not [file for file in (tmp_path / "tmp").rglob("*") if file.is_file()]
