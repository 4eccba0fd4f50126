"""The gate is started when an enclave first goes out, and with all that was said before; until then nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from processes import DEADLINE, until

from workshop_kit.simulator import way_out
from workshop_kit.simulator.messages import ALLOW, NETWORK, WATCH
from workshop_kit.simulator.way_out import WayOut

ALLOWED = ALLOW + b'[["example.com", 443]]}'

# It says what it was given, takes one message, and ends with its standard input.
GATE = """
import json, os, socket, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()
allow, channel, *listeners = sys.argv[1:]
print(json.dumps([allow, [int(each) >= 0 and os.fstat(int(each)).st_ino for each in listeners]]), flush=True)
message, descriptors, _, _ = socket.recv_fds(socket.socket(fileno=int(channel)), 1000, 4)
print(json.dumps([message.decode(), len(descriptors)]), flush=True)
"""


@dataclass
class Begun:
    """A way out that is waited at, and the app's end of it."""

    app: socket.socket
    way_out: WayOut
    thread: threading.Thread
    started: list[subprocess.Popen[bytes]]
    _more: list[int] = field(default_factory=list)
    _closed: bool = False

    def close(self) -> None:
        """As at the enclave's end."""
        if not self._closed:
            self._closed = True
            self.way_out.close()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._more += ends
        return ends

    def said(self) -> object:
        until(lambda: bool(self.started), "a gate")
        stream = self.started[0].stdout
        assert stream is not None
        return json.loads(stream.readline())

    def nothing_starts(self) -> None:
        time.sleep(0.2)
        assert self.started == []
        assert self.thread.is_alive()


@pytest.fixture
def begun() -> Iterator[Begun]:
    app, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    started: list[subprocess.Popen[bytes]] = []

    def start(stdin: int, descriptors: Sequence[int], allow: bytes) -> subprocess.Popen[bytes]:
        channel, *listeners = map(str, descriptors)
        command = [sys.executable, "-c", GATE, allow.decode(), channel, *listeners]
        passed = [each for each in descriptors if each >= 0]
        gate = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, pass_fds=passed)
        started.append(gate)
        return gate

    waiting = WayOut(ours, start)
    thread = threading.Thread(target=waiting.serve)
    thread.start()
    one = Begun(app, waiting, thread, started)
    try:
        yield one
    finally:
        one.close()
        app.close()
        for each in one._more:
            os.close(each)
        for gate in started:
            gate.wait(DEADLINE)
            assert gate.stdout is not None
            gate.stdout.close()


def test_what_is_said_before_the_app_runs_starts_nothing(begun: Begun) -> None:
    network = begun.pipe(), begun.pipe()
    socket.send_fds(begun.app, [NETWORK], [network[0][0], network[1][0]])
    socket.send_fds(begun.app, [WATCH], [begun.pipe()[0]])
    begun.app.send(ALLOWED)
    begun.nothing_starts()


def test_the_first_question_of_the_kits_client_starts_the_gate_which_reads_it(begun: Begun) -> None:
    begun.app.send(ALLOWED)
    one, other = socket.socketpair()
    with one, other:
        socket.send_fds(begun.app, [b'{"connect": ["example.com", 443]}'], [other.fileno()])
        assert begun.said() == [ALLOWED.decode(), [False, False]]
        assert begun.said() == ['{"connect": ["example.com", 443]}', 1]


@pytest.mark.parametrize("which", ["a query for a name", "a connection", "a filter's question"])
def test_whatever_else_an_app_does_starts_it_too(begun: Begun, which: str) -> None:
    pipes = {name: begun.pipe() for name in ("a query for a name", "a connection", "a filter's question")}
    numbers = [os.fstat(ends[0]).st_ino for ends in pipes.values()]
    datagrams, listener, watch = (ends[0] for ends in pipes.values())
    socket.send_fds(begun.app, [NETWORK], [datagrams, listener])
    begun.app.send(ALLOWED)
    socket.send_fds(begun.app, [WATCH], [watch])
    begun.nothing_starts()
    os.write(pipes[which][1], b"x")
    assert begun.said() == [ALLOWED.decode(), numbers]


