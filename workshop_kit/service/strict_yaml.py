"""YAML that an author writes by hand, read strictly: service.yaml, the users' file, the runtime configuration.

Text to plain values with their lines (`read_document`), plain values to a model (`check_document`). This file knows no
key of any of those documents.

A scalar is the text that stands in the file, and its field decides what it means. So `no`, `1.10`, `0443` and
`2024-01-01` are never turned into a boolean, a float, an octal number or a date behind the author's back.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from workshop_kit.errors import ManifestError
from workshop_kit.service.wording import show

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8  # a manifest is 4 deep; the parser recurses, and a deep text must not end in RecursionError

Loc = tuple[str | int, ...]
Finding = tuple[Loc, str]
Model = TypeVar("Model", bound=BaseModel)


# --- YAML text to plain values ---------------------------------------------------------------------------------------


class _RefusedYamlError(yaml.MarkedYAMLError):
    """Valid YAML that no manifest needs."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML without anchors, aliases, tags and deep nesting: an alias of aliases makes gigabytes of a few lines."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:  # an alias carries the anchor it names
            raise _refused("expected plain values, got an anchor or an alias: write the value out", event)
        if (tag := getattr(event, "tag", None)) is not None:
            raise _refused(f"expected plain values, got the tag {show(tag)}: remove it", event)
        if self.depth == MAX_DEPTH:
            raise _refused(f"expected at most {MAX_DEPTH} levels, got more: flatten the document", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _refused(message: str, event: yaml.Event) -> _RefusedYamlError:
    mark: Any = event.start_mark
    return _RefusedYamlError(problem=message, problem_mark=mark)


class _Place(NamedTuple):
    line: int
    start: int
    end: int


@dataclass(frozen=True)
class Document:
    """A YAML text as dicts, lists, text and None (`.data`), with the line of every path in it."""

    file: str
    data: Any = None
    places: dict[Loc, _Place] = field(default_factory=dict)

    def error(self, loc: Loc, message: str) -> ManifestError:
        """The ManifestError for the value at `loc`; a missing value has the line of what should hold it."""
        return ManifestError(message, path=path_of(loc), file=self.file, line=self._nearest(loc).line)

    def first_of(self, findings: Iterable[Finding]) -> ManifestError:
        """The ManifestError for the finding that stands first in the text."""
        return self.error(*min(findings, key=lambda finding: self._order(finding[0])))

    def _order(self, loc: Loc) -> int:
        # A missing key is known to be missing only where its mapping ends: a misspelt one comes before it.
        return self.places[loc].start if loc in self.places else self._nearest(loc).end - 1

    def _nearest(self, loc: Loc) -> _Place:
        return self.places[loc] if loc in self.places else self._nearest(loc[:-1])


def text_of(data: bytes, *, file: str) -> str:
    """The text of a YAML file. Raises ManifestError where it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError("expected text in UTF-8, got other bytes: save it anew", file=file, line=line) from None


def read_document(text: str, *, file: str) -> Document:
    """Read one YAML mapping.

    Raises ManifestError for anything else: over 64 KiB, bad syntax, several documents, anchors, aliases, tags, repeated
    keys, keys that are no text, control characters.
    """
    if (size := len(text.encode("utf-8", "surrogatepass"))) > MAX_BYTES:
        raise ManifestError(f"expected at most {MAX_BYTES} bytes, got {size}: shorten the file", file=file)
    root = _compose(text, file)
    if not isinstance(root, yaml.MappingNode):
        actual = "nothing" if root is None else _kind(root)
        raise ManifestError(f"expected keys with values, got {actual}: begin with a line such as 'key:'", file=file)
    document = Document(file, places={(): _place(root, root)})
    return Document(file, _plain(root, (), document), document.places)


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        return _StrictLoader(text).get_single_node()
    except _RefusedYamlError as error:
        message, line = str(error.problem), _line_of(error)
    except yaml.MarkedYAMLError as error:
        message, line = f"expected valid YAML, got a mistake: {_one_line(error.problem)}", _line_of(error)
    except yaml.reader.ReaderError as error:
        message = f"expected text, got the character #x{ord(text[error.position]):04x}: remove it"
        line = text.count("\n", 0, error.position) + 1
    except (ValueError, OverflowError):  # PyYAML passes "\U99999999" to chr() as it is
        message, line = "expected valid YAML, got an escape or a number out of range: correct it", None
    raise ManifestError(message, file=file, line=line)


def _line_of(error: yaml.MarkedYAMLError) -> int | None:
    return None if error.problem_mark is None else error.problem_mark.line + 1


def _plain(node: yaml.Node, loc: Loc, document: Document) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == "tag:yaml.org,2002:null" else _scalar(node, loc, document)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, loc, document)
    document.places.update({(*loc, index): _place(child, child) for index, child in enumerate(node.value)})
    return [_plain(child, (*loc, index), document) for index, child in enumerate(node.value)]


def _mapping(node: yaml.MappingNode, loc: Loc, document: Document) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = _place(key_node, value_node)
        if not isinstance(key_node, yaml.ScalarNode):
            message = f"expected a key of text, got {_kind(key_node)}: write a name"
            raise ManifestError(message, path=path_of(loc), file=document.file, line=place.line)
        key_loc = (*loc, key := _scalar(key_node, loc, document))
        if key_loc in document.places:
            message = f"expected the key once, got it again (first on line {document.places[key_loc].line}): remove one"
            raise ManifestError(message, path=path_of(key_loc), file=document.file, line=place.line)
        document.places[key_loc] = place
        plain[key] = _plain(value_node, key_loc, document)
    return plain


def _scalar(node: yaml.ScalarNode, loc: Loc, document: Document) -> str:
    if any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" for char in node.value):
        raise document.error(loc, f"expected printable text, got {show(node.value)}: remove the control characters")
    return str(node.value)


def _kind(node: yaml.Node) -> str:
    return {"scalar": "plain text", "sequence": "a list"}.get(getattr(node, "id", ""), "a mapping")


def _place(first: yaml.Node, last: yaml.Node) -> _Place:
    return _Place(first.start_mark.line + 1, first.start_mark.index, last.end_mark.index)


# --- how an error speaks ---------------------------------------------------------------------------------------------


def path_of(loc: Loc) -> str:
    """`("roles", 0, "role_auth")` as `roles[0].role_auth`; a key that is no identifier stands in quotes."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in loc)
    return "".join(parts).removeprefix(".")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,60}", key) else json.dumps(key[:60])


