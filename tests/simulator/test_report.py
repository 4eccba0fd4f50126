"""What an enclave's process reports while it starts is waited for no longer than somebody can report it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from workshop_kit.simulator.report import Report

LONG = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for each in ends:
        try:
            os.close(each)
        except OSError:
            continue  # a test has closed it


def read(descriptor: int, seconds: float = LONG, *, ended: bool = False) -> tuple[bytes, bool]:
    """What was said, and whether that was waited for in vain."""
    begin = time.monotonic()
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as stream:
        said = Report(stream, begin + seconds).line(lambda: ended)
    return said, time.monotonic() - begin > LONG / 2


def test_a_line_is_read_in_pieces(pipe: tuple[int, int]) -> None:
    def say() -> None:
        for piece in (b"rea", b"dy {", b"}\n"):
            time.sleep(0.05)
            os.write(pipe[1], piece)

    saying = threading.Thread(target=say)
    saying.start()
    assert read(pipe[0]) == (b"ready {}\n", False)
    saying.join()


def test_lines_that_come_together_are_read_one_by_one(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"isolated {}\nready\nhalf")
    with os.fdopen(os.dup(pipe[0]), "rb", buffering=0) as stream:
        report = Report(stream, time.monotonic() + LONG)
        assert [report.line(lambda: True) for _ in range(4)] == [b"isolated {}\n", b"ready\n", b"half", b""]


def test_the_pipes_end_is_an_end(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"half")
    os.close(pipe[1])
    assert read(pipe[0]) == (b"half", False)


def test_what_a_process_said_before_it_ended_is_read(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"forked 7\n")
    assert read(pipe[0], ended=True) == (b"forked 7\n", False)


def test_a_process_that_ended_is_waited_for_no_longer_though_a_child_of_its_holds_the_pipe(
    pipe: tuple[int, int],
) -> None:
    assert read(pipe[0], ended=True) == (b"", False)


def test_the_time_is_an_end(pipe: tuple[int, int]) -> None:
    assert read(pipe[0], 0.1) == (b"", False)


def test_a_line_without_an_end_is_not_read_for_ever(pipe: tuple[int, int]) -> None:
    stop = threading.Event()

    def say() -> None:
        while not stop.is_set():
            try:
                os.write(pipe[1], bytes(4096))
            except OSError:
                return

    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    said, _ = read(pipe[0])
    stop.set()
    os.set_blocking(pipe[0], False)
    while saying.is_alive():
        try:
            os.read(pipe[0], 1 << 20)
        except BlockingIOError:
            time.sleep(0.01)
    assert 64 * 1024 <= len(said) <= 68 * 1024
