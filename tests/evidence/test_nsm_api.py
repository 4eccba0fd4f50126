"""The NSM API's bytes, against those that AWS's own api module wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vectors_location import Entry, cases, read, vectors

from workshop_kit.errors import NsmError
from workshop_kit.evidence import cbor, nsm_api

NOTHING = {"user_data": None, "nonce": None, "public_key": None}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "6b44657363726962654e534d": ("DescribeNSM", {}),
    "6947657452616e646f6d": ("GetRandom", {}),
    "a16b4465736372696265504352a165696e646578181f": ("DescribePCR", {"index": 31}),
    "a169457874656e64504352a265696e64657810646461746143616263": ("ExtendPCR", {"index": 16, "data": b"abc"}),
    "a1674c6f636b504352a165696e64657810": ("LockPCR", {"index": 16}),
    "a1684c6f636b50435273a16572616e676514": ("LockPCRs", {"range": 20}),
    "a16b4174746573746174696f6ea369757365725f64617461f6656e6f6e6365f66a7075626c69635f6b6579f6": (
        "Attestation",
        NOTHING,
    ),
    "a16b4174746573746174696f6ea369757365725f64617461f6656e6f6e6365406a7075626c69635f6b6579f6": (
        "Attestation",
        NOTHING | {"nonce": b""},
    ),
}
"""Written down here, so that the form is tested without the shared vectors too."""


VECTORS: list[Entry] = json.loads(read("nitro/nsm_api_vectors.json"))["vectors"] if vectors() else []

SHARED_REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "req.DescribePCR{index:0}": ("DescribePCR", {"index": 0}),
    "req.DescribePCR{index:31}": ("DescribePCR", {"index": 31}),
    "req.DescribePCR{index:300}": ("DescribePCR", {"index": 300}),
    "req.ExtendPCR{index:16,data:'abc'}": ("ExtendPCR", {"index": 16, "data": b"abc"}),
    "req.LockPCR{index:16}": ("LockPCR", {"index": 16}),
    "req.LockPCRs{range:20}": ("LockPCRs", {"range": 20}),
    "req.DescribeNSM": ("DescribeNSM", {}),
    "req.GetRandom": ("GetRandom", {}),
    "req.Attestation{none}": ("Attestation", NOTHING),
    "req.Attestation{user_data:'ud',nonce:'no',public_key:'pk'}": (
        "Attestation",
        {"user_data": b"ud", "nonce": b"no", "public_key": b"pk"},
    ),
    "req.Attestation{empty nonce}": ("Attestation", NOTHING | {"nonce": b""}),
}
SHARED_RESPONSES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "resp.DescribePCR{lock:true,data:48*00}": ("DescribePCR", {"lock": True, "data": bytes(48)}),
    "resp.ExtendPCR{data:48*11}": ("ExtendPCR", {"data": b"\x11" * 48}),
    "resp.LockPCR": ("LockPCR", None),
    "resp.LockPCRs": ("LockPCRs", None),
    "resp.DescribeNSM": (
        "DescribeNSM",
        {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": "i-1234-enc5678",
            "max_pcrs": 32,
            "locked_pcrs": list(range(16)),
            "digest": "SHA384",
        },
    ),
    "resp.Attestation{document:'doc'}": ("Attestation", {"document": b"doc"}),
    "resp.GetRandom{random:4 bytes}": ("GetRandom", {"random": b"\1\2\3\4"}),
}


def chosen(*begin: str) -> list[Any]:
    return cases([entry for entry in VECTORS if entry["name"].startswith(begin)], name="name")


@pytest.mark.parametrize("text", REQUESTS)
def test_a_request_is_written_and_read_byte_for_byte(text: str) -> None:
    name, fields = REQUESTS[text]
    assert nsm_api.encode_request(name, **fields).hex() == text
    assert nsm_api.decode_request(bytes.fromhex(text)) == (name, fields)


@pytest.mark.parametrize("entry", chosen("req."))
def test_a_request_of_the_official_module_is_ours(entry: Entry) -> None:
    name, fields = SHARED_REQUESTS[entry["name"]]
    data = bytes.fromhex(entry["cbor_hex"])
    assert nsm_api.encode_request(name, **fields) == data
    assert nsm_api.decode_request(data) == (name, fields)


@pytest.mark.parametrize("entry", chosen(*SHARED_RESPONSES))
def test_a_response_of_the_official_module_is_ours(entry: Entry) -> None:
    name, fields = SHARED_RESPONSES[entry["name"]]
    data = bytes.fromhex(entry["cbor_hex"])
    assert nsm_api.encode_response(name, fields) == data
    assert nsm_api.decode_response(data, name) == (fields or {})


@pytest.mark.parametrize("entry", chosen("resp.Error"))
def test_an_error_of_the_official_module_is_ours(entry: Entry) -> None:
    code = entry["name"].removeprefix("resp.Error(").removesuffix(")")
    assert code in nsm_api.ERROR_CODES
    data = bytes.fromhex(entry["cbor_hex"])
    assert nsm_api.encode_error(code) == data
    with pytest.raises(NsmError) as caught:
        nsm_api.decode_response(data, "LockPCR")
    assert caught.value.code == code


def test_every_shared_vector_is_used(shared_vectors: object) -> None:
    del shared_vectors
    used = {*SHARED_REQUESTS, *SHARED_RESPONSES} | {f"resp.Error({code})" for code in nsm_api.ERROR_CODES}
    assert {entry["name"] for entry in VECTORS} <= used


def test_an_error_is_written_by_its_name() -> None:
    assert nsm_api.encode_error("ReadOnlyIndex").hex() == "a1654572726f726d526561644f6e6c79496e646578"


REFUSED = {
    "nothing": ("", "InvalidOperation"),
    "no CBOR": ("ff", "InvalidOperation"),
    "a number": ("00", "InvalidOperation"),
    "an array": ("80", "InvalidOperation"),
    "an unknown name": (cbor.encode("Reboot").hex(), "InvalidOperation"),
    "an unknown name with fields": (cbor.encode({"Reboot": {}}).hex(), "InvalidOperation"),
    "a name in other letters": (cbor.encode("describensm").hex(), "InvalidOperation"),
    "two requests": ("6947657452616e646f6d" * 2, "InvalidOperation"),
    "two names": (cbor.encode({"GetRandom": {}, "DescribeNSM": {}}).hex(), "InvalidOperation"),
    "fields that are no map": (cbor.encode({"LockPCR": 16}).hex(), "InvalidOperation"),
    "no fields": (cbor.encode("LockPCR").hex(), "InvalidOperation"),
    "a field missing": (cbor.encode({"ExtendPCR": {"index": 16}}).hex(), "InvalidOperation"),
    "a field too many": (cbor.encode({"LockPCR": {"index": 16, "data": b""}}).hex(), "InvalidOperation"),
    "fields for a request that has none": (cbor.encode({"GetRandom": {"length": 8}}).hex(), "InvalidOperation"),
    "an index as text": (cbor.encode({"LockPCR": {"index": "16"}}).hex(), "InvalidOperation"),
    "an index that is true": (cbor.encode({"LockPCR": {"index": True}}).hex(), "InvalidOperation"),
    "an index that is null": (cbor.encode({"LockPCR": {"index": None}}).hex(), "InvalidOperation"),
    "data that are null": (cbor.encode({"ExtendPCR": {"index": 16, "data": None}}).hex(), "InvalidOperation"),
    "a nonce as text": (cbor.encode({"Attestation": {"nonce": "text"}}).hex(), "InvalidOperation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_has_its_code(name: str) -> None:
    text, code = REFUSED[name]
    with pytest.raises(NsmError) as caught:
        nsm_api.decode_request(bytes.fromhex(text))
    assert caught.value.code == code


def test_an_optional_field_may_be_left_out_as_serde_allows() -> None:
    assert nsm_api.decode_request(cbor.encode({"Attestation": {}})) == ("Attestation", NOTHING)
    assert nsm_api.decode_request(cbor.encode({"Attestation": {"nonce": b"n"}}))[1]["nonce"] == b"n"


def test_a_request_is_read_up_to_the_devices_limit() -> None:
    """4096 bytes; the driver answers EMSGSIZE beyond, which the API calls InputTooLarge."""
    overhead = len(nsm_api.encode_request("ExtendPCR", index=16, data=bytes(4000))) - 4000
    longest = nsm_api.encode_request("ExtendPCR", index=16, data=bytes(4096 - overhead))
    assert len(longest) == nsm_api.MAX_REQUEST == 4096
    assert nsm_api.decode_request(longest)[0] == "ExtendPCR"
    with pytest.raises(NsmError) as caught:
        nsm_api.decode_request(nsm_api.encode_request("ExtendPCR", index=16, data=bytes(4097 - overhead)))
    assert caught.value.code == "InputTooLarge"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        cbor.encode("LockPCRs"),
        cbor.encode(0),
        cbor.encode([]),
        cbor.encode({}),
        cbor.encode({"LockPCR": 0}),
        cbor.encode({"LockPCR": {}, "Error": "InvalidIndex"}),
        cbor.encode({"Error": "no code of the API\n"}),
        cbor.encode({"Error": {"code": 1}}),
        cbor.encode({"Error": None}),
    ],
)
def test_an_answer_to_another_question_is_invalid(data: bytes) -> None:
    with pytest.raises(NsmError) as caught:
        nsm_api.decode_response(data, "LockPCR")
    assert caught.value.code == "InvalidResponse"
