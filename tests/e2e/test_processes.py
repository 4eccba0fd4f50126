"""What a world of processes leaves behind, whoever of it is killed: no process, and after a clean end no file."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from loops import LOOPS
from pair import user_key
from processes import DEADLINE, REPOSITORY, Program, descendants, program, running_of, until
from running import Running, running
from services import ASGI, make_service

from workshop_kit.edges.serving import bind
from workshop_kit.edges.vsock import PROXY_PORT, VsockAddress, listen
from workshop_kit.errors import LabError, RemoteProtocolError, WorkshopKitError
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Infrastructure, run_enclave
from workshop_kit.simulator.parent import ParentInstance

QUICK = (
    ASGI
    + """
import asyncio

BEGUN = []

async def answer(scope, receive):
    if scope["path"] == "/begun":
        return as_json(len(BEGUN))
    if scope["path"] == "/never":
        BEGUN.append(1)
        await asyncio.Event().wait()
    return as_json("quick")

inner = app

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/streams":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a beginning", "more_body": True})
        await asyncio.Event().wait()
    await inner(scope, receive, send)
"""
)
SLOW = "import time\ntime.sleep(600)\n" + QUICK


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with quick.eif and slow.eif, and Alice's key."""
    folder = tmp_path_factory.mktemp("images")
    alice = Users((User("Alice", "querier", user_key("Alice").public_bytes),))
    for name, app in (("quick", QUICK), ("slow", SLOW)):
        image = build_enclave(make_service(folder / name, app, "/", "/begun", "/never", "/streams"), users=alice).image
        (folder / f"{name}.eif").write_bytes(image.encode())
    user_key("Alice").save(folder, "alice")
    return folder


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    return tmp_path / "tmp"


def workshop_run(images: Path, image: str = "quick") -> tuple[str, ...]:
    return ("-m", "workshop_kit", "run", str(images / f"{image}.eif"), "--root-file", str(images / "root.pem"))


def workshop_connect(images: Path, url: str) -> tuple[str, ...]:
    key = ("--private-key", str(images / "alice_private.der"), "--root", str(images / "root.pem"))
    return ("-m", "workshop_kit", "connect", "--url", url, *key, "--lport", "0", "--disable-pcr-check")


# --- the one who started it all --------------------------------------------------------------------------------------

LAB = """
import sys, time
from workshop_kit.notebook.lab import Lab
lab = Lab("millionaires")
alice = lab.connect("Alice")
lab.run(lab.build())
print("up", lab.infrastructure.pid, flush=True)
{then}
"""


def test_a_killed_notebook_takes_everything_along(temporary: Path) -> None:
    """Two enclaves, a client and a parent instance; the process gets no chance to end anything."""
    with program("-c", LAB.format(then="time.sleep(600)"), temporary=temporary) as caller:
        hypervisor = int(caller.await_line("up"))
        assert hypervisor in {each.pid for each in caller.recorded}
        assert len(caller.recorded) >= 3
        caller.signal(signal.SIGKILL)
        caller.end()
        caller.all_gone()
        # The lab's own folder is the killed process's; the infrastructure's is gone.
        until(lambda: all(name.startswith("enclave-workshop-lab-") for name in caller.left_behind()), "a clean folder")


@pytest.mark.parametrize(
    "then", ["lab.close(); lab.close()", "", "raise ValueError"], ids=["closed, twice", "forgotten", "failed"]
)
def test_a_program_that_ends_by_itself_leaves_nothing(temporary: Path, then: str) -> None:
    with program("-W", "ignore", "-c", LAB.format(then=then), temporary=temporary) as caller:
        caller.await_line("up")
        _, _, errors = caller.end()
        assert ("Traceback" in errors) == ("ValueError" in then)
        caller.all_gone()
        assert caller.left_behind() == []


def test_a_caller_killed_while_a_service_starts_takes_it_along(images: Path, temporary: Path) -> None:
    """The service would be ten minutes in starting, and the infrastructure waits for it."""
    with program(*workshop_run(images, "slow"), temporary=temporary) as caller:
        until(lambda: len(caller.record()) >= 2, "infrastructure and enclave")
        caller.signal(signal.SIGKILL)
        caller.end()
        caller.all_gone()
        until(lambda: caller.left_behind() == [], "an empty temporary folder")


