"""Where data and pages are: in a checkout beside the package, in an installed wheel inside it."""

from __future__ import annotations

from pathlib import Path

from workshop_kit.errors import LabError

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The repository that this package runs from, or None where it is installed by itself."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def require_checkout(task: str) -> Path:
    """The repository.

    Raises:
        LabError: this is an installed package; `task` needs what only the repository has.
    """
    root = checkout()
    if root is None:
        raise LabError(f"`workshop {task}` needs the repository: clone it and run `python3 workshop.py {task}` there")
    return root


def folder(name: str) -> Path:
    """The shipped folder `data` or `notebooks`."""
    root = checkout()
    return root / name if root else _PACKAGE / "_shipped" / name
