"""The infrastructure's authorities for several threads, with the code that writes certificates in a process that ends.

That code reads X.509, which costs as much memory as all that the infrastructure keeps, and is needed every few hours.
The process is given the register by standard input, and gives it back by standard output; nobody else reads either.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from typing import Any

from workshop_kit.errors import LabError
from workshop_kit.simulator.pki import Pki, Signer
from workshop_kit.simulator.register import Issued, Register


class SharedPki(Pki):
    """As `Pki`, and many may ask at a time."""

    def __init__(self, *, now: datetime) -> None:
        super().__init__(now=now, random=os.urandom)
        self._turn = threading.Lock()

    @property
    def root(self) -> bytes:
        with self._turn:
            return super().root

    def signer(self, module_id: str, *, now: datetime) -> Signer:
        with self._turn:
            return super().signer(module_id, now=now)

    def _renewed(self, names: tuple[str, ...], now: datetime) -> Register:
        asked = {
            "register": _as_json(self._register),
            "names": names,
            "begun": self._begun.timestamp(),
            "now": now.timestamp(),
        }
        command = [sys.executable, "-I", "-m", __name__]
        try:
            done = subprocess.run(command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=False)
        except OSError as error:
            raise LabError(f"expected certificates, got none ({error.strerror}): try again") from None
        if done.returncode:
            raise LabError(f"expected certificates, got none (code {done.returncode}): start the infrastructure again")
        return _from_json(json.loads(done.stdout))


def _as_json(register: Register) -> dict[str, Any]:
    return {
        name: {**each._asdict(), "certificate": each.certificate.hex(), "issuer": each.issuer.hex()}
        for name, each in register.items()
    }


def _from_json(values: dict[str, Any]) -> Register:
    return {
        name: Issued(**{**each, **{field: bytes.fromhex(each[field]) for field in ("certificate", "issuer")}})
        for name, each in values.items()
    }


def _renew() -> None:
    from workshop_kit.simulator import issuing  # in this process alone

    asked = json.load(sys.stdin)
    begun, now = (datetime.fromtimestamp(asked[each], UTC) for each in ("begun", "now"))
    register = issuing.renewed(_from_json(asked["register"]), asked["names"], begun=begun, now=now, random=os.urandom)
    json.dump(_as_json(register), sys.stdout)


if __name__ == "__main__":
    _renew()