def _one_line(text: str | None) -> str:
    return " ".join((text or "unreadable").split())[:200]


# --- plain values to a model -----------------------------------------------------------------------------------------


class BrokenRelationsError(ValueError):
    """Values that are well formed one by one and do not fit together; `.findings` says where."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(f"{path_of(loc)}: {message}" for loc, message in findings))
        self.findings = findings


class Section(BaseModel):
    """A mapping of known keys; a known key without a value is an absent key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}


def check_document(document: Document, model: type[Model]) -> Model:
    """The document as a `model`. Raises ManifestError for the first mistake in the order of the text.

    Values come before relations: a name that is misspelt where it is declared is reported there, not where it is used.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise document.first_of(finding for item in error.errors() for finding in _findings(item, model)) from None


def _findings(item: Any, model: type[BaseModel]) -> list[Finding]:
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, BrokenRelationsError):
        return cause.findings
    return [(item["loc"], str(cause) if cause else _message(item, model))]


_EXPECTED = {"model_type": "a mapping", "string_type": "text"}


def _message(item: Any, model: type[BaseModel]) -> str:
    kind = item["type"]
    if kind == "missing":
        return "expected a value, got nothing: add it"
    if kind == "extra_forbidden":
        known = ", ".join(_section_at(model, item["loc"][:-1]).model_fields)
        return f"expected one of the keys {known}, got another: correct its spelling or remove it"
    if kind == "literal_error":
        return f"expected {item['ctx']['expected']}, got {show(item['input'])}: nothing else is supported"
    return f"expected {_EXPECTED.get(kind, kind)}, got {show(item['input'])}: rewrite the value"


def _section_at(model: type[BaseModel], loc: Loc) -> type[BaseModel]:
    for name in (part for part in loc if isinstance(part, str)):
        annotation: Any = model.model_fields[name].annotation
        model = (get_args(annotation) or (annotation,))[0]
    return model


def repeated(values: Iterable[Hashable]) -> Iterator[tuple[int, int]]:
    """`(index, index of the first)` for every value that stands there before."""
    first: dict[Hashable, int] = {}
    for index, value in enumerate(values):
        if first.setdefault(value, index) != index:
            yield index, first[value]
