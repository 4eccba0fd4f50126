"""COSE_Sign1: what is read, what the signature covers, and who chooses the algorithm."""

from __future__ import annotations

import base64
import json

import pytest
from attested import ES384, World, changed, envelope, p384_key, raw_signature, twin
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from vectors_location import Entry, cases, entries, read
from verdicts import Verdict

from workshop_kit.errors import MalformedEvidenceError
from workshop_kit.evidence import cbor, cose

# cose-wg/Examples, ecdsa-examples/ecdsa-sig-02.json (public domain): ES384 over P-384.
EXAMPLE = bytes.fromhex(
    "d28444a1013822a104445033383454546869732069732074686520636f6e74656e742e5860"
    "5f150abd1c7d25b32065a14e05d6cb1f665d10769ff455ea9a2e0adab5de63838db257f0949c41e13330e110eba7b912"
    "f34e1546fb1366a2568faa91ec3e6c8d42f4a67a0edf731d88c9aead52258b2e2c4740ef614f02e9d91e9b7b59622a3c"
)
EXAMPLE_SIGNED = bytes.fromhex("846a5369676e61747572653144a10138224054546869732069732074686520636f6e74656e742e")
EXAMPLE_KEY = {
    "crv": "P-384",
    "x": "kTJyP2KSsBBhnb4kjWmMF7WHVsY55xUPgb7k64rDcjatChoZ1nvjKmYmPh5STRKc",
    "y": "mM0weMVU2DKsYDxDJkEP9hZiRZtB8fPfXbzINZj_fF7YQRynNWedHEyzAJOX2e8s",
}
KEY = p384_key(11)
PAYLOAD = b"a payload"
ORDER = ES384.curve.group_order

BY_CURVE = {"P-256": cose.Algorithm.ES256, "P-384": cose.Algorithm.ES384, "P-521": cose.Algorithm.ES512}


def public_key(jwk: dict[str, str]) -> ec.EllipticCurvePublicKey:
    x, y = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "==="), "big") for name in "xy")
    return ec.EllipticCurvePublicNumbers(x, y, BY_CURVE[jwk["crv"]].curve).public_key()


def verifies(evidence: bytes, key: ec.EllipticCurvePublicKey | None = None) -> bool:
    return cose.read_sign1(evidence).verifies(key or KEY.public_key(), ES384)


def with_signature(signature: bytes) -> bytes:
    return envelope(ES384.protected, {}, PAYLOAD, signature)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_published_example_is_read_and_verifies() -> None:
    sign1 = cose.read_sign1(EXAMPLE)
    assert sign1.protected == ES384.protected == bytes.fromhex("a1013822")
    assert sign1.unprotected == {4: b"P384"}
    assert sign1.payload == b"This is the content."
    assert len(sign1.signature) == 96
    assert cose.to_be_signed(sign1.protected, sign1.payload) == EXAMPLE_SIGNED
    assert sign1.verifies(public_key(EXAMPLE_KEY), ES384)
    assert cose.read_sign1(EXAMPLE[1:]) == sign1


