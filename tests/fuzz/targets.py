"""What `workshop fuzz` runs: functions of any bytes, out of which nothing comes but what the kit promises.

Each answers with what it reached, so that a test can see that the seeds reach it too. A refusal in the kit's own words
is an answer; every other exception is a finding, an assertion's too.
"""

from __future__ import annotations

import json
import warnings
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache, partial
from hashlib import sha256
from typing import Any, TypeVar

from attested import ES384, INSTANCE, MEASUREMENTS, NOW, ROLES, World, p384_key, refused_by, usual_chain
from calm import require_calm, require_one_reading, same

from workshop_kit.channel.enclave_handshake import AttestationNeeded, EnclaveHandshake, Primitives
from workshop_kit.channel.framing import Record, decode_request_record, decode_response_record, encode_record
from workshop_kit.channel.handshake import Answer, Profile, decode_answer
from workshop_kit.channel.hybrid import Ephemeral
from workshop_kit.errors import (
    AccessDeniedError,
    ImageError,
    MalformedEvidenceError,
    ManifestError,
    NsmError,
    RemoteProtocolError,
    WorkshopKitError,
)
from workshop_kit.evidence import cbor, cose, nsm_api
from workshop_kit.evidence.cpio import Entry, read_archive, write_archive
from workshop_kit.evidence.eif import HEADER_SIZE, EnclaveImage, Reading, examine_image, read_image
from workshop_kit.inspection import describe, describe_image
from workshop_kit.service.access import Users
from workshop_kit.service.manifest import Manifest, parse_manifest
from workshop_kit.simulator.comparison import compare_images
from workshop_kit.simulator.nsm import Nsm
from workshop_kit.verifier import AppraisalResult, Policy, TrustAnchor, UnsafeAnyImagePolicy, appraise

ANSWERS = {"nonce": b"challenge", "public_key": b"key"}
"""What the fixed policy demands of a document beside its measurements."""

SEPARATOR = b"next"
"""Between the requests of one input for the NSM."""

T = TypeVar("T")
Refusal = TypeVar("Refusal", bound=WorkshopKitError)


@cache
def world() -> World:
    return World()


# --- evidence --------------------------------------------------------------------------------------------------------


def document(evidence: bytes) -> AppraisalResult:
    """The bytes as they are; where they name another anchor than the simulator's, under AWS's at their own time too."""
    result = _appraised(evidence, world().policy(**ANSWERS), NOW)
    if result.document is not None and refused_by(result) == 4:
        return _appraised(evidence, UnsafeAnyImagePolicy(), result.document.time)
    return result


def payload(content: bytes) -> AppraisalResult:
    """The bytes as a payload under the enclave's own key: what stands behind the signature is reached."""
    return document(cose.sign1(content, _leaf_key(), ES384))


@cache
def _leaf_key() -> Any:
    return world().leaf_key


def certificates(data: bytes) -> AppraisalResult:
    """The first byte chooses the certificate that the rest replaces; from 128 on the rest is its content alone, signed.

    So a certificate's signature keeps nothing from being reached, and neither does the document's.
    """
    place, is_content = data[0] % len(ROLES) if data else 0, data[:1] >= b"\x80"
    ders = list(crafted_chain())
    ders[place] = _issued(data[1:], place) if is_content else data[1:]
    written = honest()._replace(certificate=ders[-1], cabundle=tuple(ders[:-1]))
    anchor = TrustAnchor("the first of them", sha256(ders[0]).digest())
    evidence = cose.sign1(written.encode(), p384_key(len(ROLES)), ES384)
    return _appraised(evidence, world().policy(trust_anchor=anchor, **ANSWERS), NOW)


@cache
def honest() -> Any:
    return world().document(**ANSWERS)


@cache
def crafted_chain() -> tuple[bytes, ...]:
    """Root to leaf under keys that are known here, sound in everything."""
    chain = list(usual_chain(honest().module_id).values())
    return tuple(each.der(issuer) for each, issuer in zip(chain, [chain[0], *chain], strict=False))


_ECDSA_WITH_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")


def _issued(content: bytes, place: int) -> bytes:
    signature = p384_key(max(place, 1)).sign(content, ES384.ecdsa)
    return _der(0x30, content + _ECDSA_WITH_SHA384 + _der(0x03, b"\0" + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag]) + (bytes([size]) if size < 128 else bytes([0x80 | len(octets)]) + octets) + content


