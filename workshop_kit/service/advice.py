"""Warnings for the author of a service: what its manifest may say and hardly means. Nothing depends on them.

Pure: it is given the manifest's text and the sources as they stand in the service folder, and runs none of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from workshop_kit.service.access import Users
from workshop_kit.service.manifest import Manifest
from workshop_kit.service.routes import Definitions, Function, Route, Routes, find_routes, name_of
from workshop_kit.service.strict_yaml import Finding, read_document
from workshop_kit.service.wording import show

_URL_WORDS = frozenset(
    {"url", "urls", "uri", "uris", "link", "links", "href", "target", "endpoint", "webhook", "callback"}
)
_URL_TYPE = re.compile(r"\b(\w*Url|URL)\b")
_REQUEST = re.compile(r"\brequest\b|\bquery_params\b")
_DEPENDS = re.compile(r"\bDepends\(([A-Za-z_][\w.]*)")


def advice(
    text: str, manifest: Manifest, sources: Mapping[str, bytes], *, users: Users | None, file: str = "service.yaml"
) -> tuple[str, ...]:
    """One line for each warning, with file, line and path like the errors of `parse_manifest`.

    Args:
        text: the manifest's, already read as `manifest`.
        sources: the app's files by path in the service folder; what cannot be told from them is not warned of.
        users: where they are known at build time.
    """
    document = read_document(text, file=file)
    routes = find_routes(sources)
    findings = [*_unanswered_paths(manifest, routes), *_open_ends(manifest, routes), *_idle_roles(manifest, users)]
    return tuple(str(document.error(*finding)) for finding in findings)


def _idle_roles(manifest: Manifest, users: Users | None) -> Iterator[Finding]:
    granted = {name for rule in manifest.paths for name in rule.access}
    held = {user.role for user in users or ()}
    for index, role in enumerate(manifest.roles):
        if role.role_name not in granted:
            message = f"expected a path that lists the role {role.role_name!r}, got none: add it to an access"
            yield ("roles", index, "role_name"), f"{message}, or remove the role"
        if users and role.role_name not in held:
            message = f"expected a user with the role {role.role_name!r}, got none: nobody can ask for its paths"
            yield ("roles", index, "role_name"), message


def _unanswered_paths(manifest: Manifest, routes: Routes) -> Iterator[Finding]:
    known = [route.path for route in routes.routes if route.handlers]
    for index, rule in enumerate(manifest.paths):
        if not routes.may_answer(rule.path):
            near = get_close_matches(rule.path, known, n=1)
            cure = f"is {show(near[0])} meant?" if near else "correct it, or remove it"
            message = f"expected a path that a route of the app answers, got {show(rule.path)}: {cure}"
            yield ("paths", index, "path"), message


def _open_ends(manifest: Manifest, routes: Routes) -> Iterator[Finding]:
    """Paths at which the caller says where the app goes: the allowlist is then the caller's way out."""
    outbound = manifest.traffic.outbound
    ways_out = ", ".join(f"{entry.domain}:{entry.port}" for entry in outbound)
    for index, rule in enumerate(manifest.paths if outbound else ()):
        for route in (route for route in routes.routes if route.answers(rule.path)):
            if taken := _taken(route, routes.definitions):
                message = f"expected the app to choose where it goes, got the caller's URL ({taken}):"
                leaves = f"whatever a caller writes into it leaves to {ways_out}"
                yield ("paths", index, "path"), f"{message} {leaves}; fix the address in the app, or accept it"
                break


def _taken(route: Route, definitions: Definitions) -> str:
    """The first URL that a route's handler takes, with its place; "" where it takes none."""
    for handler in route.handlers:
        try:
            names = list(_urls(handler, definitions))
        except RecursionError:  # an expression deeper than `ast` can write out
            continue
        if names:
            return f"{names[0]!r}, {show(route.file)[1:-1]}:{handler.lineno}"
    return ""


def _urls(function: Function, definitions: Definitions, depth: int = 0) -> Iterator[str]:
    """The names under which a handler takes a URL from the request."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    defaults += [*given.defaults, *given.kw_defaults]
    for argument, default in zip([*positional, *given.kwonlyargs], defaults, strict=True):
        said = " ".join(ast.unparse(node) for node in (argument.annotation, default) if node)
        yield from _argument_urls(argument.arg, argument.annotation, said, definitions, depth)
    yield from _looked_up(function)


def _argument_urls(
    name: str, annotation: ast.expr | None, said: str, definitions: Definitions, depth: int
) -> Iterator[str]:
    if depends := _DEPENDS.search(said):
        wanted = definitions.functions.get(depends[1].rpartition(".")[2], ())
        for function in wanted if depth < 3 else ():
            yield from _urls(function, definitions, depth + 1)
    elif _is_url(name, annotation, said):
        yield name
    else:
        for model in definitions.classes.get(name_of(annotation), ()):
            yield from _fields(model)


def _fields(model: ast.ClassDef) -> Iterator[str]:
    for node in model.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if _is_url(node.target.id, node.annotation, ast.unparse(node.annotation)):
            yield node.target.id


def _is_url(name: str, annotation: ast.expr | None, said: str) -> bool:
    if annotation is not None and _URL_TYPE.search(said):
        return True
    # A target may be a number, and a link a record: only text becomes a URL.
    return _sounds_like_url(name) and (annotation is None or re.search(r"\bstr\b", said) is not None)


def _sounds_like_url(name: str) -> bool:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return bool(words) and words[-1].lower() in _URL_WORDS


def _looked_up(function: Function) -> Iterator[str]:
    """What a handler of Starlette or Flask reads from the request by name."""
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript):
            source, key = node.value, node.slice
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            source, key = node.func.value, node.args[0]
        else:
            continue
        name = key.value if isinstance(key, ast.Constant) else None
        if isinstance(name, str) and _sounds_like_url(name) and _REQUEST.search(ast.unparse(source)):
            yield name
