"""The infrastructure, in a process of its own: it holds the keys, measures images, starts enclaves, answers their NSMs.

Nobody else can sign evidence. A parent instance asks it to run an image by name, over standard input and output, one
JSON object a line; an enclave has a socket to its own NSM and to nothing else. Other terminals of the same user may ask
what runs here, and end it (`simulator.control`). When standard input ends, whoever started this process is gone, and it
takes its enclaves along.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workshop_kit.edges.vsock import FIRST_ENCLAVE_CID, listen_at
from workshop_kit.errors import ImageError, LabError, WorkshopKitError
from workshop_kit.evidence import pcr
from workshop_kit.evidence.eif import LARGEST_IMAGE, EnclaveImage, read_image
from workshop_kit.files import read_file
from workshop_kit.simulator.control import CONTROL
from workshop_kit.simulator.interpreter import Interpreter
from workshop_kit.simulator.isolation import linux
from workshop_kit.simulator.machine import Launch, Machine
from workshop_kit.simulator.watchdog import Watchdog

if TYPE_CHECKING:
    from workshop_kit.simulator.nsm import Nsm
    from workshop_kit.simulator.shared_pki import SharedPki

_LONGEST_REQUEST = 1 << 20
_PATIENCE = 30.0  # seconds that another terminal may take
_PAUSE = 0.2

UNISOLATED = "none"
"""The level of isolation that the evidence itself says."""

_FROM_OTHER_TERMINALS = frozenset({"describe", "console", "terminate"})


class Hypervisor:
    """The machine under parent instance and enclaves. Threads may ask at the same time."""

    def __init__(self, directory: Path, ahead: Interpreter | None = None) -> None:
        """`ahead` is for the first enclave."""
        self.directory = directory
        self._ahead = ahead
        self.instance_id = f"i-simulated{os.urandom(4).hex()}"
        self._begun = _now()
        self._pki: SharedPki | None = None
        self.enclaves: dict[str, Machine] = {}
        self._next_cid = FIRST_ENCLAVE_CID
        self._turn = threading.Lock()
        self._closed = False
        self._watchdog = Watchdog()

    @property
    def pki(self) -> SharedPki:
        """The keys."""
        from workshop_kit.simulator.shared_pki import SharedPki

        with self._turn:
            self._pki = self._pki or SharedPki(now=self._begun)
        return self._pki

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request of the parent instance's."""
        operation = getattr(self, f"op_{request.get('operation')}", None)
        if operation is None:
            raise LabError(f"expected an operation of the hypervisor's, got {request.get('operation')!r}")
        answer: dict[str, Any] = operation(**request.get("arguments", {}))
        return answer

    def op_root(self) -> dict[str, Any]:
        """The trust anchor for all that this machine signs."""
        return {"root": base64.b64encode(self.pki.root).decode()}

    def op_reserve(self) -> dict[str, Any]:
        """A context id for an enclave to come: whoever is to be its parent instance can listen for its calls before."""
        with self._turn:
            cid, self._next_cid = self._next_cid, self._next_cid + 1
        return {"cid": cid}

    def op_run(
        self, image: str, cid: int, debug: bool, handed_in: str, url: str, isolation: str, parent_cid: int
    ) -> dict[str, Any]:
        """Measure the image in a file, start it, hand it the message in base64, and wait until it serves.

        `url` is where its parent instance listens, for those who ask; `isolation` the level that it has at most;
        `parent_cid` what it calls its parent instance by.
        """
        loaded = read_image(read_file(Path(image), most=LARGEST_IMAGE))
        launch = Launch(cid, debug, url, isolation, parent_cid)
        enclave = Machine(self._interpreter(), launch, self.directory, self._watchdog)
        enclave.start(loaded)
        try:
            # What measures and signs is loaded while the enclave's process starts, which waits for what is handed in.
            nsm = self._nsm(loaded, debug=debug, isolated=isolation != UNISOLATED)
            threading.Thread(target=nsm.prepare, args=(_now(),)).start()
            enclave.plug(nsm)
            self._keep(enclave)
            enclave.boot(base64.b64decode(handed_in))
        except BaseException:
            self.enclaves.pop(enclave.enclave_id, None)
            enclave.terminate()
            raise
        _give_back()
        return {"enclave_id": enclave.enclave_id, "cid": cid, "isolation": enclave.isolation}

    def _interpreter(self) -> Interpreter:
        with self._turn:
            ahead, self._ahead = self._ahead, None
        return ahead or Interpreter()

    def _nsm(self, image: EnclaveImage, *, debug: bool, isolated: bool) -> Nsm:
        from workshop_kit.evidence.document import unisolated
        from workshop_kit.simulator.nsm import Nsm

        measured = image.measurements()
        # Debug mode: the console is open, so nothing that could be approved is measured.
        pcrs = (dict.fromkeys(measured, pcr.ZERO) if debug else measured) | _signer(image, measured)
        instance_id = self.instance_id if isolated else unisolated(self.instance_id)
        return Nsm(self.pki, instance_id=instance_id, measurements=pcrs, now=_now(), random=os.urandom)

    def _keep(self, enclave: Machine) -> None:
        with self._turn:
            if not self._closed:
                self.enclaves[enclave.enclave_id] = enclave
                return
        raise LabError("the simulated infrastructure has ended; start it again")

    def op_terminate(self, enclave_id: str) -> dict[str, Any]:
        self._terminate(self._enclave(enclave_id))
        return {}

    def op_console(self, enclave_id: str) -> dict[str, Any]:
        enclave = self._enclave(enclave_id)
        if not enclave.launch.debug:
            raise LabError(
                "console: expected an enclave in debug mode, got one whose console nobody can read; "
                "run it with --debug-mode, which clients refuse"
            )
        return {"console": enclave.console()}

    def op_describe(self) -> dict[str, Any]:
        return {"enclaves": [enclave.describe() for enclave in list(self.enclaves.values())]}

    def _enclave(self, enclave_id: str) -> Machine:
        if enclave_id not in self.enclaves:
            raise LabError(f"expected the id of a running enclave, got {enclave_id!r}")
        return self.enclaves[enclave_id]

    def _terminate(self, enclave: Machine) -> None:
        self.enclaves.pop(enclave.enclave_id, None)  # another terminal may have ended it while it booted
        enclave.terminate()

    def close(self) -> None:
        """End every enclave, and start none any more."""
        with self._turn:
            self._closed = True
            ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.end()
        _together(self._terminate, list(self.enclaves.values()))
        self._watchdog.close()


