"""Names inside an enclave: each has an address of its own, and no bytes of a query raise anything."""

from __future__ import annotations

import ipaddress
import random
import struct
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workshop_kit.simulator.names import MOST, Names, answer, question_of

A, NS, TXT, AAAA, HTTPS, ANY = 1, 2, 16, 28, 65, 255
BLOCK = ipaddress.IPv4Network("198.18.0.0/15")

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) <= 253)


def query(name: str, kind: int = A, *, number: int = 0x1234, flags: int = 0x0100, questions: int = 1) -> bytes:
    """As a resolver writes it (RFC 1035, 4.1)."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().removesuffix(b".").split(b".") if label)
    return struct.pack(">6H", number, flags, questions, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)


class Response(NamedTuple):
    """A response, taken apart."""

    number: int
    flags: int
    question: bytes
    addresses: list[str]

    @property
    def code(self) -> int:
        return self.flags & 0xF


def parse(response: bytes) -> Response:
    """Demands a response with one question and records of IPv4 addresses for its very name, and not a byte more."""
    number, flags, questions, records, authorities, others = struct.unpack_from(">6H", response)
    assert flags & 0x8000, "no response"
    assert not flags & 0x0200, "cut short"
    assert (questions, authorities, others) == (1, 0, 0)
    place = 12
    while length := response[place]:
        assert length <= 63
        place += 1 + length
    place += 1 + 4
    question, addresses = response[12:place], []
    for _ in range(records):
        pointer, kind, family, seconds, size = struct.unpack_from(">3HIH", response, place)
        assert (pointer, kind, family, size) == (0xC00C, A, 1, 4)
        assert seconds < 2**31
        addresses.append(str(ipaddress.IPv4Address(response[place + 12 : place + 16])))
        assert len(response[place + 12 : place + 16]) == 4
        place += 16
    assert place == len(response), "more bytes than records"
    return Response(number, flags, question, addresses)


def answered(asked: bytes, names: Names) -> Response:
    response = answer(asked, names)
    assert response is not None
    return parse(response)


def address(name: str, names: Names) -> str:
    (found,) = answered(query(name), names).addresses
    return found


@given(NAME, st.integers(0, 0xFFFF))
def test_a_name_has_an_address_of_a_block_that_belongs_to_nobody(name: str, number: int) -> None:
    names = Names()
    asked = query(name, number=number)
    response = answered(asked, names)
    (found,) = response.addresses
    assert ipaddress.IPv4Address(found) in BLOCK
    assert found not in map(str, (BLOCK.network_address, BLOCK.broadcast_address))
    assert (response.number, response.code, response.question) == (number, 0, asked[12:])
    assert names.name_of(found) == name


@given(NAME, st.randoms(use_true_random=False))
def test_a_letters_case_and_a_final_dot_do_not_matter(name: str, dice: random.Random) -> None:
    names = Names()
    first = address(name, names)
    mixed = "".join(dice.choice((char.upper(), char)) for char in name)
    assert address(mixed, names) == first
    assert names.address_of(mixed + ".") == names.address_of(name) == first
    assert names.name_of(first) == name


def test_the_response_repeats_the_question_in_the_letters_that_it_came_in() -> None:
    """A resolver that mixes cases at random believes no other response."""
    asked = query("eXaMpLe.CoM")
    assert answered(asked, Names()).question == asked[12:]


@given(st.lists(NAME, min_size=2, max_size=30, unique=True))
def test_each_name_has_an_address_of_its_own_which_stays(listed: list[str]) -> None:
    names = Names()
    names.keep(listed[::3])
    first = [address(name, names) for name in listed]
    assert len(set(first)) == len(listed)
    assert [address(name, names) for name in listed] == first
    assert [names.name_of(each) for each in first] == listed


@pytest.mark.parametrize("kind", [AAAA, TXT, NS, HTTPS, ANY])
def test_no_other_record_is_there_and_the_name_is(kind: int) -> None:
    """Without an error: to a resolver a name that does not exist has no IPv4 address either."""
    names = Names()
    response = answered(query("example.com", kind), names)
    assert (response.addresses, response.code) == ([], 0)
    assert names.name_of("198.18.0.1") is None


def test_the_root_has_no_address() -> None:
    assert answered(query(""), Names()).addresses == []


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 15])
def test_what_is_no_ordinary_query_is_not_implemented(opcode: int) -> None:
    response = answered(query("example.com", flags=opcode << 11), Names())
    assert (response.addresses, response.code) == ([], 4)


@pytest.mark.parametrize("flags", [0x0000, 0x0100])
def test_the_response_says_whether_recursion_was_desired(flags: int) -> None:
    assert answered(query("example.com", flags=flags), Names()).flags & 0x0100 == flags


def test_a_response_is_not_answered() -> None:
    """Two name servers would answer each other for ever."""
    response = answer(query("example.com"), Names())
    assert response is not None
    assert answer(response, Names()) is None


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        query("example.com")[:11],
        query("example.com", questions=0),
        query("example.com", questions=2),
        query("example.com")[:-1],
        query("example.com")[:14],
        query("example.com")[:12] + b"\xc0\x0c" + struct.pack(">2H", A, 1),
        query("example.com")[:12] + b"\x40" + b"x" * 64 + b"\0" + struct.pack(">2H", A, 1),
    ],
    ids=["nothing", "half a head", "no question", "two", "cut off", "cut in a label", "a pointer", "a long label"],
)
def test_what_asks_for_no_one_thing_is_not_answered(asked: bytes) -> None:
    assert question_of(asked) is None
    assert answer(asked, Names()) is None


def test_what_follows_the_question_is_not_repeated() -> None:
    """Resolvers add a record with what they can (EDNS, RFC 6891)."""
    asked = query("example.com")
    added = asked[:10] + b"\0\1" + asked[12:] + b"\0" + struct.pack(">2HIH", 41, 1232, 0, 0)
    assert answer(added, Names()) == answer(asked, Names())


def valid_or_none(data: bytes) -> None:
    names = Names()
    response = answer(data, names)
    assert (response is None) == (question_of(data) is None)
    if response is None:
        return
    parsed = parse(response)
    assert response[:2] == data[:2]
    assert parsed.question == data[12 : 12 + len(parsed.question)]
    for found in parsed.addresses:
        assert ipaddress.IPv4Address(found) in BLOCK
        assert names.name_of(found) is not None


@given(st.binary(max_size=600))
@example(query("example.com")[:12] + b"\x04\xff. \0" + b"\0" + struct.pack(">2H", A, 1))
@example(query("example.com")[:12] + b"\x01." * 9 + b"\0" + struct.pack(">2H", A, 1))
@example(query("example.com")[:12] + b"\x3f" * 4096)
def test_any_bytes_get_a_whole_response_or_none(data: bytes) -> None:
    valid_or_none(data)


@given(NAME, st.sampled_from([A, AAAA, TXT]), st.data())
def test_a_query_with_other_bytes_in_it_gets_a_whole_response_or_none(
    name: str, kind: int, data: st.DataObject
) -> None:
    asked = bytearray(query(name, kind))
    for _ in range(data.draw(st.integers(1, 4))):
        asked[data.draw(st.integers(0, len(asked) - 1))] = data.draw(st.integers(0, 255))
    valid_or_none(bytes(asked[: data.draw(st.integers(0, len(asked)))] + data.draw(st.binary(max_size=8))))
    valid_or_none(bytes(asked))


def test_kept_names_outlive_any_number_of_others_and_the_oldest_of_those_goes_first() -> None:
    names = Names()
    names.keep(["example.com", "api.example.org"])
    kept = [address(name, names) for name in ("example.com", "api.example.org")]
    others = [f"n{number}.evil.example" for number in range(MOST + 3)]
    given_out = [address(name, names) for name in others[:3]]
    assert address(others[0], names) == given_out[0]  # asked for again, and so not the oldest
    given_out += [address(name, names) for name in others[3 : MOST + 1]]
    assert [names.name_of(each) for each in kept] == ["example.com", "api.example.org"]
    assert [address(name, names) for name in ("example.com", "api.example.org")] == kept
    assert names.name_of(given_out[1]) is None
    assert [names.name_of(given_out[each]) for each in (0, 2, MOST)] == [others[0], others[2], others[MOST]]


def test_addresses_come_round_again_without_two_names_at_one() -> None:
    names = Names()
    names.keep(["example.com"])
    kept = names.address_of("example.com")
    for number in range(BLOCK.num_addresses + 10):
        assert names.address_of(f"n{number}") != kept
    assert names.name_of(kept) == "example.com"
    assert names.name_of(names.address_of("n0")) == "n0"
