"""`workshop connect` as people run it: a process of its own, with a user's key in a file, before an enclave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pair import user_key
from processes import Program, program
from running import Running

from workshop_kit.verifier import ReferenceValues


@dataclass(frozen=True)
class Connected:
    """A client proxy that listens; `address` is as it says it."""

    program: Program
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


def arguments(running: Running, folder: Path, user: str = "Alice") -> list[str]:
    """What a user gives to `connect`, in files of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    root = x509.load_der_x509_certificate(running.enclave.root)
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "values.json").write_text(ReferenceValues(running.image.measurements()).to_json())
    key = user_key(user)._private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    (folder / "private.der").write_bytes(key)
    files = {"--root": "root.pem", "--reference-values": "values.json", "--private-key": "private.der"}
    options = [part for name, file in files.items() for part in (name, str(folder / file))]
    return ["--url", running.enclave.url, *options]


@contextmanager
def connected(running: Running, folder: Path, *where: str, user: str = "Alice") -> Iterator[Connected]:
    """Run it, listening on a free port or as `where` says, and end it."""
    options = [*arguments(running, folder, user), *(where or ("--lport", "0"))]
    with program("-m", "workshop_kit", "connect", *options, temporary=folder / "tmp") as started:
        yield Connected(started, started.await_line("listening on"))
