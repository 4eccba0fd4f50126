"""The infrastructure, in a process of its own: it holds the keys, measures images, starts enclaves, answers their NSMs.

Nobody else can sign evidence. A parent instance asks it to run an image by name, over standard input and output, one
JSON object a line; an enclave has a socket to its own NSM and to nothing else. Other terminals of the same user may ask
what runs here, and end it (`simulator.control`). When standard input ends, whoever started this process is gone, and it
takes its enclaves along.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workshop_kit.edges.nsm_device import receive_message, send_message
from workshop_kit.edges.vsock import FIRST_ENCLAVE_CID, PROXY_PORT, VsockAddress, listen
from workshop_kit.errors import ImageError, LabError, WorkshopKitError
from workshop_kit.evidence import pcr
from workshop_kit.evidence.document import unisolated
from workshop_kit.evidence.eif import LARGEST_IMAGE, EnclaveImage, read_image
from workshop_kit.evidence.eif_signature import read_signature
from workshop_kit.evidence.handed_in import READY
from workshop_kit.files import read_file
from workshop_kit.simulator.control import CONTROL, FOLDER
from workshop_kit.simulator.image import BOOT_SCRIPT, unpack
from workshop_kit.simulator.isolation.levels import Isolation, Level
from workshop_kit.simulator.nsm import Nsm
from workshop_kit.simulator.pki import Pki

BOOT_TIMEOUT = 60.0
"""Seconds after which an enclave that does not serve is given up."""

_CONSOLE_LINES = 500
_LONGEST_REQUEST = 1 << 20
_FROM_OTHER_TERMINALS = frozenset({"describe", "console", "terminate"})
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass
class _Enclave:
    enclave_id: str
    cid: int
    root: Path
    debug: bool
    url: str
    process: asyncio.subprocess.Process
    report: int
    isolation: Isolation = field(default_factory=lambda: Isolation(Level.NONE))
    console: deque[str] = field(default_factory=lambda: deque(maxlen=_CONSOLE_LINES))
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def hand_in(self, message: bytes) -> None:
        """Users and runtime configuration, ahead of the silence that ends with this process."""
        assert self.process.stdin is not None
        self.process.stdin.write(len(message).to_bytes(4, "big") + message)


class Hypervisor:
    """The machine under parent instance and enclaves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.instance_id = f"i-simulated{os.urandom(4).hex()}"
        self.pki = Pki(now=_now(), random=os.urandom)
        self.enclaves: dict[str, _Enclave] = {}
        self._next_cid = FIRST_ENCLAVE_CID

    async def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request of the parent instance's."""
        operation = getattr(self, f"op_{request.get('operation')}", None)
        if operation is None:
            raise LabError(f"expected an operation of the hypervisor's, got {request.get('operation')!r}")
        answer: dict[str, Any] = await operation(**request.get("arguments", {}))
        return answer

    async def op_root(self) -> dict[str, Any]:
        """The trust anchor for all that this machine signs."""
        return {"root": base64.b64encode(self.pki.root).decode(), "directory": str(self.directory)}

    async def op_run(self, image: str, debug: bool, handed_in: str, url: str, isolation: str) -> dict[str, Any]:
        """Measure the image in a file, start it, hand it the message in base64, and wait until it serves.

        `url` is where its parent instance listens, for those who ask; `isolation` the level that it has at most.
        """
        level = Level(isolation)
        loaded = read_image(read_file(Path(image), most=LARGEST_IMAGE))
        cid, self._next_cid = self._next_cid, self._next_cid + 1
        # Debug mode: the console is open, so nothing that could be approved is measured.
        measured = loaded.measurements()
        pcrs = (dict.fromkeys(measured, pcr.ZERO) if debug else measured) | _signer(loaded, measured)
        instance_id = unisolated(self.instance_id) if level is Level.NONE else self.instance_id
        nsm = Nsm(self.pki, instance_id=instance_id, measurements=pcrs, now=_now(), random=os.urandom)
        enclave = await self._start(nsm, loaded, cid, debug, url, level)
        enclave.hand_in(base64.b64decode(handed_in))
        await self._await_boot(enclave)
        return {"enclave_id": enclave.enclave_id, "cid": cid, "isolation": enclave.isolation.as_dict()}

    async def op_terminate(self, enclave_id: str) -> dict[str, Any]:
        await self._terminate(self._enclave(enclave_id))
        return {}

    async def op_console(self, enclave_id: str) -> dict[str, Any]:
        enclave = self._enclave(enclave_id)
        if not enclave.debug:
            raise LabError(
                "console: expected an enclave in debug mode, got one whose console nobody can read; "
                "run it with --debug-mode, which clients refuse"
            )
        return {"console": "".join(f"{line}\n" for line in enclave.console)}

    async def op_describe(self) -> dict[str, Any]:
        return {
            "enclaves": [
                {
                    "EnclaveID": enclave.enclave_id,
                    "EnclaveCID": enclave.cid,
                    "ProcessID": enclave.process.pid,
                    "State": "RUNNING" if enclave.process.returncode is None else "TERMINATED",
                    "Flags": "DEBUG_MODE" if enclave.debug else "NONE",
                    "Url": enclave.url,
                    "Isolation": enclave.isolation.as_dict(),
                }
                for enclave in self.enclaves.values()
            ]
        }

    def _enclave(self, enclave_id: str) -> _Enclave:
        if enclave_id not in self.enclaves:
            raise LabError(f"expected the id of a running enclave, got {enclave_id!r}")
        return self.enclaves[enclave_id]

    async def _start(self, nsm: Nsm, image: EnclaveImage, cid: int, debug: bool, url: str, level: Level) -> _Enclave:
        root = self.directory / str(cid)
        unpack(image, root)
        if not (root / "base" / BOOT_SCRIPT).is_file():
            shutil.rmtree(root)
            raise ImageError(f"expected {BOOT_SCRIPT} in the image's first ramdisk, got none; build it again")
        for name in ("tree", "tmp"):
            (root / name).mkdir()
        listener = listen(VsockAddress(cid, PROXY_PORT), self.directory)
        ours, theirs = socket.socketpair()
        report, report_end = os.pipe()
        inherited = (listener.fileno(), theirs.fileno(), report_end)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-u", str(root / "base" / BOOT_SCRIPT), level.value, *map(str, inherited)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=inherited,
                env=_ENVIRONMENT,
                cwd=root,
            )
        finally:
            listener.close()
            theirs.close()
            os.close(report_end)
        enclave = _Enclave(nsm.module_id, cid, root, debug, url, process, report)
        self.enclaves[enclave.enclave_id] = enclave
        enclave.tasks += [asyncio.create_task(_serve_nsm(nsm, ours)), asyncio.create_task(_read_console(enclave))]
        return enclave

    async def _await_boot(self, enclave: _Enclave) -> None:
        said = b""
        with contextlib.suppress(TimeoutError, ValueError):  # ValueError: a line beyond the reader's limit is no answer
            said = await asyncio.wait_for(_read_line(enclave.report), BOOT_TIMEOUT)
        if said.startswith(READY):
            enclave.isolation = Isolation.from_dict(json.loads(said.removeprefix(READY)))
            return
        if said:
            await self._terminate(enclave)
            raise LabError(f"the enclave does not start: {said.decode('utf-8', 'replace').rstrip()}")
        ended = enclave.process.returncode is not None or await _ended(enclave.process)
        await self._terminate(enclave)
        code = enclave.process.returncode
        reason = f"it ended with code {code}" if ended else f"it did not serve within {BOOT_TIMEOUT:g} s"
        # A real enclave's console can be read in debug mode only. This one has met no user's data yet.
        console = "\n".join(enclave.console)
        words = f"; its own words:\n{console}" if console else " and said nothing"
        raise LabError(f"the service does not start: {reason}{words}")

    async def _terminate(self, enclave: _Enclave) -> None:
        self.enclaves.pop(enclave.enclave_id, None)  # another terminal may have ended it while it booted
        assert enclave.process.stdin is not None
        enclave.process.stdin.close()
        if not await _ended(enclave.process):
            enclave.process.kill()
            await enclave.process.wait()
        # The console's reader ends by itself once all has been read.
        await asyncio.wait(enclave.tasks, timeout=1)
        for task in enclave.tasks:
            task.cancel()
        shutil.rmtree(enclave.root, ignore_errors=True)
        VsockAddress(enclave.cid, PROXY_PORT).path(self.directory).unlink(missing_ok=True)

    async def close(self) -> None:
        """End every enclave."""
        await asyncio.gather(*map(self._terminate, list(self.enclaves.values())))


