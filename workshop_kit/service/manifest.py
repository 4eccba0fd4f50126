"""service.yaml: what the author of an enclave promises.

This file knows neither users nor requests: who may ask for what is `service.access`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, PrivateAttr, model_validator

from workshop_kit.service.strict_yaml import (
    BrokenRelationsError,
    Document,
    Finding,
    Section,
    check_document,
    read_document,
    repeated,
)
from workshop_kit.service.wording import show

MANIFEST_PATH = ".oblivious/service.yaml"
BUILT_IN_BASE = "workshop_asgi"
"""The base image whose services the simulator runs: an ASGI application, called in the enclave's process."""
"""Where a service folder keeps its manifest."""

# --- the fields ------------------------------------------------------------------------------------------------------

# The last label of a domain is a word, so no spelling of an IPv4 address passes: not 127.1, not 1.2.3.0x4.
_FQDN = r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+([a-z]{2,63}|xn--[a-z0-9-]{0,58}[a-z0-9])"
_UNUSABLE_IN_A_PATH = re.compile(r"[?#%\\*{}\s]")


def check_name(value: object) -> str:
    """A name that can travel in an HTTP header and in a list with commas. Raises ValueError."""
    if isinstance(value, str) and len(value) <= 64 and re.fullmatch(r"[!-+\--~]+( [!-+\--~]+)*", value):
        return value
    raise ValueError(
        f"expected a name of at most 64 visible ASCII characters without commas, got {show(value)}: rename"
    )


def _check_base_image(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        return value
    raise ValueError(f"expected the name of a base image such as workshop_asgi, got {show(value)}: correct it")


def _check_domain(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(_FQDN, value):
        return value
    advice = (
        "use no scheme, path, port, wildcard, IP address or final dot; beyond ASCII, the form that begins with xn--"
    )
    raise ValueError(f"expected a full domain name in lower case such as api.example.com, got {show(value)}: {advice}")


def _check_path(value: object) -> str:
    if isinstance(value, str) and _is_exact_path(value):
        return value
    advice = "use no query, fragment, wildcard, space, backslash, percent-escape, dot segment or '//'"
    raise ValueError(f"expected an exact path that begins with '/', got {show(value)}: {advice}")


def _is_exact_path(text: str) -> bool:
    if not text.startswith("/") or not text.isprintable() or _UNUSABLE_IN_A_PATH.search(text):
        return False
    segments = text.split("/")[1:]
    return "" not in segments[:-1] and not {".", ".."} & set(segments)


def _split_access(value: object) -> tuple[str, ...]:
    if isinstance(value, tuple):  # a manifest made in Python, not read
        value = ",".join(map(check_name, value))
    if not isinstance(value, str):
        raise ValueError(f"expected role names separated by commas, got {show(value)}: write them in one line of text")
    names = tuple(name.strip() for name in value.split(","))
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"expected role names separated by commas, each once, got {show(value)}: correct the list")
    return names


def _check_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"expected true or false, got {show(value)}: write one of the two")


def _up_to(top: int) -> BeforeValidator:
    def check(value: object) -> int:
        number = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(number, str) and re.fullmatch(r"[1-9][0-9]{0,9}", number) and int(number) <= top:
            return int(number)
        raise ValueError(f"expected a decimal number from 1 to {top}, got {show(number)}: correct it")

    return BeforeValidator(check)


