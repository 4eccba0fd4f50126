"""The text of a Dockerfile as instructions with their lines, and variables as docker substitutes them.

dockerfile-parse cuts the text. It passes over what it cannot cut, and it substitutes some forms in another way than
docker: both are refused here, so that nothing is read with another meaning. This file knows no instruction.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from workshop_kit.errors import ImageError

MAX_BYTES = 64 * 1024
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What $PATH stands for before an ENV sets it, as in docker."""

_HERE_DOCUMENT = re.compile(r"(?:^|\s)\d*<<-?[\"']?[A-Za-z_]")
_SINGLE_QUOTED = re.compile(r"""'[^']*'|("(?:[^"\\]|\\.)*")""", re.DOTALL)
_ESCAPES_IN_QUOTES = re.compile(r'"(?:[^"\\]|\\[^\\$])*\\[\\$]')
_ODD_DOLLAR = re.compile(r"\$(?![^\W\d]|\{[^\W\d]\w*\})")
_NAME = re.compile(r"\$\{?([^\W\d]\w*)")


class Instruction(NamedTuple):
    """One instruction: `name` in capitals, `value` without line breaks, `place` as file:line of its first line."""

    place: str
    name: str
    value: str

    def error(self, expected: str, actual: str, cure: str) -> ImageError:
        """What a message about this instruction looks like."""
        return ImageError(f"{self.place}: {self.name}: expected {expected}, got {actual}; {cure}")

    def words_in_brackets(self) -> list[str] | None:
        """The words of `["one", "two"]`, the form that no shell reads, or None for the other form.

        Raises:
            ImageError: it is neither; docker would hand it to a shell, which makes no sense of it.
        """
        words = self.words_if_json()
        if words is None and self.value.startswith("["):
            raise self.error('words in double quotes such as ["python", "app.py"]', self.value[:60], "rewrite it")
        return words

    def words_if_json(self) -> list[str] | None:
        """The same for RUN, where a shell's own `[ … ]` makes sense."""
        try:
            words = json.loads(self.value)
        except (ValueError, RecursionError):
            return None
        usable = isinstance(words, list) and words and all(isinstance(word, str) and word for word in words)
        return words if usable else None


def read_instructions(data: bytes, file: str) -> Iterator[Instruction]:
    """The instructions of a Dockerfile, in order; comments are left out.

    Raises:
        ImageError: with file and line, when its turn comes: the text is none, or a line is no instruction.
    """
    lines = _lines(data, file)
    done = 0
    for number, end, instruction in _cut(lines, file):
        _require_nothing(lines, done, number, file)
        if not instruction.value:
            raise instruction.error("what it is for", "nothing", "complete it, or remove it")
        if instruction.name in ("RUN", "COPY", "ADD") and _HERE_DOCUMENT.search(instruction.value):
            raise instruction.error("one instruction", "a here-document", "write its text into a file of the folder")
        yield instruction
        done = end
    _require_nothing(lines, done, len(lines), file)


def _lines(data: bytes, file: str) -> list[str]:
    if len(data) > MAX_BYTES:
        raise ImageError(f"{file}: expected at most {MAX_BYTES} bytes, got {len(data)}; shorten it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ImageError(f"{file}:{line}: expected text in UTF-8, got other bytes; save it anew") from None
    lines = text.replace("\r\n", "\n").split("\n")
    for index, each in enumerate(lines):
        if any(ord(char) < 32 and char != "\t" for char in each):
            raise ImageError(f"{file}:{index + 1}: expected text, got a control character; remove it")
        if each.rstrip().endswith("\\\\") and not each.lstrip().startswith("#"):
            # For docker the line ends here, for the parser it goes on.
            raise ImageError(f"{file}:{index + 1}: expected one \\ at most at a line's end, got more; quote it")
    return lines


def _cut(lines: list[str], file: str) -> Iterator[tuple[int, int, Instruction]]:
    """(first line, line after the last, instruction), counted from 0."""
    from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]

    if lines and re.match(r"\s*#\s*escape\s*=\s*`", lines[0], re.IGNORECASE):
        raise ImageError(f"{file}:1: expected lines continued by \\, got another escape character; use \\")
    text = "\n".join(_without_gaps(lines)) + "\n"
    cut: list[dict[str, Any]] = DockerfileParser(fileobj=io.BytesIO(text.encode())).structure
    for each in sorted(cut, key=lambda each: each["startline"]):
        if each["instruction"] != "COMMENT":
            place, name = f"{file}:{each['startline'] + 1}", each["instruction"].rstrip("\\")
            yield each["startline"], each["endline"] + 1, Instruction(place, name, each["value"].strip())


