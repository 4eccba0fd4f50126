"""What an enclave enforces, read from its manifest and its users.

YAML and pydantic are half of what a small process would hold. An app on the built-in base mostly has them anyway, and
the reading costs it little; beside services that listen by themselves, a process of its own reads, and ends.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from workshop_kit.errors import LabError, ManifestError, WorkshopKitError
from workshop_kit.evidence.handed_in import HandedIn
from workshop_kit.service.rules import Rules

USERS = "users.yaml"


def begin_reading(application: Path, handed_in: HandedIn, *, apart: bool) -> Callable[[], Rules]:
    """Whatever is to be called, once, for the rules; it raises a WorkshopKitError that says why there are none.

    Args:
        application: the second ramdisk's folder.
        apart: read by another process, from now on; to be called while there is one thread.
    """
    if not apart:
        return functools.partial(_read, application, handed_in)
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _tell(told, _outcome(application, handed_in))
            os._exit(0)
        except Exception as error:  # noqa: BLE001  seen on the console; nothing of this process may go on
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(1)
    os.close(told)
    return functools.partial(_await, child, answer)


def _await(child: int, answer: int) -> Rules:
    with os.fdopen(answer, "rb") as stream:
        outcome = json.loads(stream.read() or b"{}")
    os.waitpid(child, 0)
    if "rules" not in outcome:
        raise LabError(outcome.get("error", "expected manifest and users, got no answer from who reads them"))
    return Rules.from_json(outcome["rules"])


def _tell(descriptor: int, outcome: object) -> None:
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(json.dumps(outcome).encode())


def _outcome(application: Path, handed_in: HandedIn) -> dict[str, object]:
    try:
        return {"rules": _read(application, handed_in).as_json()}
    except WorkshopKitError as error:
        return {"error": str(error)}


def _read(application: Path, handed_in: HandedIn) -> Rules:
    # Here and not above: only who reads needs these.
    from workshop_kit.service.access import Users, rules_of
    from workshop_kit.service.manifest import MANIFEST_PATH, parse_manifest
    from workshop_kit.service.strict_yaml import read_document, text_of

    file = application / "service" / MANIFEST_PATH
    if not file.exists():
        raise ManifestError(f"expected {MANIFEST_PATH} in the image's second ramdisk, got none; build it again")
    manifest = parse_manifest(file.read_text())
    if handed_in.runtime_config is not None:
        read_document(text_of(handed_in.runtime_config, file="runtime.yaml"), file="runtime.yaml")
    if (text := _users(application / USERS, handed_in.users)) is None:
        return rules_of(manifest, Users(()))
    return rules_of(manifest, Users.from_yaml(text_of(text, file=USERS), manifest))


def _users(measured: Path, handed_in: bytes | None) -> bytes | None:
    """Those measured into the image, or else those handed in: never both, or an operator could add one of his own."""
    if handed_in is None:
        return measured.read_bytes() if measured.exists() else None
    if measured.exists():
        raise ManifestError(
            "expected no users at run time, since this image has its own, measured; got some: "
            "leave them out, or build the image without users",
            file=USERS,
        )
    return handed_in
