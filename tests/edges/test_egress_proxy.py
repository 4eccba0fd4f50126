"""What the egress proxy resolves, judges, dials and answers; nothing here leaves the loopback."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_kit.edges import egress_proxy
from workshop_kit.edges.egress_proxy import EgressProxy, Internet, RealInternet
from workshop_kit.edges.tunnel import Ends, close, read_answer, request
from workshop_kit.service.egress import EgressDecision

Result = TypeVar("Result")

GOOD, OTHER = "93.184.215.14", "2606:4700::1111"
REQUEST = request("example.com", 443)
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def connection() -> tuple[Ends, Ends]:
    """Both sides of a TCP connection over the loopback."""
    accepted: asyncio.Queue[Ends] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), "127.0.0.1", 0)
    dialled = await asyncio.open_connection(*server.sockets[0].getsockname())
    ends = await accepted.get()
    server.close()
    return dialled, ends


class Scripted(Internet):
    """An internet that does as it is told, and notes what it was asked.

    Args:
        names: the addresses of each name, or the error, or the seconds until nothing comes; others are not known.
        hosts: what becomes of dialling an address: an error, or seconds; a host answers at any other.
    """

    def __init__(
        self,
        names: Mapping[str, Sequence[str] | OSError | float],
        hosts: Mapping[str, OSError | float] | None = None,
    ) -> None:
        self.names, self.hosts = names, hosts or {}
        self.resolved: list[str] = []
        self.dialled: list[tuple[str, int]] = []
        self.answering: list[Ends] = []

    async def resolve(self, name: str) -> list[str]:
        self.resolved.append(name)
        return list(await self._told(self.names.get(name, UNKNOWN)) or ())

    async def dial(self, address: str, port: int) -> Ends:
        self.dialled.append((address, port))
        await self._told(self.hosts.get(address, 0.0))
        near, far = await connection()
        self.answering.append(far)
        return near

    async def _told(self, what: Sequence[str] | OSError | float) -> Sequence[str] | None:
        if isinstance(what, OSError):
            raise what
        if isinstance(what, float):
            await asyncio.sleep(what)
            return None
        return what


class Asked:
    """One connection to an egress proxy, and what was decided over it."""

    def __init__(self, internet: Internet, ends: Ends, served: Ends) -> None:
        self.reader, self.writer = ends
        self.decisions: list[EgressDecision] = []
        self.serving = asyncio.ensure_future(
            EgressProxy(internet, on_decision=self.decisions.append).serve(*served),
        )
        self.served = served

    @classmethod
    async def open(cls, internet: Internet, data: bytes = b"") -> Asked:
        asked = cls(internet, *await connection())
        asked.writer.write(data)
        return asked

    @property
    def decision(self) -> EgressDecision:
        (decision,) = self.decisions
        assert str(decision).isprintable()
        return decision


def within_time(run: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    async def limited() -> Result:
        return await asyncio.wait_for(run(), 20)

    return asyncio.run(limited())


def refusal(internet: Internet, data: bytes = REQUEST) -> tuple[int, EgressDecision]:
    """Status and decision of a request that must be refused: one answer, then the connection's end."""

    async def run() -> tuple[int, EgressDecision]:
        asked = await Asked.open(internet, data)
        status, reason = await read_answer(asked.reader)
        assert status != 200
        assert await asked.reader.read() == b""
        await asked.serving
        assert asked.served[1].transport.is_closing()
        await close(asked.writer)
        assert not asked.decision.allowed
        assert asked.decision.reason[:100] == reason[:100]
        return status, asked.decision

    return within_time(run)


# --- the way that is open --------------------------------------------------------------------------------------------


