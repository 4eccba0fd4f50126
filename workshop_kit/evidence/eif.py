"""The enclave image format of AWS Nitro, versions 2 to 4, and what of it is measured (aws-nitro-enclaves-image-format).

    header, 548 bytes, big-endian: magic ".eif", version, flags, offsets and sizes of up to 32 sections, CRC-32
    sections: kernel, command line, metadata, ramdisks, signature; each behind 12 bytes of type, flags and size

PCR0 measures kernel, command line and all ramdisks, PCR1 all but the ramdisks after the first, PCR2 those. Boundaries
of sections, their headers, metadata and the signature are not measured.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from workshop_kit.errors import ImageError
from workshop_kit.evidence.pcr import Pcr, measure

MAGIC = b".eif"
VERSION = 4
OLDEST_VERSION = 2
"""The first version with a CRC. nitro-cli writes 4; metadata came with it, signatures with 3."""

MAX_SECTIONS = 32
MAX_METADATA_LEVELS = 127
"""As deep as serde_json reads for nitro-cli. What Python reads at its own limit, it cannot always write again."""

LARGEST_IMAGE = 2 << 30
"""Bytes of an image that are still read; an enclave's memory holds it more than once."""
_HEADER = struct.Struct(">4sHHQQHH32Q32QI")
_CRC = struct.Struct(">I")
_SECTION = struct.Struct(">HHQ")
HEADER_SIZE = _HEADER.size + _CRC.size
_ARM64 = 1
_DEFAULT_MEMORY, _DEFAULT_CPUS = 1 << 30, 2


class SectionType(IntEnum):
    """The types of sections; others are refused."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


_MEASURED = (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK)


class Section(NamedTuple):
    """A section's type and content."""

    kind: SectionType
    data: bytes


class EnclaveImage(NamedTuple):
    """An enclave image: what is loaded, with metadata and a signature beside it that nobody measures.

    Attributes:
        order: types of the measured sections, as an unusual file had them: their order moves PCR0 and PCR1. () for the
            usual one, kernel, command line, ramdisks.
    """

    kernel: bytes
    cmdline: bytes
    ramdisks: tuple[bytes, ...]
    metadata: Mapping[str, Any] = MappingProxyType({})
    signature: bytes | None = None
    order: tuple[SectionType, ...] = ()

    def sections(self) -> list[Section]:
        """In the order in which nitro-cli writes them, but for measured ones of another `order`."""
        signature = [] if self.signature is None else [Section(SectionType.SIGNATURE, self.signature)]
        left = {
            SectionType.KERNEL: iter((self.kernel,)),
            SectionType.CMDLINE: iter((self.cmdline,)),
            SectionType.RAMDISK: iter(self.ramdisks),
        }
        measured = [Section(kind, next(left[kind])) for kind in self.order or _usual_order(len(self.ramdisks))]
        metadata = Section(SectionType.METADATA, json.dumps(dict(self.metadata), sort_keys=True).encode())
        return [*measured[:2], metadata, *measured[2:], *signature]

    def __repr__(self) -> str:
        return f"EnclaveImage(PCR0 {self.measurements()[Pcr.IMAGE].hex()[:16]}…, {len(self.encode())} bytes)"

    def measurements(self) -> dict[int, bytes]:
        """PCR0, PCR1 and PCR2, 48 bytes each, as whoever loads the image measures them."""
        return measure_sections(self.sections())

    def encode(self) -> bytes:
        """The bytes of the file. The same image gives the same bytes."""
        sections = self.sections()
        parts = [_SECTION.pack(section.kind, 0, len(section.data)) + section.data for section in sections]
        sizes = [len(section.data) for section in sections]
        offsets = [HEADER_SIZE + sum(map(len, parts[:place])) for place in range(len(parts))]
        header = _HEADER.pack(
            *(MAGIC, VERSION, 0, _DEFAULT_MEMORY, _DEFAULT_CPUS, 0, len(sections)),
            *_table(offsets),
            *_table(sizes),
            0,
        )
        body = b"".join(parts)
        return header + _CRC.pack(zlib.crc32(body, zlib.crc32(header))) + body


