"""run-enclave: from an image to something that answers, and everything ended again.

    with run_enclave(image) as enclave:
        AttestedTransport(enclave.url, key, Policy(trust_anchor=enclave.trust_anchor, ...))

Three parties stand behind it, in processes that cannot read each other: the infrastructure with its keys
(`hypervisor`), the enclave, and the caller's own process as parent instance.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from workshop_kit.edges.egress_proxy import Internet
from workshop_kit.edges.serving import bind
from workshop_kit.edges.vsock import PARENT_CID
from workshop_kit.errors import ImageError, LabError, ManifestError, WorkshopKitError
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.evidence.handed_in import HandedIn, runtime_measurement
from workshop_kit.service.access import Users
from workshop_kit.simulator.control import new_home
from workshop_kit.simulator.folders import remove
from workshop_kit.simulator.isolation.levels import Isolation, Level
from workshop_kit.simulator.parent import ParentInstance

if TYPE_CHECKING:
    from workshop_kit.simulator.misbehaving import Attack

_ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
"""For glibc: the infrastructure's threads mostly wait, and each would have a heap of its own."""

_KINDS: dict[str, type[WorkshopKitError]] = {"ImageError": ImageError, "ManifestError": ManifestError}


class Infrastructure:
    """A hypervisor's process, started here and ended with this process at the latest.

    Attributes:
        directory: where the sockets of its vsock addresses are.
    """

    def __init__(self) -> None:
        self.directory, lock = new_home()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "workshop_kit.simulator.infrastructure", str(self.directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(lock,),
                text=True,
                env={**os.environ, **_ONE_HEAP},
                process_group=0,  # a terminal's Ctrl-C and a notebook's interrupt are for this process alone
            )
        finally:
            os.close(lock)  # from here on the process has it
        self._ids = itertools.count()
        self._turn = threading.Lock()
        self._root = b""
        try:
            self.ask("describe")  # it is there
        except BaseException:
            self.close()
            raise

    @property
    def root(self) -> bytes:
        """DER of its root certificate, the trust anchor of what it signs.

        Raises:
            LabError: it is gone.
        """
        if not self._root:
            self._root = base64.b64decode(self.ask("root")["root"])
        return self._root

    def ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            LabError: it cannot be done, or the infrastructure is gone.
            ImageError: the image is none.
        """
        assert self._process.stdin is not None
        with self._turn:
            number = next(self._ids)
            request = json.dumps({"id": number, "operation": operation, "arguments": arguments})
            try:
                self._process.stdin.write(request + "\n")
                self._process.stdin.flush()
            except (OSError, ValueError):  # its process has ended, or `close` ended it
                raise LabError("the simulated infrastructure is gone; start it again") from None
            answer = self._answer(number)
        if "error" in answer:
            raise _KINDS.get(answer["kind"], LabError)(answer["error"])
        ok: dict[str, Any] = answer["ok"]
        return ok

    def _answer(self, number: int) -> dict[str, Any]:
        """The answer to request `number`; others are of requests that were interrupted here."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if answer["id"] == number:
                return answer
        raise LabError("the simulated infrastructure ended without an answer; start it again")

    def close(self) -> None:
        """End it and every enclave that it runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        remove(self.directory)  # a hypervisor that was killed has left it

    @property
    def pid(self) -> int:
        return self._process.pid


class Enclave:
    """A running enclave, as its operator holds it.

    Attributes:
        enclave_id: its module id.
        pcr16: the PCR that measures what it was handed at run time.
        isolation: what keeps its app from this machine, and what that leaves open.
        parent: the parent instance in front of it.
    """

    def __init__(
        self,
        infrastructure: Infrastructure,
        started: Mapping[str, Any],
        parent: ParentInstance,
        *,
        pcr16: bytes,
        owns: bool,
    ) -> None:
        self.infrastructure = infrastructure
        self.enclave_id: str = started["enclave_id"]
        self.isolation = Isolation.from_dict(started["isolation"])
        self.pcr16 = pcr16
        self.parent = parent
        self._owns = owns
        self._running = True

    @property
    def url(self) -> str:
        """Where clients reach the parent instance."""
        return self.parent.url

    @property
    def root(self) -> bytes:
        """DER of the root certificate under which this enclave's evidence stands."""
        return self.infrastructure.root

    def terminate(self) -> None:
        """terminate-enclave: end it, the relay before it and, where it was started for this one, the infrastructure."""
        if not self._running:
            return
        self._running = False
        self.parent.close()
        if self._owns:
            self.infrastructure.close()
        else:
            with contextlib.suppress(LabError):
                self.infrastructure.ask("terminate", enclave_id=self.enclave_id)

    def describe(self) -> dict[str, Any]:
        """describe-enclaves, of this one.

        Raises:
            LabError: it was terminated, or the infrastructure is gone.
        """
        for described in self.infrastructure.ask("describe")["enclaves"]:
            if described["EnclaveID"] == self.enclave_id:
                return dict(described)
        raise LabError("expected a running enclave, got one that was terminated; run it again")

    def console(self) -> str:
        """What it has written, in debug mode.

        Raises:
            LabError: it is not in debug mode, so nobody can read its console.
        """
        text: str = self.infrastructure.ask("console", enclave_id=self.enclave_id)["console"]
        return text

    def wait(self) -> None:
        """Block until somebody has terminated the enclave.

        Raises:
            LabError: it ended by itself, or the infrastructure did.
        """
        while (state := self._state()) == "RUNNING":
            time.sleep(0.5)
        if state:
            raise LabError("the enclave has ended by itself; run it again")

    def _state(self) -> str:
        """ "" once it was terminated: the infrastructure remembers those only that ended by themselves."""
        described = self.infrastructure.ask("describe")["enclaves"]
        return next((each["State"] for each in described if each["EnclaveID"] == self.enclave_id), "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()


def run_enclave(
    image: EnclaveImage | Path,
    *,
    port: int = 0,
    debug_mode: bool = False,
    users: Users | bytes | None = None,
    runtime_config: bytes | None = None,
    isolation: Level = Level.NAMESPACES,
    infrastructure: Infrastructure | None = None,
    internet: Internet | None = None,
    parent_cid: int = PARENT_CID,
    misbehave: Attack | None = None,
) -> Enclave:
    """Start an image, in the given infrastructure or in one of its own, and relay `port` to it.

    Args:
        users: for an image that has none. They are not measured with it: clients who care demand PCR16.
        runtime_config: YAML for the application, likewise.
        isolation: at most this much; a machine that gives less gives less, but for NONE, which must be asked for.
        internet: where the parent instance resolves and dials what the allowlist lets out; default: this machine's.
        parent_cid: by which the enclave calls its parent instance: 3 on Nitro, 2 under QEMU.
        misbehave: what the parent instance does with messages, in place of carrying them (`simulator.misbehaving`).

    Raises:
        ImageError: the image cannot be read.
        ManifestError: users and configuration are larger than an enclave takes.
        LabError: the enclave refuses users or configuration, the service does not start (with its own traceback), the
            port cannot be had, or no isolation.
    """
    handed_in = HandedIn(users.to_yaml().encode() if isinstance(users, Users) else users, runtime_config)
    message = base64.b64encode(handed_in.encode()).decode()
    with contextlib.ExitStack() as undo:
        # First of all: a port in use is found out in no time, an enclave takes some.
        listener = undo.enter_context(bind(port))
        host = infrastructure or Infrastructure()
        if infrastructure is None:
            undo.callback(host.close)
        cid = host.ask("reserve")["cid"]
        # Before the enclave: an app may go out while it starts.
        parent = ParentInstance(
            host.directory, cid, listener, own_cid=parent_cid, internet=internet, misbehave=misbehave
        )
        undo.callback(parent.close)
        options = {"debug": debug_mode, "url": parent.url, "isolation": isolation.value, "parent_cid": parent_cid}
        started = _run(host, image, cid=cid, handed_in=message, **options)
        undo.pop_all()
    pcr16 = runtime_measurement(*handed_in)
    return Enclave(host, started, parent, pcr16=pcr16, owns=infrastructure is None)


def _run(host: Infrastructure, image: EnclaveImage | Path, **more: object) -> dict[str, Any]:
    if isinstance(image, Path):
        return host.ask("run", image=str(image.absolute()), **more)
    with tempfile.NamedTemporaryFile(suffix=".eif") as file:
        file.write(image.encode())
        file.flush()
        return host.ask("run", image=file.name, **more)
