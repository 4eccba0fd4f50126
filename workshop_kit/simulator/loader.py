"""What an enclave's process runs until it knows its image: it loads what every enclave takes from the machine.

The hypervisor starts it ahead, as a program. Nothing of the kit is loaded here, since what runs of that is the image's
own. Then it becomes what it is told, by one message with descriptors.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import socket
import sys
import types
from pathlib import Path

_LONGEST = 64 * 1024
_MOST_DESCRIPTORS = 16
_LIBRARIES = (
    *("asyncio", "uvloop", "httptools", "cbor2", "cryptography.hazmat.primitives.ciphers.aead"),
    *("cryptography.hazmat.primitives.kdf.hkdf", "cryptography.hazmat.primitives.serialization"),
    *("cryptography.hazmat.primitives.asymmetric.mlkem", "cryptography.hazmat.primitives.asymmetric.x25519"),
)


def main(orders: int) -> None:
    # Until the service is loaded: what modules make is there to stay, and looking for garbage would take a tenth.
    gc.disable()
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):  # whoever needs it says so
            importlib.import_module(name)
    with socket.socket(fileno=orders) as connection:
        message, descriptors, _, _ = socket.recv_fds(connection, _LONGEST, _MOST_DESCRIPTORS)
    if message:  # none: the hypervisor is gone
        _become(json.loads(message), descriptors)


def _become(told: dict[str, str | list[str]], descriptors: list[int]) -> None:
    script, first, more = str(told["script"]), str(told["first"]), told["more"]
    os.chdir(str(told["folder"]))
    sys.argv = [script, first, *map(str, descriptors), *more]
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    program.__file__ = script
    code = compile(Path(script).read_bytes(), script, "exec")
    exec(code, program.__dict__)


if __name__ == "__main__":
    main(int(sys.argv[1]))
