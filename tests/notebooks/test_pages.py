"""What nbval does not see: whether a page was run at all, whether it is fresh, and what it gives away."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))
LEAK = re.compile(r"/(?:home|root|tmp|Users|work)/|0x[0-9a-f]{8,}|ipykernel_\d+|127\.0\.0\.1:\d+")


def cells(page: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(page.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def output_texts(cell: dict) -> list[str]:
    texts = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        texts += ["".join(output.get("text", ""))] + ["".join(data[kind]) for kind in data if kind.startswith("text/")]
    return texts


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_pages() -> None:
    assert [page.stem[:2] for page in PAGES][:1] == ["00"]


def test_every_code_cell_was_run_in_order(page: Path) -> None:
    """nbval compares nothing where a cell was never run, and says nothing about it."""
    code = cells(page, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))


def test_no_cell_escapes_the_comparison(page: Path) -> None:
    for cell in cells(page, "code"):
        assert not re.search("nbval[-_](skip|ignore)", source(cell), re.IGNORECASE)
        assert not [tag for tag in cell["metadata"].get("tags", []) if "nbval" in tag or "skip" in tag]


def test_outputs_name_no_machine_and_no_run(page: Path) -> None:
    for cell in cells(page, "code"):
        for text in output_texts(cell):
            assert not LEAK.search(text), text
        assert "execution" not in cell["metadata"]
    assert "widgets" not in json.loads(page.read_text())["metadata"]


def test_outputs_have_no_errors_and_no_warnings(page: Path) -> None:
    for cell in cells(page, "code"):
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"


def test_cells_are_short_and_end_without_a_semicolon(page: Path) -> None:
    """IPython hides the output of a line with a semicolon, nbval does not: the page and its check would differ."""
    for cell in cells(page, "code"):
        assert len(source(cell).splitlines()) <= 20
        assert not source(cell).rstrip().endswith(";")


def test_a_page_has_the_parts_of_a_page(page: Path) -> None:
    prose = [source(cell) for cell in cells(page, "markdown")]
    assert len(prose) >= len(cells(page, "code")) * 0.6
    assert prose[0].startswith("# ")
    assert "**By the end you can**" in prose[0]
    assert any(text.startswith("## What this did not prove") for text in prose)
    assert any("**You can now**" in text for text in prose)


def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    for cell in cells(page, "markdown"):
        for target in re.findall(r"\]\(([^)#:]+)\)", source(cell)):
            assert (page.parent / target).exists(), target