def test_a_tunnel_leads_to_the_address_that_was_judged() -> None:
    internet = Scripted({"example.com": [GOOD]})

    async def run() -> None:
        asked = await Asked.open(internet, REQUEST + b"hello")
        assert await read_answer(asked.reader) == (200, "open")
        (far,) = internet.answering
        assert await far[0].readexactly(5) == b"hello"
        far[1].write(b"good day")
        far[1].write_eof()
        assert await asked.reader.read() == b"good day"
        asked.writer.write_eof()
        assert await far[0].read() == b""
        await asked.serving
        assert asked.served[1].transport.is_closing()
        await asyncio.gather(close(asked.writer), close(far[1]))
        assert asked.decision == EgressDecision("example.com", 443, True, f"dialled {GOOD}")

    within_time(run)
    assert internet.resolved == ["example.com"]
    assert internet.dialled == [(GOOD, 443)]


def opened(internet: Scripted) -> EgressDecision:
    async def run() -> EgressDecision:
        asked = await Asked.open(internet, REQUEST)
        assert (await read_answer(asked.reader))[0] == 200
        await asyncio.gather(close(asked.writer), close(internet.answering[0][1]))
        await asked.serving
        return asked.decision

    return within_time(run)


def test_where_an_address_refuses_the_next_is_dialled() -> None:
    internet = Scripted({"example.com": [OTHER, GOOD]}, {OTHER: ConnectionRefusedError(111, "Connection refused")})
    assert opened(internet).reason == f"dialled {GOOD}"
    assert internet.dialled == [(OTHER, 443), (GOOD, 443)]


def test_where_an_address_is_silent_the_next_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_proxy, "ADDRESS_TIMEOUT", 0.05)
    internet = Scripted({"example.com": [OTHER, GOOD]}, {OTHER: 60.0})
    assert opened(internet).reason == f"dialled {GOOD}"
    assert internet.dialled == [(OTHER, 443), (GOOD, 443)]


def test_an_address_that_comes_twice_is_dialled_once() -> None:
    internet = Scripted({"example.com": [OTHER, OTHER, GOOD]}, {OTHER: ConnectionRefusedError()})
    opened(internet)
    assert internet.dialled == [(OTHER, 443), (GOOD, 443)]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["127.0.0.1", GOOD, "::1", OTHER, "127.1", "0x7f.1", "2130706433"])
def test_an_address_is_refused_before_anything_is_resolved(name: str) -> None:
    internet = Scripted({})
    status, decision = refusal(internet, request(name, 443))
    assert status == 403
    assert "got an address" in decision.reason
    assert (decision.name, decision.port) == (name, 443)
    assert not internet.resolved


def test_what_is_no_domain_name_is_refused_before_anything_is_resolved() -> None:
    internet = Scripted({})
    assert refusal(internet, request("a..b", 443))[0] == 403
    assert not internet.resolved


BAD = {
    "127.0.0.1": "loopback",
    "::1": "loopback",
    "10.0.0.1": "private",
    "169.254.169.254": "metadata service",
    "168.63.129.16": "metadata service",
    "fd00:ec2::254": "metadata service",
    "0.0.0.0": "unspecified",
    "203.0.113.1": "documentation",
    "::ffff:127.0.0.1": "loopback",
    "64:ff9b::a00:1": "private",
    "fe80::1%eth0": "one network interface only",
    "internal.example": "no address",
}


@pytest.mark.parametrize(("address", "kind"), BAD.items())
def test_a_name_with_a_bad_address_is_refused_with_the_address_and_its_kind(address: str, kind: str) -> None:
    internet = Scripted({"example.com": [address]})
    status, decision = refusal(internet)
    assert status == 403
    assert f"got {address}, which is " in decision.reason
    assert kind in decision.reason
    assert not internet.dialled


@given(st.lists(st.sampled_from([GOOD, OTHER, "1.1.1.1"]), max_size=4), st.sampled_from(sorted(BAD)), st.integers(0, 4))
@settings(deadline=None, max_examples=20)
def test_one_bad_address_among_good_ones_refuses_the_name(good: list[str], bad: str, place: int) -> None:
    internet = Scripted({"example.com": [*good[:place], bad, *good[place:]]})
    status, decision = refusal(internet)
    assert status == 403
    assert f"got {bad}, which is " in decision.reason
    assert not internet.dialled


