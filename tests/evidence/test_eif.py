"""The enclave image format: written as AWS lays it out, read whole or not at all, measured by three formulas."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from typing import Any

import pytest

from workshop_kit.errors import ImageError
from workshop_kit.evidence import pcr
from workshop_kit.evidence.eif import HEADER_SIZE, EnclaveImage, examine_image, read_image

IMAGE = EnclaveImage(
    kernel=b"a kernel",
    cmdline=b"a command line",
    ramdisks=(b"ramdisk one", b"ramdisk two"),
    metadata={"ImageName": "x"},
)
BYTES = IMAGE.encode()


def sha384(*parts: bytes) -> bytes:
    return hashlib.sha384(b"".join(parts)).digest()


def test_the_pcrs_are_a_zero_register_extended_by_the_digest_of_the_parts() -> None:
    """The formulas written out: SHA-384(48 zeros || SHA-384(parts)). AWS EIF specification, "Measurements"."""
    zero = bytes(48)
    assert IMAGE.measurements() == {
        0: sha384(zero, sha384(b"a kernel", b"a command line", b"ramdisk one", b"ramdisk two")),
        1: sha384(zero, sha384(b"a kernel", b"a command line", b"ramdisk one")),
        2: sha384(zero, sha384(b"ramdisk two")),
    }


def test_more_ramdisks_count_as_application() -> None:
    image = IMAGE._replace(ramdisks=(b"1", b"2", b"3"))
    assert image.measurements()[2] == sha384(bytes(48), sha384(b"2", b"3"))
    assert image.measurements()[1] == sha384(bytes(48), sha384(b"a kernel", b"a command line", b"1"))


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"kernel": b"A kernel"}, {0, 1}),
        ({"cmdline": b"A command line"}, {0, 1}),
        ({"ramdisks": (b"Ramdisk one", b"ramdisk two")}, {0, 1}),
        ({"ramdisks": (b"ramdisk one", b"Ramdisk two")}, {0, 2}),
        ({"metadata": {"ImageName": "y"}}, set()),
        # The boundary is not in PCR0: three registers together say where it is.
        ({"ramdisks": (b"ramdisk oner", b"amdisk two")}, {1, 2}),
    ],
)
def test_a_change_moves_the_registers_that_measure_it(change: dict[str, Any], moved: set[int]) -> None:
    before, after = IMAGE.measurements(), IMAGE._replace(**change).measurements()
    assert {index for index in before if before[index] != after[index]} == moved


# --- the file --------------------------------------------------------------------------------------------------------


def test_an_image_reads_back_as_it_was_written() -> None:
    assert read_image(BYTES) == IMAGE
    assert read_image(BYTES).encode() == BYTES


def test_an_image_with_empty_sections_reads_back() -> None:
    image = EnclaveImage(kernel=b"", cmdline=b"", ramdisks=(b"",))
    assert read_image(image.encode()) == image


def test_an_image_without_a_ramdisk_is_refused() -> None:
    with pytest.raises(ImageError, match="ramdisk: expected one or more"):
        read_image(EnclaveImage(kernel=b"", cmdline=b"", ramdisks=()).encode())


def test_the_header_is_laid_out_as_aws_says() -> None:
    """Read here with offsets counted by hand (aws-nitro-enclaves-image-format, src/defs/mod.rs: EifHeader)."""
    assert HEADER_SIZE == 548
    assert BYTES[:4] == b".eif"
    assert struct.unpack_from(">HHQQHH", BYTES, 4) == (4, 0, 1 << 30, 2, 0, 5)
    offsets = struct.unpack_from(">32Q", BYTES, 28)
    sizes = struct.unpack_from(">32Q", BYTES, 284)
    unused, crc = struct.unpack_from(">II", BYTES, 540)
    assert unused == 0
    assert crc == zlib.crc32(BYTES[:544] + BYTES[548:])
    assert offsets[0] == 548
    assert offsets[5:] == sizes[5:] == (0,) * 27
    sections = []
    for offset, size in zip(offsets[:5], sizes[:5], strict=True):
        kind, flags, length = struct.unpack_from(">HHQ", BYTES, offset)
        assert (flags, length) == (0, size)
        sections.append((kind, BYTES[offset + 12 : offset + 12 + size]))
    assert sections == [
        (1, b"a kernel"),
        (2, b"a command line"),
        (5, b'{"ImageName": "x"}'),
        (3, b"ramdisk one"),
        (3, b"ramdisk two"),
    ]
    assert offsets[4] + 12 + sizes[4] == len(BYTES)


def test_an_image_cut_anywhere_is_refused() -> None:
    for length in range(len(BYTES)):
        with pytest.raises(ImageError):
            read_image(BYTES[:length])


def test_a_flipped_bit_anywhere_is_refused() -> None:
    """The checksum is against accidents: who changes an image on purpose writes a new one, and moves a PCR."""
    for place in range(len(BYTES)):
        changed = bytearray(BYTES)
        changed[place] ^= 1 << place % 8
        with pytest.raises(ImageError):
            read_image(bytes(changed))


def test_a_file_that_is_no_image_is_refused() -> None:
    with pytest.raises(ImageError, match=r"begins with \.eif"):
        read_image(b"#!/bin/sh\n" + bytes(1000))


def crafted(
    sections: list[tuple[int, bytes]],
    *,
    version: int = 4,
    count: int | None = None,
    offsets: dict[int, int] | None = None,
    sizes: dict[int, int] | None = None,
    lengths: dict[int, int] | None = None,
    more: bytes = b"",
) -> bytes:
    """An image of any sections, its checksum right, its tables as told."""
    body, begins = b"", []
    for place, (kind, data) in enumerate(sections):
        begins.append(548 + len(body))
        body += struct.pack(">HHQ", kind, 0, (lengths or {}).get(place, len(data))) + data
    told = [(offsets or {}).get(place, begin) for place, begin in enumerate(begins)]
    sized = [(sizes or {}).get(place, len(data)) for place, (_, data) in enumerate(sections)]
    tables = [*told, *[0] * (32 - len(told)), *sized, *[0] * (32 - len(sized))]
    number = len(sections) if count is None else count
    header = struct.pack(">4sHHQQHH64QI", b".eif", version, 0, 1 << 30, 2, 0, number, *tables, 0)
    body += more
    return header + struct.pack(">I", zlib.crc32(header + body)) + body


GOOD = [(1, b"a kernel"), (2, b"a command line"), (5, b"{}"), (3, b"ramdisk one"), (3, b"ramdisk two")]


def test_a_crafted_image_of_the_right_form_is_read() -> None:
    """So that what the tests below craft is refused for what each says."""
    assert read_image(crafted(GOOD)) == IMAGE._replace(metadata={})


def nested(levels: int) -> bytes:
    """A JSON object as deep as that."""
    return b'{"a":' * levels + b"1" + b"}" * levels


def test_metadata_of_127_levels_are_read() -> None:
    """As deep as nitro-cli reads them."""
    image = read_image(crafted([*GOOD[:2], (5, nested(127)), *GOOD[3:]]))
    assert json.dumps(image.metadata, separators=(",", ":")).encode() == nested(127)


def test_sections_of_other_orders_and_signatures_are_read() -> None:
    """A signature is not measured."""
    image = read_image(crafted([(4, b"signature"), *GOOD]))
    assert image == IMAGE._replace(metadata={}, signature=b"signature")
    assert image.measurements() == IMAGE.measurements()


def test_sections_are_measured_in_the_order_of_their_file() -> None:
    """As nitro-cli's reader does, whatever the types."""
    swapped = examine_image(crafted([GOOD[1], GOOD[0], *GOOD[2:]]))
    assert swapped.faults == ()
    assert swapped.measurements()[0] == pcr.measure(b"a command line", b"a kernel", b"ramdisk one", b"ramdisk two")