def _usual_order(ramdisks: int) -> tuple[SectionType, ...]:
    return (SectionType.KERNEL, SectionType.CMDLINE, *(SectionType.RAMDISK,) * ramdisks)


def _table(values: list[int]) -> list[int]:
    return values + [0] * (MAX_SECTIONS - len(values))


def measure_sections(sections: Sequence[Section]) -> dict[int, bytes]:
    """PCR0, PCR1 and PCR2 of sections in the order of their file."""
    bootstrap: list[bytes] = []
    application: list[bytes] = []
    image: list[bytes] = []
    has_ramdisk = False
    for section in sections:
        if section.kind in _MEASURED:
            image.append(section.data)
            (application if section.kind is SectionType.RAMDISK and has_ramdisk else bootstrap).append(section.data)
            has_ramdisk |= section.kind is SectionType.RAMDISK
    return {
        Pcr.IMAGE: measure(*image),
        Pcr.KERNEL_AND_BOOTSTRAP: measure(*bootstrap),
        Pcr.APPLICATION: measure(*application),
    }


class Reading(NamedTuple):
    """What a file's bytes hold: sections where they can be told apart, and every fault that the format knows.

    Attributes:
        sections: in the file's order; empty where the file cannot be taken apart, so that nothing is measured.
        faults: each a sentence, the place first. A file without a fault is an image.
    """

    version: int
    architecture: str
    sections: tuple[Section, ...]
    faults: tuple[str, ...]

    def data(self, kind: SectionType) -> list[bytes]:
        """The contents of the sections of a type."""
        return [section.data for section in self.sections if section.kind is kind]

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata section's JSON; {} where there is none to be read. Nobody measures it."""
        return _json_object(next(iter(self.data(SectionType.METADATA)), b"")) or {}

    def measurements(self) -> dict[int, bytes]:
        """PCR0, PCR1 and PCR2 of what can be loaded; {} where the file cannot be taken apart."""
        return measure_sections(self.sections) if self.sections else {}

    def image(self) -> EnclaveImage:
        """The image.

        Raises:
            ImageError: with the first fault.
        """
        if self.faults:
            raise ImageError(f"enclave image: {self.faults[0]}")
        ramdisks = tuple(self.data(SectionType.RAMDISK))
        order = tuple(section.kind for section in self.sections if section.kind in _MEASURED)
        return EnclaveImage(
            kernel=self.data(SectionType.KERNEL)[0],
            cmdline=self.data(SectionType.CMDLINE)[0],
            ramdisks=ramdisks,
            metadata=self.metadata,
            signature=next(iter(self.data(SectionType.SIGNATURE)), None),
            order=() if order == _usual_order(len(ramdisks)) else order,
        )


def read_image(data: bytes) -> EnclaveImage:
    """The image in the bytes of a file.

    Raises:
        ImageError: with the first fault: no EIF, another version, damaged, or sections that are not an image's.
    """
    return examine_image(data).image()


def examine_image(data: bytes) -> Reading:
    """Read a file as far as it can be read, and name every fault. Never raises, whatever the bytes."""
    if len(data) < HEADER_SIZE or data[:4] != MAGIC:
        fault = (
            f"magic: expected a file of {HEADER_SIZE} bytes or more that begins with .eif, as `workshop build` writes"
        )
        return Reading(version=0, architecture="", sections=(), faults=(fault,))
    values = _HEADER.unpack_from(data)
    version, flags, count = values[1], values[2], values[6]
    sections, broken = _walk(data)
    faults = [*_header_faults(data, version, count), *broken]
    if not broken:
        faults += [*_table_faults(sections, count, values[7:39], values[39:71]), *_content_faults(sections, version)]
    return Reading(
        version=version,
        architecture="arm64" if flags & _ARM64 else "x86_64",
        sections=() if broken else tuple(section for _, section in sections),
        faults=tuple(faults),
    )