# --- a real kernel ---------------------------------------------------------------------------------------------------

KERNEL = """
import sys
from jupyter_client import KernelManager

manager = KernelManager(kernel_name="python3", transport="ipc", ip=sys.argv[1])
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)

def run(code):
    status = "aborted"  # so the kernel answers cells that arrive while it still clears up after an error
    while status == "aborted":
        reply = client.execute_interactive(code, timeout=60, output_hook=lambda message: None)
        status = reply["content"]["status"]
    return status

OPEN = 'from workshop_kit.notebook import *; lab = Lab("millionaires"); alice = lab.connect("Alice")'

def step(name):
    print(name, flush=True)
    input()

assert run(OPEN) == "ok"
step("up")
client.execute("import time; print('sleeping', flush=True); time.sleep(600)")
while client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
    pass
manager.interrupt_kernel()
while client.get_iopub_msg(timeout=60)["msg_type"] != "error":
    pass
assert run('assert lab.connect("Bob").get("/hello").status_code == 200') == "ok"
step("survived")
manager.restart_kernel(now=True)
client.wait_for_ready(timeout=60)
step("restarted")
assert run(OPEN) == "ok"
step("up again")
client.stop_channels()
manager.shutdown_kernel(now=True)
"""


def test_a_notebooks_processes_survive_an_interrupt_and_die_with_its_kernel(temporary: Path) -> None:
    """A real kernel, interrupted, restarted and shut down as JupyterLab and nbval do it: by a signal to its group."""
    pytest.importorskip("ipykernel")
    pytest.importorskip("jupyter_client")
    sockets = str(temporary.parent / "k")
    with program("-W", "ignore", "-c", KERNEL, sockets, temporary=temporary, cwd=REPOSITORY) as driver:
        driver.await_line("up")
        first = set(driver.recorded)
        assert len(first) >= 3  # kernel, infrastructure, enclave, of which a tree of its own has two
        driver.go_on()
        driver.await_line("survived")
        assert running_of(first) == {each.pid for each in first}
        driver.go_on()
        driver.await_line("restarted")
        until(lambda: not running_of(first), "the end of the first kernel's processes")
        driver.go_on()
        driver.await_line("up again")
        assert len(running_of(driver.recorded)) >= 3
        driver.go_on()
        code, _, errors = driver.end()
        assert code == 0, errors
        driver.all_gone()


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


def interrupted(command: Program) -> tuple[int, str]:
    """Exit code and standard error of a command after its terminal's Ctrl-C."""
    command.signal(signal.SIGINT, group=True)
    code, _, errors = command.end()
    command.all_gone()
    return code, errors


@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_ends_workshop_run_while_it_starts(images: Path, temporary: Path, count: int) -> None:
    """As soon as the infrastructure's process is there, or the enclave's, and before either is ready."""
    with program(*workshop_run(images, "slow"), temporary=temporary) as command:
        until(lambda: len(command.record()) >= count, "so many processes")
        assert interrupted(command) == (130, "")
        assert command.left_behind() == []


