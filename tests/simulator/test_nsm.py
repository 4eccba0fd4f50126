"""The simulated NSM: its PCRs, its codes, and documents in the form of genuine ones."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from attested import INSTANCE, MEASUREMENTS, NOW, World
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_kit.errors import NsmError
from workshop_kit.evidence import cbor, cose, nsm_api, pcr
from workshop_kit.evidence.document import MAX_OPTIONAL


def code(world: World, name: str, **fields: object) -> str:
    """The code with which the NSM refuses."""
    with pytest.raises(NsmError) as caught:
        world.ask(name, **fields)
    return caught.value.code


# --- description -----------------------------------------------------------------------------------------------------


def test_the_module_describes_itself(world: World) -> None:
    described = world.ask("DescribeNSM")
    assert list(described) == [
        "version_major",
        "version_minor",
        "version_patch",
        "module_id",
        "max_pcrs",
        "locked_pcrs",
        "digest",
    ]
    assert described["module_id"] == world.nsm.module_id
    assert described["max_pcrs"] == 32
    assert described["locked_pcrs"] == list(range(16))
    assert described["digest"] == "SHA384"


def test_a_module_id_has_the_form_of_a_genuine_one(world: World) -> None:
    """The instance's id, then 48 bits of milliseconds at the start and 16 bits of chance."""
    instance, _, own = world.nsm.module_id.rpartition("-enc")
    assert instance == INSTANCE
    assert len(own) == 16
    assert int(own[:12], 16) == int(NOW.timestamp() * 1000)
    assert World(seed=2).nsm.module_id != world.nsm.module_id


def test_the_image_is_measured_and_pcr4_is_the_instances(world: World) -> None:
    values = {index: world.ask("DescribePCR", index=index)["data"] for index in range(32)}
    assert {index: values[index] for index in MEASUREMENTS} == MEASUREMENTS
    assert values[4] == pcr.measure_name(INSTANCE)
    assert {value for index, value in values.items() if index not in (0, 1, 2, 4)} == {pcr.ZERO}


def test_pcrs_0_to_15_are_locked_from_the_beginning(world: World) -> None:
    locked = [index for index in range(32) if world.ask("DescribePCR", index=index)["lock"]]
    assert locked == list(range(16))


def test_random_bytes_come_256_at_a_time_and_never_twice(world: World) -> None:
    one, two = (world.ask("GetRandom")["random"] for _ in range(2))
    assert len(one) == len(two) == 256
    assert one != two


# --- extend and lock -------------------------------------------------------------------------------------------------


def test_extending_is_a_digest_of_old_value_and_data(world: World) -> None:
    assert world.ask("ExtendPCR", index=16, data=b"a") == {"data": pcr.extend(pcr.ZERO, b"a")}
    once = world.ask("ExtendPCR", index=16, data=b"")["data"]
    assert once == pcr.extend(pcr.extend(pcr.ZERO, b"a"), b"")
    assert world.ask("DescribePCR", index=16) == {"lock": False, "data": once}
    assert world.ask("DescribePCR", index=17)["data"] == pcr.ZERO


def test_a_locked_pcr_can_be_read_and_no_longer_be_changed(world: World) -> None:
    value = world.ask("ExtendPCR", index=20, data=b"a")["data"]
    assert world.ask("LockPCR", index=20) == {}
    assert code(world, "ExtendPCR", index=20, data=b"b") == "ReadOnlyIndex"
    assert code(world, "LockPCR", index=20) == "ReadOnlyIndex"
    assert world.ask("DescribePCR", index=20) == {"lock": True, "data": value}


@pytest.mark.parametrize("index", [0, 4, 15])
def test_no_enclave_changes_its_own_measurement(world: World, index: int) -> None:
    before = world.ask("DescribePCR", index=index)
    assert code(world, "ExtendPCR", index=index, data=b"a") == "ReadOnlyIndex"
    assert code(world, "LockPCR", index=index) == "ReadOnlyIndex"
    assert world.ask("DescribePCR", index=index) == before


