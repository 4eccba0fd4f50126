"""The bench's service in an enclave behind `workshop run`, a client of it, and its client proxy, `workshop connect`.

All through what a user has: two functions, two commands, one transport.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from programs import Program, program

from workshop_kit.edges.client import AttestedTransport
from workshop_kit.edges.user_key import UserKey
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.verifier import Policy, ReferenceValues, TrustAnchor

SERVICE = Path(__file__).with_name("service")
KIT = ("-m", "workshop_kit")


def by_itself(service: Path, target: Path) -> Path:
    """The service as one that listens by itself: plain uvicorn inside the enclave, with this Python's libraries."""
    shutil.copytree(service, target)
    manifest = target / ".oblivious" / "service.yaml"
    manifest.write_text(manifest.read_text().replace("workshop_asgi", "another_base"))
    script = target / ".oblivious" / "services" / "server" / "run"
    script.parent.mkdir(parents=True)
    command = f"{sys.executable} -m uvicorn app:app --host 0.0.0.0 --port 80 --log-level error"
    script.write_text(f"#!/bin/sh\ncd /code\nexec {command}\n")
    return target


@dataclass(frozen=True)
class Hosted:
    """An enclave that runs, as its one user sees it.

    `parent` is the process of `workshop run`; `folder` holds `user_private.der`, `values.json` and `root.pem`.
    """

    url: str
    parent: int
    folder: Path

    def transport(self) -> AttestedTransport:
        return AttestedTransport(self.url, self.key, self.policy)

    @cached_property
    def key(self) -> UserKey:
        return UserKey.load(self.folder / "user_private.der")

    @cached_property
    def policy(self) -> Policy:
        root = x509.load_pem_x509_certificate((self.folder / "root.pem").read_bytes())
        anchor = TrustAnchor.from_certificate(root.public_bytes(Encoding.DER))
        values = ReferenceValues.from_file(self.folder / "values.json")
        return Policy(reference_values=values, trust_anchor=anchor)

    def client(self) -> httpx.Client:
        return httpx.Client(transport=self.transport(), base_url="http://enclave")


@contextmanager
def hosted(*, apart: bool = False) -> Iterator[Hosted]:
    """The service in an enclave; `apart`, in a process of its own there.

    Raises:
        ProgramError: it does not start; `apart` needs namespaces.
    """
    with tempfile.TemporaryDirectory(prefix="workshop-bench-") as directory:
        folder = Path(directory)
        service = by_itself(SERVICE, folder / "service") if apart else SERVICE
        user = UserKey.generate()
        user.save(folder, "user")
        image = build_enclave(service, users=Users((User("Alice", "querier", user.public_bytes),))).image
        (folder / "image.eif").write_bytes(image.encode())
        (folder / "values.json").write_text(ReferenceValues(image.measurements()).to_json())
        with program(*KIT, "run", folder / "image.eif", "--root-file", folder / "root.pem") as parent:
            yield Hosted(parent.await_line("listening on "), parent.pid, folder)


@contextmanager
def client_proxy(enclave: Hosted) -> Iterator[tuple[str, Program]]:
    """The user's client proxy before it: its address and its process."""
    folder = enclave.folder
    files = ["--private-key", folder / "user_private.der", "--reference-values", folder / "values.json"]
    files += ["--root", folder / "root.pem"]
    with program(*KIT, "connect", "--url", enclave.url, *files, "--lport", "0") as proxy:
        yield proxy.await_line("listening on "), proxy