def _give_back() -> None:
    """Let the machine have the memory that an image took while it was read; glibc would keep most of it."""
    with contextlib.suppress(OSError):
        linux.call("malloc_trim", 0)


def _together(work: Callable[[Machine], None], enclaves: Iterable[Machine]) -> None:
    threads = []
    for each in enclaves:
        thread = threading.Thread(target=work, args=(each,))
        try:
            thread.start()
            threads.append(thread)
        except RuntimeError:  # there is no room for one
            work(each)
    for thread in threads:
        thread.join()


def _signer(image: EnclaveImage, measured: Mapping[int, bytes]) -> dict[int, bytes]:
    """PCR8 of a signed image. As nitro-cli, the hypervisor starts none whose signature has a fault."""
    if image.signature is None:
        return {}
    # Late: it reads X.509, which an image without a signature has no need of.
    from workshop_kit.evidence.eif_signature import read_signature

    signature = read_signature(image.signature)
    for fault in signature.faults(measured[pcr.Pcr.IMAGE], now=_now()):
        raise ImageError(f"enclave image: {fault}; sign it anew")
    return {pcr.Pcr.SIGNING_CERTIFICATE: signature.pcr8}


def _now() -> datetime:
    return datetime.now(UTC)


class Desk:
    """Where a hypervisor is asked: each request in a thread of its own, so that a slow one holds up no other.

    An enclave that boots slowly must not hide that whoever started it is gone.
    """

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._writing = threading.Lock()
        self._answering: set[threading.Thread] = set()

    def serve(self) -> None:
        """Answer requests from standard input on standard output until it ends."""
        for line in sys.stdin.buffer:
            request = json.loads(line)
            try:
                threading.Thread(target=self._answer, args=(request,)).start()
            except RuntimeError:  # this machine has no room for one; then one after another
                self._answer(request)

    def listen_to_other_terminals(self) -> None:
        listener = listen_at(self._hypervisor.directory / CONTROL)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """Return when all that was asked has been answered."""
        # `workshop run` ends as soon as its enclave does, and who asked for that still waits for an answer.
        for thread in list(self._answering):
            thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
                connection.settimeout(_PATIENCE)
                threading.Thread(target=self._serve_terminal, args=(connection,), daemon=True).start()
            except (OSError, RuntimeError):  # too much is open or runs; some of it will end
                time.sleep(_PAUSE)

    def _serve_terminal(self, connection: socket.socket) -> None:
        # What goes wrong here was not written by ours.
        with connection, contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, OSError):
            request = json.loads(connection.makefile("rb").readline(_LONGEST_REQUEST))
            if request["operation"] in _FROM_OTHER_TERMINALS:
                with self._promised():
                    connection.sendall(self._answer_to(request))

    def _answer(self, request: Mapping[str, Any]) -> None:
        with self._promised(), contextlib.suppress(OSError):  # nobody reads any more
            try:
                answer = self._answer_to(request)
            except Exception as error:
                text = f"the infrastructure failed, in its own words above ({error!r})"
                self._write(json.dumps({"id": request["id"], "error": text, "kind": "LabError"}).encode() + b"\n")
                raise
            self._write(answer)

    @contextlib.contextmanager
    def _promised(self) -> Iterator[None]:
        """Whoever asked is answered, also where all ends meanwhile."""
        thread = threading.current_thread()
        self._answering.add(thread)
        try:
            yield
        finally:
            self._answering.discard(thread)

    def _write(self, answer: bytes) -> None:
        with self._writing:
            sys.stdout.buffer.write(answer)
            sys.stdout.buffer.flush()

    def _answer_to(self, request: Mapping[str, Any]) -> bytes:
        try:
            answer = {"id": request["id"], "ok": self._hypervisor.handle(request)}
        except WorkshopKitError as error:
            answer = {"id": request["id"], "error": str(error), "kind": type(error).__name__}
        return json.dumps(answer).encode() + b"\n"


def main(directory: Path, ahead: Interpreter) -> None:
    """Be the infrastructure until standard input ends, and remove the directory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the process that started it, by its standard input
    if sys.platform == "linux":
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # for the process of an enclave that forks and ends
    hypervisor = Hypervisor(directory, ahead)
    desk = Desk(hypervisor)
    try:
        desk.listen_to_other_terminals()
        desk.serve()
    finally:
        hypervisor.close()
        desk.close()
        from workshop_kit.simulator.folders import remove  # late, for the end

        remove(directory)