def test_a_question_in_the_same_moment_as_the_allowlist_is_answered_by_that(begun: Begun) -> None:
    """The hypervisor may wake late, and find both."""
    begun.close()
    app, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    watch, asked = begun.pipe()
    os.write(asked, b"x")
    given: list[bytes] = []

    def start(stdin: int, descriptors: Sequence[int], allow: bytes) -> subprocess.Popen[bytes]:
        del descriptors
        given.append(allow)
        return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=stdin)

    with app:
        socket.send_fds(app, [WATCH], [watch])
        app.send(ALLOWED)
        waiting = WayOut(ours, start)
        thread = threading.Thread(target=waiting.serve)
        thread.start()
        until(lambda: bool(given), "a gate")
        waiting.close()
        thread.join(DEADLINE)
        assert waiting.gate is not None
        waiting.gate.wait()
    assert given == [ALLOWED]


@pytest.mark.parametrize("ends", ["one", "two, whose others are closed"])
def test_an_app_that_says_it_has_a_network_does_no_harm(begun: Begun, ends: str) -> None:
    """Where it has none of its own, nobody has said so before it could."""
    begun.app.send(ALLOWED)
    handed = [os.pipe()[0] for _ in range(2 if ends.startswith("two") else 1)]
    socket.send_fds(begun.app, [NETWORK], handed)
    for each in handed:
        os.close(each)
    assert begun.said() == [ALLOWED.decode(), [False, False]]


def test_a_filter_that_nobody_is_behind_any_more_starts_nothing(begun: Begun) -> None:
    """A service that ended and is started again brings another."""
    gone, there = os.pipe(), begun.pipe()
    socket.send_fds(begun.app, [WATCH], [gone[0]])
    os.close(gone[0])
    os.close(gone[1])
    begun.nothing_starts()
    socket.send_fds(begun.app, [WATCH], [there[0]])
    begun.nothing_starts()
    os.write(there[1], b"x")
    assert begun.said() == ["", [False, False, os.fstat(there[0]).st_ino]]


@pytest.mark.parametrize("message", [b"", b"{", b'{"allow": []} ', ALLOWED, WATCH + b" ", NETWORK * 2, bytes(5000)])
def test_anything_that_is_not_for_the_hypervisor_is_left_to_the_gate(begun: Begun, message: bytes) -> None:
    """A second allowlist too: the hypervisor takes none after the first."""
    begun.app.send(ALLOWED)
    begun.nothing_starts()
    begun.app.send(message)
    allow, _ = begun.said()  # type: ignore[misc]
    assert allow == ALLOWED.decode()
    text, _ = begun.said()  # type: ignore[misc]
    assert text == message[:1000].decode()


def test_an_app_that_brings_filters_without_end_gets_a_gate(begun: Begun) -> None:
    ends = begun.pipe()
    for _ in range(17):
        socket.send_fds(begun.app, [WATCH], [ends[0]])
    _, listeners = begun.said()  # type: ignore[misc]
    assert len(listeners) == 2 + 16


def test_at_the_enclaves_end_a_gate_that_does_not_hear_of_it_is_killed(
    begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way_out, "_PATIENCE", 0.2)
    begun.app.send(b"x")
    begun.said()
    os.kill(begun.started[0].pid, signal.SIGSTOP)
    os.waitpid(begun.started[0].pid, os.WUNTRACED)  # it has stopped
    begun.close()
    assert begun.started[0].wait(DEADLINE) == -signal.SIGKILL


def test_serving_ends_with_a_gate_that_ends_by_itself(begun: Begun) -> None:
    begun.app.send(b"x")
    begun.said()
    begun.started[0].kill()
    begun.thread.join(DEADLINE)
    assert not begun.thread.is_alive()
