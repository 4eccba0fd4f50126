"""A lab: one service, its users with fresh keys, an enclave that runs it, and whatever must end when the lab ends.

lab = Lab("millionaires")
alice = lab.connect("Alice")
alice.get("/compare").json()
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

from workshop_kit import shipped
from workshop_kit.edges.client import AttestedTransport
from workshop_kit.edges.user_key import UserKey
from workshop_kit.errors import AppraisalError, LabError
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.service.access import User, Users
from workshop_kit.service.manifest import MANIFEST_PATH, parse_manifest
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Enclave, Infrastructure, run_enclave
from workshop_kit.simulator.isolation.levels import Level
from workshop_kit.verifier import AnyPolicy, AppraisalResult, Policy, ReferenceValues, TrustAnchor

if TYPE_CHECKING:
    from workshop_kit.simulator.misbehaving import Attack

UNISOLATED = "WORKSHOP_UNISOLATED"
"""The variable that says that labs do without isolation."""


class Lab:
    """Everything that a page needs of the world, in a folder of its own.

    Args:
        service: a folder of data/services.
        users: their names; each gets the manifest's first role and a fresh key.
        unisolated: run enclaves whose app nothing keeps from this machine, on one that offers nothing for it. Default:
            whether `workshop lab --unisolated` opened this page.

    Whatever an enclave of this lab gets of isolation less than all, the lab says, in plain words, as it starts.

    Attributes:
        folder: a copy of the service folder, to read and to edit.
        keys: each user's key.
        image: what the build made, the users' public keys included.
        reference_values: the build's own, as each user would compute them.
        isolation: the level that enclaves get at most; `enclave.isolation` says what one has got.
    """

    def __init__(
        self,
        service: str = "millionaires",
        users: tuple[str, ...] = ("Alice", "Bob"),
        *,
        unisolated: bool | None = None,
    ) -> None:
        source = shipped.folder("data") / "services" / service
        if not source.is_dir():
            known = ", ".join(sorted(each.name for each in source.parent.iterdir() if each.is_dir()))
            raise LabError(f"expected one of the services {known}, got {service!r}")
        self._directory = tempfile.TemporaryDirectory(prefix="enclave-workshop-lab-")
        self.folder = Path(self._directory.name) / service
        shutil.copytree(source, self.folder)
        self.keys = {name: UserKey.generate() for name in users}
        asked = UNISOLATED in os.environ if unisolated is None else unisolated
        self.isolation = Level.NONE if asked else Level.NAMESPACES
        self.results: list[AppraisalResult] = []
        self._enclaves: list[Enclave] = []
        self._clients: list[httpx.Client] = []

    @cached_property
    def users(self) -> Users:
        """Names, roles and public keys, as they go into the image."""
        manifest = parse_manifest((self.folder / MANIFEST_PATH).read_text())
        role = manifest.roles[0].role_name
        users = Users(tuple(User(name, role, key.public_bytes) for name, key in self.keys.items()))
        return Users.from_yaml(users.to_yaml(), manifest, file="the lab's users")

    @cached_property
    def infrastructure(self) -> Infrastructure:
        """The simulated hardware with its keys, in a process of its own, started when it is first needed."""
        infrastructure = Infrastructure()
        weakref.finalize(self, infrastructure.close)
        return infrastructure

    def build(self) -> EnclaveImage:
        """Build the service folder as it is now, with the users' public keys."""
        return build_enclave(self.folder, users=self.users).image

    @cached_property
    def image(self) -> EnclaveImage:
        return self.build()

    @cached_property
    def reference_values(self) -> ReferenceValues:
        return ReferenceValues(self.image.measurements())

    def run(self, image: EnclaveImage, *, debug_mode: bool = False, misbehave: Attack | None = None) -> Enclave:
        """Start an image beside the lab's own; its parent instance is honest, unless it is to `misbehave`."""
        enclave = run_enclave(
            image,
            debug_mode=debug_mode,
            infrastructure=self.infrastructure,
            isolation=self.isolation,
            misbehave=misbehave,
        )
        self._enclaves.append(enclave)
        if enclave.isolation.level is not Level.NAMESPACES:
            print(enclave.isolation, file=sys.stderr)
        return enclave

    @cached_property
    def enclave(self) -> Enclave:
        """The lab's own image, running."""
        return self.run(self.image)

    @property
    def trust_anchor(self) -> TrustAnchor:
        """The simulator's root: the caller names it, evidence never does."""
        return TrustAnchor.from_certificate(self.infrastructure.root)

    @property
    def policy(self) -> Policy:
        """What a careful user demands: this image, under this root, now, and not in debug mode."""
        return Policy(reference_values=self.reference_values, trust_anchor=self.trust_anchor)

    def connect(self, name: str, enclave: Enclave | None = None, policy: AnyPolicy | None = None) -> httpx.Client:
        """An httpx client of one user's, whose other end is an enclave that the policy has affirmed.

        Raises:
            AppraisalError: the enclave's evidence is refused.
            AccessDeniedError: the enclave does not know this user.
        """
        if name not in self.keys:
            raise LabError(f"expected one of {', '.join(self.keys)}, got {name!r}")
        where = enclave or self.enclave
        transport = AttestedTransport(where.url, self.keys[name], policy or self.policy, on_result=self.results.append)
        transport.connect()
        client = httpx.Client(transport=transport, base_url="http://enclave")
        self._clients.append(client)
        return client

    def attempt(self, name: str, enclave: Enclave | None = None, policy: AnyPolicy | None = None) -> AppraisalResult:
        """Connect and hang up: the ledger of the appraisal, whether it affirms or refuses."""
        try:
            self.connect(name, enclave, policy).close()
        except AppraisalError as error:
            self.results.append(error.result)
        return self.results[-1]

    def close(self) -> None:
        """End every process, and remove the lab's folder."""
        for client in self._clients:
            client.close()
        for enclave in self._enclaves:
            enclave.terminate()
        if "infrastructure" in self.__dict__:
            self.infrastructure.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
