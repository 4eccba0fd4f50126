"""An image, run with users and a configuration that are not in it: what the enclave takes, measures and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pair import user_key
from processes import REPOSITORY
from running import Running
from services import ASGI, make_service

from workshop_kit.errors import AccessDeniedError, AppraisalError, LabError, ManifestError, NsmError
from workshop_kit.evidence import nsm_api, pcr
from workshop_kit.evidence.document import AttestationDocument
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.evidence.handed_in import runtime_measurement
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import Infrastructure, run_enclave
from workshop_kit.verifier import Policy, ReferenceValues, TrustAnchor, UnsafeDebugPolicy

APP = (
    ASGI
    + """
import asyncio, gc, pathlib
from workshop_kit.evidence import nsm_api

EXTEND = nsm_api.encode_request("ExtendPCR", index=16, data=b"of the app's own")

def ask(data):
    device = next(each for each in gc.get_objects() if type(each).__name__ == "SocketNsmDevice")
    return device.request(data)

AT_IMPORT = asyncio.run(ask(EXTEND))

async def answer(scope, receive):
    if scope["path"] == "/config":
        file = pathlib.Path(os.environ["WORKSHOP_RUNTIME_CONFIG"])
        return as_json({"text": file.read_text() if file.exists() else None, "folder": str(file.parent)})
    if scope["path"] == "/extend_at_import":
        return 200, [], AT_IMPORT
    return 200, [], await ask(await body_of(receive))
