"""One enclave as its hypervisor holds it: a process, the devices that it was given, and its console."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import socket
import sys
from collections import deque
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from workshop_kit.edges.nsm_device import receive_message, send_message
from workshop_kit.edges.vsock import PROXY_PORT, VsockAddress, listen, listen_at, serve_device
from workshop_kit.errors import ImageError, LabError
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.evidence.handed_in import READY
from workshop_kit.simulator.image import BOOT_SCRIPT, DISTRIBUTIONS, SERVICE, unpack
from workshop_kit.simulator.isolation.levels import Isolation, Level
from workshop_kit.simulator.layout import read_plan
from workshop_kit.simulator.nsm import Nsm

BOOT_TIMEOUT = 60.0
"""Seconds after which an enclave that does not serve is given up."""

_CONSOLE_LINES = 500
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}


class Launch(NamedTuple):
    """How an enclave is to be run.

    Attributes:
        url: where its parent instance listens, for those who ask.
        level: of isolation, at most.
        parent_cid: what it calls its parent instance by.
    """

    cid: int
    debug: bool
    url: str
    level: Level
    parent_cid: int


class Machine:
    """An enclave's process and what it reaches: its NSM, its vsock device, and nothing else."""

    def __init__(self, nsm: Nsm, launch: Launch, directory: Path) -> None:
        self.enclave_id = nsm.module_id
        self.launch = launch
        self.isolation = Isolation(Level.NONE)
        self._nsm = nsm
        self._directory = directory
        self._root = directory / str(launch.cid)
        self._console: deque[str] = deque(maxlen=_CONSOLE_LINES)
        self._tasks: set[asyncio.Task[None]] = set()
        self._process: asyncio.subprocess.Process
        self._report: int
        self._reading_console: asyncio.Task[None]

    @classmethod
    async def start(cls, nsm: Nsm, image: EnclaveImage, launch: Launch, directory: Path) -> Self:
        """Lay the image out and start its process.

        Raises:
            ImageError: it is no image that `workshop build` writes.
        """
        machine = cls(nsm, launch, directory)
        machine._lay_out(image)
        await machine._begin()
        return machine

    def _lay_out(self, image: EnclaveImage) -> None:
        unpack(image, self._root)
        if not (self._root / "base" / BOOT_SCRIPT).is_file():
            shutil.rmtree(self._root)
            raise ImageError(f"expected {BOOT_SCRIPT} in the image's first ramdisk, got none; build it again")
        for name in ("tree", "tmp"):
            (self._root / name).mkdir()

    async def _begin(self) -> None:
        """Start its process with its devices: descriptors of it, whose other ends are here."""
        self._run(self._accept_apps(listen_at(self._root / "nsm")))
        listener = listen(VsockAddress(self.launch.cid, PROXY_PORT), self._directory)
        nsm, nsm_of_app, vsock = (socket.socketpair() for _ in range(3))
        self._report, report = os.pipe()
        theirs = (listener.fileno(), nsm[1].fileno(), nsm_of_app[1].fileno(), vsock[1].fileno(), report)
        numbers = map(str, (*theirs, self.launch.parent_cid))
        arguments = (self.launch.level.value, *numbers, *await asyncio.to_thread(_libraries, self._root))
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-u", str(self._root / "base" / BOOT_SCRIPT), *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=theirs,
                env=_ENVIRONMENT,
                cwd=self._root,
            )
        finally:
            for each in (listener, nsm[1], nsm_of_app[1], vsock[1]):
                each.close()
            os.close(report)
        for work in (self._serve_nsm(nsm[0]), self._serve_nsm(nsm_of_app[0]), self._serve_vsock(vsock[0])):
            self._run(work)
        self._reading_console = self._run(self._read_console())

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- its life ----------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    async def boot(self, handed_in: bytes) -> None:
        """Hand it users and runtime configuration, and wait until it serves.

        Raises:
            LabError: it does not, with its own words.
        """
        # Ahead of the silence that ends with this process.
        assert self._process.stdin is not None
        self._process.stdin.write(len(handed_in).to_bytes(4, "big") + handed_in)
        said = b""
        with contextlib.suppress(TimeoutError, ValueError):  # ValueError: a line beyond the reader's limit is no answer
            said = await asyncio.wait_for(_read_line(self._report), BOOT_TIMEOUT)
        if said.startswith(READY):
            self.isolation = Isolation.from_dict(json.loads(said.removeprefix(READY)))
            return
        ended = bool(said) or await self._ends()
        await self.terminate()
        if said:
            raise LabError(f"the enclave does not start: {said.decode('utf-8', 'replace').rstrip()}")
        code = self._process.returncode
        reason = f"it ended with code {code}" if ended else f"it did not serve within {BOOT_TIMEOUT:g} s"
        # A real enclave's console can be read in debug mode only. This one has met no user's data yet.
        words = f"; its own words:\n{self.console().rstrip()}" if self._console else " and said nothing"
        raise LabError(f"the service does not start: {reason}{words}")

    async def terminate(self) -> None:
        """End it, and remove what it left in the directory."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not await self._ends():
            self._process.kill()
            await self._process.wait()
        # The console's reader ends by itself once all has been read.
        await asyncio.wait([self._reading_console], timeout=1)
        for task in list(self._tasks):
            task.cancel()
        shutil.rmtree(self._root, ignore_errors=True)
        VsockAddress(self.launch.cid, PROXY_PORT).path(self._directory).unlink(missing_ok=True)

    async def _ends(self) -> bool:
        try:
            await asyncio.wait_for(self._process.wait(), 3)
        except TimeoutError:
            return False
        return True

    # --- what can be seen of it --------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        return {
            "EnclaveID": self.enclave_id,
            "EnclaveCID": self.launch.cid,
            "ProcessID": self._process.pid,
            "State": "RUNNING" if self.runs else "TERMINATED",
            "Flags": "DEBUG_MODE" if self.launch.debug else "NONE",
            "Url": self.launch.url,
            "Isolation": self.isolation.as_dict(),
        }

    def console(self) -> str:
        """What it has written."""
        return "".join(f"{line}\n" for line in self._console)

    async def _read_console(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # a line beyond the reader's limit: the rest of the console is dropped
            async for line in self._process.stdout:
                self._console.append(line.decode("utf-8", "replace").rstrip("\n"))

    # --- its devices -------------------------------------------------------------------------------------------------

    async def _serve_nsm(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with connection, contextlib.suppress(EOFError, OSError):
            while True:
                request = await receive_message(connection)
                await send_message(connection, self._nsm.handle(request, now=_now()))

    async def _accept_apps(self, listener: socket.socket) -> None:
        """Connections at the NSM's name in a file tree of the enclave's own."""
        listener.setblocking(False)
        with listener:
            while True:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                self._run(self._serve_nsm(connection))

    async def _serve_vsock(self, device: socket.socket) -> None:
        with device, contextlib.suppress(OSError):
            await serve_device(device, self._dial)

    async def _dial(self, address: VsockAddress) -> socket.socket:
        """What the enclave calls: its parent instance under the id that this one has, and nobody else."""
        if address.cid != self.launch.parent_cid:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            path = address.path_from(self.launch.cid, self._directory)
            await asyncio.get_running_loop().sock_connect(connection, str(path))
        except BaseException:
            connection.close()
            raise
        return connection


def _libraries(root: Path) -> list[str]:
    """The environment of a service that brings requirements, and the installation of its Python.

    Raises:
        ImageError: this machine has not the distributions that the image measures, and cannot install them.
    """
    application = root / "application"
    if (plan := read_plan(application)) is None:
        return []
    # Late: an enclave on the built-in base needs none of this.
    from workshop_kit.simulator.requirements import measured_environment

    return list(map(str, measured_environment(plan, application / SERVICE, (application / DISTRIBUTIONS))))


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
