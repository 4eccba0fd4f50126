"""How much each process grows: while 1 GiB streams up and down, and for each of 1 000 sessions that are open at once.

What a process is when the stream begins has answered one small request and nothing else, so whatever it loads and
keeps for streaming counts. Linux tells the peak itself, so that none is missed between two looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from bench_service import Hosted, client_proxy, hosted
from processes import descendants
from programs import Program, ProgramError, allow_files, program
from table import Bound, Row, note, progress

from workshop_kit.simulator.control import describe_enclaves

STREAM = Bound(16, 8)
SESSION = Bound(40, 40)
_CLIENT = Path(__file__).with_name("streaming.py")


def stream_rows(*, mib: int = 1024) -> Iterator[Row]:
    """As `workshop bench` prints them: of each way, the process that grew most."""
    for way, proxied, apart in (
        ("transport", False, False),
        ("proxies", True, False),
        ("proxies, app apart", True, True),
    ):
        progress(f"memory: {mib} MiB up and down, {way}")
        try:
            grown = growth(mib, proxied=proxied, apart=apart)
        except ProgramError as error:
            note(f"skipped {way}: {error}")
            continue
        note(f"memory in MiB, {way}: " + ", ".join(f"{name} {value:.1f}" for name, value in grown.items()))
        most = max(grown, key=lambda name: grown[name])
        yield Row(f"memory in MiB, {way}", f"{mib} MiB up and down: {most}", grown[most], STREAM)


def growth(mib: int, *, proxied: bool, apart: bool) -> dict[str, float]:
    """MiB that each process grows, by name, while so many MiB go up and come down."""
    with ExitStack() as stack:
        enclave = stack.enter_context(hosted(apart=apart))
        arguments = ["transport", enclave.url, str(enclave.folder)]
        watched = {}
        if proxied:
            address, proxy = stack.enter_context(client_proxy(enclave))
            watched["client proxy"] = proxy.pid
            arguments = ["plain", address]
        client = stack.enter_context(program(_CLIENT, *arguments))
        client.await_line("ready")
        watched |= {"client": client.pid} | behind(enclave)
        return while_it(lambda: _stream(client, mib), watched)


def _stream(client: Program, mib: int) -> None:
    client.tell(str(mib))
    client.await_line("done")


def while_it(work: Callable[[], object], watched: Mapping[str, int]) -> dict[str, float]:
    """How many MiB each of the processes is larger, at its peak during `work`, than it was before."""
    before = {name: _status(pid, "VmRSS") for name, pid in watched.items()}
    for pid in watched.values():
        _forget_peak(pid)
    work()
    return {name: (_status(pid, "VmHWM") - before[name]) / 1024 for name, pid in watched.items()}


def behind(enclave: Hosted) -> dict[str, int]:
    """The processes behind an enclave's address."""
    (inner,) = (each["ProcessID"] for each in describe_enclaves() if each["Url"] == enclave.url)
    apps = sorted(each.pid for each in descendants(inner))
    others = sorted(each.pid for each in descendants(enclave.parent) if each.pid not in {inner, *apps})
    found = {"parent": enclave.parent, "enclave": inner}
    found |= {f"app {number}" if number else "app": pid for number, pid in enumerate(apps)}
    return found | {
        f"infrastructure {number}" if number else "infrastructure": pid for number, pid in enumerate(others)
    }


def _forget_peak(pid: int) -> None:
    """Let the peak begin anew (proc(5), clear_refs); where that is not ours to do, an earlier one counts as well."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def session_rows(*, sessions: int = 1000) -> Iterator[Row]:
    """As `workshop bench` prints them: kB that one session adds, in the enclave's processes and in the parent's."""
    progress(f"sessions: {sessions} at once")
    allow_files(3 * sessions + 500)
    with hosted() as enclave, ExitStack() as stack:
        _open(enclave, stack)
        watched = behind(enclave)
        before = {name: pss(pid) for name, pid in watched.items()}
        for _ in range(sessions):
            _open(enclave, stack)
        grown = {name: (pss(pid) - before[name]) / sessions for name, pid in watched.items()}
    parent = grown.pop("parent")
    yield Row("memory in kB a session, enclave", f"{sessions} at once", sum(grown.values()), SESSION)
    yield Row("memory in kB a session, parent", f"{sessions} at once", parent)


def _open(enclave: Hosted, stack: ExitStack) -> None:
    """A session of its own, its connection open until the stack ends."""
    client = stack.enter_context(enclave.client())
    client.get("/ping").raise_for_status()


def pss(pid: int) -> int:
    """Proportional set size in kB: shared pages are counted once among all who share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
