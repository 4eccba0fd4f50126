"""A port of localhost is open to every user of a machine; the socket that `connect --lsocket` makes is its owner's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from connected import arguments, connected
from operated import DONE, Operated, new_order
from processes import program

TRY = """\
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as made:
    try:
        made.connect(sys.argv[1])
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may enter, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="sockets-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def asked(file: Path) -> object:
    """What the owner gets by it, whatever name is asked for."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(file)), base_url="http://enclave") as client:
        return client.get(f"/pay?{new_order()}").json()


def tried_by_another_user(file: Path) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    command = [sys.executable, "-I", "-S", "-c", TRY, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_its_owner_gets_in_and_nobody_else(enclave: Operated, tmp_path: Path, folder: Path, umask: int) -> None:
    """Whatever the umask is; without one the file would be everybody's."""
    file, before = folder / "enclave.sock", os.umask(umask)
    try:
        tmp_path.chmod(0o700)
        with connected(enclave.running, folder / "files", "--lsocket", str(file)) as proxy:
            os.umask(before)
            assert proxy.address == f"unix:{file}"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert asked(file) == DONE
            assert tried_by_another_user(file) == "PermissionError"
            file.chmod(0o666)
            assert tried_by_another_user(file) == "connected"  # so it is the mode that keeps them out
    finally:
        os.umask(before)


def test_curl_speaks_through_it(enclave: Operated, tmp_path: Path, folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here")
    file = folder / "enclave.sock"
    with connected(enclave.running, tmp_path, "--lsocket", str(file)):
        command = ["curl", "--silent", "--unix-socket", str(file), f"http://enclave/pay?{new_order()}"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f'"{DONE}"'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_gone_when_its_proxy_ends(enclave: Operated, tmp_path: Path, folder: Path, number: int) -> None:
    file = folder / "enclave.sock"
    with connected(enclave.running, tmp_path, "--lsocket", str(file)) as proxy:
        assert asked(file) == DONE
        proxy.program.signal(number)
        code, _, errors = proxy.program.end()
        assert code == 128 + number
        assert len(errors.splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_one_that_a_killed_proxy_left_is_replaced(enclave: Operated, tmp_path: Path, folder: Path) -> None:
    file = folder / "enclave.sock"
    with connected(enclave.running, tmp_path / "first", "--lsocket", str(file)) as killed:
        killed.program.signal(signal.SIGKILL)
        killed.program.process.wait()
    assert file.is_socket()
    with connected(enclave.running, tmp_path / "second", "--lsocket", str(file)):
        assert asked(file) == DONE


def test_one_that_is_somebody_elses_by_now_is_left_alone(enclave: Operated, tmp_path: Path, folder: Path) -> None:
    file = folder / "enclave.sock"
    with connected(enclave.running, tmp_path / "first", "--lsocket", str(file)) as first:
        file.unlink()
        with connected(enclave.running, tmp_path / "second", "--lsocket", str(file)):
            first.program.signal(signal.SIGTERM)
            first.program.end()
            assert asked(file) == DONE


def refused(enclave: Operated, tmp_path: Path, file: Path) -> str:
    """The one line of a `connect` that cannot listen there."""
    options = [*arguments(enclave.running, tmp_path), "--lsocket", str(file)]
    with program("-m", "workshop_kit", "connect", *options, temporary=tmp_path / "tmp") as started:
        code, output, errors = started.end()
    (line,) = errors.splitlines()
    assert (code, output) == (1, "")
    assert line.startswith(f"workshop: cannot listen on {file} (")
    assert line.endswith("): choose another file")
    return line


def test_one_that_a_running_proxy_listens_on_is_not_taken(enclave: Operated, tmp_path: Path, folder: Path) -> None:
    file = folder / "enclave.sock"
    with connected(enclave.running, tmp_path / "first", "--lsocket", str(file)):
        assert "in use" in refused(enclave, tmp_path / "second", file)
        assert asked(file) == DONE


@pytest.mark.parametrize("what", ["a file", "a link to a file", "a folder", "a busy socket"])
def test_nothing_else_of_that_name_is_touched(enclave: Operated, tmp_path: Path, folder: Path, what: str) -> None:
    file, precious = folder / "enclave.sock", folder / "precious"
    precious.write_text("precious")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        if what == "a file":
            file.write_text("precious")
        elif what == "a link to a file":
            file.symlink_to(precious)
        elif what == "a folder":
            file.mkdir()
        else:
            busy.bind(str(file))
            busy.listen(0)
            waiting.connect(str(file))  # from here on nobody else is let wait
        before = file.lstat()
        refused(enclave, tmp_path, file)
        assert os.path.samestat(file.lstat(), before)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", ["absent/enclave.sock", "x" * 120])
def test_where_no_socket_can_be_is_said_in_one_line(enclave: Operated, tmp_path: Path, folder: Path, name: str) -> None:
    refused(enclave, tmp_path, folder / name)
