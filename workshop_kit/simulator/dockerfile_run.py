"""A RUN of a Dockerfile, read for what it installs with pip: as lines of a requirements file, in its own words.

Nothing here runs a command. What cannot be told from a command's words is said, not guessed.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from string import Template
from typing import NamedTuple

from workshop_kit.errors import ImageError

_PIP = re.compile(r"(.*/)?pip[0-9.]*")
_PYTHON = re.compile(r"(.*/)?python[0-9.]*")
_ARCHIVE = re.compile(r".*\.(whl|zip|tar\.gz|tar\.bz2)")
_LOCAL = re.compile(rf"\.{{0,2}}/.*|\.{{1,2}}|{_ARCHIVE.pattern}")
_MAKE_NO_FILES = frozenset({"apt", "apt-get", "apk", "yum", "dnf", "pip", "pip3", "chmod", "chown", "rm", "useradd"})
_NO_EFFECT = frozenset({"set", "echo", "true", ":"})
_TABLE = {
    "dropped": "--no-cache-dir --upgrade --quiet --verbose --user --no-input --disable-pip-version-check --no-color"
    " --no-warn-script-location --no-python-version-warning --break-system-packages --force-reinstall"
    " --ignore-installed --compile --no-compile --no-clean",
    "dropped with its value": "--progress-bar --timeout --default-timeout --retries --cache-dir --log"
    " --root-user-action --upgrade-strategy",
    "kept": "--no-index --pre --prefer-binary --require-hashes",
    "kept with its value": "-i --trusted-host --no-binary --only-binary --extra-index-url",
    "path": "-r -c -f",
}
_KIND = {option: kind for kind, options in _TABLE.items() for option in options.split()}
"""What becomes of pip's options: kept are those that a requirements file may hold too."""

_SHORT = {"--requirement": "-r", "--constraint": "-c", "--find-links": "-f", "--index-url": "-i", "--editable": "-e"}
_LETTERS = re.compile(r"-[UqvI]+")
_SHORT_WITH_VALUE = re.compile(r"-[UqvI]*([rcfie])(.*)")


class UnreadableCommandError(ValueError):
    """Why a command's meaning cannot be told, for a note."""


class Commands(NamedTuple):
    """What a RUN comes to: `lines` of a requirements file, and (words, why) of every command that is left out."""

    lines: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def may_have_made_files(self) -> bool:
        """Whether a command that is left out may have brought what a later one names."""
        return any(words.partition(" ")[0] not in _MAKE_NO_FILES for words, _ in self.left_out)


Origin = Callable[[str], str]
"""The path in the service folder of what stands at an absolute path in the image."""


def read_run(
    text: str, *, workdir: str, variables: Mapping[str, str], origin: Origin, after_others: bool = False
) -> Commands:
    """Read the shell commands of a RUN.

    Args:
        workdir: where they begin; a `cd` among them is followed.
        variables: ARG and ENV as they stand here.
        origin: raises ImageError for a path at which nothing stands.
        after_others: whether a command above was left out that may have brought what is missing here.

    Raises:
        ImageError: `origin`'s, where no command that is left out can have brought what is missing.
    """
    reader = _Reader(workdir, variables, origin)
    found = Commands((), ())
    for words in _commands(text):
        try:
            found = found._replace(lines=(*found.lines, *reader.read(words)))
        except UnreadableCommandError as why:
            found = found._replace(left_out=(*found.left_out, (" ".join(words), str(why))))
        except ImageError:
            if not (after_others or found.may_have_made_files):
                raise
            found = found._replace(left_out=(*found.left_out, (" ".join(words), "what it names is not there")))
    return found


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each command; a shell's operator is a word of its own."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    words: list[str] = []
    try:
        for word in lexer:
            if word not in ("&&", ";"):
                words.append(word)
            elif words:
                yield words
                words = []
    except ValueError:  # a quotation mark without its other
        words = [text]
    if words:
        yield words


class _Reader:
    """Command after command of one RUN."""

    def __init__(self, workdir: str, variables: Mapping[str, str], origin: Origin) -> None:
        self._workdir: str | None = workdir
        self._variables = variables
        self._origin = origin

    def read(self, words: list[str]) -> list[str]:
        """The lines that one command comes to. Raises UnreadableCommandError, or what `origin` raises."""
        if words[0] in _NO_EFFECT:
            return []
        if words[0] in ("cd", "pushd"):
            self._enter(words)
            return []
        arguments = _pip_arguments(words)
        if self._workdir is None:
            raise UnreadableCommandError("the folder in which it runs is not clear")
        if operator := next((word for word in words if not word.strip("();<>|&")), None):
            raise UnreadableCommandError(f"the shell reads {operator} as its own; quote it, or leave it out")
        return list(self._lines([_substituted(word, self._variables) for word in arguments]))

    def _enter(self, words: list[str]) -> None:
        if self._workdir is None or len(words) != 2 or re.search(r"[$~*?`]|^-", words[1]):
            self._workdir = None
            raise UnreadableCommandError("where it leads is not clear")
        self._workdir = posixpath.normpath(posixpath.join(self._workdir, words[1]))

    def _lines(self, arguments: list[str]) -> Iterator[str]:
        queue = iter(arguments)
        for word in queue:
            if word.startswith("-"):
                yield from self._option(word, queue)
            elif _LOCAL.fullmatch(word) and "://" not in word:
                yield self._local(word)
            else:
                yield word

    def _option(self, word: str, queue: Iterator[str]) -> Iterator[str]:
        name, value = _split(word)
        kind = "dropped" if _LETTERS.fullmatch(name) else _KIND.get(name)
        if kind in ("path", "kept with its value", "dropped with its value"):
            value = value or next(queue, "")
        if kind == "kept":
            yield name
        elif kind == "kept with its value":
            yield f"{name} {shlex.quote(value)}"
        elif kind == "path":
            yield f"{name} {shlex.quote(value if '://' in value else self._path(value))}"
        elif name == "-e":
            raise UnreadableCommandError("what -e installs stays outside of Python's own folders; remove the -e")
        elif kind is None:
            raise UnreadableCommandError(f"the option {name} is not supported; leave it out")

    def _path(self, path: str) -> str:
        return self._origin(posixpath.normpath(posixpath.join(self._workdir or "/", path)))

    def _local(self, word: str) -> str:
        if not _ARCHIVE.fullmatch(word) or any(char in word for char in " #;"):
            raise UnreadableCommandError("no distribution is built from a folder; COPY it, or put a wheel into it")
        return f"./{self._path(word)}"


def _pip_arguments(words: list[str]) -> list[str]:
    if _PIP.fullmatch(words[0]) and words[1:2] == ["install"]:
        return words[2:]
    if _PYTHON.fullmatch(words[0]) and words[1:4] == ["-m", "pip", "install"]:
        return words[4:]
    raise UnreadableCommandError("what it would bring is not there")


def _substituted(word: str, variables: Mapping[str, str]) -> str:
    try:
        return Template(word).substitute(variables)
    except (KeyError, ValueError):
        raise UnreadableCommandError(f"nothing above gives the value of {word}; write it out") from None


def _split(word: str) -> tuple[str, str]:
    """Name and attached value: `--name=value`, `-rvalue`, and short options in one word such as `-Ur`."""
    if word.startswith("--"):
        name, _, value = word.partition("=")
        return _SHORT.get(name, name), value
    found = _SHORT_WITH_VALUE.fullmatch(word)
    return (f"-{found[1]}", found[2].removeprefix("=")) if found else (word, "")
