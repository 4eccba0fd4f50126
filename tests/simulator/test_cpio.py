"""The ramdisks' form: canonical, readable by others, and read without leaving the archive."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from workshop_kit.errors import ImageError
from workshop_kit.evidence.cpio import Entry, Link, read_archive, stays_inside, write_archive

FILES: dict[str, Entry] = {
    "service/src/app.py": b"print('hello')\n",
    "service/run": b"#!/bin/sh\nexec app\n",
    "service/empty": b"",
    "service/program": b"\x7fELF and more",
    "service/latest": Link("src/app.py"),
    "service/größe.txt": "größe\n".encode(),
    "a": b"x",
}


@dataclass(frozen=True)
class Header:
    inode: int
    mode: int
    uid: int
    gid: int
    links: int
    time: int
    size: int
    device: tuple[int, int, int, int]
    check: int
    name: str
    data: bytes


def parsed(archive: bytes) -> list[Header]:
    """The newc format as Linux describes it (buffer-format.rst), read here by other code than the kit's."""
    found, at = [], 0
    while True:
        assert archive[at : at + 6] == b"070701"
        texts = [archive[at + 6 + 8 * place : at + 14 + 8 * place] for place in range(13)]
        assert all(text == text.upper() and len(text) == 8 for text in texts)
        inode, mode, uid, gid, links, time, size, d1, d2, d3, d4, name_size, check = (int(text, 16) for text in texts)
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        begin = (at + 110 + name_size + 3) // 4 * 4
        at = (begin + size + 3) // 4 * 4
        data = archive[begin : begin + size]
        header = Header(inode, mode, uid, gid, links, time, size, (d1, d2, d3, d4), check, name[:-1].decode(), data)
        if header.name == "TRAILER!!!":
            assert at == len(archive)
            return found
        found.append(header)


def test_an_archive_reads_back_as_it_was_written() -> None:
    assert {path: entry for path, (_, entry) in read_archive(write_archive(FILES)).items()} == FILES


def test_an_independent_reading_finds_every_file_link_and_folder() -> None:
    headers = {header.name: header for header in parsed(write_archive(FILES))}
    assert set(headers) == {*FILES, "service", "service/src"}
    for path, entry in FILES.items():
        expected = entry.target.encode() if isinstance(entry, Link) else entry
        assert headers[path].data == expected
        assert stat.S_ISLNK(headers[path].mode) == isinstance(entry, Link)
        assert stat.S_ISREG(headers[path].mode) != isinstance(entry, Link)
    assert stat.S_ISDIR(headers["service"].mode)
    assert stat.S_ISDIR(headers["service/src"].mode)


def test_a_folder_stands_before_what_is_in_it() -> None:
    """Linux makes the entries in the archive's order."""
    names = [header.name for header in parsed(write_archive(FILES))]
    assert names == sorted(names, key=str.encode)
    assert names.index("service") < names.index("service/src") < names.index("service/src/app.py")


def test_nothing_of_the_machine_is_in_an_archive() -> None:
    headers = parsed(write_archive(FILES))
    assert [header.inode for header in headers] == list(range(1, len(headers) + 1))
    for header in headers:
        assert (header.uid, header.gid, header.time, header.links, header.check) == (0, 0, 0, 1, 0)
        assert header.device == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("content", "mode"),
    [(b"#!/bin/sh\n", 0o755), (b"\x7fELF", 0o755), (b"", 0o644), (b"#", 0o644), (b" #!", 0o644), (b"\x7fELE", 0o644)],
)
def test_a_files_mode_follows_from_its_content(content: bytes, mode: int) -> None:
    ((header),) = parsed(write_archive({"file": content}))
    assert stat.S_IMODE(header.mode) == mode
    assert read_archive(write_archive({"file": content}))["file"] == (mode, content)


def test_the_order_in_which_files_are_given_does_not_count() -> None:
    assert write_archive(dict(reversed(FILES.items()))) == write_archive(FILES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": b"12", "b": b"3"}, {"a": b"1", "b": b"23"}),
        ({"a": b"1"}, {"b": b"1"}),
        ({"a": b""}, {}),
        ({"a": Link("b"), "b": b""}, {"a": b"b", "b": b""}),
        ({"a/b": b"1"}, {"a": b"1"}),
    ],
)
def test_different_files_give_different_archives(one: Mapping[str, Entry], other: Mapping[str, Entry]) -> None:
    assert write_archive(one) != write_archive(other)


@pytest.mark.skipif(not (shutil.which("cpio") or shutil.which("bsdtar")), reason="neither cpio nor bsdtar is installed")
def test_an_independent_program_unpacks_the_same_files(tmp_path: Path) -> None:
    command = ["cpio", "-id", "--quiet"] if shutil.which("cpio") else ["bsdtar", "-xf", "-"]
    subprocess.run(command, input=write_archive(FILES), cwd=tmp_path, check=True)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()}
    assert found == set(FILES)
    for path, entry in FILES.items():
        place = tmp_path / path
        if isinstance(entry, Link):
            assert str(place.readlink()) == entry.target
        else:
            assert place.read_bytes() == entry
            assert bool(place.stat().st_mode & stat.S_IXUSR) == (path in ("service/run", "service/program"))


