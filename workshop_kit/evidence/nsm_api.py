"""The NSM API: what an enclave asks its Nitro Security Module and what comes back, byte for byte.

The encoding is serde's externally tagged enum in CBOR: a request or response without fields is its name as text, one
with fields a map of one entry (aws-nitro-enclaves-nsm-api, src/api/mod.rs). This file knows no device and no socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from workshop_kit.errors import MalformedEvidenceError, NsmError
from workshop_kit.evidence import cbor

MAX_REQUEST = 0x1000
"""Bytes of a request that the device takes (Linux nsm driver, NSM_REQUEST_MAX_SIZE)."""

MAX_RESPONSE = 0x3000
"""Bytes of the buffer that the device fills (Linux nsm driver, NSM_RESPONSE_MAX_SIZE)."""

ERROR_CODES = (
    "Success",
    "InvalidArgument",
    "InvalidIndex",
    "InvalidResponse",
    "ReadOnlyIndex",
    "InvalidOperation",
    "BufferTooSmall",
    "InputTooLarge",
    "InternalError",
)

Fields: TypeAlias = dict[str, Any]

_OPTIONAL_BYTES = (bytes, type(None))
_REQUESTS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "Attestation": {"user_data": _OPTIONAL_BYTES, "nonce": _OPTIONAL_BYTES, "public_key": _OPTIONAL_BYTES},
    "DescribeNSM": {},
    "DescribePCR": {"index": (int,)},
    "ExtendPCR": {"index": (int,), "data": (bytes,)},
    "GetRandom": {},
    "LockPCR": {"index": (int,)},
    "LockPCRs": {"range": (int,)},
}


def encode_request(name: str, **fields: object) -> bytes:
    """A request, e.g. `encode_request("ExtendPCR", index=16, data=b"...")`; fields in the API's order."""
    return cbor.encode({name: {field: fields.get(field) for field in _REQUESTS[name]}} if _REQUESTS[name] else name)


def decode_request(data: bytes) -> tuple[str, Fields]:
    """The name and the fields of a request.

    Raises:
        NsmError: with the code that the device answers: InputTooLarge, or InvalidOperation where the bytes are none
            of the API's requests, fields and 16-bit numbers included, as serde and QEMU's emulator take them.
    """
    if len(data) > MAX_REQUEST:
        raise NsmError("InputTooLarge")
    try:
        name, fields = _named(_item(data))
    except MalformedEvidenceError:
        raise NsmError("InvalidOperation") from None
    if name not in _REQUESTS:
        raise NsmError("InvalidOperation")
    types = _REQUESTS[name]
    # A field that may be null may also be left out, as serde reads an Option.
    complete = {field: None for field, allowed in types.items() if type(None) in allowed} | fields
    if complete.keys() != types.keys() or any(type(complete[field]) not in types[field] for field in types):
        raise NsmError("InvalidOperation")
    if any(isinstance(value, int) and not 0 <= value < 1 << 16 for value in complete.values()):
        raise NsmError("InvalidOperation")
    return name, complete


def encode_response(name: str, fields: Mapping[str, object] | None = None) -> bytes:
    """A response, e.g. `encode_response("ExtendPCR", {"data": value})` or `encode_response("LockPCR")`."""
    return cbor.encode({name: dict(fields)} if fields else name)


def encode_error(code: str) -> bytes:
    """The response to a request that was refused with one of `ERROR_CODES`."""
    return cbor.encode({"Error": code})


def decode_response(data: bytes, name: str) -> Fields:
    """The fields of the response to a request called `name`.

    Raises:
        NsmError: the module refused; `.code` says why, or is InvalidResponse where the answer is none to `name`.
    """
    try:
        item = _item(data)
        if isinstance(item, dict) and item.keys() == {"Error"} and item["Error"] in ERROR_CODES:
            raise NsmError(str(item["Error"]))
        answered, fields = _named(item)
    except MalformedEvidenceError:
        raise NsmError("InvalidResponse") from None
    if answered != name:
        raise NsmError("InvalidResponse")
    return fields


def _item(data: bytes) -> object:
    """The quick reader says nothing of the types inside: of a request all are compared, of a response none ever was."""
    return cbor.decode_quickly(data) or cbor.decode(data)


def _named(item: object) -> tuple[str, Fields]:
    """A text, or a map of one text to a map: the two forms of a request and of a response."""
    if isinstance(item, str):
        return item, {}
    if isinstance(item, dict) and len(item) == 1:
        ((name, fields),) = item.items()
        if isinstance(name, str) and isinstance(fields, dict):
            return name, {str(field): value for field, value in fields.items()}
    raise MalformedEvidenceError("not in the NSM API's form")
