"""`workshop lab` opens a copy: an update of the pages never meets a learner's edits."""

from __future__ import annotations

from pathlib import Path

import pytest

from workshop_kit.tasks import copy_pages


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "00.ipynb").write_text("first page, first edition")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "my-work"


def test_every_page_is_copied(pages: Path, work: Path) -> None:
    assert copy_pages(pages, work) == []
    assert (work / "00.ipynb").read_text() == "first page, first edition"


def test_an_untouched_copy_follows_an_update(pages: Path, work: Path) -> None:
    copy_pages(pages, work)
    (pages / "00.ipynb").write_text("first page, second edition")
    assert copy_pages(pages, work) == []
    assert (work / "00.ipynb").read_text() == "first page, second edition"


def test_an_edited_copy_stays_and_the_learner_is_told_of_each_update(pages: Path, work: Path) -> None:
    copy_pages(pages, work)
    (work / "00.ipynb").write_text("mine")
    assert copy_pages(pages, work) == [], "nothing new, nothing to say"
    (pages / "00.ipynb").write_text("first page, second edition")
    (note,) = copy_pages(pages, work)
    assert "00.ipynb" in note
    assert (work / "00.ipynb").read_text() == "mine"


def test_a_page_that_the_learner_deleted_comes_back(pages: Path, work: Path) -> None:
    copy_pages(pages, work)
    (work / "00.ipynb").unlink()
    copy_pages(pages, work)
    assert (work / "00.ipynb").exists()


def test_a_page_of_the_learners_own_is_left_alone(pages: Path, work: Path) -> None:
    """Also where a later edition ships a page of that name."""
    copy_pages(pages, work)
    (work / "01.ipynb").write_text("my own page")
    copy_pages(pages, work)
    (pages / "01.ipynb").write_text("second page")
    copy_pages(pages, work)
    assert (work / "01.ipynb").read_text() == "my own page"


def test_a_damaged_record_costs_no_edit(pages: Path, work: Path) -> None:
    """What is not known to be ours counts as the learner's."""
    copy_pages(pages, work)
    (work / ".shipped.json").write_text("{")
    (pages / "00.ipynb").write_text("first page, second edition")
    (note,) = copy_pages(pages, work)
    assert (work / "00.ipynb").read_text() == "first page, first edition"
    assert "00.ipynb" in note
