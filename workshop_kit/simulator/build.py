"""build-enclave: a service folder, and users where they are given at build time, into an enclave image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workshop_kit.errors import ImageError
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.service.access import Users
from workshop_kit.service.manifest import MANIFEST_PATH, Manifest, parse_manifest
from workshop_kit.simulator.image import KIT, assemble_image, read_folder
from workshop_kit.simulator.requirements import REQUIREMENTS, distribution_list, environment_for, has_requirements

BUILT_IN_BASE = "workshop_asgi"
"""The base image that brings the enclave proxy, Python and FastAPI, and calls `app` of src/app.py."""


@dataclass(frozen=True)
class Build:
    """What a build made, and what it has to say about it."""

    image: EnclaveImage
    manifest: Manifest
    notes: tuple[str, ...]


def build_enclave(folder: Path, *, users: Users | None = None, kit: Path = KIT) -> Build:
    """Measure a service folder and make its image.

    Raises:
        ImageError: the folder cannot be read, or its requirements cannot be installed.
        ManifestError: service.yaml is missing or wrong, with file, line and key.
    """
    files = read_folder(folder)
    text = files.get(MANIFEST_PATH)
    if not isinstance(text, bytes):
        raise ImageError(f"{folder}: expected {MANIFEST_PATH} in a service folder, got none")
    try:
        manifest = parse_manifest(text.decode(), file=str(folder / MANIFEST_PATH))
    except UnicodeDecodeError:
        raise ImageError(f"{folder / MANIFEST_PATH}: expected text in UTF-8, got other bytes") from None
    distributions, note = _distributions(files.get(REQUIREMENTS), folder)
    image = assemble_image(
        files,
        name=folder.resolve().name,
        users=users.to_yaml() if users else "",
        distributions=distributions,
        kit=kit,
    )
    return Build(image, manifest, (*manifest.warnings, note))


def _distributions(requirements: object, folder: Path) -> tuple[str, str]:
    if not isinstance(requirements, bytes) or not has_requirements(requirements.decode("utf-8", "replace")):
        return "", (
            "CPython and the libraries of the built-in base come from this machine and are not measured; "
            "the same folder and kit give the same PCRs everywhere."
        )
    listed = distribution_list(environment_for(requirements, folder))
    return listed, (
        f"{len(listed.splitlines())} distributions are measured by digest; "
        "the same PCRs need the same resolved distributions."
    )
