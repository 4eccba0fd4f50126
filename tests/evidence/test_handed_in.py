"""PCR16: users and runtime configuration, byte for byte, in one message with one digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import workshop_kit
from workshop_kit.errors import MalformedEvidenceError, ManifestError
from workshop_kit.evidence import cbor
from workshop_kit.evidence.handed_in import HandedIn, runtime_measurement

SPEC = Path(workshop_kit.__file__).parent / "SPEC.md"
FILES = st.none() | st.binary(max_size=100)


def test_the_form_is_the_one_of_the_specification() -> None:
    """[U-2] and [U-3], by hand."""
    message = bytes.fromhex("a2 65 7573657273 42 6162 6e 72756e74696d655f636f6e666967 f6")
    assert HandedIn(b"ab", None).encode() == message
    assert runtime_measurement(b"ab") == hashlib.sha384(bytes(48) + hashlib.sha384(message).digest()).digest()


def test_nothing_handed_in_has_a_value_that_can_be_demanded() -> None:
    """The one that SPEC.md prints."""
    assert f"\n{runtime_measurement().hex()}\n" in SPEC.read_text()


@given(FILES, FILES, FILES, FILES)
def test_other_files_have_another_value(users: bytes, config: bytes, other_users: bytes, other_config: bytes) -> None:
    """Absent and empty are two things, and so are bytes that move from one file to the other."""
    same = (users, config) == (other_users, other_config)
    assert (runtime_measurement(users, config) == runtime_measurement(other_users, other_config)) == same


def test_absent_empty_and_exchanged_files_differ() -> None:
    pairs = [(None, None), (b"", None), (None, b""), (b"", b""), (b"ab", b"c"), (b"a", b"bc"), (b"c", b"ab")]
    assert len({runtime_measurement(*pair) for pair in pairs}) == len(pairs)


@given(FILES, FILES)
def test_the_enclave_reads_what_was_handed_in(users: bytes | None, config: bytes | None) -> None:
    assert HandedIn.decode(HandedIn(users, config).encode()) == (users, config)


@pytest.mark.parametrize(
    "item",
    [
        None,
        [],
        {},
        {"users": None},
        {"runtime_config": None, "users": None},
        {"users": None, "runtime_config": None, "more": None},
        {"users": "text", "runtime_config": None},
        {"users": None, "runtime_config": 1},
    ],
)
def test_another_message_is_refused(item: object) -> None:
    with pytest.raises(MalformedEvidenceError, match="expected"):
        HandedIn.decode(cbor.encode(item))


def test_more_than_an_enclave_reads_is_refused_before_it_travels() -> None:
    room = cbor.MAX_SIZE - len(HandedIn(b"", b"x" * (1 << 15)).encode()) + (1 << 15)
    assert len(HandedIn(b"", b"x" * room).encode()) == cbor.MAX_SIZE
    for too_much in ((b"", b"x" * (room + 1)), (b"x" * (1 << 15), b"x" * (1 << 15))):
        with pytest.raises(ManifestError, match="at most 65536 bytes together"):
            HandedIn(*too_much).encode()