def test_locking_a_range_locks_all_below_its_end_and_none_above(world: World) -> None:
    world.ask("LockPCRs", range=20)
    assert world.ask("DescribeNSM")["locked_pcrs"] == list(range(20))
    world.ask("LockPCRs", range=0)
    world.ask("LockPCRs", range=18)
    assert world.ask("DescribeNSM")["locked_pcrs"] == list(range(20)), "nothing is unlocked again"
    world.ask("LockPCRs", range=32)
    assert world.ask("DescribeNSM")["locked_pcrs"] == list(range(32))


# --- codes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [32, 300, 2**16 - 1])
def test_an_index_that_does_not_exist_is_an_invalid_index(world: World, index: int) -> None:
    assert code(world, "DescribePCR", index=index) == "InvalidIndex"
    assert code(world, "ExtendPCR", index=index, data=b"") == "InvalidIndex"
    assert code(world, "LockPCR", index=index) == "InvalidIndex"


@pytest.mark.parametrize("index", [-1, 2**16, 2**64 - 1])
def test_an_index_beyond_16_bits_is_no_request_at_all(world: World, index: int) -> None:
    assert code(world, "DescribePCR", index=index) == "InvalidOperation"
    assert code(world, "LockPCRs", range=index) == "InvalidOperation"


@pytest.mark.parametrize("end", [33, 2**16 - 1])
def test_a_range_beyond_the_bank_is_an_invalid_index_and_locks_nothing(world: World, end: int) -> None:
    assert code(world, "LockPCRs", range=end) == "InvalidIndex"
    assert world.ask("DescribeNSM")["locked_pcrs"] == list(range(16))


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (b"", "InvalidOperation"),
        (b"\xff", "InvalidOperation"),
        (cbor.encode("Reboot"), "InvalidOperation"),
        (cbor.encode({"SetPCR": {"index": 0, "data": bytes(48)}}), "InvalidOperation"),
        (cbor.encode({"ExtendPCR": {"index": 16}}), "InvalidOperation"),
        (cbor.encode({"ExtendPCR": {"index": 16, "data": "text"}}), "InvalidOperation"),
        (cbor.encode({"Attestation": {"nonce": 1}}), "InvalidOperation"),
        (cbor.encode({"Attestation": {"timestamp": b""}}), "InvalidOperation"),
        (cbor.encode({"ExtendPCR": {"index": 16, "data": bytes(4096)}}), "InputTooLarge"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:24].hex(),
)
def test_a_bad_request_comes_back_as_its_code(world: World, request_: bytes, wanted: str) -> None:
    assert world.nsm.handle(request_, now=NOW) == nsm_api.encode_error(wanted)


@pytest.mark.parametrize("field", ["user_data", "nonce", "public_key"])
def test_a_field_of_more_than_1024_bytes_is_too_large(world: World, field: str) -> None:
    assert code(world, "Attestation", **{field: bytes(MAX_OPTIONAL + 1)}) == "InputTooLarge"
    assert len(getattr(world.document(**{field: bytes(MAX_OPTIONAL)}), field)) == MAX_OPTIONAL


names = st.sampled_from(["Attestation", "DescribePCR", "ExtendPCR", "LockPCR", "LockPCRs", "GetRandom", "DescribeNSM"])
fields = st.sampled_from(["index", "data", "range", "nonce", "user_data", "public_key", "now", "self"])
values = st.none() | st.booleans() | st.integers(-5, 70) | st.integers() | st.binary(max_size=50) | st.text(max_size=5)