def test_equal_ramdisks_are_told_apart_by_their_place() -> None:
    image = EnclaveImage(kernel=b"k", cmdline=b"c", ramdisks=(b"same", b"same"))
    assert image.measurements()[1] == pcr.measure(b"k", b"c", b"same")
    assert image.measurements()[2] == pcr.measure(b"same")


def test_lying_tables_do_not_hide_the_measurements() -> None:
    """A reader that walks the sections loads them all the same: say what it would measure, and that the file lies."""
    reading = examine_image(crafted(GOOD, offsets={1: 549}))
    assert [fault.partition(":")[0] for fault in reading.faults] == ["offsets"]
    assert reading.measurements() == IMAGE.measurements()


def test_a_damaged_byte_is_named_and_its_measurements_are_still_given() -> None:
    data = bytearray(BYTES)
    data[-1] ^= 1
    reading = examine_image(bytes(data))
    assert [fault.partition(":")[0] for fault in reading.faults] == ["CRC"]
    assert reading.measurements()[0] != IMAGE.measurements()[0]


@pytest.mark.parametrize("order", [(1, 0, 2, 3, 4), (3, 4, 2, 1, 0), (3, 1, 4, 2, 0)])
def test_an_image_measures_its_sections_in_the_order_of_its_file(order: tuple[int, ...]) -> None:
    """Loaded or described, and written again: the registers are one reading's."""
    reading = examine_image(crafted([GOOD[place] for place in order]))
    image = reading.image()
    assert image.measurements() == reading.measurements() != IMAGE.measurements()
    assert read_image(image.encode()) == image


