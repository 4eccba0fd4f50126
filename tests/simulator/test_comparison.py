"""Why a PCR changed: the file, the bytes and the registers."""

from __future__ import annotations

import pytest

from workshop_kit.evidence.cpio import Entry, Link, write_archive
from workshop_kit.evidence.eif import EnclaveImage, SectionType
from workshop_kit.simulator.comparison import compare_images

APP: dict[str, Entry] = {"app.py": b"print('hello')\n", "link": Link("app.py"), "same": b"same"}


def image(**files: Entry) -> EnclaveImage:
    names = {name.replace("_", "."): content for name, content in files.items()}
    return EnclaveImage(kernel=b"k", cmdline=b"c", ramdisks=(write_archive({"init": b"x"}), write_archive(APP | names)))


def told(first: EnclaveImage, second: EnclaveImage) -> list[str]:
    return [str(difference) for difference in compare_images(first, second)]


def test_equal_images_have_no_difference() -> None:
    assert told(image(), image()) == []


def test_metadata_and_signatures_are_no_difference() -> None:
    """Nobody measures them."""
    assert told(image(), image()._replace(metadata={"a": 1}, signature=b"s")) == []


def test_a_changed_byte_is_named_with_its_file_and_its_registers() -> None:
    assert told(image(), image(app_py=b"print('hallo')\n")) == [
        "ramdisk 2, app.py: byte 8 of 15 became byte 8 of 15 (moves PCR0 and PCR2)"
    ]


def test_a_longer_file_names_what_stands_between_equal_beginning_and_equal_end() -> None:
    assert told(image(), image(app_py=b"print('hello, you')\n")) == [
        "ramdisk 2, app.py: nothing at byte 12 of 15 became bytes 12 to 16 of 20 (moves PCR0 and PCR2)"
    ]


def test_a_repeated_byte_is_not_counted_twice() -> None:
    """The equal end must not reach into the equal beginning."""
    assert told(image(app_py=b"aa"), image(app_py=b"aaa")) == [
        "ramdisk 2, app.py: nothing at byte 2 of 2 became byte 2 of 3 (moves PCR0 and PCR2)"
    ]


def test_a_file_that_only_one_has_is_named() -> None:
    assert told(image(), image(new=b"")) == ["ramdisk 2, new: only in the second (moves PCR0 and PCR2)"]
    assert told(image(new=b""), image()) == ["ramdisk 2, new: only in the first (moves PCR0 and PCR2)"]


def test_a_link_that_became_a_file_is_named() -> None:
    (line,) = told(image(), image(link=b"app.py"))
    assert line.startswith("ramdisk 2, link: ")


def test_the_first_ramdisk_moves_pcr1() -> None:
    other = image()._replace(ramdisks=(write_archive({"init": b"y"}), image().ramdisks[1]))
    assert told(image(), other) == ["ramdisk 1, init: byte 0 of 1 became byte 0 of 1 (moves PCR0 and PCR1)"]


@pytest.mark.parametrize(("part", "name"), [("kernel", "kernel"), ("cmdline", "command line")])
def test_kernel_and_command_line_move_pcr1(part: str, name: str) -> None:
    (line,) = told(image(), image()._replace(**{part: b"other"}))
    assert line.startswith(f"{name}: ")
    assert line.endswith("(moves PCR0 and PCR1)")


def test_another_order_of_the_same_sections_is_named() -> None:
    """As a file that was read may have it: nitro-cli writes one order only."""
    other = image()._replace(order=(SectionType.CMDLINE, SectionType.KERNEL, SectionType.RAMDISK, SectionType.RAMDISK))
    expected = "order of sections: the usual one became cmdline, kernel, ramdisk, ramdisk (moves PCR0 and PCR1)"
    assert told(image(), other) == [expected]


def test_a_name_that_no_terminal_should_see_is_shown_in_quotes() -> None:
    (line,) = told(image(), image(**{"\x1b[2J": b""}))
    assert line.startswith(r"ramdisk 2, '\x1b[2J': only in the second")


def test_ramdisks_that_are_no_archives_are_compared_as_bytes() -> None:
    one, two = (image()._replace(ramdisks=(b"\x1f\x8b" + end, b"x")) for end in (b"aaa", b"aba"))
    assert told(one, two) == ["ramdisk 1: byte 3 of 5 became byte 3 of 5 (moves PCR0 and PCR1)"]


def test_a_ramdisk_more_is_named() -> None:
    more = image()._replace(ramdisks=(*image().ramdisks, b"third"))
    assert told(image(), more) == ["ramdisk 3: only in the second (moves PCR0 and PCR2)"]


def test_every_difference_names_the_registers_that_really_moved() -> None:
    """The oracle is the measurement itself."""
    for second in (image(app_py=b""), image(new=b"n"), image()._replace(kernel=b"other")):
        before, after = image().measurements(), second.measurements()
        moved = {index for index in before if before[index] != after[index]}
        assert {register for each in compare_images(image(), second) for register in each.moves} == moved