@given(st.binary(max_size=100) | st.tuples(names, st.dictionaries(fields, values, max_size=3)))
@settings(max_examples=200, deadline=None)
def test_no_request_raises_anything(request_: bytes | tuple[str, dict[str, Any]]) -> None:
    """The answer is the API's, to the question asked or with one of its codes; no field reaches another argument."""
    data = request_ if isinstance(request_, bytes) else cbor2.dumps({request_[0]: request_[1]})
    answer = cbor.decode(SHARED.nsm.handle(data, now=NOW))
    name = answer if isinstance(answer, str) else next(iter(answer))  # type: ignore[arg-type,call-overload]
    if name == "Error":
        assert answer["Error"] in nsm_api.ERROR_CODES  # type: ignore[index,call-overload]
    elif isinstance(request_, tuple):
        assert name == request_[0]


SHARED = World()


# --- documents -------------------------------------------------------------------------------------------------------


def test_a_document_says_what_it_was_asked_to_say(world: World) -> None:
    document = world.document(user_data=b"u", nonce=b"n", public_key=b"k")
    assert (document.user_data, document.nonce, document.public_key) == (b"u", b"n", b"k")
    assert document.module_id == world.nsm.module_id
    assert document.time == NOW
    bare = world.document()
    assert (bare.user_data, bare.nonce, bare.public_key) == (None, None, None)
    assert world.document(nonce=b"").nonce == b""


def test_a_document_shows_locked_pcrs_and_no_others(world: World) -> None:
    assert list(world.document().pcrs) == list(range(16))
    value = world.ask("ExtendPCR", index=16, data=b"users")["data"]
    assert 16 not in world.document().pcrs, "what can still change is not attested"
    world.ask("LockPCR", index=16)
    assert world.document().pcrs[16] == value
    assert list(world.document().pcrs) == list(range(17))
    world.ask("LockPCRs", range=32)
    assert list(world.document().pcrs) == list(range(32))
    assert world.appraise(world.attest()).affirmed


def test_a_document_has_the_form_of_a_genuine_one(world: World) -> None:
    """Byte by byte what is the same in every genuine document since July 2025 (attestation process, 3.1 and 3.2)."""
    evidence = world.attest()
    assert evidence[:7].hex() == "8444a1013822a0"
    assert evidence[7] == 0x59, "the payload's length in two bytes"
    assert int.from_bytes(evidence[8:10], "big") == len(evidence) - 10 - 98
    assert evidence[-98:-96].hex() == "5860", "a signature of 96 bytes"
    payload = cose.read_sign1(evidence).payload
    document = world.document()
    parts = [
        b"\xbf\x69module_id\x78\x27" + world.nsm.module_id.encode(),
        b"\x66digest\x66SHA384",
        b"\x69timestamp\x1b" + document.timestamp.to_bytes(8, "big"),
        b"\x64pcrs\xb0" + b"".join(bytes([index]) + b"\x58\x30" + document.pcrs[index] for index in range(16)),
        b"\x6bcertificate\x59" + _sized(document.certificate),
        b"\x68cabundle\x84" + b"".join(b"\x59" + _sized(der) for der in document.cabundle),
        b"\x6apublic_key\xf6\x69user_data\xf6\x65nonce\xf6\xff",
    ]
    assert payload == b"".join(parts)


def _sized(der: bytes) -> bytes:
    return len(der).to_bytes(2, "big") + der


def test_the_longest_document_fits_the_devices_buffer(world: World) -> None:
    world.ask("LockPCRs", range=32)
    fields = dict.fromkeys(("user_data", "nonce", "public_key"), bytes(MAX_OPTIONAL))
    response = world.nsm.handle(nsm_api.encode_request("Attestation", **fields), now=NOW)
    assert len(response) <= nsm_api.MAX_RESPONSE
    assert world.appraise(world.attest(**fields)).affirmed


def test_a_documents_time_is_in_whole_milliseconds_and_not_ahead(world: World) -> None:
    now = NOW.replace(microsecond=1999)
    assert world.document(now=now).time == NOW.replace(microsecond=1000)
    assert world.appraise(world.attest(now=now), now=now).affirmed