REFUSED = {
    "nothing": (b"", "a COSE_Sign1, got no bytes"),
    "a tag and nothing": (b"\xd2", "a COSE_Sign1, got no bytes"),
    "tag 17, COSE_Mac0": (b"\xd1" + EXAMPLE[1:], "an array of 4"),
    "tag 98, COSE_Sign": (b"\xd8\x62" + EXAMPLE[1:], "an array of 4"),
    "tag 18 twice": (b"\xd2" + EXAMPLE, "an array of 4"),
    "tag 18 in one byte more": (b"\xd8\x12" + EXAMPLE[1:], "an array of 4"),
    "an array of three": (cbor.encode([b"", {}, b""]), "an array of 4"),
    "an array of five": (cbor.encode([b"", {}, b"", b"", b""]), "an array of 4"),
    "an array of indefinite length": (b"\x9f" + EXAMPLE[2:] + b"\xff", "an array of 4"),
    "the length in one byte more": (b"\x98\x04" + EXAMPLE[2:], "an array of 4"),
    "an open empty map": (b"\x84\x40\xbf\xff\x40\x40", "a0 as empty unprotected header, got an indefinite map"),
    "base64": (base64.b64encode(EXAMPLE), "an array of 4"),
    "a byte behind it": (EXAMPLE + b"\0", "the end of the item"),
    "a byte missing": (EXAMPLE[:-1], "96 more bytes, got 95"),
    "the protected header as map": (envelope({1: -35}, {}, b"p", b"s"), "a byte string as protected header, got dict"),
    "no payload": (envelope(b"", {}, None, b"s"), "a byte string as payload, got NoneType"),
    "the payload as text": (envelope(b"", {}, "p", b"s"), "a byte string as payload, got str"),
    "the signature as array": (envelope(b"", {}, b"p", []), "a byte string as signature, got list"),
    "no unprotected header": (envelope(b"", None, b"p", b"s"), "a map as unprotected header, got NoneType"),
    "the unprotected header as bytes": (envelope(b"", b"\xa0", b"p", b"s"), "a map as unprotected header, got bytes"),
    "32 KiB and a byte": (envelope(b"", {}, bytes(cose.MAX_SIZE - 6), b""), "at most 32768 bytes, got more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_cose_sign1_is_refused_by_check_1(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(MalformedEvidenceError) as caught:
        cose.read_sign1(data)
    assert message in str(caught.value)
    assert caught.value.check == 1


def test_32_kib_are_read() -> None:
    assert len(cose.read_sign1(envelope(b"", {}, bytes(cose.MAX_SIZE - 7), b"")).payload) == cose.MAX_SIZE - 7


# --- signing and verifying -------------------------------------------------------------------------------------------


def test_what_is_signed_has_the_form_of_a_genuine_document() -> None:
    signed = cose.sign1(PAYLOAD, KEY, ES384)
    assert signed[:7] == bytes.fromhex("8444a1013822a0")
    assert signed[-98:-96] == bytes.fromhex("5860")
    assert verifies(signed)
    assert cose.sign1(PAYLOAD, KEY, ES384) == signed, "deterministic"


@pytest.mark.parametrize("algorithm", cose.Algorithm)
def test_each_algorithm_verifies_its_own_signature_and_no_others(algorithm: cose.Algorithm) -> None:
    key = ec.derive_private_key(12, algorithm.curve)
    sign1 = cose.read_sign1(cose.sign1(PAYLOAD, key, algorithm))
    assert len(sign1.signature) == {"ES256": 64, "ES384": 96, "ES512": 132}[algorithm.name]
    assert [each for each in cose.Algorithm if sign1.verifies(key.public_key(), each)] == [algorithm]


def test_the_curve_is_that_of_the_callers_key() -> None:
    """RFC 9053, 2.1 recommends pairs and allows others: how wide a signature is, the key says and not the algorithm."""
    key = ec.derive_private_key(12, ec.SECP256R1())
    sign1 = cose.read_sign1(cose.sign1(PAYLOAD, key, ES384))
    assert len(sign1.signature) == 64
    assert sign1.verifies(key.public_key(), ES384)
    padded = b"".join(bytes(16) + half for half in (sign1.signature[:32], sign1.signature[32:]))
    assert not sign1._replace(signature=padded).verifies(key.public_key(), ES384)


@pytest.mark.parametrize(
    ("algorithm", "protected"),
    [(cose.Algorithm.ES256, "a10126"), (cose.Algorithm.ES384, "a1013822"), (cose.Algorithm.ES512, "a1013823")],
)
def test_algorithms_have_their_registered_identifiers(algorithm: cose.Algorithm, protected: str) -> None:
    assert algorithm.protected.hex() == protected


def test_the_signature_covers_protected_header_payload_and_external_data() -> None:
    sign1 = cose.read_sign1(cose.sign1(PAYLOAD, KEY, ES384))
    key = KEY.public_key()
    assert sign1.verifies(key, ES384)
    assert not sign1.verifies(key, ES384, external_aad=b"!")
    assert not sign1.verifies(p384_key(12).public_key(), ES384)
    assert not verifies(envelope(b"\xa1\x01\x26", {}, PAYLOAD, sign1.signature))
    assert not verifies(envelope(sign1.protected, {}, PAYLOAD + b"!", sign1.signature))


def test_the_signature_leaves_the_unprotected_header_out() -> None:
    """Which is why a document must have none."""
    signature = cose.read_sign1(cose.sign1(PAYLOAD, KEY, ES384)).signature
    assert verifies(envelope(ES384.protected, {1: -7, 4: b"anything"}, PAYLOAD, signature))


def test_the_protected_header_is_covered_as_received_and_not_as_it_would_be_written() -> None:
    """`h'a0'` and `h''` mean the same to COSE; a verifier that re-encodes takes one's signature for the other's."""
    signature = raw_signature(KEY.sign(cose.to_be_signed(b"\xa0", PAYLOAD), ES384.ecdsa))
    assert verifies(envelope(b"\xa0", {}, PAYLOAD, signature))
    assert not verifies(envelope(b"", {}, PAYLOAD, signature))


def test_the_twin_of_a_signature_verifies() -> None:
    """No low-S rule: half of all genuine documents have s > n/2."""
    signed = cose.sign1(PAYLOAD, KEY, ES384)
    halves = {int.from_bytes(each[-48:], "big") > ORDER // 2 for each in (signed, twin(signed))}
    assert halves == {True, False}
    assert verifies(signed)
    assert verifies(twin(signed))


def _numbers(r: int, s: int) -> bytes:
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def _honest() -> tuple[int, int]:
    signature = cose.read_sign1(cose.sign1(PAYLOAD, KEY, ES384)).signature
    return int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")


R, S = _honest()


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        bytes(96),
        _numbers(0, S),
        _numbers(R, 0),
        _numbers(ORDER, S),
        _numbers(R, ORDER),
        _numbers(S, R),
        _numbers(R, S)[:-1],
        _numbers(R, S) + b"\0",
        b"\0" + _numbers(R, S) + b"\0",
        _numbers(R, S)[1:],
        _numbers(R, 0)[:48] + b"\0" + _numbers(0, S)[48:],  # the same numbers in 97 bytes
        b"\xff" * 96,
        changed(_numbers(R, S)),
        encode_dss_signature(R, S),
    ],
    ids=lambda signature: f"{len(signature)}-{signature[:4].hex()}",
)
def test_another_signature_does_not_verify_and_raises_nothing(signature: bytes) -> None:
    assert verifies(with_signature(_numbers(R, S)))
    assert not verifies(with_signature(signature))


def test_numbers_out_of_range_never_reach_openssl() -> None:
    """RFC 9053, 2.1 and FIPS 186-5: 0 < r, s < n."""
    assert cose.signature_to_der(_numbers(1, 1), ES384.curve) is not None
    assert cose.signature_to_der(_numbers(ORDER - 1, ORDER - 1), ES384.curve) is not None
    for r, s in ((0, 1), (1, 0), (ORDER, 1), (1, ORDER)):
        assert cose.signature_to_der(_numbers(r, s), ES384.curve) is None


def test_a_simulated_document_verifies_under_its_leaf_alone(world: World) -> None:
    evidence = world.attest()
    assert verifies(evidence, world.leaf_key.public_key())
    assert not verifies(evidence)


# --- published vectors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", cases(entries("cose/MANIFEST.json")))
def test_a_published_vector_passes_or_fails_as_its_authors_say(entry: Entry, verdict: Verdict) -> None:
    case = json.loads(read(f"cose/{entry['json']}"))
    jwk = case["key"] if "key" in case else case["input"]["sign0"]["key"]
    name, expected = f"cose/{entry['file']}", entry["expected"]
    if jwk["kty"] != "EC":  # not ours to verify, still a COSE_Sign1
        verdict(name, expected, "read; not an algorithm of ours")
        assert cose.read_sign1(read(f"cose/{entry['file']}")).protected
        return
    aad = bytes.fromhex(case.get("sign1::sign", {}).get("external", ""))
    try:
        sign1 = cose.read_sign1(read(f"cose/{entry['file']}"))
    except MalformedEvidenceError:
        verdict(name, expected, "fail: no COSE_Sign1")
        assert expected == "fail"
        return
    algorithm = cose.Algorithm[case["alg"] if "alg" in case else case["input"]["sign0"]["alg"]]
    decided = "pass" if sign1.verifies(public_key(jwk), algorithm, external_aad=aad) else "fail"
    verdict(name, expected, decided)
    assert decided == expected
    signed = case.get("intermediates", {}).get("ToBeSign_hex")
    if signed and entry["expected"] == "pass":
        assert cose.to_be_signed(sign1.protected, sign1.payload, aad) == bytes.fromhex(signed)