def test_a_name_that_does_not_resolve_is_answered_with_the_resolvers_words() -> None:
    status, decision = refusal(Scripted({}))
    assert status == 502
    assert decision.reason == "expected addresses of example.com, got none (Name or service not known)"


def test_a_name_without_addresses_is_not_reached() -> None:
    status, decision = refusal(Scripted({"example.com": []}))
    assert (status, decision.reason) == (502, "expected addresses of example.com, got none")


def test_where_no_address_answers_all_are_named() -> None:
    error = ConnectionRefusedError(111, "Connection refused")
    internet = Scripted({"example.com": [GOOD, OTHER]}, {GOOD: error, OTHER: TimeoutError()})
    status, decision = refusal(internet)
    assert status == 502
    assert f"{GOOD} (Connection refused), {OTHER} (no answer in time)" in decision.reason


def test_resolving_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_proxy, "REACH_TIMEOUT", 0.05)
    begin = time.monotonic()
    status, decision = refusal(Scripted({"example.com": 60.0}))
    assert (status, decision.reason) == (502, "expected example.com within 0.05 s, got no answer in time")
    assert time.monotonic() - begin < 10


def test_dialing_many_silent_addresses_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_proxy, "REACH_TIMEOUT", 0.2)
    monkeypatch.setattr(egress_proxy, "ADDRESS_TIMEOUT", 0.08)
    addresses = [f"93.184.215.{number}" for number in range(200)]
    internet = Scripted({"example.com": addresses}, dict.fromkeys(addresses, 60.0))
    assert refusal(internet)[0] == 502
    assert 1 < len(internet.dialled) < 10


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"x" * 2000])
def test_what_is_no_request_for_a_tunnel_is_answered_with_what_was_expected(data: bytes) -> None:
    status, decision = refusal(Scripted({}), data)
    assert status == 400
    assert decision.reason.startswith("expected ")
    assert (decision.name, decision.port) == ("", 0)


def test_who_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_proxy, "REQUEST_TIMEOUT", 0.05)
    assert refusal(Scripted({}), REQUEST[:-1])[0] == 408


