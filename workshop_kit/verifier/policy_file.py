"""A policy in a small file, in TOML.

    trust_anchor = "aws"            # or the file of a certificate, PEM or DER; left out: AWS's
    max_age = 60                    # seconds; left out: five minutes

    [reference_values]              # named sets, any one of which passes
    "1.4" = "values-1.4.json"       # a published file, as describe-eif prints
    "1.5" = { PCR0 = "…", PCR1 = "…", PCR2 = "…" }

    all_of = ["company.toml"]       # more policies, in files or as tables: all of them, besides what stands above
    any_of = []                     # and at least one of these
    unsafe = "any image"            # or "any age", "debug": leaves that demand out

Files are found from the folder of the file that names them. All that a table says holds at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from workshop_kit.errors import EndorsementError, WorkshopKitError
from workshop_kit.files import read_file
from workshop_kit.verifier.endorsements import AWS_NITRO_ROOT_G1, TrustAnchor
from workshop_kit.verifier.policy import (
    AllOf,
    AnyOf,
    AnyPolicy,
    Policy,
    UnsafeAnyAgePolicy,
    UnsafeAnyImagePolicy,
    UnsafeDebugPolicy,
)
from workshop_kit.verifier.reference_values import ReferenceValues

T = TypeVar("T")

_UNSAFE = {"any image": UnsafeAnyImagePolicy, "any age": UnsafeAnyAgePolicy, "debug": UnsafeDebugPolicy}
_KEYS = ("trust_anchor", "max_age", "reference_values", "all_of", "any_of", "unsafe")
_CANCELLED = {"reference_values": ("any image", "debug"), "max_age": ("any age",)}
_DEEPEST = 8


def load_policy(file: Path) -> AnyPolicy:
    """The policy in `file` and in the files that it names.

    Raises:
        WorkshopKitError: a file cannot be read or says something else than the form above allows; one line, with the
            file and the key.
    """
    return _load(file, 0)


def _load(file: Path, depth: int) -> AnyPolicy:
    if depth > _DEEPEST:
        raise WorkshopKitError(
            f"{file}: expected policies at most {_DEEPEST} files deep, got more: do they name each other?"
        )
    try:
        table = tomllib.loads(read_file(file).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkshopKitError(f"{file}: expected TOML, got something else: {error}") from None
    return _Table(table, file, depth).policy()


class _Table:
    """One table of a policy file, `place` deep in it."""

    def __init__(self, table: dict[str, Any], file: Path, depth: int, place: str = "") -> None:
        self.table, self.file, self.depth, self.place = table, file, depth, place
        if unknown := table.keys() - set(_KEYS):
            raise self.mistake("", f"keys among {', '.join(_KEYS)}", sorted(unknown)[0])
        for name, what in _CANCELLED.items():
            if table.get("unsafe") in what and name in table:
                raise self.mistake(name, f"none beside unsafe, which leaves it out ({table['unsafe']})", table[name])

    def mistake(self, key: str, expected: str, actual: object) -> WorkshopKitError:
        place = f"{self.place}{key}".rstrip(".")
        return WorkshopKitError(f"{self.file}: {f'{place}: ' if place else ''}expected {expected}, got {actual!r:.60}")

    def named(self, key: str, make: Callable[[], T]) -> T:
        """What `make` gives; its error with this file and the key before it."""
        try:
            return make()
        except EndorsementError as error:
            raise WorkshopKitError(
                f"{self.file}: {self.place}{key}: expected {error.expected}, got {error.actual}"
            ) from None
        except WorkshopKitError as error:
            raise WorkshopKitError(f"{self.file}: {self.place}{key}: {error}") from None

    def policy(self) -> AnyPolicy:
        own = self.kind()(trust_anchor=self.trust_anchor(), max_age=self.max_age())
        sets = self.reference_values()
        here: AnyPolicy = AnyOf(*(own._replace(reference_values=values) for values in sets)) if sets else own
        all_of, any_of = self.parts("all_of"), self.parts("any_of")
        # A table of parts alone demands what they demand; it has no demand of its own that an Unsafe part could meet.
        says_more = bool(self.table.keys() - {"all_of", "any_of"}) or not (all_of or any_of)
        parts = [*([here] if says_more else []), *all_of, *([AnyOf(*any_of)] if any_of else [])]
        return parts[0] if len(parts) == 1 else AllOf(*parts)

    def kind(self) -> type[Policy]:
        name = self.table.get("unsafe")
        if name is None:
            return Policy
        if not isinstance(name, str) or name not in _UNSAFE:
            raise self.mistake("unsafe", " or ".join(f'"{each}"' for each in _UNSAFE), name)
        return _UNSAFE[name]

    def trust_anchor(self) -> TrustAnchor | None:
        name = self.table.get("trust_anchor")
        if name is None:
            return None
        if not isinstance(name, str):
            raise self.mistake("trust_anchor", '"aws" or the file of a certificate', name)
        if name == "aws":
            return AWS_NITRO_ROOT_G1
        return self.named("trust_anchor", lambda: TrustAnchor.from_certificate(read_file(self.file.parent / name)))

    def max_age(self) -> timedelta | None:
        seconds = self.table.get("max_age")
        if seconds is None:
            return None
        if type(seconds) not in (int, float) or not 0 <= seconds < timedelta.max.total_seconds():
            raise self.mistake("max_age", "seconds, 0 or more", seconds)
        return timedelta(seconds=seconds)

    def reference_values(self) -> list[ReferenceValues]:
        sets = self.table.get("reference_values", {})
        if not isinstance(sets, dict) or ("reference_values" in self.table and not sets):
            raise self.mistake("reference_values", "a table of named sets, at least one", sets)
        return [self.one_set(name, value) for name, value in sets.items()]

    def one_set(self, name: str, value: object) -> ReferenceValues:
        key = f"reference_values.{name}"
        if isinstance(value, str):
            return self.named(key, lambda: ReferenceValues.from_file(self.file.parent / value)._replace(name=name))
        if not isinstance(value, dict) or not all(each[:3] == "PCR" and each[3:].isdecimal() for each in value):
            raise self.mistake(key, "the name of a file, or PCR0, PCR1 and PCR2 (a name with a dot in quotes)", value)
        digits = {int(each[3:]): text for each, text in value.items()}
        return self.named(key, lambda: ReferenceValues.from_hex(digits, name=name))

    def parts(self, key: str) -> list[AnyPolicy]:
        entries = self.table.get(key)
        if entries is None:
            return []
        if not isinstance(entries, list) or not entries:
            raise self.mistake(key, "policies, at least one: tables, or names of files", entries)
        return [self.part(entry, f"{self.place}{key}[{number}]") for number, entry in enumerate(entries)]

    def part(self, entry: object, place: str) -> AnyPolicy:
        if isinstance(entry, str):
            return _load(self.file.parent / entry, self.depth + 1)
        if not isinstance(entry, dict):
            raise WorkshopKitError(f"{self.file}: {place}: expected a table or the name of a file, got {entry!r:.60}")
        return _Table(entry, self.file, self.depth, f"{place}.").policy()
