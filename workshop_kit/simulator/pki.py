"""A public key infrastructure of the shape of AWS Nitro's: root, regional, zonal, instance, leaf.

What it keeps are plain values (`register`), so that the code that writes certificates (`issuing`) need not stay in the
process that has the keys.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from workshop_kit.simulator.register import ROOT, Random, Register, chain_of, usable


class Signer(NamedTuple):
    """A leaf key with the certificates that lead to it: what an attestation document is signed with."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    cabundle: tuple[bytes, ...]


class Pki:
    """The infrastructure's authorities. Keys never leave the infrastructure.

    `random` makes every key and serial number, so a seeded one makes the same infrastructure again. One thread asks at
    a time.
    """

    def __init__(self, *, now: datetime, random: Random) -> None:
        self._begun = now
        self._random = random
        self._register: Register = {}
        self._signers: dict[str, Signer] = {}

    @property
    def root(self) -> bytes:
        """DER of the root certificate, the trust anchor for whatever this infrastructure signs."""
        if ROOT not in self._register:
            self._register = self._renewed((ROOT,), self._begun)
        return self._register[ROOT].certificate

    def signer(self, module_id: str, *, now: datetime) -> Signer:
        """A leaf for `module_id` that is valid at `now`, with its chain, root first."""
        names = chain_of(module_id)
        if not self._usable(names, now):
            self._register = self._renewed(names, now)
        *authorities, leaf = (self._register[name] for name in names)
        signer = self._signers.get(module_id)
        if signer is None or signer.certificate != leaf.certificate:
            cabundle = tuple(each.certificate for each in authorities)
            signer = self._signers[module_id] = Signer(leaf.private_key(), leaf.certificate, cabundle)
        return signer

    def _usable(self, names: tuple[str, ...], now: datetime) -> bool:
        issuer = None
        for name in names:
            if not usable(self._register, name, issuer, leaf=name == names[-1], now=now):
                return False
            issuer = self._register[name]
        return True

    def _renewed(self, names: tuple[str, ...], now: datetime) -> Register:
        """The register, with whatever `names` need at `now`."""
        from workshop_kit.simulator import issuing  # late, as it reads X.509

        return issuing.renewed(self._register, names, begun=self._begun, now=now, random=self._random)
