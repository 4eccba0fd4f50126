"""What pip says, read: which builds of a package there are, and the few words that tell an author what is in the way.

pip has no answer for programs to "why not this one?". But asked for one package with -vv it names every file that it
passes over, and a file's name says for which version, Python and machine it is: no phrase of pip's decides where a
file's name can. Addresses of indexes never come out of this module.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.version import Version

_LONGEST = 300
_FILE = re.compile(r"/([^/\s#?]+\.(?:whl|tar\.gz|zip|tar\.bz2))(?=[#?\s)]|$)")
_ADDRESS = re.compile(r"\w[\w+.-]*://[^\s'\",;)]+")
_ASKS = re.compile(r"\(requires-python:([^)]*)\)")
_NO_NETWORK = re.compile(
    r"connection broken by|connection error|Max retries exceeded|Failed to establish|Failed to connect"
    r"|Could not resolve|Name or service not known|timed out|problem confirming the ssl certificate",
    re.IGNORECASE,
)
_HTTP_ERROR = re.compile(r"Could not fetch URL \S+ (?!404)([1-5]\d\d) ")
_NO_MATCH = re.compile(r"No matching distribution found for ([^\n]+)")
_DEPENDS = re.compile(r"^ +\S+ \S+ depends on ([^\n;]+)", re.MULTILINE)
_CONFLICT = re.compile(r"The conflict is caused by:\n((?: +[^\n]+\n)+)")
_BUILD = re.compile(r"╰─> \[\d+ lines of output\]\n(.*?)\n\s*\[end of output\]", re.DOTALL)
_AT_HAND = re.compile(r"^(?:Collecting|Processing) (\S+)", re.MULTILINE)
_FAILED_BUILD = re.compile(r"Failed building wheel for (\S+)")


class Findings(NamedTuple):
    """`refusal` says why a package cannot be had; where it is "", `has_source` says whether its source can."""

    has_source: bool
    refusal: str


def name_of(requirement: str) -> str:
    """The package that a requirement names."""
    return re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]


def suspects(said: str) -> list[str]:
    """The requirements that an installation may have failed for, since no build fits them."""
    found = [text.partition(" (from ")[0] for text in _NO_MATCH.findall(said)]
    if "ResolutionImpossible" in said:
        found += [text.replace(" and ", ",") for text in _DEPENDS.findall(said)]
    return list(dict.fromkeys(text.strip() for text in found))


# --- which builds there are ------------------------------------------------------------------------------------------


class _File(NamedTuple):
    """A file of a package. `pythons` are the tags of those that it is a build for, on this kind of machine."""

    version: Version
    is_source: bool
    pythons: frozenset[str]
    asks: str


def findings(said: str, wanted: str, version: str, base: str) -> Findings:
    """What pip's words come to when it was asked, with -vv, for a build of one package, and had none.

    Args:
        wanted: the requirement, such as "pandas==1.4.2".
        version: of the Python that it was asked for, such as "3.12.1".
        base: the version that base_image names, or "".
    """
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(wanted)
    except InvalidRequirement:
        return Findings(False, "")
    files = list(_files(said, requirement))
    fitting = [file for file in files if requirement.specifier.contains(file.version, prereleases=True)]
    if not fitting:
        return Findings(False, _absent(said, wanted, [file.version for file in files]))
    usable = [file for file in fitting if _runs_on(file, version)]
    newest = _newest([file.version for file in usable or fitting])
    chosen = [file for file in usable or fitting if file.version == newest]
    # A package that has builds on other kinds of machine alone is built from source here by everybody.
    if usable and not any(file.pythons for file in chosen) and any(file.is_source for file in chosen):
        return Findings(True, "")
    return Findings(False, _no_build(wanted, version, base, chosen))


def _files(said: str, requirement: Requirement) -> Iterator[_File]:
    from packaging.utils import canonicalize_name

    for line in said.splitlines():
        asks = _ASKS.search(line)
        for file in _FILE.findall(line):
            parsed = _parsed(urllib.parse.unquote(file))
            if parsed and canonicalize_name(parsed[0]) == canonicalize_name(requirement.name):
                yield _File(*parsed[1:], asks[1] if asks else "")


def _parsed(file: str) -> tuple[str, Version, bool, frozenset[str]] | None:
    from packaging.tags import platform_tags
    from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
    from packaging.version import InvalidVersion

    try:
        if file.endswith(".whl"):
            name, version, _, tags = parse_wheel_filename(file)
            here = {"any", *platform_tags()}
            return name, version, False, frozenset(tag.interpreter for tag in tags if tag.platform in here)
        name, version = parse_sdist_filename(re.sub(r"\.tar\.bz2$", ".tar.gz", file))
        return name, version, True, frozenset()
    except (InvalidSdistFilename, InvalidWheelFilename, InvalidVersion):
        return None


def _runs_on(file: _File, version: str) -> bool:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(file.asks).contains(version)
    except InvalidSpecifier:
        return True


def _newest(versions: list[Version]) -> Version:
    return max([version for version in versions if not version.is_prerelease] or versions)


def _no_build(wanted: str, version: str, base: str, files: list[_File]) -> str:
    minor = ".".join(version.split(".")[:2])
    tags = {tag for file in files for tag in file.pythons}
    numbers = sorted(int(tag[3:]) for tag in tags if re.fullmatch(r"cp3\d+", tag))
    others = [f"3.{number}" for number in numbers if f"3.{number}" != minor]
    asks = sorted({file.asks for file in files if file.asks and not _runs_on(file, version)})
    cure = "change the pin"
    if base and base != minor and (not others or base in others):
        cure += f", or install Python {base}, which base_image names"
    elif others:
        cure += ", or let base_image name one of those"
    known = f", but for {_listed(others)}" if others else ", but for other kinds of machine" if not tags else ""
    known = f" and asks for Python {asks[0]}" if asks else known
    return f"{wanted} has no build for Python {minor} on this machine{known}; {cure}"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if words[1:] else words[0]


def _absent(said: str, wanted: str, versions: list[Version]) -> str:
    if versions:
        return f"expected a version that exists, got {wanted}; correct it, the newest is {_newest(versions)}"
    if answer := _HTTP_ERROR.search(said):
        return f"expected the package index to have {name_of(wanted)}, got its error {answer[1]}; try again later"
    if _NO_NETWORK.search(said):
        return f"expected the package index to answer for {name_of(wanted)}, got no connection; check the network"
    return f"expected a package that the index has, got {wanted}; correct its name"


# --- the essential words ---------------------------------------------------------------------------------------------


def essence(said: str) -> str:
    """What an installer's words come to, in one line without addresses."""
    readers = (_fatal, _conflict, _other_digest, _broken_build, _errors, _exception)
    words = next(filter(None, (read(said) for read in readers)), "") or _last(said)
    if _NO_NETWORK.search(words):
        return f"there is no connection to where {_clean(_at_hand(said))} is; check the network"
    return _clean(words)[:_LONGEST]


