"""The infrastructure's keys are in its own process: neither an enclave nor its parent instance can sign evidence."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from pair import user_key
from running import Running, running
from services import ASGI, make_service

from workshop_kit.channel.handshake import Hello, signed_part
from workshop_kit.edges import carrier
from workshop_kit.edges.client import AttestedTransport
from workshop_kit.errors import LabError, NsmError
from workshop_kit.evidence import cbor, cose, nsm_api
from workshop_kit.evidence.document import AttestationDocument, decode_unverified
from workshop_kit.simulator.pki import Pki
from workshop_kit.verifier import appraise

ROOT_OF_REPOSITORY = Path(__file__).resolve().parents[2]

# Keys are made in Rust and unknown to the garbage collector: only what refers to one is listed.
FIND_KEYS = '''
import gc, sys

PRIVATE = {"ECPrivateKey", "RSAPrivateKey", "Ed25519PrivateKey", "X25519PrivateKey", "Pki", "Certified", "Signer"}

def private_keys():
    """The classes of private keys among all objects that this process's Python knows."""
    names = set()
    for one in gc.get_objects():
        names.add(type(one).__name__)
        # CPython 3.12.1 never ends listing what _asyncio refers to. Modules' dicts are among the objects anyway.
        if not isinstance(one, type(sys)):
            names.update(type(each).__name__ for each in gc.get_referents(one))
    return sorted(names & PRIVATE)
'''

SNOOPING = (
    ASGI
    + FIND_KEYS
    + '''
KEPT = []
OWN = ("isolation", "inside", "container", "layout", "messages", "reading")

def modules():
    """Of the simulator, apart from what confines this very process and serves in it."""
    ours = [name.split(".")[2:] for name in sys.modules if name.startswith("workshop_kit.simulator.")]
    return sorted(name for name, *_ in ours if name not in OWN)

def open_files():
    """Paths behind this process's descriptors, pipes and sockets left out; none where there is no /proc."""
    found = []
    for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []:
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # the listing's own
    return [path for path in found if path.startswith("/")]

def nsm_device():
    return next(each for each in gc.get_objects() if type(each).__name__ == "SocketNsmDevice")

async def answer(scope, receive):
    if scope["path"] == "/keys":
        return as_json(private_keys())
    if scope["path"] == "/keys_with_one":
        from cryptography.hazmat.primitives.asymmetric import ec
        KEPT.append(ec.generate_private_key(ec.SECP384R1()))
        found = private_keys()
        KEPT.clear()
        return as_json(found)
    if scope["path"] == "/modules":
        return as_json(modules())
    if scope["path"] == "/environment":
        return as_json({"environment": dict(os.environ), "arguments": sys.argv[1:], "files": open_files()})
    response = await nsm_device().request(await body_of(receive))
    return 200, [], response
