"""Executes pages and stores their outputs, in a form that the next run can compare byte for byte.

What differs from run to run without a reason is left out: times of execution, widget state, ids of widget views.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_CELL_SECONDS = 60


def regenerate(folder: Path, *, write: bool) -> list[str]:
    """Execute every page in `folder`; the names of those whose stored text differed from what it is now.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails that is not tagged `raises-exception`.
    """
    stale = []
    for file in sorted(folder.glob("*.ipynb")):
        stored = file.read_text(encoding="utf-8")
        executed = execute(nbformat.reads(stored, as_version=4), folder)
        if executed != stored:
            stale.append(file.name)
            if write:
                file.write_text(executed, encoding="utf-8")
    return stale


def execute(page: NotebookNode, folder: Path) -> str:
    """The text of a page after a run in a fresh kernel."""
    with TemporaryDirectory() as sockets:
        # The kernel's messages over Unix sockets: off the network, and without its warning about that.
        ipc = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        client = NotebookClient(
            page,
            config=ipc,
            timeout=_CELL_SECONDS,
            kernel_name="python3",
            record_timing=False,
            store_widget_state=False,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute()
    for number, cell in enumerate(_code(page), start=1):
        cell.execution_count = number
        for output in cell.outputs:
            output.get("data", {}).pop(_WIDGET_VIEW, None)
            if "execution_count" in output:
                output.execution_count = number
    page.metadata = NotebookNode(kernelspec=_KERNEL, language_info=NotebookNode(name="python"))
    text: str = nbformat.writes(page)
    return text if text.endswith("\n") else text + "\n"


_KERNEL = NotebookNode(display_name="Python 3 (ipykernel)", language="python", name="python3")


def _code(page: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in page.cells if cell.cell_type == "code"]