def _at_hand(said: str) -> str:
    """The package that pip was busy with at the end."""
    found = list(_AT_HAND.finditer(said))
    return found[-1][1].rstrip("@") if found else "a package"


def _fatal(said: str) -> str:
    """git's last words."""
    found = re.findall(r"fatal: ([^\n]+)", said)
    return f"git says {found[-1]}" if found else ""


def _conflict(said: str) -> str:
    found = _CONFLICT.search(said)
    causes = [line.strip() for line in found[1].splitlines()] if found else []
    return f"these exclude each other: {'; '.join(causes)}" if causes else ""


def _other_digest(said: str) -> str:
    found = re.search(r"DO NOT MATCH THE HASHES[^\n]*\n\s+(\S+)", said)
    return f"{found[1]} has another digest than its --hash says" if found else ""


def _broken_build(said: str) -> str:
    found = list(_BUILD.finditer(said))
    if not found:
        return ""
    name = _FAILED_BUILD.findall(said) or [_at_hand(said[: found[-1].start()])]
    lines = [line.strip() for line in found[-1][1].splitlines()]
    # A compiler's own words come before those of what called it.
    telling = [line for line in lines if re.search(r"\berror: (?!command)", line, re.IGNORECASE)]
    return f"{name[-1]} cannot be built from source: {(telling or lines[-1:])[0]}"


def _errors(said: str) -> str:
    found = re.findall(r"^\s*ERROR: (?:ERROR: )?([^\n]+)", said, re.MULTILINE)
    noise = re.compile(r"Ignored the following|Could not find a version|ResolutionImpossible|Exception:?$")
    return "; ".join(dict.fromkeys(line for line in found if not noise.match(line)))


def _exception(said: str) -> str:
    """The last line of pip's own traceback."""
    found = re.findall(r"^(?:\w+\.)+\w+: ([^\n]+)", said, re.MULTILINE)
    return found[-1] if found else ""


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "the installer says nothing"


def _clean(text: str) -> str:
    """Without addresses, places in temporary files, and line breaks."""
    text = _ADDRESS.sub(lambda found: _end_of(found[0]), text)
    text = re.sub(r"host='[^']*'", "host='…'", text)
    text = re.sub(r"\(from (line|-r) [^)]*\)+", "", text)
    text = re.sub(r"(?<![\w.])/[^\s'\"]*/(?=requirements\.txt)", "", text)
    return " ".join(text.split())


def _end_of(address: str) -> str:
    """The last name of an address's path: a file, not a host, and nothing of what may be secret."""
    names = [name for name in urllib.parse.urlsplit(address).path.split("/") if name]
    return f"…/{names[-1]}" if names else "…"
