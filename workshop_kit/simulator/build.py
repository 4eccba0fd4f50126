"""build-enclave: a service folder, and users where they are given at build time, into an enclave image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from workshop_kit.errors import ImageError
from workshop_kit.evidence.cpio import Entry
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.service.access import Users
from workshop_kit.service.advice import advice
from workshop_kit.service.manifest import BUILT_IN_BASE, MANIFEST_PATH, Manifest, parse_manifest
from workshop_kit.service.strict_yaml import text_of
from workshop_kit.simulator.dockerfile import SERVICES, check_build_args, plan_of
from workshop_kit.simulator.image import KIT, assemble_image, read_folder
from workshop_kit.simulator.pythons import find_python
from workshop_kit.simulator.requirements import (
    REQUIREMENTS,
    distribution_list,
    environment_for,
    has_requirements,
    text_of_requirements,
)

APP = "src/app.py"
"""What the built-in base calls."""


@dataclass(frozen=True)
class Build:
    """What a build made, and what it has to say about it."""

    image: EnclaveImage
    manifest: Manifest
    notes: tuple[str, ...]


def build_enclave(
    folder: Path,
    *,
    users: Users | None = None,
    build_args: Mapping[str, str] = MappingProxyType({}),
    authorities: bytes = b"",
    kit: Path = KIT,
) -> Build:
    """Measure a service folder and make its image.

    Args:
        build_args: what the manifest's `build_args` are given.
        authorities: certificates in PEM that the service's clients trust, so that no operator can name others.

    Raises:
        ImageError: the folder cannot be read, or its requirements cannot be installed.
        ManifestError: service.yaml is wrong, with file, line and key, or does not allow these users.
    """
    files = read_folder(folder)
    data = files.get(MANIFEST_PATH)
    if not isinstance(data, bytes):
        raise ImageError(f"{folder}: expected {MANIFEST_PATH} in a service folder, got none")
    text = text_of(data, file=str(folder / MANIFEST_PATH))
    manifest = parse_manifest(text, file=str(folder / MANIFEST_PATH))
    if users:
        users = Users.from_yaml(users.to_yaml(), manifest)  # held against the roles, as the enclave will at its boot
    container = _container(files, manifest, folder, build_args)
    image = assemble_image(
        files,
        name=folder.resolve().name,
        users=users.to_yaml() if users else "",
        distributions=container.distributions,
        plan=container.plan,
        authorities=authorities,
        kit=kit,
    )
    sources = _sources(files)
    warnings = advice(text, manifest, sources, users=users, file=str(folder / MANIFEST_PATH))
    notes = (*manifest.warnings, *warnings, *container.notes)
    return Build(image, manifest, notes if users else (*notes, _NO_USERS))


_NO_USERS = (
    "The image has no users: it gives reference values to publish, and lets in those alone whom `run` is handed."
)


def _sources(files: Mapping[str, Entry]) -> dict[str, bytes]:
    python = {path: entry for path, entry in files.items() if path.startswith("src/") and path.endswith(".py")}
    return {path: entry for path, entry in python.items() if isinstance(entry, bytes)}


class _Container(NamedTuple):
    """What a service runs on: texts of the image, "" where it runs on the built-in base."""

    plan: str
    distributions: str
    notes: tuple[str, ...]


def _container(
    files: Mapping[str, Entry], manifest: Manifest, folder: Path, build_args: Mapping[str, str]
) -> _Container:
    requirements = files.get(REQUIREMENTS)
    own = isinstance(requirements, bytes) and has_requirements(requirements.decode("utf-8", "replace"))
    if manifest.base_image == BUILT_IN_BASE and not own and not any(path.startswith(SERVICES) for path in files):
        check_build_args(manifest, build_args, folder=str(folder))
        _require_app(files, folder)
        return _Container("", "", (_BUILT_IN,))
    plan, notes = plan_of(files, manifest, build_args=build_args, folder=str(folder))
    python, note = find_python(plan.python)
    environment = environment_for(text_of_requirements(plan), folder, python=python, base=plan.python)
    listed = distribution_list(environment)
    measured = (
        f"{len(listed.splitlines())} distributions are measured by digest; "
        "the same PCRs need the same resolved distributions."
    )
    return _Container(plan.to_json(), listed, tuple(each for each in (*notes, note, measured) if each))


_BUILT_IN = (
    "CPython and the libraries of the built-in base come from this machine and are not measured; "
    "the same folder and kit give the same PCRs everywhere."
)


def _require_app(files: Mapping[str, Entry], folder: Path) -> None:
    """What the built-in base needs from the folder is looked at now, not when the enclave boots."""
    source = files.get(APP)
    if not isinstance(source, bytes):
        raise ImageError(f"{folder}: expected {APP} with an ASGI application named app, got none")
    try:
        compile(source, str(folder / APP), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise ImageError(f"{folder / APP}:{line or 1}: {error.args[0]}; correct it and build again") from None
