"""One enclave as its hypervisor holds it: a process, the devices that it was given, and its console."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workshop_kit.edges.nsm_socket import serve_nsm
from workshop_kit.edges.vsock import PROXY_PORT, VsockAddress, listen, listen_at, serve_device
from workshop_kit.errors import ImageError, LabError
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.simulator.container import PLAN
from workshop_kit.simulator.image import BOOT_SCRIPT, GATE_SCRIPT, unpack
from workshop_kit.simulator.interpreter import Interpreter
from workshop_kit.simulator.messages import FORKED, GO, ISOLATED, READY
from workshop_kit.simulator.report import LONGEST_LINE, Report
from workshop_kit.simulator.watchdog import Watchdog
from workshop_kit.simulator.way_out import WayOut

if TYPE_CHECKING:
    from workshop_kit.simulator.nsm import Nsm

BOOT_TIMEOUT = 60.0
"""Seconds after which an enclave that does not serve is given up."""

_END_TIMEOUT = 3.0
_DIAL_TIMEOUT = 5.0
_PAUSE = 0.2
_MOST_APPS = 64
"""Connections of an app's to its NSM at a time; more wait."""

_CONSOLE_LINES = 500


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
    level: str
    parent_cid: int


class Machine:
    """An enclave's process and what it reaches: its NSM, its vsock device, and nothing else.

    A thread serves each device, and ends when the enclave's end of it is closed.
    """

    def __init__(self, interpreter: Interpreter, launch: Launch, directory: Path, watchdog: Watchdog) -> None:
        self.enclave_id = ""
        self._watchdog = watchdog
        self._interpreter = interpreter
        self._process = interpreter.process
        self._pid = interpreter.process.pid
        self.launch = launch
        self.isolation: Mapping[str, Any] = {"level": launch.level, "layers": {}}
        self._nsm: Nsm
        self._turn = threading.Lock()
        self._directory = directory
        self._root = directory / str(launch.cid)
        self._console: deque[str] = deque(maxlen=_CONSOLE_LINES)
        self._code = 0
        self._ended = threading.Event()
        self._ending = threading.Lock()
        self._is_terminated = False
        self._way_out: WayOut
        self._going_out: threading.Thread
        self._report: int
        self._note = ""
        self._apps: socket.socket
        self._places = threading.Semaphore(_MOST_APPS)
        self._handing_in: threading.Thread | None = None
        self._reading_console: threading.Thread

    def start(self, image: EnclaveImage) -> None:
        """Lay the image out and have its process run it, which goes no further until `boot`.

        Raises:
            ImageError: it is no image that `workshop build` writes, or wants libraries that this machine has not.
            LabError: its process cannot be given its devices.
        """
        try:
            self._lay_out(image)
            *libraries, self._note = _libraries(self._root)
            self._begin(libraries)
        except (ImageError, OSError) as error:
            self._interpreter.end()
            _remove(self._root)
            if isinstance(error, ImageError):
                raise
            raise LabError(f"the enclave's devices cannot be opened ({error.strerror}): end others first") from None

    def _lay_out(self, image: EnclaveImage) -> None:
        unpack(image, self._root)
        if not (self._root / "base" / BOOT_SCRIPT).is_file():
            raise ImageError(f"expected {BOOT_SCRIPT} in the image's first ramdisk, got none; build it again")
        for name in ("tree", "tmp"):
            (self._root / name).mkdir()

    def _begin(self, libraries: Sequence[str]) -> None:
        """Give its process its devices: descriptors, whose other ends are here."""
        self._apps = listen_at(self._root / "nsm")
        listener = listen(VsockAddress(self.launch.cid, PROXY_PORT), self._directory)
        nsm, nsm_of_app = socket.socketpair(), socket.socketpair()
        way_out = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._report, report = os.pipe()
        devices = (listener, nsm[1], nsm_of_app[1], way_out[1])
        theirs = [*(each.fileno() for each in devices), report]
        try:
            self._interpreter.run(self._script(BOOT_SCRIPT), self.launch.level, theirs, libraries, folder=self._root)
        except OSError:
            for mine in (self._apps, nsm[0], nsm_of_app[0], way_out[0]):
                mine.close()
            os.close(self._report)
            raise
        finally:
            for each in devices:
                each.close()
            os.close(report)
        for connection in (nsm[0], nsm_of_app[0]):
            _aside(serve_nsm, connection, self._answer)
        _aside(self._accept_apps)
        self._way_out = WayOut(way_out[0], self._start_gate)
        self._going_out = _aside(self._serve_way_out)
        self._reading_console = _aside(self._read_console)

    def _script(self, script: str) -> Path:
        """A file of the image's, measured as it is."""
        return self._root / "base" / script

    # --- its life ----------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        return not self._ended.is_set()

    def plug(self, nsm: Nsm) -> None:
        """Give it its NSM; to be done before `boot`."""
        self._nsm = nsm
        self.enclave_id = nsm.module_id

    def boot(self, handed_in: bytes) -> None:
        """Hand it users and runtime configuration, and wait until it serves.

        Raises:
            LabError: it does not, with its own words.
        """
        with self._ending:
            if self._is_terminated:
                raise LabError("the enclave was terminated before it started; run it again")
            # Ahead of the silence that ends with this process. Aside: an enclave may end before it has read all.
            self._handing_in = _aside(self._tell, len(handed_in).to_bytes(4, "big") + handed_in)
        with os.fdopen(self._report, "rb", buffering=0) as stream:
            report = Report(stream, time.monotonic() + BOOT_TIMEOUT)
            said = report.line(lambda: self._process.poll() is not None)
            if said.startswith(FORKED):
                self._adopt(int(said.removeprefix(FORKED)))
                said = report.line(self._ended.is_set)
            else:
                _aside(self._await_end)
            if said.startswith(ISOLATED):
                self.isolation = json.loads(said.removeprefix(ISOLATED))
                said = report.line(self._ended.is_set)
        if said == READY:
            return
        ended = bool(said) or self._ends()
        self.terminate()
        if said:
            raise LabError(f"the enclave does not start: {said.decode('utf-8', 'replace').rstrip()}")
        reason = f"it ended with code {self._code}" if ended else f"it did not serve within {BOOT_TIMEOUT:g} s"
        reason += f" ({self._note})" if self._note else ""
        # A real enclave's console can be read in debug mode only. This one has met no user's data yet.
        words = f"; its own words:\n{self.console().rstrip()}" if self._console else " and said nothing"
        raise LabError(f"the service does not start: {reason}{words}")

    def _tell(self, message: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it ended before it had read all, or was ended
            self._process.stdin.write(message)
            self._process.stdin.flush()

    def _adopt(self, pid: int) -> None:
        """Its process has forked, and ends; the other one is this process's child from then on."""
        self._process.wait()
        self._pid = pid
        self._watchdog.guard(pid)
        _aside(self._await_end)
        self._tell(GO)

    def _await_end(self) -> None:
        if self._pid == self._process.pid:
            self._code = self._process.wait()
        else:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
                self._watchdog.release(self._pid)
                self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._ended.set()
        self._way_out.close()

    def terminate(self) -> None:
        """End it, and remove what it left in the directory; whoever comes second waits for the first."""
        with self._ending:
            if not self._is_terminated:
                self._is_terminated = True
                self._terminate()

    def _terminate(self) -> None:
        assert self._process.stdin is not None
        if self._handing_in is None:  # it was never told anything, and waits for that
            os.close(self._report)
            self._process.kill()
            self._await_end()
        elif self._handing_in.is_alive():
            self._kill()  # it reads no more, and will not hear the end of what it should read
            self._handing_in.join()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if not self._ends():
            self._kill()
            self._ended.wait()
        self._going_out.join(_END_TIMEOUT)
        if not self._going_out.is_alive():  # else it may be about to use the number
            self._interpreter.close_console()
        # The console's reader ends by itself once all has been read.
        self._reading_console.join(1)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self._root / "nsm"))  # whoever accepts there wakes, and finds the enclave ended
        _remove(self._root)
        VsockAddress(self.launch.cid, PROXY_PORT).path(self._directory).unlink(missing_ok=True)

    def _ends(self) -> bool:
        return self._ended.wait(_END_TIMEOUT)

    def _kill(self) -> None:
        if self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    # --- what can be seen of it --------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        return {
            "EnclaveID": self.enclave_id,
            "EnclaveCID": self.launch.cid,
            "ProcessID": self._pid,
            "State": "RUNNING" if self.runs else "TERMINATED",
            "Flags": "DEBUG_MODE" if self.launch.debug else "NONE",
            "Url": self.launch.url,
            "Isolation": self.isolation,
        }

    def console(self) -> str:
        """What it has written."""
        return "".join(f"{line}\n" for line in list(self._console))

    def _read_console(self) -> None:
        with os.fdopen(self._interpreter.console, "rb") as stream:
            while line := stream.readline(LONGEST_LINE):
                self._console.append(line.decode("utf-8", "replace").rstrip("\n"))

    # --- its devices -------------------------------------------------------------------------------------------------

    def _answer(self, request: bytes) -> bytes:
        with self._turn:
            return self._nsm.handle(request, now=_now())

    def _accept_apps(self) -> None:
        """Connections at the NSM's name in a file tree of the enclave's own."""
        with self._apps:
            while self.runs:
                self._places.acquire()
                try:
                    connection, _ = self._apps.accept()
                except OSError:  # too many are open; some will be closed
                    self._places.release()
                    time.sleep(_PAUSE)
                else:
                    _aside(self._serve_app, connection)

    def _serve_app(self, connection: socket.socket) -> None:
        serve_nsm(connection, self._answer)
        self._places.release()

    def _serve_way_out(self) -> None:
        try:
            self._way_out.serve()
        except OSError as error:
            self._console.append(f"no gate can be started: {error.strerror}")
        finally:
            if (gate := self._way_out.gate) is not None:
                self._watchdog.release(gate.pid)
                gate.wait()
            self._kill()  # without a gate, whatever goes out would wait for ever

    def _start_gate(self, stdin: int, descriptors: Sequence[int], allow: bytes) -> subprocess.Popen[bytes]:
        device, theirs = socket.socketpair()
        channel, *listeners = map(str, descriptors)
        arguments = (self.isolation["level"], str(theirs.fileno()), str(self.launch.parent_cid), allow.decode())
        passed = [each for each in (*descriptors, theirs.fileno()) if each >= 0]
        with theirs:
            gate = self._interpreter.start(
                str(self._script(GATE_SCRIPT)), *arguments, channel, *listeners, stdin=stdin, pass_fds=passed
            )
        self._watchdog.guard(gate.pid)
        _aside(self._serve_vsock, device)
        return gate

    def _serve_vsock(self, device: socket.socket) -> None:
        with device, contextlib.suppress(OSError):
            serve_device(device, self._dial)

    def _dial(self, address: VsockAddress) -> socket.socket:
        """What the enclave calls: its parent instance under the id that this one has, and nobody else."""
        if address.cid != self.launch.parent_cid:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_DIAL_TIMEOUT)
            connection.connect(str(address.path_from(self.launch.cid, self._directory)))
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return connection


def _remove(folder: Path) -> None:
    from workshop_kit.simulator.folders import remove  # late: an enclave that runs has no need of it

    remove(folder)


def _aside(work: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def _libraries(root: Path) -> list[str]:
    """The environment of a service that brings requirements, the installation of its Python, and a note on that or "".

    Raises:
        ImageError: this machine has not the distributions that the image measures, and cannot install them.
    """
    application = root / "application"
    if not (application / PLAN).is_file():
        return [""]
    command = [sys.executable, "-I", "-m", "workshop_kit.simulator.measured", str(application)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ImageError(done.stdout.strip() or "expected the service's libraries, got none: the reason is above")
    return done.stdout.split("\n")[:3]


def _now() -> datetime:
    return datetime.now(UTC)