def _without_gaps(lines: list[str]) -> Iterator[str]:
    """An empty line does not end a continued instruction (docker warns of it); for the parser it would."""
    continued = False
    for line in lines:
        yield "#" if continued and not line.strip() else line
        if line.strip() and not line.lstrip().startswith("#"):
            continued = line.rstrip().endswith("\\")


def _require_nothing(lines: list[str], start: int, end: int, file: str) -> None:
    for number, line in enumerate(lines[start:end], start=start + 1):
        if line.strip() and not line.lstrip().startswith("#"):
            raise ImageError(
                f"{file}:{number}: expected an instruction and what it is for, got {line.strip()[:60]!r}; complete it"
            )


class Variables:
    """ARG and ENV as they stand where the reader is.

    Args:
        given: the build arguments.
        notes: gets a line for each variable that comes out empty.
    """

    def __init__(self, given: Mapping[str, str], notes: list[str]) -> None:
        self.environment: dict[str, str] = {}
        self.arguments: dict[str, str] = {}
        self.unused = set(given)
        self._given = given
        self._notes = notes

    def all(self) -> dict[str, str]:
        """Name to value. ENV covers ARG."""
        return {"PATH": DEFAULT_PATH} | self.arguments | self.environment

    def words(self, at: Instruction) -> list[str]:
        """The words of an instruction, variables substituted, quotation marks taken away."""
        from dockerfile_parse.util import WordSplitter  # type: ignore[import-untyped]

        self._check(at)
        return list(WordSplitter(at.value, envs=self.all()).split())

    def text(self, at: Instruction) -> str:
        """The whole value of an instruction in the same way."""
        from dockerfile_parse.util import WordSplitter

        self._check(at)
        return str(WordSplitter(at.value, envs=self.all()).dequote())

    def set_environment(self, at: Instruction) -> None:
        """ENV, in both of its forms: `name=value …` and `name value`."""
        from dockerfile_parse.util import extract_key_values

        self._check(at)
        try:
            pairs = extract_key_values(env_replace=True, args={}, envs=self.all(), instruction_value=at.value)
        except ValueError:
            pairs = [("", "")]
        if any(not name for name, _ in pairs) or not re.search(r"[=\s]", at.value):
            raise at.error("name=value", repr(at.value[:60]), "complete it")
        self.environment.update(pairs)

    def declare(self, at: Instruction) -> None:
        """ARG: the build argument that was given, or the default that stands here."""
        for word in self.words(at):
            name, has_default, default = word.partition("=")
            self.unused.discard(name)
            if name in self._given or has_default:
                self.arguments[name] = self._given.get(name, default)

    def _check(self, at: Instruction) -> None:
        value = _SINGLE_QUOTED.sub(lambda found: found[1] or "", at.value)
        plain = re.sub(r"\\.", "", value)
        if _ESCAPES_IN_QUOTES.search(value) or _ODD_DOLLAR.search(plain):
            raise at.error("$NAME or ${NAME} alone", repr(at.value[:60]), "write the value out")
        for name in _NAME.findall(plain):
            if name not in self.all():
                self._notes.append(f"{at.place}: {at.name}: nothing above gives a value to ${name}: it is empty")
