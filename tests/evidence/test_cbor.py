"""The strict reader: one encoding of each item, and nothing that two programs read differently."""

from __future__ import annotations

import cbor2
import pytest

from workshop_kit.errors import MalformedEvidenceError
from workshop_kit.evidence import cbor

ACCEPTED: dict[str, object] = {
    # RFC 8949, appendix A, as far as the values are those of attestation
    "00": 0,
    "17": 23,
    "1818": 24,
    "18ff": 255,
    "190100": 256,
    "19ffff": 65535,
    "1a00010000": 65536,
    "1affffffff": 4294967295,
    "1b0000000100000000": 4294967296,
    "1bffffffffffffffff": 18446744073709551615,
    "20": -1,
    "3822": -35,
    "3903e7": -1000,
    "3bffffffffffffffff": -18446744073709551616,
    "40": b"",
    "4401020304": b"\1\2\3\4",
    "60": "",
    "62c3bc": "ü",
    "f4": False,
    "f5": True,
    "f6": None,
    "80": [],
    "83010203": [1, 2, 3],
    "a0": {},
    "a201020304": {1: 2, 3: 4},
    "a26161016162820203": {"a": 1, "b": [2, 3]},
    # of indefinite length
    "9fff": [],
    "9f018202039f0405ffff": [1, [2, 3], [4, 5]],
    "bf61610161629f0203ffff": {"a": 1, "b": [2, 3]},
    "bfff": {},
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_an_item_in_its_one_encoding_is_read(text: str) -> None:
    value = cbor.decode(bytes.fromhex(text))
    assert value == ACCEPTED[text]
    assert type(value) is type(ACCEPTED[text])


REFUSED = {
    "nothing": ("", "expected 1 more bytes, got 0", 0),
    "a byte behind the item": ("0000", "expected the end of the item, got 1 more bytes", 1),
    "two items": ("8080", "expected the end of the item", 1),
    "23 in one byte more": ("1817", "the shortest form of a number, got 23 in 1 bytes", 0),
    "255 in two bytes": ("1900ff", "the shortest form", 0),
    "65535 in four bytes": ("1a0000ffff", "the shortest form", 0),
    "2^32 - 1 in eight bytes": ("1b00000000ffffffff", "the shortest form", 0),
    "a negative number in one byte more": ("3800", "the shortest form", 0),
    "a length of bytes in one byte more": ("580100", "the shortest form", 0),
    "a length of text in one byte more": ("780161", "the shortest form", 0),
    "a length of an array in one byte more": ("980100", "the shortest form", 0),
    "a length of a map in one byte more": ("b8010000", "the shortest form", 0),
    "a key in one byte more": ("a2000018000a", "the shortest form", 3),
    "bytes in chunks": ("5f4101ff", "a string in one piece, got a string in chunks", 0),
    "text in chunks": ("7f6161ff", "a string in one piece, got a string in chunks", 0),
    "a number of indefinite length": ("1f", "a well-formed item", 0),
    "a negative number of indefinite length": ("3f", "a well-formed item", 0),
    "a tag of indefinite length": ("df", "a well-formed item", 0),
    "a break where nothing is open": ("ff", "a well-formed item", 0),
    "a break in an array of definite length": ("82ffff", "a well-formed item", 1),
    "a break instead of a value": ("bf01ff", "a well-formed item", 2),
    "reserved additional information 28": ("1c", "a well-formed item, got initial byte 0x1c", 0),
    "reserved additional information 29": ("5d", "a well-formed item, got initial byte 0x5d", 0),
    "reserved additional information 30": ("9e", "a well-formed item, got initial byte 0x9e", 0),
    "an indefinite array without its break": ("9f01", "1 more bytes", 2),
    "an indefinite map without its break": ("bf0101", "1 more bytes", 3),
    "fewer elements than promised": ("830102", "1 more bytes", 3),
    "a map with a key and no value": ("a101", "1 more bytes", 2),
    "fewer bytes than promised": ("44010203", "4 more bytes, got 3", 1),
    "a length without its bytes": ("58", "1 more bytes", 1),
    "text that is no UTF-8": ("61ff", "text in UTF-8", 2),
    "text with half of a surrogate pair": ("63eda080", "text in UTF-8", 4),
    "text in an overlong form": ("62c080", "text in UTF-8", 3),
    "a key twice": ("a2010a010b", "each key once, got 1 again", 3),
    "a text key twice": ("a2616101616102", "each key once, got 'a' again", 4),
    "a key twice in a map of indefinite length": ("bf010a010bff", "each key once", 3),
    "true as key": ("a1f500", "a number or text as key, got bool", 1),
    "1 and true, which are one key to Python": ("a20100f500", "a number or text as key, got bool", 3),
    "null as key": ("a1f600", "a number or text as key, got NoneType", 1),
    "bytes as key": ("a1410000", "a number or text as key, got bytes", 1),
    "an array as key": ("a18000", "a number or text as key, got list", 1),
    "a map as key": ("a1a000", "a number or text as key, got dict", 1),
    "a half float": ("f90000", "a float", 0),
    "a float": ("fa00000000", "a float", 0),
    "a double": ("fb0000000000000000", "a float", 0),
    "undefined": ("f7", "undefined", 0),
    "a simple value": ("e0", "a simple value", 0),
    "a simple value in two bytes": ("f8ff", "a simple value", 0),
    "true in two bytes": ("f815", "a simple value", 0),
    "a tag": ("c11a00000001", "a tag (0xc1)", 0),
    "a tag on a field": ("a100d84100", "a tag (0xd8)", 2),
    "a bignum": ("c24101", "a tag (0xc2)", 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_encoding_is_refused_with_its_place(name: str) -> None:
    text, message, offset = REFUSED[name]
    with pytest.raises(MalformedEvidenceError) as caught:
        cbor.decode(bytes.fromhex(text))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"not strict CBOR at byte {offset}: ")
    assert caught.value.check == 3


@pytest.mark.parametrize("name", ["a key twice", "1 and true, which are one key to Python", "a byte behind the item"])
def test_a_general_decoder_forgives_what_this_one_refuses(name: str) -> None:
    """Or this file need not exist: what was read is not what was written, and nothing says so."""
    data = bytes.fromhex(REFUSED[name][0])
    assert cbor2.dumps(cbor2.loads(data)) != data


@pytest.mark.parametrize("opening", [b"\x81", b"\x9f", b"\xa1\x00", b"\xbf\x00"])
def test_nesting_is_read_to_its_limit_and_no_further(opening: bytes) -> None:
    closing = b"\xff" if opening[0] in (0x9F, 0xBF) else b""
    deepest = opening * cbor.MAX_DEPTH + b"\x00" + closing * cbor.MAX_DEPTH
    cbor.decode(deepest)
    with pytest.raises(MalformedEvidenceError, match="at most 8 levels of nesting, got more"):
        cbor.decode(opening + deepest + closing)


def test_the_encoder_writes_maps_in_the_order_given_with_definite_lengths() -> None:
    assert cbor.encode({"b": 1, "a": [None, b"\1"]}).hex() == "a2616201616182f64101"


def test_an_indefinite_map_is_a_map_between_two_bytes() -> None:
    assert cbor.encode_indefinite_map({"a": 1, "b": {}}).hex() == "bf6161016162a0ff"
    assert cbor.encode_indefinite_map({}) == b"\xbf\xff"


def test_a_message_about_a_long_key_stays_short() -> None:
    """A message is one line; the key comes from whoever sent the bytes."""
    key = "\n" + "k" * 10_000
    twice = b"\xa2" + (cbor.encode(key) + b"\x00") * 2
    with pytest.raises(MalformedEvidenceError, match="each key once") as caught:
        cbor.decode(twice)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_what_is_too_long_is_read_by_neither_reader() -> None:
    longest = cbor.encode(bytes(cbor.MAX_SIZE - 3))
    assert len(longest) == cbor.MAX_SIZE
    assert cbor.decode(longest) == bytes(cbor.MAX_SIZE - 3)
    longer = cbor.encode(bytes(cbor.MAX_SIZE - 2))
    assert cbor.decode_quickly(longer) is None
    with pytest.raises(MalformedEvidenceError, match="at most 65536 bytes, got more"):
        cbor.decode(longer)


@pytest.mark.parametrize("entries", [0, 1, 23, 24, 25, 255, 256, 300])
def test_an_indefinite_map_is_the_definite_one_without_its_count(entries: int) -> None:
    """The count takes one byte, two or three, and none of them may stay."""
    value = {f"{number:03}": number for number in range(entries)}
    written = cbor.encode_indefinite_map(value)
    assert (written[:1], written[-1:]) == (b"\xbf", b"\xff")
    assert written[1:-1] == b"".join(cbor.encode(name) + cbor.encode(item) for name, item in value.items())
    assert cbor.decode(written) == value
