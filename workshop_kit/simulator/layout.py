"""Where a container's files stand in an enclave's tree: what its plan copies out of the service folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from workshop_kit.errors import ImageError
from workshop_kit.simulator.container import PLAN, Plan, laid_out
from workshop_kit.simulator.isolation.namespaces import SYSTEM

_OF_THE_TREE = frozenset(path.name for path in SYSTEM) | {"etc", "dev", "proc", "tmp", "old"}
"""Folders that an enclave's tree has in any case: single files can be added there, and are to be read only."""


class Layout(NamedTuple):
    """Folders that the app may write in, and further files, by their names in the tree."""

    copies: Mapping[Path, Path]
    files: Mapping[Path, bytes]


def read_plan(application: Path) -> Plan | None:
    """What an image runs beside the built-in base, or None where it runs on that.

    Raises:
        ImageError: it cannot be read.
    """
    file = application / PLAN
    return Plan.from_json(file.read_text()) if file.is_file() else None


def lay_out(plan: Plan, service: Path, staging: Path) -> Layout:
    """Copy into `staging` what the plan copies, each under the name that it has in the tree."""
    import shutil  # late, as most enclaves have no plan

    paths = [path.relative_to(service).as_posix() for path in service.rglob("*") if path.is_symlink() or path.is_file()]
    placed = laid_out(plan.copies, paths)
    files = {}
    for target, path in placed.items():
        top = _top(target)
        if top in _OF_THE_TREE:
            files[Path(target)] = (service / path).read_bytes()
            continue
        place = staging / target.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(service / path, place, follow_symlinks=False)
    if (top := _top(plan.workdir)) not in _OF_THE_TREE:
        (staging / plan.workdir.removeprefix("/")).mkdir(parents=True, exist_ok=True)
    elif plan.workdir != "/tmp":
        raise ImageError(f"WORKDIR {plan.workdir}: expected a folder of the service's own, such as /code")
    return Layout({Path("/", each.name): each for each in sorted(staging.iterdir())}, files)


def _top(target: str) -> str:
    return target.split("/")[1]
