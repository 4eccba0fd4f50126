"""Why did my PCR change? Two images side by side, down to the file and the bytes. Explained in notebook 03."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from workshop_kit.errors import ImageError
from workshop_kit.evidence.cpio import Entry, Link, read_archive
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.evidence.pcr import Pcr

_EVERYWHERE = (Pcr.IMAGE, Pcr.KERNEL_AND_BOOTSTRAP)
_APPLICATION = (Pcr.IMAGE, Pcr.APPLICATION)


@dataclass(frozen=True)
class Difference:
    """One place where two images differ.

    Attributes:
        place: the section, and the file in it where the section is an archive.
        what: the bytes from the first to the last that differ, counted from 0, or which image has the place alone.
        moves: the PCRs that measure this place.
    """

    place: str
    what: str
    moves: tuple[Pcr, ...]

    def __str__(self) -> str:
        return f"{self.place}: {self.what} (moves {' and '.join(f'PCR{int(pcr)}' for pcr in self.moves)})"


def compare_images(first: EnclaveImage, second: EnclaveImage) -> list[Difference]:
    """Every measured place where the images differ, in the order of the image; [] where all PCRs agree.

    Not guaranteed: that each difference alone moves its PCRs. Sections are measured without their boundaries, so two
    differences can cancel out: bytes moved from one ramdisk to the next leave PCR0 as it was.
    """
    return [
        *_order(first, second),
        *_bytes("kernel", first.kernel, second.kernel, _EVERYWHERE),
        *_bytes("command line", first.cmdline, second.cmdline, _EVERYWHERE),
        *_ramdisks(first.ramdisks, second.ramdisks),
    ]


def _order(first: EnclaveImage, second: EnclaveImage) -> Iterator[Difference]:
    if first.order != second.order:
        shown = (", ".join(kind.name.lower() for kind in image.order) or "the usual one" for image in (first, second))
        yield Difference("order of sections", " became ".join(shown), _EVERYWHERE)


def _ramdisks(first: tuple[bytes, ...], second: tuple[bytes, ...]) -> Iterator[Difference]:
    for place in range(max(len(first), len(second))):
        name, moves = f"ramdisk {place + 1}", _APPLICATION if place else _EVERYWHERE
        if place >= min(len(first), len(second)):
            yield Difference(name, _alone(place < len(first)), moves)
        else:
            yield from _ramdisk(name, first[place], second[place], moves)


def _ramdisk(name: str, first: bytes, second: bytes, moves: tuple[Pcr, ...]) -> Iterator[Difference]:
    if first == second:
        return
    try:
        old, new = _files(first), _files(second)
    except ImageError:
        # Not an archive of ours, such as a compressed one: its bytes can be compared all the same.
        yield from _bytes(name, first, second, moves)
        return
    for path in sorted(old.keys() | new.keys()):
        # Names in an image that somebody sent may hold anything, a terminal's control sequences too.
        place = f"{name}, {path if path.isprintable() else repr(path)}"
        if path not in old or path not in new:
            yield Difference(place, _alone(path in old), moves)
        else:
            yield from _bytes(place, old[path], new[path], moves)


def _files(ramdisk: bytes) -> Mapping[str, bytes]:
    return {path: _content(entry) for path, (_, entry) in read_archive(ramdisk).items()}


def _content(entry: Entry) -> bytes:
    return b"link to " + entry.target.encode() if isinstance(entry, Link) else entry


def _alone(in_first: bool) -> str:
    return f"only in the {'first' if in_first else 'second'}"


def _bytes(place: str, first: bytes, second: bytes, moves: tuple[Pcr, ...]) -> Iterator[Difference]:
    if first == second:
        return
    shorter = min(len(first), len(second))
    begin = next((at for at in range(shorter) if first[at] != second[at]), shorter)
    same_tail = next((at for at in range(shorter - begin) if first[-1 - at] != second[-1 - at]), shorter - begin)
    ends = len(first) - same_tail, len(second) - same_tail
    yield Difference(place, f"{_range(begin, ends[0], len(first))} became {_range(begin, ends[1], len(second))}", moves)


def _range(begin: int, end: int, size: int) -> str:
    if begin == end:
        return f"nothing at byte {begin} of {size}"
    return f"byte {begin} of {size}" if end == begin + 1 else f"bytes {begin} to {end - 1} of {size}"