def _appraised(evidence: bytes, policy: Policy, now: datetime) -> AppraisalResult:
    def look() -> AppraisalResult:
        result = appraise(evidence, policy, now=now)
        require_calm(evidence, result)
        if result.document is not None:
            assert all(line.isprintable() for line in describe(result.document).splitlines())
        return result

    return _whatever_warnings_do(look)


def _whatever_warnings_do(look: Callable[[], T]) -> T:
    """Where they raise, as in the tests, and where they say nothing: `cryptography` warns of odd certificates."""
    with warnings.catch_warnings(action="error"):
        look()
    with warnings.catch_warnings(action="ignore"):
        return look()


# --- images ----------------------------------------------------------------------------------------------------------


@cache
def small_image() -> EnclaveImage:
    files = {"src/app.py": b"#!/usr/bin/env python3\n", "users.yaml": b"users: []\n"}
    ramdisks = write_archive({"boot.py": b"pass\n"}), write_archive(files)
    return EnclaveImage(kernel=b"kernel", cmdline=b"command line", ramdisks=ramdisks, metadata={"ImageName": "small"})


def eif(data: bytes) -> dict[str, Any]:
    """The bytes as they are, then with the CRC that is theirs, or no changed image would be without a fault."""
    _described(data)
    return _described(_with_crc(data))


def _with_crc(data: bytes) -> bytes:
    if len(data) < HEADER_SIZE:
        return data
    header, content = data[: HEADER_SIZE - 4], data[HEADER_SIZE:]
    return header + zlib.crc32(content, zlib.crc32(header)).to_bytes(4, "big") + content


def _described(data: bytes) -> dict[str, Any]:
    description = _whatever_warnings_do(lambda: describe_image(data, now=NOW))
    json.dumps(description, indent=2)  # as the command does, which is not the encoder in C
    assert all(fault.isprintable() for fault in description["Faults"]), description["Faults"]
    reading = examine_image(data)
    assert {*reading.faults} <= {*description["Faults"]}
    if not reading.faults:
        _require_one_measurement(reading)
    return description


def _require_one_measurement(reading: Reading) -> None:
    """What is described, what is loaded and what is written again measure the same, and a comparison knows it."""
    image = reading.image()
    assert image.measurements() == reading.measurements() == read_image(image.encode()).measurements()
    differences = compare_images(image, small_image())
    assert differences or image.measurements() == small_image().measurements()
    assert all(str(difference).isprintable() for difference in differences)


def signer(der: bytes) -> dict[str, Any]:
    """The bytes as the certificate of a signed image."""
    pem = f"-----BEGIN CERTIFICATE-----\n{b64encode(der).decode()}\n-----END CERTIFICATE-----\n"
    parts = {"signing_certificate": list(pem.encode()), "signature": list(_envelope())}
    return _described(small_image()._replace(signature=cbor.encode([parts])).encode())


@cache
def _envelope() -> bytes:
    payload = {"register_index": 0, "register_value": list(small_image().measurements()[0])}
    return cose.sign1(cbor.encode(payload), p384_key(1), ES384)


def ramdisk(archive: bytes) -> Mapping[str, tuple[int, Entry]] | ImageError:
    return _or_refusal(lambda: read_archive(archive), ImageError)


# --- small languages -------------------------------------------------------------------------------------------------


def cbor_item(data: bytes) -> object:
    """Three readers agree: cbor2 reads what the strict one does, and the quick one vouches for no other encoding."""
    quick = cbor.decode_quickly(data)
    value = _or_refusal(lambda: require_one_reading(data), MalformedEvidenceError)
    if isinstance(value, MalformedEvidenceError):
        assert quick is None or not _is_plain(quick), "the quick reader vouches for what the strict one refuses"
    else:
        assert quick is None or same(quick, value)
    return value


def _is_plain(value: object) -> bool:
    """Whether the strict reader knows every type in it."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(type(key) in (int, str) and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in (int, str, bytes, bool)


def nsm(data: bytes) -> list[nsm_api.Fields]:
    """Requests to one fresh module; the bytes also as a response, since the host's are what an enclave reads."""
    response = _or_refusal(lambda: nsm_api.decode_response(data, "Attestation"), NsmError)
    assert not isinstance(response, NsmError) or response.code in nsm_api.ERROR_CODES
    module = Nsm(world().pki, instance_id=INSTANCE, measurements=MEASUREMENTS, now=NOW, random=bytes)
    return [_answer(module, request) for request in data.split(SEPARATOR)[:8]]


