"""describe, console and terminate, from a terminal that did not start the enclave.

Every infrastructure keeps a folder of its own among the temporary ones, holds a lock on it as long as it lives, and
listens in it at `CONTROL`. So who is there is found by looking, and nothing is written down that could be out of date:
a folder that nobody has locked is what a killed infrastructure left, and is removed. Only its user can open it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workshop_kit.errors import LabError

FOLDER = "enclave-workshop-i-"
"""How the name of an infrastructure's folder begins."""

CONTROL = "control"
"""The socket in it: one request and one answer, each a line of JSON."""

_PATIENCE = 30.0  # seconds: an enclave is given three to end by itself


def describe_enclaves() -> list[dict[str, Any]]:
    """What nitro-cli's describe-enclaves says of each, of all infrastructures of this user's."""
    return [enclave for _, enclave in _enclaves()]


def console_of(enclave_id: str) -> str:
    """What an enclave in debug mode has written.

    Raises:
        LabError: there is no such enclave, or it is not in debug mode.
    """
    text: str = _tell(enclave_id, "console")["console"]
    return text


def terminate_enclave(enclave_id: str) -> None:
    """End an enclave; whoever runs it is told that it was ended.

    Raises:
        LabError: there is no such enclave.
    """
    _tell(enclave_id, "terminate")


def new_home() -> tuple[Path, int]:
    """A folder for an infrastructure, and the descriptor of a lock on it, for its process to inherit."""
    import tempfile  # late here and below: the infrastructure's process needs nothing of this module but a name

    while True:
        directory = Path(tempfile.mkdtemp(prefix=FOLDER))
        with contextlib.suppress(OSError):  # somebody swept it before it was locked
            lock = os.open(directory, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if directory.is_dir():
                return directory, lock
            os.close(lock)


def _enclaves() -> Iterator[tuple[Path, dict[str, Any]]]:
    import tempfile

    for directory in sorted(Path(tempfile.gettempdir()).glob(f"{FOLDER}*")):
        try:
            if directory.stat().st_uid != os.getuid() or _swept(directory):
                continue
            described = _ask(directory, "describe")["enclaves"]
        except (OSError, EOFError):
            continue  # it begins, or ends
        yield from ((directory, enclave) for enclave in described)


def _swept(directory: Path) -> bool:
    """Whether nobody had locked it any more, so that it is gone now."""
    from workshop_kit.simulator.folders import remove

    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        remove(directory)
        return True
    finally:
        os.close(lock)


def _home_of(enclave_id: str) -> Path:
    homes = (directory for directory, enclave in _enclaves() if enclave["EnclaveID"] == enclave_id)
    if (home := next(homes, None)) is None:
        raise LabError(f"expected the id of an enclave, as `workshop describe` lists them, got {enclave_id[:60]!r}")
    return home


def _tell(enclave_id: str, operation: str) -> Any:
    home = _home_of(enclave_id)
    try:
        return _ask(home, operation, enclave_id=enclave_id)
    except (OSError, EOFError):
        raise LabError("the simulated infrastructure ended without an answer; see `workshop describe`") from None


def _ask(directory: Path, operation: str, **arguments: object) -> Any:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(str(directory / CONTROL))
        with connection.makefile("rwb") as stream:
            stream.write(json.dumps({"id": 0, "operation": operation, "arguments": arguments}).encode() + b"\n")
            stream.flush()
            line = stream.readline()
    if not line:
        raise EOFError("the infrastructure ended without an answer")
    answer = json.loads(line)
    if "error" in answer:
        raise LabError(answer["error"])
    return answer["ok"]
