"""A parent instance that reads messages: an attack gets each of them whole, and nothing is left when it ends."""

from __future__ import annotations

import gc
import re
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from loops import LOOPS
from processes import until

from workshop_kit.edges.carrier import HELLO_PATH
from workshop_kit.edges.serving import bind
from workshop_kit.edges.vsock import PROXY_PORT, VsockAddress
from workshop_kit.errors import LabError
from workshop_kit.simulator import interception
from workshop_kit.simulator.misbehaving import Ask, Attack, DropAfter, FlipBit, Request, Response, split_records
from workshop_kit.simulator.parent import ParentInstance

DEADLINE = 20.0
EXCHANGE_PATH = f"/attested/exchange/{'0f' * 16}/7"


class Echo(socketserver.StreamRequestHandler):
    """An enclave that answers with the request that it got, in chunks; asked to hang up or to wait, it does that."""

    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        if b" /hang-up " in head:
            return
        if b" /wait " in head:
            self.rfile.read()
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        body = head + self.rfile.read(int(length[1]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def parent_of_echo(folder: Path, attack: Attack) -> Iterator[ParentInstance]:
    with Server(str(VsockAddress(16, PROXY_PORT).path(folder)), Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        parent = ParentInstance(folder, 16, bind(0), misbehave=attack)
        try:
            yield parent
        finally:
            parent.close()
            server.shutdown()


@pytest.fixture(params=LOOPS)
def parent(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ParentInstance]:
    monkeypatch.setattr("workshop_kit.simulator.parent.new_loop", LOOPS[request.param])
    with parent_of_echo(tmp_path, Attack()) as started:
        yield started


def ask(parent: ParentInstance, *requests: bytes) -> bytes:
    """All that comes back on one connection whose last request says that it is the last."""
    with socket.create_connection(("127.0.0.1", parent.port), DEADLINE) as connection:
        for request in requests:
            connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def post(path: str, body: bytes = b"body", more: bytes = b"connection: close\r\n") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%scontent-length: %d\r\n\r\n%s" % (path.encode(), more, len(body), body)


CLOSE = b"connection: close\r\n"


@pytest.mark.parametrize("path", [HELLO_PATH, EXCHANGE_PATH, "/anything?else"])
def test_an_honest_one_carries_messages_as_they_are(parent: ParentInstance, path: str) -> None:
    """But for what belongs to one connection, its lengths and its end."""
    answer = ask(parent, post(path, b"x" * 1000))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0].startswith(b"HTTP/1.1 200 ")
    assert b"content-type: text/plain" in head
    assert body == b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n" % path.encode() + b"x" * 1000
    assert b"content-length: %d" % len(body) in head


def test_requests_may_follow_each_other_in_one_piece_and_come_in_chunks(parent: ParentInstance) -> None:
    first = post(EXCHANGE_PATH, b"one", b"")
    chunked = b"POST /x HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n2\r\n.."
    answer = ask(parent, first + chunked, b"\r\n0\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert b"one" in answer.partition(b"two..")[0]
    assert answer.endswith(b"content-length: 5\r\ntwo..")


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01 no HTTP", post("/hang-up"), b"POST /x HTTP/1.1\r\ncontent-length: 5\r\n\r\n"],
    ids=["no HTTP", "no answer", "no end"],
)
def test_what_cannot_be_answered_ends_its_connection(parent: ParentInstance, request_: bytes) -> None:
    with socket.create_connection(("127.0.0.1", parent.port), DEADLINE) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert b"200" in ask(parent, post("/x"))


def test_a_message_without_an_end_fills_no_memory(parent: ParentInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interception, "MAX_MESSAGE", 10_000)
    assert b"200" in ask(parent, post("/x", bytes(9_000)))
    with pytest.raises(ConnectionError):
        ask(
            parent, b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", *[b"1000\r\n%b\r\n" % bytes(4096)] * 4000
        )


class Mistaken(Attack):
    async def exchange(self, request: Request, ask: Ask) -> Response:
        raise RuntimeError(f"a mistake in an attack on {await ask(request)}")


def test_a_mistake_in_an_attack_is_seen_and_ends_one_connection(
    parent: ParentInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    parent.misbehave = Mistaken()
    assert ask(parent, post(EXCHANGE_PATH)) == b""
    assert "a mistake in an attack" in capsys.readouterr().err
    assert b"200" in ask(parent, post(HELLO_PATH))


def test_an_attack_takes_the_place_of_another_at_any_time(parent: ParentInstance) -> None:
    plain = ask(parent, post(EXCHANGE_PATH))
    parent.misbehave = flip = FlipBit(-1, "request")
    assert ask(parent, post(EXCHANGE_PATH)) == plain[:-1] + b"x"
    assert parent.misbehave is flip
    parent.misbehave = DropAfter(5)
    assert ask(parent, post(EXCHANGE_PATH)).partition(b"\r\n\r\n")[2] == b"POST "


def test_a_request_is_carried_to_another_parent_instance(parent: ParentInstance, tmp_path: Path) -> None:
    class Elsewhere(Attack):
        async def hello(self, request: Request, ask: Ask) -> Response:
            return await ask(replace(request, to=other.url, body=b"elsewhere"))

    (tmp_path / "other").mkdir()
    with parent_of_echo(tmp_path / "other", Attack()) as other:
        parent.misbehave = Elsewhere()
        assert ask(parent, post(HELLO_PATH)).endswith(b"elsewhere")
        assert b"elsewhere" in b"".join(seen.data for seen in other.seen if seen.towards == "the enclave")


def test_what_passed_is_seen(parent: ParentInstance) -> None:
    ask(parent, post(EXCHANGE_PATH))
    assert b"".join(seen.data for seen in parent.seen if seen.towards == "the enclave") == post(EXCHANGE_PATH)
    assert b"".join(seen.data for seen in parent.seen if seen.towards == "the client").startswith(b"HTTP/1.1 200 OK")


def test_closing_cuts_whoever_waits(parent: ParentInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a request, before one, and while the enclave thinks; no task and no socket is left behind."""
    unclosed: list[object] = []
    gc.collect()
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: unclosed.append(raised.exc_value))
    waiting = [socket.create_connection(("127.0.0.1", parent.port), DEADLINE) for _ in range(3)]
    waiting[0].sendall(post("/wait"))
    waiting[1].sendall(post("/x")[:20])
    until(lambda: b"/wait" in b"".join(seen.data for seen in parent.seen), "the request to arrive")
    parent.close()
    for connection in waiting:
        with connection:
            assert connection.recv(1) == b""
    gc.collect()
    assert unclosed == []


def test_an_honest_parent_instance_stays_honest_and_loads_no_attack(tmp_path: Path) -> None:
    parent = ParentInstance(tmp_path, 16, bind(0))
    try:
        assert parent.misbehave is None
        with pytest.raises(LabError, match="it stays so"):
            parent.misbehave = Attack()
    finally:
        parent.close()
    script = (
        "import sys, pathlib, workshop_kit.simulator.enclave\n"
        "from workshop_kit.simulator.parent import ParentInstance\n"
        "from workshop_kit.edges.serving import bind\n"
        f"ParentInstance(pathlib.Path({str(tmp_path)!r}), 17, bind(0)).close()\n"
        "print([name for name in sys.modules if 'misbehaving' in name or 'interception' in name])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_records_are_split_at_their_lengths() -> None:
    one, two = b"\0\0\0\2ab", b"\0\0\0\0"
    assert split_records(one + two + one) == [one, two, one]
    assert split_records(one + b"\0\0\0\5ab") == [one, b"\0\0\0\5ab"]
    assert split_records(b"\0") == [b"\0"]
    assert split_records(b"") == []
