"""What the launcher's users ask for beside the enclave itself: the lab, the tests, the pages, the bench, the fuzzer."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from workshop_kit.errors import LabError
from workshop_kit.shipped import checkout, folder, require_checkout

FIRST_PAGE = "00_start_here.ipynb"
WORK = "my-work"
_SHIPPED = ".shipped.json"
_SETTINGS = Path(__file__).resolve().parent / "notebook" / "lab_settings"


def open_lab(arguments: list[str], *, unisolated: bool = False) -> None:
    """Become JupyterLab, on the learner's copy of the pages.

    Args:
        unisolated: labs in it do without isolation.

    Raises:
        LabError: JupyterLab is not installed here.
    """
    work = (checkout() or Path.cwd()) / WORK
    for line in copy_pages(folder("notebooks"), work):
        print(line, file=sys.stderr)
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={work}", *_quiet(), *arguments]
    if subprocess.run([sys.executable, "-c", "import jupyterlab"], capture_output=True, check=False).returncode:
        raise LabError("JupyterLab is not installed here: run `python3 workshop.py lab` in the repository")
    if unisolated:
        from workshop_kit.notebook.lab import UNISOLATED  # late, as it loads the kit

        os.environ[UNISOLATED] = "1"
    print(f"JupyterLab opens {work} in your browser; Ctrl-C here ends it", file=sys.stderr, flush=True)
    os.execv(sys.executable, command)


def _quiet() -> list[str]:
    """Open at the first page, ask no server for news, and keep a kernel's messages off the network."""
    options = [
        f"--LabApp.default_url=/lab/tree/{FIRST_PAGE}",
        f"--LabApp.app_settings_dir={_SETTINGS}",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--KernelManager.transport=ipc",
    ]
    return [*options, "--allow-root"] if os.geteuid() == 0 else options


def copy_pages(pages: Path, work: Path) -> list[str]:
    """Bring the learner's copy up to date, never touching a page that was edited; says what was left alone."""
    work.mkdir(exist_ok=True)
    record = work / _SHIPPED
    shipped = _read_record(record)
    notes = []
    for page in sorted(pages.glob("*.ipynb")):
        copy, digest = work / page.name, _digest(page)
        if copy.exists() and _digest(copy) not in (digest, shipped.get(page.name)):
            if shipped.get(page.name) != digest:
                notes.append(
                    f"{page.name} has a newer version; yours is edited and stays (delete it to get the new one)"
                )
            continue
        copy.write_bytes(page.read_bytes())
        shipped[page.name] = digest
    record.write_text(json.dumps(shipped, indent=1))
    return notes


def _read_record(record: Path) -> dict[str, str]:
    """Which edition of each page was copied; nothing where that is unknown, so that every copy counts as edited."""
    try:
        shipped = json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return shipped if isinstance(shipped, dict) else {}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run_tests(arguments: list[str]) -> int:
    """All tests and all pages; pytest's last lines name what was skipped, and why."""
    root = require_checkout("test")
    return subprocess.call([sys.executable, "-m", "pytest", *arguments], cwd=root)


def regenerate_pages(*, check: bool) -> int:
    """Execute the pages and store them, or with `check` say which are stale."""
    root = require_checkout("pages")
    from workshop_kit.notebook.pages import regenerate

    stale = regenerate(root / "notebooks", write=not check)
    for page in stale:
        print(f"{'stale' if check else 'stored'} {page}")
    return 1 if check and stale else 0


def run_bench(parts: list[str], *, peers: bool) -> None:
    """Become the bench of the repository, all of it or `parts`, or with `peers` its comparison with other verifiers.

    Become, since it must end what it started: whoever waits for a program kills it soon after Ctrl-C.
    """
    root = require_checkout("bench")
    script = root / "tests" / "bench" / ("peers.py" if peers else "bench.py")
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, str(script), *parts])


def run_fuzz(*, file: Path | None, seconds: float, target: str | None) -> int:
    """The fuzz targets of the repository, each for its share of the time; with `file`, one of them on that alone.

    Raises:
        LabError: atheris is not installed here, and there is no file.
    """
    root = require_checkout("fuzz")
    if file is None and importlib.util.find_spec("atheris") is None:
        raise LabError(
            "expected atheris, got an environment without it: on Linux on x86-64 install the extra fuzz, as in "
            "`uv pip install -e '.[fuzz]'`; a FILE needs none"
        )
    options = ["--seconds", str(seconds), *(["--target", target] if target else [])]
    inputs = [str(file.resolve())] if file else []
    return subprocess.call([sys.executable, str(root / "tests" / "fuzz" / "fuzz.py"), *options, *inputs], cwd=root)