def test_a_file_that_cannot_be_taken_apart_measures_nothing() -> None:
    for data in (b"", b".eif", BYTES[:-1], b"\0" + BYTES[1:], crafted([*GOOD, (6, b"")])):
        reading = examine_image(data)
        assert reading.faults
        assert reading.measurements() == {}


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "version 3": (crafted(GOOD, version=3), "metadata: expected no section in version 3"),
    "version 5": (crafted(GOOD, version=5), "version: expected 2 to 4, got 5"),
    "no sections": (crafted([]), "sections: expected 1 to 32, the header says 0"),
    "33 sections": (crafted(GOOD, count=33), "sections: expected 1 to 32, the header says 33"),
    "more sections than there are": (crafted(GOOD, count=6), "sections: the header says 6, the file has 5"),
    "fewer sections than there are": (crafted(GOOD, count=4), "sections: the header says 4, the file has 5"),
    "an offset into the header": (crafted(GOOD, offsets={1: 0}), "offsets: expected "),
    "an offset to the section before": (crafted(GOOD, offsets={1: 548}), "offsets: expected "),
    "an offset beyond the file": (crafted(GOOD, offsets={4: 2**64 - 1}), "offsets: expected "),
    "a size beyond the file": (crafted(GOOD, sizes={4: 2**64 - 1}, lengths={4: 2**64 - 1}), "section at 631"),
    "a size that covers the next section": (crafted(GOOD, sizes={3: 40}, lengths={3: 40}), "section at 608"),
    "a size smaller than the section's": (crafted(GOOD, sizes={4: 1}), "sizes: expected "),
    "a section header that says less": (crafted(GOOD, lengths={4: 1}), "section at 644: expected 12 bytes of header"),
    "bytes after the last section": (crafted(GOOD, more=b"hidden"), "section at 654: expected 12 bytes of header"),
    "type 0": (crafted([*GOOD, (0, b"")]), "section at 654: expected type 1 to 5, got 0"),
    "type 6": (crafted([*GOOD, (6, b"")]), "section at 654: expected type 1 to 5, got 6"),
    "no kernel": (crafted(GOOD[1:]), "kernel: expected one section, got 0"),
    "two kernels": (crafted([*GOOD, (1, b"another")]), "kernel: expected one section, got 2"),
    "no command line": (crafted([GOOD[0], *GOOD[2:]]), "cmdline: expected one section, got 0"),
    "metadata that are no JSON": (crafted([*GOOD[:2], (5, b"{")]), "metadata: expected a JSON object"),
    "metadata that are no text": (crafted([*GOOD[:2], (5, b"\xff")]), "metadata: expected a JSON object"),
    "metadata of 128 levels": (crafted([*GOOD[:2], (5, nested(128))]), "metadata: expected a JSON object"),
    "metadata nested beyond reading": (crafted([*GOOD[:2], (5, b"[" * 100_000)]), "metadata: expected a JSON object"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_image_that_lies_about_itself_is_refused_though_its_checksum_is_right(name: str) -> None:
    data, fault = UNREADABLE[name]
    assert any(each.startswith(fault) for each in examine_image(data).faults)
    with pytest.raises(ImageError, match=r"^enclave image: "):
        read_image(data)


def test_an_image_shows_what_it_measures_and_not_its_bytes() -> None:
    assert repr(IMAGE).startswith(f"EnclaveImage(PCR0 {IMAGE.measurements()[0].hex()[:16]}…, ")