def _check_list(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return value
    raise ValueError(f"expected a list, got {show(value)}: begin each entry with '- '")


def _check_filled(value: object) -> object:
    if _check_list(value):
        return value
    raise ValueError("expected at least one entry, got an empty list: add one")


Entry = TypeVar("Entry")
Entries = Annotated[tuple[Entry, ...], BeforeValidator(_check_list)]
FilledEntries = Annotated[tuple[Entry, ...], BeforeValidator(_check_filled)]
Name = Annotated[str, BeforeValidator(check_name)]
Port = Annotated[int, _up_to(65535)]


class AuthMethod(Section):
    """`auth[]`: how a user proves who they are."""

    auth_name: Name
    auth_type: Literal["signed_headers"]


class BuildArgument(Section):
    """`build_args[]`: given at build, so measured."""

    name: Name
    required_arg: Annotated[bool, BeforeValidator(_check_flag)] = False
    type: str = "string"


class Meta(Section):
    """`meta`: description; nothing depends on it."""

    author: str = ""
    author_email: str = ""
    git: str = ""
    version: str = ""
    docs: str = ""


class PathRule(Section):
    """`paths[]`: an exact path and the roles that may ask for it. What is not listed is refused."""

    path: Annotated[str, BeforeValidator(_check_path)]
    access: Annotated[tuple[str, ...], BeforeValidator(_split_access)]
    short_description: str = ""


class Role(Section):
    """`roles[]`: `role_cardinality` is how many users may hold the role."""

    role_name: Name
    role_auth: Name
    role_cardinality: Annotated[int, _up_to(1_000_000)]
    role_description: str = ""


class Inbound(Section):
    """`traffic.inbound[]`: a port on which the application listens inside the enclave."""

    name: Name
    port: Port
    type: Literal["tcp"]


class Outbound(Section):
    """`traffic.outbound[]`: a domain and port that the application may reach. What is not listed is refused."""

    name: Name
    domain: Annotated[str, BeforeValidator(_check_domain)]
    port: Port
    type: Literal["tcp"]


class Traffic(Section):
    """`traffic`: what enters and what leaves."""

    inbound: FilledEntries[Inbound]
    outbound: Entries[Outbound] = ()


class Manifest(Section):
    """A whole service.yaml, its parts consistent with each other. `parse_manifest` makes one; it is part of PCR2."""

    auth: FilledEntries[AuthMethod]
    base_image: Annotated[str, BeforeValidator(_check_base_image)]
    build_args: Entries[BuildArgument] = ()
    meta: Meta = Meta()
    paths: FilledEntries[PathRule]
    roles: FilledEntries[Role]
    traffic: Traffic
    _warnings: tuple[str, ...] = PrivateAttr(())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was ignored in the text, one line each. The author should mend it; nothing depends on it."""
        return self._warnings

    @model_validator(mode="after")
    def _relations(self) -> Manifest:
        if findings := [*_repeated_names(self), *_unknown_names(self)]:
            raise BrokenRelationsError(findings)
        return self


_UNIQUE_TOP = ("auth.auth_name", "build_args.name", "paths.path", "roles.role_name")
_UNIQUE = (*_UNIQUE_TOP, "traffic.inbound.name", "traffic.inbound.port", "traffic.outbound.name")


def _repeated_names(manifest: Manifest) -> Iterator[Finding]:
    for column in _UNIQUE:
        section, _, key = column.rpartition(".")
        values = [getattr(entry, key) for entry in operator.attrgetter(section)(manifest)]
        for index, first in repeated(values):
            message = f"expected each {key} once, got {show(str(values[index]))} again: {section}[{first}] has it"
            yield (*section.split("."), index, key), message
    ways_out = [f"{entry.domain}:{entry.port}" for entry in manifest.traffic.outbound]
    for index, first in repeated(ways_out):
        message = f"expected each domain and port once, got {show(ways_out[index])} again"
        yield ("traffic", "outbound", index, "domain"), f"{message}: traffic.outbound[{first}] has it"


def _unknown_names(manifest: Manifest) -> Iterator[Finding]:
    auth_names = dict.fromkeys(auth.auth_name for auth in manifest.auth)
    role_names = dict.fromkeys(role.role_name for role in manifest.roles)
    for index, role in enumerate(manifest.roles):
        if role.role_auth not in auth_names:
            yield ("roles", index, "role_auth"), _unknown("auth_name", auth_names, role.role_auth)
    for index, rule in enumerate(manifest.paths):
        for name in rule.access:
            if name not in role_names:
                yield ("paths", index, "access"), _unknown("role_name", role_names, name)


def _unknown(key: str, known: Iterable[str], actual: str) -> str:
    listed = ", ".join(islice(known, 5))
    return f"expected a declared {key} such as {listed}, got {show(actual)}: correct the spelling or declare it"


# --- the door --------------------------------------------------------------------------------------------------------

_STRAY = "0"  # an old form in the wild: `traffic: {inbound: […], "0": {name: …, port: …}}`


def parse_manifest(text: str, *, file: str = "service.yaml") -> Manifest:
    """Read a service.yaml. `file` is its name in messages.

    Raises ManifestError for the first mistake, with its path and line, and nothing else on any text. It does not say
    that the service has these routes, that the base image exists or that a domain resolves.
    """
    document, warnings = _without_stray_traffic(read_document(text, file=file))
    manifest = check_document(document, Manifest)
    manifest._warnings = warnings
    return manifest


def _without_stray_traffic(document: Document) -> tuple[Document, tuple[str, ...]]:
    traffic = document.data.get("traffic")
    if not isinstance(traffic, dict) or _STRAY not in traffic:
        return document, ()
    kept = {key: value for key, value in traffic.items() if key != _STRAY}
    message = "expected inbound and outbound only, got an entry of an old form: ignored, remove it"
    warning = str(document.error(("traffic", _STRAY), message))
    return replace(document, data={**document.data, "traffic": kept}), (warning,)