def _signer(image: EnclaveImage, measured: Mapping[int, bytes]) -> dict[int, bytes]:
    """PCR8 of a signed image. As nitro-cli, the hypervisor starts none whose signature has a fault."""
    if image.signature is None:
        return {}
    signature = read_signature(image.signature)
    for fault in signature.faults(measured[pcr.Pcr.IMAGE], now=_now()):
        raise ImageError(f"enclave image: {fault}; sign it anew")
    return {pcr.Pcr.SIGNING_CERTIFICATE: signature.pcr8}


async def _serve_nsm(nsm: Nsm, connection: socket.socket) -> None:
    connection.setblocking(False)
    with connection, contextlib.suppress(EOFError, OSError):
        while True:
            request = await receive_message(connection)
            await send_message(connection, nsm.handle(request, now=_now()))


async def _read_console(enclave: _Enclave) -> None:
    assert enclave.process.stdout is not None
    with contextlib.suppress(ValueError):  # a line beyond the reader's limit: the rest of the console is dropped
        async for line in enclave.process.stdout:
            enclave.console.append(line.decode("utf-8", "replace").rstrip("\n"))


async def _ended(process: asyncio.subprocess.Process) -> bool:
    try:
        await asyncio.wait_for(process.wait(), 3)
    except TimeoutError:
        return False
    return True