'''
)


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("snooping") / "service"
    with running(
        make_service(folder, SNOOPING, "/keys", "/keys_with_one", "/modules", "/environment", "/nsm")
    ) as started:
        yield started


# --- the enclave -----------------------------------------------------------------------------------------------------


def test_an_app_finds_no_private_key_in_its_process(enclave: Running) -> None:
    """After a handshake, so that whatever signs has signed; a key of the app's own shows that it would find one."""
    client = enclave.client()
    assert client.get("/keys").json() == []
    assert client.get("/keys_with_one").json() == ["ECPrivateKey"]
    assert client.get("/keys").json() == []


def test_no_module_that_can_sign_is_loaded_in_the_enclave(enclave: Running) -> None:
    assert enclave.client().get("/modules").json() == []


def test_an_enclave_is_given_no_secret_by_name_argument_or_open_file(enclave: Running) -> None:
    found = enclave.client().get("/environment").json()
    known = {"PATH", "LANG", "LC_CTYPE", "PYTHONDONTWRITEBYTECODE", "TMPDIR"}
    known |= {"WORKSHOP_RUNTIME_CONFIG", "WORKSHOP_EGRESS", "WORKSHOP_NSM"}
    assert set(found["environment"]) <= known
    level, *descriptors = found["arguments"]
    assert level == "namespaces"
    assert len(descriptors) == 5
    assert all(descriptor.isdigit() for descriptor in descriptors)
    assert set(found["files"]) <= {"/dev/null"}  # a descriptor that uvloop keeps in reserve


def ask(enclave: Running, request: bytes) -> bytes:
    return enclave.client().post("/nsm", content=request).content


def test_the_nsm_answers_the_api_and_nothing_else(enclave: Running) -> None:
    described = nsm_api.decode_response(ask(enclave, nsm_api.encode_request("DescribeNSM")), "DescribeNSM")
    assert described["digest"] == "SHA384"
    for request in ("root", "Sign", "run", {"operation": "root"}, {"Sign": {"data": b"x"}}, {"ExportKey": {}}):
        assert cbor.decode(ask(enclave, cbor.encode(request))) == {"Error": "InvalidOperation"}
    as_a_parent_asks = b'{"id": 1, "operation": "root", "arguments": {}}'
    assert cbor.decode(ask(enclave, as_a_parent_asks)) == {"Error": "InvalidOperation"}


def test_an_app_can_have_no_other_measurements_attested_than_its_own(enclave: Running) -> None:
    """It may choose user_data, nonce and public_key; PCR0 to 15 are locked before it runs."""
    for index in (0, 1, 2, 4, 15):
        answer = ask(enclave, nsm_api.encode_request("ExtendPCR", index=index, data=b"x"))
        with pytest.raises(NsmError, match="ReadOnlyIndex"):
            nsm_api.decode_response(answer, "ExtendPCR")
    answer = ask(enclave, nsm_api.encode_request("Attestation", user_data=b"chosen"))
    document = decode_unverified(nsm_api.decode_response(answer, "Attestation")["document"])
    assert {index: document.pcrs[index] for index in (0, 1, 2)} == dict(enclave.image.measurements())
    assert document.user_data == b"chosen"


# --- the parent ------------------------------------------------------------------------------------------------------

CALLER = (
    FIND_KEYS
    + """
import sys
from pathlib import Path
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import run_enclave

image = build_enclave(Path(sys.argv[1])).image
with run_enclave(image) as enclave:
    response = httpx.post(enclave.url + "/attested/hello", content=b"no hello")
    assert response.status_code == 400, response
    print(private_keys())
    print(sorted(name for name in sys.modules if name in ("workshop_kit.simulator.pki", "workshop_kit.simulator.nsm")))
    kept = [ec.generate_private_key(ec.SECP384R1())]
    print(private_keys())
"""
)


def test_a_parents_process_holds_no_private_key_and_loads_nothing_that_signs(enclave: Running, tmp_path: Path) -> None:
    """A process that has built and run an enclave and done nothing else: no user, so no key at all."""
    folder = make_service(tmp_path / "service", SNOOPING, "/keys")
    command = [sys.executable, "-c", CALLER, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT_OF_REPOSITORY)
    assert done.stdout.splitlines() == ["[]", "[]", "['ECPrivateKey']"], done.stderr
    del enclave


def reachable(*roots: object) -> Iterator[object]:
    """Everything to which references lead from `roots`, without modules, classes and functions: those lead anywhere."""
    seen: set[int] = set()
    queue: list[object] = list(roots)
    while queue:
        each = queue.pop()
        if id(each) in seen or isinstance(each, type | type(os) | type(reachable)):
            continue
        seen.add(id(each))
        yield each
        queue += gc.get_referents(each)


def test_no_private_key_can_be_reached_from_what_an_operator_holds(enclave: Running) -> None:
    enclave.client().get("/keys")
    kept = [ec.generate_private_key(ec.SECP384R1())]
    assert any(isinstance(each, ec.EllipticCurvePrivateKey) for each in reachable(kept))
    objects = list(reachable(enclave.enclave))
    assert any(each is enclave.enclave.parent for each in objects)
    assert any(each is enclave.enclave.infrastructure for each in objects)
    for each in objects:
        assert not isinstance(each, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | Pki), each


@pytest.mark.parametrize("operation", ["sign", "attest", "key", "__init__", "pki", "Attestation", ""])
def test_the_infrastructure_signs_nothing_for_a_parent(enclave: Running, operation: str) -> None:
    with pytest.raises(LabError, match="expected an operation of the hypervisor's"):
        enclave.enclave.infrastructure.ask(operation)


def test_what_the_infrastructure_tells_a_parent_holds_no_private_key(enclave: Running) -> None:
    """All that it answers, and all that it writes where the parent can read."""
    told = [enclave.enclave.infrastructure.root]
    told += [file.read_bytes() for file in enclave.enclave.infrastructure.directory.rglob("*") if file.is_file()]
    assert len(told) > 10
    for data in told:
        assert b"PRIVATE KEY" not in data or b"cryptography" in data  # sources may speak of one
        with pytest.raises((ValueError, TypeError)):
            load_der_private_key(data, None)


def documents(enclave: Running) -> list[AttestationDocument]:
    """A genuine document of the running enclave's, as its parent carries it."""
    key = user_key("Alice")
    nonce = bytes(32)
    hello = Hello(public_key=key.public_bytes, nonce=nonce, signature=key.sign(signed_part(key.public_bytes, nonce)))
    response = httpx.post(enclave.enclave.url + carrier.HELLO_PATH, content=hello.encode())
    assert response.status_code == 200
    return [decode_unverified(response.content)]


def forged(enclave: Running) -> dict[str, tuple[bytes, int]]:
    """What a parent can make with keys of its own, and the check that refuses it."""
    now = datetime.now(UTC)
    (genuine,) = documents(enclave)
    own = Pki(now=now, random=os.urandom)
    signer = own.signer(genuine.module_id, now=now)
    key = ec.generate_private_key(ec.SECP384R1())

    def sign(document: AttestationDocument, with_key: Any) -> bytes:
        return cose.sign1(document.encode(), with_key, cose.Algorithm.ES384)

    under_own = genuine._replace(certificate=signer.certificate, cabundle=signer.cabundle)
    mixed = genuine._replace(certificate=signer.certificate, cabundle=(genuine.cabundle[0], *signer.cabundle[1:]))
    behind = under_own._replace(cabundle=(*genuine.cabundle, *signer.cabundle[1:]))
    return {
        "under an infrastructure of its own": (sign(under_own, signer.key), 4),
        "under the genuine root and its own authorities": (sign(mixed, signer.key), 4),
        "under the genuine chain with its own behind it": (sign(behind, signer.key), 4),
        "under a fresh key, the genuine chain beside it": (sign(genuine, key), 5),
    }


def test_evidence_that_a_parent_signs_is_refused(enclave: Running) -> None:
    policy = enclave.policy.for_handshake(nonce=bytes(32), public_key=user_key("Alice").public_bytes)
    for name, (evidence, check) in forged(enclave).items():
        result = appraise(evidence, policy, now=datetime.now(UTC))
        assert not result.affirmed, name
        assert [each.number for each in result.failed] == [check], name


def test_the_genuine_document_is_affirmed(enclave: Running) -> None:
    """What the forgeries above start from: the refusals are for their keys and nothing else."""
    transport = AttestedTransport(enclave.enclave.url, user_key("Alice"), enclave.policy)
    assert transport.connect().affirmed
    transport.close()