# --- whatever breaks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", REQUEST[:9], REQUEST])
def test_who_hangs_up_is_no_error(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        asked = await Asked.open(Scripted({"example.com": [GOOD]}, {GOOD: ConnectionRefusedError()}), data)
        await asyncio.sleep(0)
        asked.writer.transport.abort()
        await asked.serving
        assert asked.served[1].transport.is_closing()
        await close(asked.writer)
        assert not asked.decision.allowed

    within_time(run)
    assert capsys.readouterr().err == ""


def test_a_connection_that_breaks_before_it_asks_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        asked = await Asked.open(Scripted({}), REQUEST[:9])
        sock = asked.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asked.writer.transport.abort()
        await asked.serving
        assert asked.served[1].transport.is_closing()
        await close(asked.writer)
        assert not asked.decisions

    within_time(run)
    assert capsys.readouterr().err == ""


def test_who_hangs_up_while_the_address_is_dialled_leaves_no_connection() -> None:
    internet = Scripted({"example.com": [GOOD]}, {GOOD: 0.1})

    async def run() -> None:
        asked = await Asked.open(internet, REQUEST)
        while not internet.dialled:
            await asyncio.sleep(0.01)
        asked.writer.transport.abort()
        while not internet.answering:
            await asyncio.sleep(0.01)
        (far,) = internet.answering
        assert await far[0].read() == b""
        await asyncio.gather(close(asked.writer), close(far[1]))
        await asked.serving

    within_time(run)


@pytest.mark.parametrize("hosts", [{GOOD: 60.0}, {}])
def test_a_proxy_that_is_cancelled_closes_what_it_opened(hosts: Mapping[str, float]) -> None:
    internet = Scripted({"example.com": [GOOD]}, hosts)

    async def run() -> None:
        asked = await Asked.open(internet, REQUEST)
        while not (internet.dialled if hosts else asked.decisions):
            await asyncio.sleep(0.01)
        asked.serving.cancel()
        # Not `await`: the time limit's own cancelling would pass for the one that is meant.
        await asyncio.wait({asked.serving}, timeout=5)
        assert asked.serving.cancelled()
        await asked.reader.read()
        for far in internet.answering:
            assert await far[0].read() == b""
            await close(far[1])
        await close(asked.writer)

    within_time(run)


@pytest.mark.parametrize("addresses", [[GOOD], ["127.0.0.1"]])
def test_a_watcher_that_fails_ends_one_tunnel_and_is_seen(
    addresses: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    internet = Scripted({"example.com": addresses})

    def fail(decision: EgressDecision) -> None:
        raise RuntimeError(f"watcher at {decision.name}")

    async def run() -> None:
        near, served = await connection()
        near[1].write(REQUEST)
        await EgressProxy(internet, on_decision=fail).serve(*served)
        assert await near[0].read() == b""
        for far in internet.answering:
            assert await far[0].read() == b""
            await close(far[1])
        await close(near[1])

    within_time(run)
    assert "RuntimeError: watcher at example.com" in capsys.readouterr().err


@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: f"CONNECT {text}:443 HTTP/1.1".encode()))
@settings(deadline=None, max_examples=30)
def test_any_bytes_get_an_answer_and_one_printable_line(data: bytes) -> None:
    status, _ = refusal(Scripted({}), data.replace(b"\r\n\r\n", b"") + b"\r\n\r\n")
    assert status in (400, 403, 502)


# --- the network of this machine -------------------------------------------------------------------------------------


def answered(monkeypatch: pytest.MonkeyPatch, result: list[Any] | Exception) -> list[tuple[Any, dict[str, Any]]]:
    """No resolver is asked: `socket.getaddrinfo` notes its arguments and gives `result`."""
    asked: list[tuple[Any, dict[str, Any]]] = []

    def getaddrinfo(host: Any, _port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[Any]:
        asked.append((host, {"family": family, "type": type, "proto": proto, "flags": flags}))
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("name", ["example.com", "example.com."])
def test_the_resolver_is_asked_for_the_whole_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (GOOD, 0))
    six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (OTHER, 0, 0, 0))
    asked = answered(monkeypatch, [four, six])
    assert asyncio.run(RealInternet().resolve(name)) == [GOOD, OTHER]
    assert [host for host, _ in asked] == ["example.com."]


@pytest.mark.parametrize("error", [socket.gaierror(-2, "unknown"), UnicodeError("label too long")])
def test_a_resolver_fails_with_an_os_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    answered(monkeypatch, error)
    with pytest.raises(OSError, match=r"unknown|no name for a resolver"):
        asyncio.run(RealInternet().resolve("example.com"))


def test_an_address_is_dialled_and_a_name_is_not_resolved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        accepted: asyncio.Queue[Ends] = asyncio.Queue()
        server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await RealInternet().dial("127.0.0.1", port)
        far = await accepted.get()
        far[1].write(b"here")
        assert await reader.readexactly(4) == b"here"
        await asyncio.gather(close(writer), close(far[1]))
        server.close()
        with pytest.raises(ConnectionRefusedError):
            await RealInternet().dial("127.0.0.1", port)
        with pytest.raises(OSError, match="numeric only"):
            await RealInternet().dial("example.com", port)

    asked = answered(monkeypatch, socket.gaierror(-2, "numeric only"))
    within_time(run)
    assert [(host, flags["flags"]) for host, flags in asked] == [("example.com", socket.AI_NUMERICHOST)]