async def _read_line(descriptor: int) -> bytes:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    file = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    try:
        return await reader.readline()
    finally:
        transport.close()


def _now() -> datetime:
    return datetime.now(UTC)


async def serve() -> None:
    """Answer requests from standard input on standard output until it ends."""
    requests = asyncio.StreamReader(limit=_LONGEST_REQUEST)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    with tempfile.TemporaryDirectory(prefix=FOLDER) as directory:
        hypervisor = Hypervisor(Path(directory))
        asked: set[asyncio.Task[Any]] = set()
        control = await _listen_to_other_terminals(hypervisor, asked)
        try:
            async with asyncio.TaskGroup() as group:
                answers = set()
                while line := await requests.readline():
                    # Beside the reading: an enclave that boots slowly must not hide that whoever started it is gone.
                    task = group.create_task(_answer(hypervisor, json.loads(line)))
                    answers.add(task)
                    task.add_done_callback(answers.discard)
                for task in answers:
                    task.cancel()
        finally:
            control.close()
            await hypervisor.close()
            # `workshop run` ends as soon as its enclave does, and who asked for that still waits for an answer.
            await asyncio.gather(*asked)


async def _listen_to_other_terminals(hypervisor: Hypervisor, asked: set[asyncio.Task[Any]]) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, OSError):  # none of ours wrote that
            request = json.loads(await reader.readline())
            if request["operation"] in _FROM_OTHER_TERMINALS:
                task = asyncio.current_task()
                assert task is not None
                asked.add(task)
                task.add_done_callback(asked.discard)
                writer.write(await _answer_to(hypervisor, request))
        writer.close()

    # Under its name only once it answers: one that refuses is taken for what a killed infrastructure left.
    unready = hypervisor.directory / "unready"
    server = await asyncio.start_unix_server(serve, unready)
    unready.rename(hypervisor.directory / CONTROL)
    return server


async def _answer(hypervisor: Hypervisor, request: Mapping[str, Any]) -> None:
    answer = await _answer_to(hypervisor, request)
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more; standard input is about to end
        os.write(sys.stdout.fileno(), answer)


async def _answer_to(hypervisor: Hypervisor, request: Mapping[str, Any]) -> bytes:
    try:
        answer = {"id": request["id"], "ok": await hypervisor.handle(request)}
    except WorkshopKitError as error:
        answer = {"id": request["id"], "error": str(error), "kind": type(error).__name__}
    return json.dumps(answer).encode() + b"\n"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the process that started it, by its standard input
    asyncio.run(serve())