def _answer(module: Nsm, request: bytes) -> nsm_api.Fields:
    response = module.handle(request, now=NOW)
    assert len(response) <= nsm_api.MAX_RESPONSE
    asked = _or_refusal(lambda: nsm_api.decode_request(request), NsmError)
    if isinstance(asked, NsmError):
        assert response == nsm_api.encode_error(asked.code)
        return {}
    answer = _or_refusal(lambda: nsm_api.decode_response(response, asked[0]), NsmError)
    if not isinstance(answer, NsmError):
        return answer
    assert answer.code in nsm_api.ERROR_CODES
    assert answer.code != "InvalidResponse"
    return {}


def frames(plaintext: bytes) -> list[Record]:
    """What is a record can be written again, and is then the same."""
    records = []
    for read in (decode_request_record, decode_response_record):
        record = _or_refusal(partial(read, plaintext), RemoteProtocolError)
        if isinstance(record, Record):
            assert read(encode_record(record)) == record
            records.append(record)
    return records


def hello(data: bytes) -> AttestationNeeded | WorkshopKitError:
    """To an enclave that knows everybody, so that the key, the signature and the offer are looked at."""
    primitives = Primitives(wrap=lambda _, key: key, encapsulate=lambda _: (bytes(32), bytes(1088)))
    handshake = EnclaveHandshake(is_known=lambda _: True, random=bytes, primitives=primitives)
    return _or_refusal(lambda: handshake.receive_hello(data), RemoteProtocolError, AccessDeniedError)


def answer(data: bytes) -> Answer | WorkshopKitError:
    """To a client that demands no document, so that what travels beside it is combined with."""
    found = _or_refusal(lambda: decode_answer(data, Profile.MODERN), RemoteProtocolError)
    if not isinstance(found, Answer):
        return found
    assert found.response is not None
    assert decode_answer(found.encode(), Profile.MODERN) == found
    response, ours = found.response, Ephemeral(x25519=bytes(range(32)), ml_kem=bytes(64))
    secret = _or_refusal(lambda: ours.combine(response), RemoteProtocolError)
    assert not isinstance(secret, bytes) or len(secret) == 64
    return found if isinstance(secret, bytes) else secret


def manifest(data: bytes) -> tuple[Manifest | WorkshopKitError, Users | WorkshopKitError]:
    """service.yaml and users.yaml, out of an image that anybody may have made."""
    text = data.decode("utf-8", "replace")
    return (
        _or_refusal(lambda: parse_manifest(text), ManifestError),
        _or_refusal(lambda: Users.from_yaml(text, roles()), ManifestError),
    )


def _or_refusal(read: Callable[[], T], *kinds: type[Refusal]) -> T | Refusal:
    """What is read, or the refusal, which is one line that a terminal can show."""
    try:
        return read()
    except kinds as error:
        refusal = error
    assert str(refusal).isprintable(), refusal
    return refusal


MANIFEST = """\
auth: [{auth_name: users, auth_type: signed_headers}]
base_image: workshop_asgi
build_args: [{name: size, required_arg: true, type: number}]
meta: {author: somebody, version: "1.0"}
paths: [{path: /compare, access: "asker, auditor"}, {path: /, access: asker, short_description: front}]
roles:
  - {role_name: asker, role_auth: users, role_cardinality: 2}
  - {role_name: auditor, role_auth: users, role_cardinality: 1}
traffic:
  inbound: [{name: http, port: 80, type: tcp}]
  outbound: [{name: away, domain: api.example.com, port: 443, type: tcp}]
"""


@cache
def roles() -> Manifest:
    return parse_manifest(MANIFEST)


TARGETS: Mapping[str, Callable[[bytes], object]] = {
    "document": document,
    "payload": payload,
    "certificates": certificates,
    "eif": eif,
    "signer": signer,
    "ramdisk": ramdisk,
    "cbor": cbor_item,
    "nsm": nsm,
    "frames": frames,
    "hello": hello,
    "answer": answer,
    "manifest": manifest,
}