# --- what is refused -------------------------------------------------------------------------------------------------


def crafted(*entries: tuple[str, int, bytes]) -> bytes:
    """An archive of any entries at all, well formed each."""
    parts = []
    for inode, (path, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        inode = 0 if path == "TRAILER!!!" else inode
        name = path.encode() + b"\0"
        numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
    return b"".join(parts)


FOLDER, FILE, LINK = 0o040755, 0o100644, 0o120777


def test_a_crafted_archive_of_the_right_form_is_read() -> None:
    """So that what the tests below craft is refused for what each says, and not for its form."""
    entries = [("a", FOLDER, b""), ("a/b", FILE, b"1"), ("c", LINK, b"a/b")]
    assert crafted(*entries) == write_archive({"a/b": b"1", "c": Link("a/b")})


HOSTILE = {
    # With the entries of their folders, so that nothing but the path is wrong.
    "a path to above": [("..", FOLDER, b""), ("../evil", FILE, b"1")],
    "a path that leaves on its way": [
        *(("a", FOLDER, b""), ("a/..", FOLDER, b""), ("a/../..", FOLDER, b"")),
        ("a/../../evil", FILE, b"1"),
    ],
    "an absolute path": [("", FOLDER, b""), ("/tmp", FOLDER, b""), ("/tmp/evil", FILE, b"1")],
    "an empty name": [("", FILE, b"1")],
    "a dot": [(".", FILE, b"1")],
    "NUL in a name": [("a\0b", FILE, b"1")],
    "a link to above": [("link", LINK, b"../..")],
    "a link to an absolute path": [("link", LINK, b"/etc")],
    "a link to nothing": [("link", LINK, b"")],
    "a link to bytes that are no text": [("link", LINK, b"\xff")],
    "a file through a link": [("link", LINK, b"a"), ("link/evil", FILE, b"1")],
    "a path twice": [("a", FILE, b"1"), ("a", FILE, b"2")],
    "a file and a folder of one name": [("a", FILE, b"1"), ("a/b", FILE, b"2")],
    "a file without its folder": [("a/b", FILE, b"1")],
    "a folder that nothing is in": [("a", FOLDER, b"")],
    "another order": [("b", FILE, b"1"), ("a", FILE, b"1")],
    "a set-user-id bit": [("a", 0o104755, b"1")],
    "an executable that does not begin like one": [("a", 0o100755, b"1")],
    "a device": [("a", 0o020644, b"")],
    "a socket": [("a", 0o140644, b"")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_that_is_not_the_writers_is_refused(name: str) -> None:
    with pytest.raises(ImageError, match=r"^ramdisk: expected"):
        read_archive(crafted(*HOSTILE[name]))


def test_an_archive_cut_anywhere_is_refused() -> None:
    archive = write_archive({"a/b": b"12345", "c": Link("a")})
    for length in range(len(archive)):
        with pytest.raises(ImageError):
            read_archive(archive[:length])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(ImageError, match="4 more bytes"):
        read_archive(write_archive({}) + bytes(4))


@pytest.mark.parametrize("number", [b"-0000070", b"+0000000", b"0x000000", b"0_000000", b" 0000000"])
def test_a_number_is_eight_digits_and_nothing_else(number: bytes) -> None:
    """A size below zero would lead the reader back to where it was, for ever."""
    entry = crafted(("", FOLDER, b""))[:110]
    with pytest.raises(ImageError, match="expected a newc cpio entry at byte 0"):
        read_archive(entry[:54] + number + entry[62:])


def test_a_long_path_costs_little() -> None:
    """Every directory of it written out would be the square of its length: here 400 MB."""
    archive = crafted(("a/" * 20_000 + "b", FILE, b""))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError):
            read_archive(archive)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


def test_any_changed_byte_is_refused_or_read_as_another_file() -> None:
    """One archive, one meaning: no byte may be without one."""
    archive = write_archive({"a": b"1234", "b": Link("a")})
    read = read_archive(archive)
    for place in range(len(archive)):
        for bit in range(8):
            changed = bytearray(archive)
            changed[place] ^= 1 << bit
            try:
                other = read_archive(bytes(changed))
            except ImageError:
                continue
            assert other != read, place


@pytest.mark.parametrize("target", ["a", "./a", "b/../a", "../x", "../link", "../../x", "."])
def test_a_link_that_stays_inside_does(target: str) -> None:
    assert stays_inside("a/b/link", target)


@pytest.mark.parametrize(
    "target", ["", "/", "/a", "../../..", "../../../a", "../../../a/b/link", "a\0b", "x/../../../../y"]
)
def test_a_link_that_leaves_does_not(target: str) -> None:
    assert not stays_inside("a/b/link", target)