"""
)
EXTEND = nsm_api.encode_request("ExtendPCR", index=pcr.Pcr.USERS_AND_RUNTIME_CONFIG, data=b"x")
LOCK = nsm_api.encode_request("LockPCR", index=pcr.Pcr.USERS_AND_RUNTIME_CONFIG)


def users(*names: str) -> Users:
    return Users(tuple(User(name, "querier", user_key(name).public_bytes) for name in names))


ALICE = users("Alice")


@pytest.fixture(scope="module")
def infrastructure() -> Iterator[Infrastructure]:
    started = Infrastructure()
    yield started
    started.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> EnclaveImage:
    """An image without users."""
    folder = tmp_path_factory.mktemp("lifecycle") / "service"
    return build_enclave(make_service(folder, APP, "/config", "/extend_at_import", "/nsm")).image


@contextmanager
def launched(image: EnclaveImage, infrastructure: Infrastructure, **handed_in: Any) -> Iterator[Running]:
    with run_enclave(image, infrastructure=infrastructure, **handed_in) as enclave:
        running = Running(image, enclave)
        yield running
        running._open.close()


@pytest.fixture(scope="module")
def alices(image: EnclaveImage, infrastructure: Infrastructure) -> Iterator[Running]:
    """The image for Alice alone, with a configuration."""
    with launched(image, infrastructure, users=ALICE, runtime_config=b"greeting: hi\n") as started:
        yield started


def pinned(running: Running, value: bytes) -> Policy:
    """What a careful user demands, and PCR16 with it."""
    values = ReferenceValues(running.image.measurements() | {pcr.Pcr.USERS_AND_RUNTIME_CONFIG: value})
    return running.policy._replace(reference_values=values)


def document_of(running: Running) -> AttestationDocument:
    results: list[Any] = []
    running.client(on_result=results.append).get("/config")
    evidence: AttestationDocument = results[0].claims.document
    return evidence


def refusals(running: Running, **policy: Policy) -> list[object]:
    with pytest.raises(AppraisalError) as caught:
        running.client(**policy).get("/config")
    return [check.number for check in caught.value.result.failed]


# --- users and configuration -----------------------------------------------------------------------------------------


def test_users_at_run_time_are_let_in_and_the_image_stays_the_same(
    image: EnclaveImage, infrastructure: Infrastructure, alices: Running
) -> None:
    """One image, approved once, for Alice and for Bob."""
    with launched(image, infrastructure, users=users("Bob")) as bobs:
        assert bobs.client("Bob").get("/config").status_code == 200
        assert alices.client("Alice").get("/config").status_code == 200
        for running, stranger in ((bobs, "Alice"), (alices, "Bob")):
            with pytest.raises(AccessDeniedError, match="not let in: 401"):
                running.client(stranger).get("/config")


def test_an_app_finds_the_configuration_byte_for_byte_in_its_enclaves_folder(alices: Running) -> None:
    found = alices.client().get("/config").json()
    assert found["text"] == "greeting: hi\n"
    assert Path(found["folder"]).is_relative_to(alices.enclave.infrastructure.directory)


def test_without_a_configuration_an_app_finds_none(image: EnclaveImage, infrastructure: Infrastructure) -> None:
    """And not the one that a machine may have at the path that the demonstration service has by default."""
    with launched(image, infrastructure, users=ALICE) as running:
        found = running.client().get("/config").json()
        assert found["text"] is None
        assert Path(found["folder"]).is_relative_to(infrastructure.directory)


def test_a_configuration_as_large_as_is_read_arrives(image: EnclaveImage, infrastructure: Infrastructure) -> None:
    config = b"key: " + b"x" * 64_000 + b"\n"
    with launched(image, infrastructure, users=ALICE, runtime_config=config) as running:
        assert running.client().get("/config").json()["text"] == config.decode()
        assert running.enclave.pcr16 == runtime_measurement(ALICE.to_yaml().encode(), config)


def test_the_demonstration_shows_its_settings(infrastructure: Infrastructure) -> None:
    image = build_enclave(REPOSITORY / "data/services/millionaires").image
    with launched(image, infrastructure, users=ALICE, runtime_config=b"currency: EUR\nrounds: '3'\n") as running:
        assert running.client().get("/settings").json() == {"currency": "EUR", "rounds": "3"}


# --- PCR16 -----------------------------------------------------------------------------------------------------------


def test_the_document_carries_the_digest_of_what_was_handed_in(alices: Running) -> None:
    value = document_of(alices).pcrs[16]
    assert value == alices.enclave.pcr16 == runtime_measurement(ALICE.to_yaml().encode(), b"greeting: hi\n")
    assert alices.client(policy=pinned(alices, value)).get("/config").status_code == 200


def test_a_client_that_demands_pcr16_refuses_an_added_user_and_another_configuration(
    image: EnclaveImage, infrastructure: Infrastructure, alices: Running
) -> None:
    """Mallory is let in by an operator, and no other PCR moves: who does not demand it does not see it."""
    wanted = alices.enclave.pcr16
    for more in ({"users": users("Alice", "Mallory")}, {"runtime_config": b"greeting: ho\n"}):
        handed_in = {"users": ALICE, "runtime_config": b"greeting: hi\n"} | more
        with launched(image, infrastructure, **handed_in) as other:
            assert refusals(other, policy=pinned(other, wanted)) == [9]
            assert other.client().get("/config").status_code == 200


def test_nothing_handed_in_can_be_demanded_as_well(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """Of an image with its own users, with a configuration and without."""
    own = build_enclave(make_service(tmp_path / "own", APP, "/config"), users=ALICE).image
    with launched(own, infrastructure) as running:
        assert running.client(policy=pinned(running, runtime_measurement())).get("/config").status_code == 200
    with launched(own, infrastructure, runtime_config=b"greeting: hi\n") as running:
        assert refusals(running, policy=pinned(running, runtime_measurement())) == [9]


@pytest.mark.parametrize(("name", "request_"), [("ExtendPCR", EXTEND), ("LockPCR", LOCK)])
def test_an_app_that_serves_cannot_change_pcr16(alices: Running, name: str, request_: bytes) -> None:
    before = document_of(alices).pcrs[16]
    with pytest.raises(NsmError, match="ReadOnlyIndex"):
        nsm_api.decode_response(alices.client().post("/nsm", content=request_).content, name)
    assert document_of(alices).pcrs[16] == before


def test_an_app_cannot_change_pcr16_while_it_is_loaded(alices: Running) -> None:
    with pytest.raises(NsmError, match="ReadOnlyIndex"):
        nsm_api.decode_response(alices.client().get("/extend_at_import").content, "ExtendPCR")


def test_debug_mode_hides_the_image_and_not_what_was_handed_in(
    image: EnclaveImage, infrastructure: Infrastructure
) -> None:
    with launched(image, infrastructure, users=ALICE, debug_mode=True) as running:
        assert refusals(running) == [8, 9]
        zeros = dict.fromkeys((0, 1, 2), pcr.ZERO) | {16: running.enclave.pcr16}
        learner = UnsafeDebugPolicy(
            reference_values=ReferenceValues(zeros), trust_anchor=TrustAnchor.from_certificate(running.enclave.root)
        )
        assert running.client(policy=learner).get("/config").status_code == 200


# --- what an enclave refuses -----------------------------------------------------------------------------------------

ENTRY = ALICE.to_yaml().encode()
WRONG: dict[str, tuple[dict[str, bytes], str]] = {
    "users that are no mapping": ({"users": b"- Alice\n"}, r"users\.yaml: expected keys with values, got a list"),
    "users of an unknown role": (
        {"users": ENTRY.replace(b"querier", b"king")},
        r"users\.yaml:3: users\[0\]\.role: expected a role of the manifest",
    ),
    "users that are no text": ({"users": b"users:\n  \xff"}, r"users\.yaml:2: expected text in UTF-8"),
    "an empty users' file": ({"users": b""}, r"users\.yaml: expected keys with values, got nothing"),
    "a configuration that is a list": (
        {"runtime_config": b"- 1\n"},
        r"runtime\.yaml: expected keys with values, got a list",
    ),
    "a configuration with a key twice": (
        {"runtime_config": b"a: 1\nb: 2\na: 3\n"},
        r"runtime\.yaml:3: a: expected the key once",
    ),
    "a configuration that is no YAML": ({"runtime_config": b"a: [\n"}, r"runtime\.yaml:\d: expected valid YAML"),
    "a configuration with a tag": (
        {"runtime_config": b"a: !!python/name:os.system\n"},
        r"runtime\.yaml:1: expected plain values",
    ),
    "a configuration that is no text": ({"runtime_config": b"a: 1\n\xff"}, r"runtime\.yaml:2: expected text in UTF-8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_enclave_refuses_in_one_line_and_leaves_nothing(
    image: EnclaveImage, infrastructure: Infrastructure, name: str
) -> None:
    """Whatever its operator's tools let through: it is the enclave that decides."""
    handed_in, words = WRONG[name]
    before = infrastructure.ask("describe"), sorted(infrastructure.directory.iterdir())
    with pytest.raises(LabError, match=f"the enclave does not start: {words}") as caught:
        run_enclave(image, infrastructure=infrastructure, **handed_in)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1
    assert (infrastructure.ask("describe"), sorted(infrastructure.directory.iterdir())) == before


def test_an_image_with_users_refuses_others_at_run_time(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """Else who approved the image, users included, would be let in beside Mallory."""
    own = build_enclave(make_service(tmp_path / "own", APP, "/config"), users=ALICE).image
    for others in (users("Mallory"), ALICE):
        with pytest.raises(LabError, match="expected no users at run time, since this image has its own") as caught:
            run_enclave(own, users=others, infrastructure=infrastructure)
        assert len(str(caught.value).splitlines()) == 1


def test_more_than_an_enclave_reads_is_refused_before_anything_starts(image: EnclaveImage) -> None:
    with pytest.raises(ManifestError, match="at most 65536 bytes together"):
        run_enclave(image, runtime_config=b"x" * 65_536)
