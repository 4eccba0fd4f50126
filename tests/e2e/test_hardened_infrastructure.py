"""An infrastructure that is asked at once, refuses, or has a hostile app, stays what it is and keeps nothing open."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from processes import descendants, until
from services import ASGI, make_service

from workshop_kit.errors import ImageError, LabError, WorkshopKitError
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Infrastructure, run_enclave
from workshop_kit.simulator.isolation.levels import Level

QUIET = ASGI + "async def answer(scope, receive):\n    return as_json('quiet')\n"


@pytest.fixture
def infrastructure() -> Iterator[Infrastructure]:
    with closing(Infrastructure()) as one:
        yield one


def image(folder: Path, app: str) -> EnclaveImage:
    return build_enclave(make_service(folder / "service", app)).image


def descriptors(pid: int) -> int:
    folder = Path(f"/proc/{pid}/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_however_many_ask_at_once_there_is_one_root() -> None:
    """Its authorities are made when they are first needed, which may be in two threads at a time."""
    command = [sys.executable, "-I", "-m", "workshop_kit.simulator.infrastructure", tempfile.mkdtemp()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    asked = b"".join(json.dumps({"id": number, "operation": "root"}).encode() + b"\n" for number in range(8))
    output, _ = process.communicate(asked, 30)
    answers = [json.loads(line)["ok"]["root"] for line in output.splitlines()]
    assert (len(answers), len(set(answers))) == (8, 1)


def test_refused_images_leave_nothing_open(infrastructure: Infrastructure, tmp_path: Path) -> None:
    signed = image(tmp_path, QUIET)._replace(signature=b"none")
    counted = []
    for _ in range(4):
        with pytest.raises(ImageError):
            run_enclave(signed, infrastructure=infrastructure)
        until(lambda: len(descendants(infrastructure.pid)) == 1, "the end of all but the shell that guards")
        counted.append(descriptors(infrastructure.pid))
    assert counted[1] == counted[2] == counted[3], counted
    assert infrastructure.ask("describe") == {"enclaves": []}


FORGED = {
    "a level": json.dumps({"level": "namespaces", "layers": {"namespaces": "in force"}}),
    "no JSON": "namespaces",
    "too deep": "[" * 50_000,
}


@pytest.mark.parametrize("what", FORGED)
def test_an_app_cannot_say_how_isolated_it_is(infrastructure: Infrastructure, tmp_path: Path, what: str) -> None:
    """What keeps it in is said before a line of it; whatever it writes into the report later is no more than words."""
    line = f"isolated {FORGED[what]}\n"
    app = f"import os, sys\nos.write(int(sys.argv[6]), {line!r}.encode())\n{QUIET}"
    with pytest.raises(LabError, match="does not start"):
        run_enclave(image(tmp_path, app), infrastructure=infrastructure, isolation=Level.NONE)
    assert infrastructure.ask("describe") == {"enclaves": []}


def test_folders_of_any_depth_are_removed(infrastructure: Infrastructure, tmp_path: Path) -> None:
    app = "import os\nos.chdir(os.environ['TMPDIR'])\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')\n"
    try:
        enclave = run_enclave(image(tmp_path, app + QUIET), infrastructure=infrastructure, isolation=Level.SECCOMP)
    except WorkshopKitError as error:
        pytest.skip(f"this machine gives no isolation: {error}")
    with enclave:
        assert (infrastructure.directory / "16").exists()
    assert not (infrastructure.directory / "16").exists()


def test_a_socket_that_an_app_hands_over_holds_nobody_up(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """Closing one may wait for its peer, as long as its owner likes (SO_LINGER)."""
    app = """import os, socket, struct
listener = socket.create_server(("127.0.0.1", 0))
ours = socket.create_connection(listener.getsockname())
theirs, _ = listener.accept()
theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
ours.setblocking(False)
try:
    while True:
        ours.send(bytes(65536))
except BlockingIOError:
    pass
ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 100_000))
with socket.socket(fileno=os.dup(int(os.environ["WORKSHOP_EGRESS"]))) as gate:
    socket.send_fds(gate, [b'{"watch": true}'], [ours.fileno()])
"""
    with run_enclave(image(tmp_path, app + QUIET), infrastructure=infrastructure) as enclave:
        if enclave.isolation.level is not Level.NAMESPACES:
            pytest.skip("an app has no sockets here")
    assert infrastructure.ask("describe") == {"enclaves": []}


def test_an_app_cannot_make_closing_a_socket_wait(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """A socket may be on its way to somebody who never takes it: then the kernel closes it, in that one's call."""
    app = """import socket, struct
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 100_000))
one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
print("linger", one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8).hex())
print("kept alive", one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), flush=True)
"""
    with run_enclave(image(tmp_path, app + QUIET), infrastructure=infrastructure, debug_mode=True) as enclave:
        if enclave.isolation.level is not Level.NAMESPACES:
            pytest.skip("an app has no sockets here")
        until(lambda: "kept alive 1" in enclave.console(), "its words")
        assert f"linger {bytes(8).hex()}\n" in enclave.console()


def test_an_enclave_whose_devices_cannot_be_opened_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where an app of the same user's has left more descriptors on their way than the kernel allows."""
    script = """
import errno, sys
from pathlib import Path
from workshop_kit.simulator import hypervisor, interpreter

def full(*_):
    raise OSError(errno.ETOOMANYREFS, "Too many references")

ahead = interpreter.Interpreter()
interpreter.socket.send_fds = full
hypervisor.main(Path(sys.argv[1]), ahead)
"""
    file = tmp_path / "image.eif"
    file.write_bytes(image(tmp_path, QUIET).encode())
    run = {"image": str(file), "cid": 16, "debug": False, "handed_in": "", "url": "", "isolation": "none"}
    asked = [{"id": 0, "operation": "run", "arguments": {**run, "parent_cid": 3}}, {"id": 1, "operation": "describe"}]
    folder = tempfile.mkdtemp()
    process = subprocess.Popen([sys.executable, "-c", script, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    output, _ = process.communicate("".join(json.dumps(each) + "\n" for each in asked).encode(), 30)
    answers = {answer["id"]: answer for answer in map(json.loads, output.splitlines())}
    assert answers[0]["error"].startswith("the enclave's devices cannot be opened (Too many references)")
    assert answers[1]["ok"] == {"enclaves": []}
    assert not Path(folder).exists()
    assert capfd.readouterr().err == ""