def _header_faults(data: bytes, version: int, count: int) -> Iterator[str]:
    if not OLDEST_VERSION <= version <= VERSION:
        yield f"version: expected {OLDEST_VERSION} to {VERSION}, got {version}"
    if not 0 < count <= MAX_SECTIONS:
        yield f"sections: expected 1 to {MAX_SECTIONS}, the header says {count}"
    (expected,) = _CRC.unpack_from(data, _HEADER.size)
    actual = zlib.crc32(memoryview(data)[HEADER_SIZE:], zlib.crc32(data[: _HEADER.size]))
    if expected != actual:
        yield f"CRC: expected {expected:08x}, the content gives {actual:08x}; the file is damaged, build it again"


def _walk(data: bytes) -> tuple[list[tuple[int, Section]], list[str]]:
    """The sections one after another, each with its place, as nitro-cli's reader takes them; or why there are none."""
    sections: list[tuple[int, Section]] = []
    position = HEADER_SIZE
    while position < len(data):
        if len(data) - position < _SECTION.size:
            return [], [f"section at {position}: expected {_SECTION.size} bytes of header, the file is cut"]
        kind, _, size = _SECTION.unpack_from(data, position)
        start = position + _SECTION.size
        if kind not in list(SectionType):
            return [], [f"section at {position}: expected type 1 to 5, got {kind}"]
        if size > len(data) - start:
            return [], [f"section at {position}: expected {size} bytes, the file has {len(data) - start}"]
        if len(sections) == MAX_SECTIONS:
            return [], [f"section at {position}: expected at most {MAX_SECTIONS} sections, got more"]
        sections.append((position, Section(SectionType(kind), data[start : start + size])))
        position = start + size
    return sections, []


def _table_faults(
    sections: list[tuple[int, Section]], count: int, offsets: tuple[int, ...], sizes: tuple[int, ...]
) -> Iterator[str]:
    """What the header's table says and the sections do not: one reader would follow this, another that."""
    if count != len(sections):
        yield f"sections: the header says {count}, the file has {len(sections)}"
    actual = [position for position, _ in sections]
    if list(offsets) != _table(actual):
        yield f"offsets: expected {actual}, the header says {list(offsets[:count])}"
    actual = [len(section.data) for _, section in sections]
    if list(sizes) != _table(actual):
        yield f"sizes: expected {actual}, the header says {list(sizes[:count])}"


def _content_faults(sections: list[tuple[int, Section]], version: int) -> Iterator[str]:
    kinds = [section.kind for _, section in sections]
    for kind in (SectionType.KERNEL, SectionType.CMDLINE):
        if kinds.count(kind) != 1:
            yield f"{kind.name.lower()}: expected one section, got {kinds.count(kind)}"
    if SectionType.RAMDISK not in kinds:
        yield "ramdisk: expected one or more sections, got none"
    wanted = 1 if version >= VERSION else 0
    if kinds.count(SectionType.METADATA) != wanted:
        count = "one section" if wanted else "no section"
        yield f"metadata: expected {count} in version {version}, got {kinds.count(SectionType.METADATA)}"
    if kinds.count(SectionType.SIGNATURE) > 1:
        yield f"signature: expected one section at most, got {kinds.count(SectionType.SIGNATURE)}"
    for _, section in sections:
        if section.kind is SectionType.METADATA and _json_object(section.data) is None:
            yield "metadata: expected a JSON object, got something else"


def _json_object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _levels(value) <= MAX_METADATA_LEVELS else None


def _levels(value: object) -> int:
    """How deep containers stand in each other, found without recursion."""
    count, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        count += 1
        level = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
    return count
