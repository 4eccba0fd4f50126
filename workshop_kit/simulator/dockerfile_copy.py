"""COPY with docker's meaning: which files of the service folder it names, and where in the enclave's tree they go.

This file knows paths. It reads no file, and knows no other instruction.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable, Mapping

from workshop_kit.evidence.cpio import Entry, Link
from workshop_kit.simulator.container import laid_out
from workshop_kit.simulator.dockerfile_text import Instruction

_TOP = "bin boot dev etc home lib media mnt opt proc root run sbin srv sys tmp usr usr/local usr/bin usr/lib var"
"""Folders that every image has, under the root."""

_MOST_LINKS = 40  # what Linux follows before it says ELOOP


def parents(path: str) -> list[str]:
    """The folders above a relative path, the outermost first."""
    names = path.split("/")[:-1]
    return ["/".join(names[: depth + 1]) for depth in range(len(names))]


class Folder:
    """The service folder's files and the folders that follow from them, by relative path; "." is the whole folder."""

    def __init__(self, files: Mapping[str, Entry]) -> None:
        self.files = files
        self.folders = {".", *(parent for path in files for parent in parents(path))}

    def __contains__(self, path: str) -> bool:
        return path in self.files or path in self.folders

    def matching(self, pattern: str) -> list[str]:
        """What a source of COPY names, in order, with `*`, `?` and `[…]` for parts of a name."""
        found = [pattern]
        if pattern not in self and re.search(r"[*?\[]", pattern):
            names = pattern.split("/")
            found = [path for path in [*self.files, *self.folders - {"."}] if _matches(path.split("/"), names)]
        ends = {self._resolved(path) for path in found}
        return sorted(path for path in ends if path in self and not isinstance(self.files.get(path), Link))

    def _resolved(self, path: str) -> str:
        """The path with the links on its way followed: docker copies what they lead to."""
        for _ in range(_MOST_LINKS):
            for at in [*parents(path), path]:
                if isinstance(link := self.files.get(at), Link):
                    rest = path[len(at) + 1 :]
                    path = posixpath.normpath(posixpath.join(posixpath.dirname(at), link.target, rest))
                    break
            else:
                break
        return path


def _matches(path: list[str], pattern: list[str]) -> bool:
    return len(path) == len(pattern) and all(map(fnmatch.fnmatchcase, path, pattern))


class Copies:
    """The copies so far, `pairs`: (path in the service folder, absolute target), and the folders they make."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.pairs: list[tuple[str, str]] = []
        self._folders = {"/", *(f"/{path}" for path in _TOP.split())}

    def make_folder(self, place: str) -> None:
        """There is a folder at `place` from here on."""
        self._folders |= {place, *(f"/{parent}" for parent in parents(place.lstrip("/")))}

    def copy(self, at: Instruction, sources: Iterable[str], target: str, workdir: str) -> list[str]:
        """Take over one instruction, and give what it names in the folder.

        Raises:
            ImageError: a source is not there, or the target is none.
        """
        found = [path for source in sources for path in self._sources(at, source)]
        place = absolute(at, target, workdir)
        is_folder = target.endswith(("/", "/.")) or target in (".", "..") or place in self._folders
        if len(found) > 1 and not is_folder:
            raise at.error("a target that ends with '/' for several sources", repr(target), "add the '/'")
        pairs = [(path, self._target_of(path, place, is_folder)) for path in found]
        for path, final in pairs:
            self.make_folder(final if path in self.folder.folders else posixpath.dirname(final))
        for final in laid_out(pairs, self.folder.files):
            self.make_folder(posixpath.dirname(final))
        self.pairs += pairs
        self._require_places(at)
        return found

    def _target_of(self, path: str, place: str, is_folder: bool) -> str:
        inside = is_folder and path in self.folder.files
        return posixpath.join(place, posixpath.basename(path)) if inside else place

    def _sources(self, at: Instruction, source: str) -> list[str]:
        path = posixpath.normpath(source.lstrip("/") or ".")
        if path.split("/")[0] == "..":
            raise at.error("files of the service folder", f"{source!r}, which leaves it", "move them into the folder")
        if not (found := self.folder.matching(path)):
            raise at.error("a path in the service folder", f"{source!r}, which is not there", "correct it")
        return found

    def _require_places(self, at: Instruction) -> None:
        placed = laid_out(self.pairs, self.folder.files)
        if clash := next((place for place in placed if place in self._folders), None):
            raise at.error(f"a folder at {clash}", f"the file {placed[clash]} there", "give one of them another name")

    def origin(self, at: Instruction, place: str) -> str:
        """The path in the service folder of what stands at an absolute place. Raises ImageError where nothing does."""
        for source, target in reversed(self.pairs):
            inside = place.removeprefix(f"{target.rstrip('/')}/")
            path = source if place == target else posixpath.normpath(posixpath.join(source, inside))
            if (place == target or inside != place) and path in self.folder:
                return path
        raise at.error("what a COPY above brings", f"{place}, which none brings", "COPY it first")


def absolute(at: Instruction, path: str, workdir: str) -> str:
    """A target as an absolute path.

    Raises:
        ImageError: it climbs over the root, where docker would stop without a word.
    """
    joined = posixpath.join(workdir, path)
    depth = 0
    for name in joined.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(name, 1)
        if depth < 0:
            raise at.error("a path below the root", repr(path), "remove the '..'")
    return "/" + posixpath.normpath(joined).lstrip("/")
