"""The infrastructure's authorities: certificates are written by a process that ends, and keys stay where they are."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from cryptography import x509

from workshop_kit.errors import LabError
from workshop_kit.evidence import nsm_api
from workshop_kit.simulator.nsm import Nsm
from workshop_kit.simulator.shared_pki import SharedPki

NOW = datetime.now(UTC)
MODULES = [f"i-simulated0123abcd-enc{number:016x}" for number in range(8)]


def test_a_chain_leads_to_the_root_and_is_used_again() -> None:
    shared = SharedPki(now=NOW)
    signer = shared.signer(MODULES[0], now=NOW)
    certificates = [x509.load_der_x509_certificate(der) for der in (*signer.cabundle, signer.certificate)]
    for issuer, certificate in pairwise(certificates):
        certificate.verify_directly_issued_by(issuer)
    assert certificates[-1].public_key() == signer.key.public_key()
    assert shared.root == signer.cabundle[0]
    assert shared.signer(MODULES[0], now=NOW + timedelta(hours=1)) is signer
    assert shared.signer(MODULES[0], now=NOW + timedelta(hours=3)).certificate != signer.certificate


def test_however_many_ask_at_once_there_is_one_infrastructure() -> None:
    shared, signers = SharedPki(now=NOW), {}

    def ask(module_id: str) -> None:
        signers[module_id] = shared.signer(module_id, now=NOW)

    threads = [threading.Thread(target=ask, args=(each,)) for each in MODULES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {signer.cabundle for signer in signers.values()} == {signers[MODULES[0]].cabundle}
    assert len({signer.certificate for signer in signers.values()}) == len(MODULES)


def test_the_process_that_writes_is_told_nothing_by_argument_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those can be read by others; its pipes cannot."""
    seen: list[tuple[list[str], dict[str, Any]]] = []
    run = subprocess.run

    def watched(command: list[str], **more: Any) -> Any:
        seen.append((command, more))
        return run(command, **more)

    monkeypatch.setattr(subprocess, "run", watched)
    shared = SharedPki(now=NOW)
    key = shared.signer(MODULES[0], now=NOW).key.private_numbers().private_value
    shared.signer(MODULES[1], now=NOW)
    for command, more in seen:
        assert command == [sys.executable, "-I", "-m", "workshop_kit.simulator.shared_pki"]
        assert more.keys() == {"input", "stdout", "text", "check"}
    assert str(key) in seen[1][1]["input"]


def test_where_none_can_be_written_an_enclave_is_told_of_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    shared = SharedPki(now=NOW)
    with pytest.raises(LabError, match="expected certificates, got none"):
        shared.signer(MODULES[0], now=NOW)
    nsm = Nsm(shared, instance_id="i-simulated0", measurements={}, now=NOW, random=bytes)
    nsm.prepare(NOW)
    answer = nsm.handle(nsm_api.encode_request("Attestation"), now=NOW)
    assert answer == nsm_api.encode_error("InternalError")