def test_ctrl_c_ends_workshop_run(images: Path, temporary: Path) -> None:
    """At a pseudo-terminal whose foreground job is the command: the key itself, and what the terminal makes of it."""
    ours, theirs = pty.openpty()
    become = "import os, sys; os.login_tty(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", become, str(theirs), *workshop_run(images)],
        pass_fds=(theirs,),
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(REPOSITORY)},
    )
    os.close(theirs)
    try:
        shown = b""
        while b"listening on" not in shown:
            shown += os.read(ours, 4096)
        recorded = descendants(process.pid)
        os.write(ours, b"\x03")
        assert process.wait(DEADLINE) == 130
        until(lambda: not running_of(recorded), "the end of all")
        assert list(temporary.iterdir()) == []
        assert b"Traceback" not in shown + _rest(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _rest(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody is at its other end
        return b""


def test_sigterm_ends_workshop_run_as_cleanly(images: Path, temporary: Path) -> None:
    with program(*workshop_run(images), temporary=temporary) as command:
        command.await_line("listening on")
        command.signal(signal.SIGTERM)
        assert command.end() == (143, "", "")
        command.all_gone()
        assert command.left_behind() == []


# --- somebody kills one of the others --------------------------------------------------------------------------------


def assert_no_traceback(errors: str) -> None:
    assert "Traceback" not in errors
    assert "Error:" not in errors


def one_line(errors: str) -> str:
    """The one line that a failing command writes."""
    (line,) = errors.splitlines()
    assert line.startswith("workshop: ")
    return line


def child_of(pid: int) -> int:
    (child,) = {each.pid for each in descendants(pid) if each.parent == pid}
    return child


def enclave_of(pid: int) -> int:
    """The infrastructure's other child is the shell that would end the enclave; it was there before."""
    infrastructure = child_of(pid)
    return max(each.pid for each in descendants(infrastructure) if each.parent == infrastructure)


VICTIMS: dict[str, Callable[[int], int]] = {"the infrastructure": child_of, "the enclave": enclave_of}


@pytest.mark.parametrize("whom", VICTIMS)
def test_the_two_commands_say_in_one_line_who_is_gone(images: Path, temporary: Path, whom: str) -> None:
    """`workshop run` ends; the client proxy stays, answers its clients in one line and ends by Ctrl-C.

    One client waits for an answer, one is in the middle of one, two come afterwards.
    """
    with (
        program(*workshop_run(images), temporary=temporary) as enclave,
        program(*workshop_connect(images, enclave.await_line("listening on")), temporary=temporary) as proxy,
    ):
        address = proxy.await_line("listening on")
        assert httpx.get(address).json() == "quick"
        with ThreadPoolExecutor(1) as pool, httpx.stream("GET", f"{address}/streams") as begun:
            pieces = begun.iter_raw()
            assert next(pieces) == b"a beginning"
            waiting = pool.submit(httpx.get, f"{address}/never", timeout=DEADLINE)
            until(lambda: httpx.get(f"{address}/begun").json() == 1, "a request that waits inside the enclave")
            os.kill(VICTIMS[whom](enclave.pid), signal.SIGKILL)
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
            answers = [waiting.result(), httpx.get(address), httpx.get(address)]
        for response in answers:
            assert response.status_code == 502
            (line,) = response.text.splitlines()
            assert re.search("expected|broke|nothing answers", line)
        code, output, errors = enclave.end()
        assert (code, output) == (1, "")
        assert "again" in one_line(errors)
        assert whom.split()[1] in one_line(errors)
        enclave.all_gone()
        assert enclave.left_behind() == []
        assert proxy.process.poll() is None
        code, errors = interrupted(proxy)
        assert code == 130
        assert_no_traceback(errors)
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)


@pytest.fixture
def victim(images: Path) -> Iterator[Running]:
    """An enclave of this process's, to be killed."""
    with running(images / "quick") as enclave:
        yield enclave


def test_a_program_gets_an_error_of_one_line_when_the_enclave_is_killed(victim: Running) -> None:
    client = victim.client()
    assert client.get("/").json() == "quick"
    (described,) = victim.enclave.infrastructure.ask("describe")["enclaves"]
    os.kill(described["ProcessID"], signal.SIGKILL)
    until(lambda: not _answers(client), "the end of its process tree")
    for _ in range(2):
        with pytest.raises((RemoteProtocolError, httpx.TransportError)) as caught:
            client.get("/")
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(LabError, match="the enclave has ended by itself; run it again"):
        victim.enclave.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code == 200
    except (RemoteProtocolError, httpx.TransportError):
        return False


def test_an_operator_gets_an_error_of_one_line_when_the_infrastructure_is_killed(victim: Running) -> None:
    recorded = descendants(os.getpid())
    mine = {each for each in recorded if each.pid == victim.enclave.infrastructure.pid}
    mine |= {each for each in recorded if each.parent == victim.enclave.infrastructure.pid}
    os.kill(victim.enclave.infrastructure.pid, signal.SIGKILL)
    with pytest.raises(LabError, match="infrastructure") as caught:
        victim.enclave.wait()
    assert len(str(caught.value).splitlines()) == 1
    until(lambda: not running_of(mine), "the end of the enclave")
    with pytest.raises(WorkshopKitError, match="infrastructure"):
        victim.enclave.infrastructure.ask("describe")
    victim.enclave.terminate()
    assert not victim.enclave.infrastructure.directory.exists()


# --- what does not start ---------------------------------------------------------------------------------------------


def test_a_service_that_does_not_start_leaves_its_infrastructure_as_it_was(tmp_path: Path) -> None:
    folder = make_service(tmp_path / "broken", "raise RuntimeError('no database')\n")
    infrastructure = Infrastructure()
    try:
        before = {path.name for path in infrastructure.directory.iterdir()}
        with pytest.raises(LabError, match="no database"):
            run_enclave(build_enclave(folder).image, infrastructure=infrastructure)
        assert infrastructure.ask("describe") == {"enclaves": []}
        assert {path.name for path in infrastructure.directory.iterdir()} == before
        assert len(descendants(infrastructure.pid)) == 1  # the shell that would end enclaves
    finally:
        infrastructure.close()


def test_an_interrupt_while_the_infrastructure_starts_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = descendants(os.getpid())
    monkeypatch.setattr(Infrastructure, "ask", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Infrastructure()
    assert descendants(os.getpid()) <= before


def test_a_closed_infrastructure_says_so(images: Path) -> None:
    infrastructure = Infrastructure()
    infrastructure.close()
    infrastructure.close()
    with pytest.raises(LabError, match="infrastructure is gone"):
        run_enclave(images / "quick.eif", infrastructure=infrastructure)


# --- the parent instance's relay -------------------------------------------------------------------------------------


@pytest.fixture(params=LOOPS)
def each_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workshop_kit.simulator.parent.new_loop", LOOPS[request.param])


@pytest.mark.usefixtures("each_loop")
def test_a_closed_relay_has_cut_its_connections(tmp_path: Path) -> None:
    """Both ends learn it at once, also of bytes that nobody reads; a program that waits for an answer goes on."""
    with listen(VsockAddress(16, PROXY_PORT), tmp_path) as enclave:
        parent = ParentInstance(tmp_path, 16, bind(0))
        outer = [socket.create_connection(("127.0.0.1", parent.port), DEADLINE) for _ in range(4)]
        inner = [enclave.accept()[0] for _ in outer]
        outer[0].sendall(b"question")
        assert inner[0].recv(100) == b"question"
        inner[1].sendall(bytes(1000))
        parent.close()
        for connection in [*outer, *inner]:
            with connection, contextlib.suppress(ConnectionResetError):
                connection.settimeout(DEADLINE)
                while connection.recv(65536):
                    pass


@pytest.mark.usefixtures("each_loop")
def test_a_relay_closed_while_connections_come_and_go_leaves_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stage each is at: a socket that nobody closed is a warning, raised where nobody can catch it."""
    unclosed: list[object] = []
    gc.collect()  # what other tests have left is not meant
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: unclosed.append(raised.exc_value))
    for turn in range(25):
        with listen(VsockAddress(16, PROXY_PORT), tmp_path), contextlib.ExitStack() as stack:
            parent = ParentInstance(tmp_path, 16, bind(0))
            for number in range(20):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", parent.port), DEADLINE))
                if number % 2:
                    connection.shutdown(socket.SHUT_WR)
            time.sleep(turn / 5000)
            parent.close()
        VsockAddress(16, PROXY_PORT).path(tmp_path).unlink()
        gc.collect()
    assert unclosed == []


def test_a_relay_can_be_closed_as_soon_as_it_is_made(tmp_path: Path) -> None:
    for _ in range(20):
        ParentInstance(tmp_path, 16, bind(0)).close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("parent-instance")]


class Scarce(socket.socket):
    """A listener for which there are no descriptors, until it is told otherwise."""

    asked = 0
    full = True

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if self.full:
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


@pytest.mark.usefixtures("each_loop")
def test_where_descriptors_run_out_callers_wait_and_nothing_spins(tmp_path: Path) -> None:
    with (
        Scarce(socket.AF_INET, socket.SOCK_STREAM) as listener,
        listen(VsockAddress(16, PROXY_PORT), tmp_path) as inner,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        parent = ParentInstance(tmp_path, 16, listener)
        with socket.create_connection(("127.0.0.1", parent.port), DEADLINE) as outer:
            until(lambda: listener.asked > 1, "a second try")
            assert listener.asked < 5
            listener.full = False
            outer.sendall(b"question")
            with inner.accept()[0] as carried:
                assert carried.recv(100) == b"question"
        parent.close()
