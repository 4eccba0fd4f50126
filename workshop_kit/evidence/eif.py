"""The enclave image format of AWS Nitro, version 4, and what of it is measured (aws-nitro-enclaves-image-format).

    header, 548 bytes, big-endian: magic ".eif", version, flags, offsets and sizes of up to 32 sections, CRC-32
    sections: kernel, command line, metadata, ramdisks; each with a 12-byte header of type, flags and size

PCR0 measures kernel, command line and all ramdisks, PCR1 the first ramdisk without the others, PCR2 the others. Section
boundaries, section headers and metadata are not measured.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from workshop_kit.errors import ImageError
from workshop_kit.evidence.pcr import Pcr, measure

MAGIC = b".eif"
VERSION = 4
MAX_SECTIONS = 32
_HEADER = struct.Struct(">4sHHQQHH32Q32QI")
_CRC = struct.Struct(">I")
_SECTION = struct.Struct(">HHQ")
HEADER_SIZE = _HEADER.size + _CRC.size
_DEFAULT_MEMORY, _DEFAULT_CPUS = 1 << 30, 2


class SectionType(IntEnum):
    """The types of sections; others are refused."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


@dataclass(frozen=True, kw_only=True)
class EnclaveImage:
    """An enclave image: what is loaded, and metadata beside it that nobody measures."""

    kernel: bytes
    cmdline: bytes
    ramdisks: tuple[bytes, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"EnclaveImage(PCR0 {self.measurements()[Pcr.IMAGE].hex()[:16]}…, {len(self.encode())} bytes)"

    def measurements(self) -> dict[int, bytes]:
        """PCR0, PCR1 and PCR2, 48 bytes each, as whoever loads the image measures them."""
        first, others = self.ramdisks[:1], self.ramdisks[1:]
        return {
            Pcr.IMAGE: measure(self.kernel, self.cmdline, *first, *others),
            Pcr.KERNEL_AND_BOOTSTRAP: measure(self.kernel, self.cmdline, *first),
            Pcr.APPLICATION: measure(*others),
        }

    def encode(self) -> bytes:
        """The bytes of the file. The same image gives the same bytes."""
        metadata = json.dumps(self.metadata, sort_keys=True).encode()
        sections = [
            (SectionType.KERNEL, self.kernel),
            (SectionType.CMDLINE, self.cmdline),
            (SectionType.METADATA, metadata),
            *((SectionType.RAMDISK, ramdisk) for ramdisk in self.ramdisks),
        ]
        body, offsets = b"", []
        for kind, data in sections:
            offsets.append(HEADER_SIZE + len(body))
            body += _SECTION.pack(kind, 0, len(data)) + data
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            0,
            _DEFAULT_MEMORY,
            _DEFAULT_CPUS,
            0,
            len(sections),
            *_table(offsets),
            *_table([len(data) for _, data in sections]),
            0,
        )
        return header + _CRC.pack(zlib.crc32(body, zlib.crc32(header))) + body


def _table(values: list[int]) -> list[int]:
    return values + [0] * (MAX_SECTIONS - len(values))


def read_image(data: bytes) -> EnclaveImage:
    """The image in the bytes of a file.

    Raises:
        ImageError: with the first fault: no EIF, another version, damaged, or sections that are not an image's.
    """
    if len(data) < HEADER_SIZE or data[:4] != MAGIC:
        raise ImageError("not an enclave image: expected a file that begins with .eif, as `workshop build` writes")
    values = _HEADER.unpack_from(data)
    version, count, offsets, sizes = values[1], values[6], values[7:39], values[39:71]
    if version != VERSION or not 0 < count <= MAX_SECTIONS:
        raise ImageError(f"enclave image: expected version 4 and 1 to 32 sections, got version {version} and {count}")
    (expected,) = _CRC.unpack_from(data, _HEADER.size)
    if expected != zlib.crc32(data[HEADER_SIZE:], zlib.crc32(data[: _HEADER.size])):
        raise ImageError("enclave image: its CRC-32 does not match its content; the file is damaged, build it again")
    sections = _sections(data, offsets[:count], sizes[:count])
    return _image(sections)


def _sections(data: bytes, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> list[tuple[int, bytes]]:
    sections, position = [], HEADER_SIZE
    for offset, size in zip(offsets, sizes, strict=True):
        start = position + _SECTION.size
        if offset != position or start + size > len(data):
            raise ImageError(f"enclave image: expected a section of {size} bytes at {position}, the file has another")
        kind, _, length = _SECTION.unpack_from(data, position)
        if length != size:
            raise ImageError(f"enclave image: section at {position}: expected {size} bytes, its header says {length}")
        sections.append((kind, data[start : start + size]))
        position = start + size
    if position != len(data):
        raise ImageError(f"enclave image: expected its end at byte {position}, got {len(data) - position} more bytes")
    return sections


def _image(sections: list[tuple[int, bytes]]) -> EnclaveImage:
    by_type: dict[int, list[bytes]] = {kind: [] for kind in SectionType}
    for kind, content in sections:
        if kind not in by_type:
            raise ImageError(f"enclave image: expected sections of type 1 to 5, got {kind}")
        by_type[kind].append(content)
    for kind in (SectionType.KERNEL, SectionType.CMDLINE):
        if len(by_type[kind]) != 1:
            raise ImageError(f"enclave image: expected one {kind.name.lower()} section, got {len(by_type[kind])}")
    try:
        metadata = json.loads(by_type[SectionType.METADATA][0]) if by_type[SectionType.METADATA] else {}
    except (ValueError, RecursionError):
        raise ImageError("enclave image: expected JSON in its metadata section, got something else") from None
    return EnclaveImage(
        kernel=by_type[SectionType.KERNEL][0],
        cmdline=by_type[SectionType.CMDLINE][0],
        ramdisks=tuple(by_type[SectionType.RAMDISK]),
        metadata=metadata,
    )
