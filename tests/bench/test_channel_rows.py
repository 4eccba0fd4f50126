"""`workshop bench` at its smallest: its rows are there, its base is what it says, it ends what it starts. Untimed."""

from __future__ import annotations

import math
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import bench
import first_byte
import httpx
import memory
import processes
import processor
import programs
import pytest
import rates
import table
import tls
import ways
from programs import ProgramError
from rates import Amounts
from table import Bound, Row
from ways import Ways

from workshop_kit.simulator.doctor import examine
from workshop_kit.simulator.isolation.levels import Level

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bench reads /proc")

TINY = Amounts(rounds=20, window=0, bulk_rounds=1, mib=1, wrk_rounds=1, wrk_seconds=1, cpu_rounds=1)
BENCH = Path(bench.__file__)


@pytest.fixture(scope="module")
def expected_ways() -> tuple[str, ...]:
    """The ways to the app that this machine has."""
    apart = examine().level is Level.NAMESPACES
    return ("transport", "proxies", *(("transport, app apart", "proxies, app apart") if apart else ()))


def measured(rows: Iterator[Row]) -> dict[str, Row]:
    found = {row.what: row for row in rows}
    assert all(math.isfinite(row.value) for row in found.values())
    return found


# --- the rows --------------------------------------------------------------------------------------------------------


def test_a_first_byte_is_measured_with_and_without_httpx_for_chains_known_and_new() -> None:
    rows = measured(first_byte.rows(rounds=1, window=0))
    assert [row.bound is not None for row in rows.values()] == [True, True, False, False]
    assert all(row.value > 0 for row in rows.values())


def test_rates_are_measured_of_each_way_and_judged_where_the_app_is_not_apart(expected_ways: tuple[str, ...]) -> None:
    rows = measured(rates.rows(TINY))
    expected = {f"{what}, {way}" for what in ("requests/s", "up", "down") for way in expected_ways}
    if shutil.which("wrk"):
        expected |= {f"requests/s on 16 connections, {way}" for way in expected_ways if way.startswith("proxies")}
    judged = {what for what, row in rows.items() if row.bound}
    assert judged == {what for what in expected if not what.endswith("apart")}
    expected |= {f"processor time, {what}, {way}" for what in ("requests", "up", "down") for way in expected_ways}
    assert rows.keys() == expected
    assert all(row.value > 0 for row in rows.values())


