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
import signal
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workshop_kit.edges.vsock import FIRST_ENCLAVE_CID
from workshop_kit.errors import ImageError, LabError, WorkshopKitError
from workshop_kit.evidence import pcr
from workshop_kit.evidence.document import unisolated
from workshop_kit.evidence.eif import LARGEST_IMAGE, EnclaveImage, read_image
from workshop_kit.evidence.eif_signature import read_signature
from workshop_kit.files import read_file
from workshop_kit.simulator.control import CONTROL, FOLDER
from workshop_kit.simulator.isolation.levels import Level
from workshop_kit.simulator.machine import Launch, Machine
from workshop_kit.simulator.nsm import Nsm
from workshop_kit.simulator.pki import Pki

_LONGEST_REQUEST = 1 << 20
_FROM_OTHER_TERMINALS = frozenset({"describe", "console", "terminate"})


class Hypervisor:
    """The machine under parent instance and enclaves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.instance_id = f"i-simulated{os.urandom(4).hex()}"
        self.pki = Pki(now=_now(), random=os.urandom)
        self.enclaves: dict[str, Machine] = {}
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

    async def op_reserve(self) -> dict[str, Any]:
        """A context id for an enclave to come: whoever is to be its parent instance can listen for its calls before."""
        cid, self._next_cid = self._next_cid, self._next_cid + 1
        return {"cid": cid}

    async def op_run(
        self, image: str, cid: int, debug: bool, handed_in: str, url: str, isolation: str, parent_cid: int
    ) -> dict[str, Any]:
        """Measure the image in a file, start it, hand it the message in base64, and wait until it serves.

        `url` is where its parent instance listens, for those who ask; `isolation` the level that it has at most;
        `parent_cid` what it calls its parent instance by.
        """
        level = Level(isolation)
        loaded = read_image(read_file(Path(image), most=LARGEST_IMAGE))
        # Debug mode: the console is open, so nothing that could be approved is measured.
        measured = loaded.measurements()
        pcrs = (dict.fromkeys(measured, pcr.ZERO) if debug else measured) | _signer(loaded, measured)
        instance_id = unisolated(self.instance_id) if level is Level.NONE else self.instance_id
        nsm = Nsm(self.pki, instance_id=instance_id, measurements=pcrs, now=_now(), random=os.urandom)
        launch = Launch(cid, debug, url, level, parent_cid)
        enclave = await Machine.start(nsm, loaded, launch, self.directory)
        self.enclaves[enclave.enclave_id] = enclave
        try:
            await enclave.boot(base64.b64decode(handed_in))
        except LabError:
            self.enclaves.pop(enclave.enclave_id, None)
            raise
        return {"enclave_id": enclave.enclave_id, "cid": cid, "isolation": enclave.isolation.as_dict()}

    async def op_terminate(self, enclave_id: str) -> dict[str, Any]:
        await self._terminate(self._enclave(enclave_id))
        return {}

    async def op_console(self, enclave_id: str) -> dict[str, Any]:
        enclave = self._enclave(enclave_id)
        if not enclave.launch.debug:
            raise LabError(
                "console: expected an enclave in debug mode, got one whose console nobody can read; "
                "run it with --debug-mode, which clients refuse"
            )
        return {"console": enclave.console()}

    async def op_describe(self) -> dict[str, Any]:
        return {"enclaves": [enclave.describe() for enclave in self.enclaves.values()]}

    def _enclave(self, enclave_id: str) -> Machine:
        if enclave_id not in self.enclaves:
            raise LabError(f"expected the id of a running enclave, got {enclave_id!r}")
        return self.enclaves[enclave_id]

    async def _terminate(self, enclave: Machine) -> None:
        self.enclaves.pop(enclave.enclave_id, None)  # another terminal may have ended it while it booted
        await enclave.terminate()

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
