"""Running ProVerif, and writing down what it said beside the digest of the model that it said it of.

ProVerif is in no package index; where it is not on the path, models are written out for a machine that has it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from workshop_kit.errors import LabError
from workshop_kit.models.proverif import NOT_RUN, RESULTS, Model, read_results, read_verdicts
from workshop_kit.models.proverif_models import MODELS

PATIENCE = 600
"""Seconds that ProVerif may take for a model. The sketches of these models took a tenth of one."""


def run(model: Model) -> dict[str, str]:
    """What ProVerif says of a model now, query by query.

    Raises:
        LabError: ProVerif is not here, ends without a verdict, or takes too long.
    """
    program = _program()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{model.name}.pv")
        file.write_text(model.text, encoding="utf-8", newline="\n")
        try:
            done = subprocess.run([program, file], capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise LabError(f"{model.name}: expected a verdict within {PATIENCE} seconds, got none") from None
    try:
        return read_verdicts(done.stdout)
    except LabError as error:
        said = " ".join((done.stdout + done.stderr).split())[-300:]
        raise LabError(f"{model.name}: {error}; ProVerif ended with {said!r}") from None


def record() -> list[str]:
    """Run every model and write the results; a line for each verdict that is not the expected one.

    Raises:
        LabError: as `run`; nothing is written then.
    """
    version, today = _version(), datetime.now(UTC).date().isoformat()
    results: dict[str, dict[str, object]] = {}
    surprises: list[str] = []
    for model in MODELS.values():
        verdicts = run(model)
        checked = {"proverif": version, "date": today, "verdicts": verdicts}
        results[model.name] = {"sha256": model.digest, "expected": model.expected, "checked": checked}
        surprises += _surprises(model, verdicts)
    _write(results)
    return surprises


def keep_what_fits() -> None:
    """Write the digests anew, keeping results whose model is still the same, and dropping the others'."""
    old = read_results() if RESULTS.exists() else {}
    _write({model.name: _kept(model, old.get(model.name, {})) for model in MODELS.values()})


def _kept(model: Model, old: dict[str, object]) -> dict[str, object]:
    entry: dict[str, object] = {"sha256": model.digest, "expected": model.expected, "checked": None}
    if old.get("sha256") == model.digest and old.get("checked"):
        return {**entry, "checked": old["checked"]}
    return {**entry, "note": NOT_RUN}


def _surprises(model: Model, verdicts: dict[str, str]) -> Iterator[str]:
    for query, expected in model.expected.items():
        if verdicts[query] != expected:
            yield f"{model.name}, {query}: expected {expected}, ProVerif says {verdicts[query]}"


def export(folder: Path) -> None:
    """Write every model as a file, for a machine that has ProVerif.

    Raises:
        LabError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for model in MODELS.values():
            (folder / f"{model.name}.pv").write_text(model.text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise LabError(f"expected a folder to write to, got {folder}: {error.strerror}") from None


def _write(results: dict[str, dict[str, object]]) -> None:
    try:
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise LabError(f"expected to write {RESULTS.name} beside the models, got {error.strerror}") from None


def _program() -> str:
    program = shutil.which("proverif")
    if program is None:
        raise LabError(
            "expected ProVerif on the path, got none; install it from its authors, or write the models out with "
            "`python -m workshop_kit.models export FOLDER`"
        )
    return program


def _version() -> str:
    done = subprocess.run([_program(), "-help"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    found = re.search(r"proverif (\d[\w.]*\w)", done.stdout + done.stderr, re.IGNORECASE)
    return found[1] if found else "unknown"