def test_memory_is_measured_of_every_process_on_the_way(
    expected_ways: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = measured(memory.stream_rows(mib=1))
    assert rows.keys() == {f"memory in MiB, {way}" for way in expected_ways} - {"memory in MiB, transport, app apart"}
    told = capsys.readouterr().err
    names = [
        "client",
        "client proxy",
        "parent",
        "enclave",
        "infrastructure",
        *(["app"] if len(expected_ways) == 4 else []),
    ]
    assert [name for name in names if f" {name} " not in told] == []


def test_sessions_are_measured_in_the_enclave_and_in_the_parent() -> None:
    assert measured(memory.session_rows(sessions=3)).keys() == {
        "memory in kB a session, enclave",
        "memory in kB a session, parent",
    }


def test_a_peak_counts_though_it_is_over_before_anybody_looks() -> None:
    text = "input(); print(len(b'x' * (64 << 20)), flush=True); input()"
    with programs.program("-c", text) as child:

        def work() -> None:
            child.tell("")
            child.await_line()

        assert 60 < memory.while_it(work, {"child": child.pid})["child"] < 80


def test_processor_time_is_that_of_all_the_processes_and_of_no_other() -> None:
    """Somebody else's work is what rates on a busy machine suffer from."""
    work = "spent = [time.process_time() for _ in range(300_000)]; print(spent[-1] - spent[0], flush=True)"
    text = f"import time; input(); {work}; input()"
    with programs.program("-c", text) as watched, programs.program("-c", text) as other:
        before = processor.spent([watched.pid])
        for child in (other, watched):
            child.tell("")
        own = float(watched.await_line())
        other.await_line()
        assert own <= processor.spent([watched.pid]) - before < 2 * own


# --- what is left out ------------------------------------------------------------------------------------------------


def test_without_wrk_its_rows_are_left_out_and_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert rates.KINDS[rates.CONNECTED](Ways({}, {}, {}), TINY) == {}
    assert "apt install wrk" in capsys.readouterr().err


def test_answers_that_are_no_success_are_no_rate() -> None:
    text = "Requests/sec:   1000.00\n"
    assert rates.per_second(subprocess.CompletedProcess([], 0, text, "")) == 1000
    with pytest.raises(ProgramError, match="Non-2xx"):
        rates.per_second(subprocess.CompletedProcess([], 0, f"Non-2xx or 3xx responses: 9\n{text}", ""))


def test_where_an_app_cannot_be_apart_the_other_ways_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Enclave:
        def client(self) -> httpx.Client:
            return httpx.Client()

    @contextmanager
    def hosted(*, apart: bool) -> Iterator[Enclave]:
        if apart:
            raise ProgramError("it needs namespaces")
        yield Enclave()

    @contextmanager
    def client_proxy(_: object) -> Iterator[tuple[str, types.SimpleNamespace]]:
        yield "http://127.0.0.1:1", types.SimpleNamespace(pid=3)

    monkeypatch.setattr(ways, "hosted", hosted)
    monkeypatch.setattr(ways, "client_proxy", client_proxy)
    monkeypatch.setattr(ways, "behind", lambda _: {"parent": 1, "enclave": 2})
    with ExitStack() as stack:
        found = ways.open_ways(stack)
    assert list(found.clients) == [ways.BASE, "transport", "proxies"]
    assert [found.processes[way][1:] for way in ("transport", "proxies")] == [(1, 2), (1, 2, 3)]
    assert capsys.readouterr().err.strip() == "skipped, app apart: it needs namespaces"


def test_memory_too_is_measured_where_an_app_cannot_be_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def growth(_: int, *, proxied: bool, apart: bool) -> dict[str, float]:
        if apart:
            raise ProgramError("it needs namespaces")
        return {"parent": 1.0, "client proxy": 2.0 * proxied}

    monkeypatch.setattr(memory, "growth", growth)
    rows = measured(memory.stream_rows(mib=1))
    assert {what: (row.over, row.value) for what, row in rows.items()} == {
        "memory in MiB, transport": ("1 MiB up and down: parent", 1),
        "memory in MiB, proxies": ("1 MiB up and down: client proxy", 2),
    }


# --- the base --------------------------------------------------------------------------------------------------------


@contextmanager
def _uvicorn(certificates: tls.Certificates) -> Iterator[int]:
    with tls.uvicorn(certificates, mutual=True) as server:
        yield httpx.URL(server.url).port or 0


@pytest.mark.parametrize("server", [_uvicorn, tls.echo])
def test_mutual_tls_is_version_1_3_and_lets_nobody_in_without_a_certificate(
    server: Callable[..., Iterator[int]], tmp_path: Path
) -> None:
    certificates = tls.Certificates(tmp_path)
    with server(certificates) as port:  # type: ignore[attr-defined]
        assert _answer(certificates.context(mutual=True), port) == ("TLSv1.3", True)
        assert _answer(certificates.context(mutual=False), port) == ("TLSv1.3", False)


def _answer(context: ssl.SSLContext, port: int) -> tuple[str | None, bool]:
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        version, answered = connection.version(), False
        connection.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        with suppress(OSError):  # who is not let in is told why, or is told nothing
            answered = bool(connection.recv(1))
        return version, answered


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "values"),
    [(Bound(0.9, 0.7), [0.7, 0.9, 0.91]), (Bound(1.0, 1.4, at_least=True), [1.4, 1.0, 0.99])],
)
def test_a_bound_says_which_of_its_two_values_holds(bound: Bound, values: list[float]) -> None:
    assert [bound.holds(value) for value in values] == ["aim", "must", "no"]


def test_columns_stand_below_their_headings() -> None:
    line = str(Row("up, proxies", "TLS", 1.005, Bound(0.6, 0.9, at_least=True)))
    for text, heading in (("up, proxies", "what"), ("TLS", "over"), ("aim", "holds")):
        assert line.rindex(text) == table.HEADING.index(heading)
    assert line.split()[-6:] == ["1.00", "≥", "0.6", "≥", "0.9", "aim"]


# --- its end ---------------------------------------------------------------------------------------------------------


def test_a_program_that_ends_before_it_is_ready_leaves_its_last_words() -> None:
    with programs.program("-c", "raise SystemExit('first\\nno port is free')") as child:
        with pytest.raises(ProgramError, match=r"ended: no port is free$"):
            child.await_line("listening on ")
        with pytest.raises(ProgramError, match=r"ended: no port is free$"):
            child.await_port(programs.free_port())


def test_a_program_that_cannot_be_started_ends_the_bench_with_1_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows() -> Iterator[Row]:
        yield Row("a", "b", 1)
        raise ProgramError("workshop run ended: no image")

    monkeypatch.setitem(bench.PARTS, "rates", rows)
    assert bench.main("rates") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "workshop bench: workshop run ended: no image"


def test_a_part_that_is_none_is_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main("rates", "rate") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.strip().endswith(", sessions, got rate")


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)])
def test_an_interrupted_bench_leaves_no_process_and_no_file(number: int, group: bool, tmp_path: Path) -> None:
    """By a terminal, which tells every process, or by somebody who tells this one."""
    path = f"{processes.REPOSITORY}:{BENCH.parent}"
    with processes.program(str(BENCH), "rates", temporary=tmp_path / "left", PYTHONPATH=path) as running:
        assert running.process.stderr is not None
        while not (line := running.process.stderr.readline()).startswith("rates: requests/s"):
            assert line
        running.signal(number, group=group)
        code, _, errors = running.end()
        assert code == (130 if number == signal.SIGINT else 143), errors
        running.all_gone()
        assert running.left_behind() == []
