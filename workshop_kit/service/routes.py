"""What an app's source says of its routes, read with `ast`: no line of it runs, since it is other people's code.

It knows the usual ways to register a route in FastAPI, Starlette and Flask. Where there may be another one, any path
may be answered: an author who is warned wrongly once reads no further warning. So a path also counts as answered where
it stands in the source as a text of its own.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_APPS = frozenset({"FastAPI", "Starlette", "Flask", "Quart"})
_ROUTERS = frozenset({"APIRouter", "Router", "Blueprint"})
_DECORATORS = frozenset(
    {
        "get",
        "post",
        "put",
        "delete",
        "patch",
        "head",
        "options",
        "trace",
        "route",
        "api_route",
        "websocket",
        "websocket_route",
    }
)
_ADDERS = frozenset({"add_api_route", "add_route", "add_url_rule", "add_api_websocket_route", "add_websocket_route"})
_ROUTES = frozenset({"Route", "APIRoute", "WebSocketRoute", "APIWebSocketRoute"})
_MOUNTS = frozenset({"mount", "Mount"})
_INCLUDES = frozenset({"include_router", "register_blueprint"})
_HARMLESS = frozenset({"run", "TestClient", "print", "isinstance"})
_KNOWN_CALLS = _APPS | _ROUTERS | _ADDERS | _ROUTES | _MOUNTS | _INCLUDES | _HARMLESS
_PREFIX = ("prefix", "url_prefix")
_FASTAPI_OWN = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")

ENTRY = "src/app.py"
"""Where the app is; the name `app` in it is what answers."""


class _UnclearError(Exception):
    """Here the source may register routes in a way that cannot be read off it."""


@dataclass(frozen=True)
class Route:
    """A path as the app has it, its parameters in braces, and the functions that may answer it."""

    path: str
    file: str
    handlers: tuple[Function, ...] = ()

    def answers(self, path: str) -> bool:
        """Whether a request for `path` comes here: a parameter stands for a segment, `{x:path}` for any number."""
        return re.fullmatch(_pattern(self.path), path) is not None


def _pattern(template: str) -> str:
    parts = re.split(r"(\{[^}]*\}|<[^>]*>)", template)
    return "".join(_parameter(part) if index % 2 else re.escape(part) for index, part in enumerate(parts))


def _parameter(part: str) -> str:
    return ".*" if "path" in part else "[^/]+"


@dataclass(frozen=True)
class Definitions:
    """Functions and classes by name, of all files together."""

    functions: dict[str, list[Function]] = field(default_factory=dict)
    classes: dict[str, list[ast.ClassDef]] = field(default_factory=dict)


@dataclass(frozen=True)
class Routes:
    """The routes of an app that were found, and what else it may answer; `complete` where there can be no others."""

    routes: tuple[Route, ...] = ()
    mounted: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    complete: bool = False
    definitions: Definitions = field(default_factory=Definitions)

    def may_answer(self, path: str) -> bool:
        """Whether anything in the source may answer `path`."""
        below = any(path == prefix or path.startswith(f"{prefix}/") for prefix in self.mounted)
        found = below or path in self.texts or any(route.answers(path) for route in self.routes)
        return found or not self.complete


def find_routes(sources: Mapping[str, bytes]) -> Routes:
    """The routes of an app by the files that it is made of, `ENTRY` among them."""
    try:
        return _Finder({path: _parse(source) for path, source in sources.items()}).result()
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what `ast` says of a text that is too odd
        return Routes()


def _parse(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the author's own escapes; his tools tell him
        return ast.parse(source)


def name_of(node: ast.AST | None) -> str:
    """The last name of `a`, `b.a` or a call of either; "" of anything else."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


@dataclass
class _Registered:
    owner: str | None  # None: an object of its own, whichever router it goes to
    path: str
    file: str
    handlers: tuple[Function, ...]


class _Finder:
    """Reads all files in two passes: what is defined, then what is called.

    Equal names of two files are one name, but of routers: those are told apart by file, where the imports say which is
    meant.
    """

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self._trees = trees
        self._own_modules = {part.removesuffix(".py") for path in trees for part in path.split("/")[1:]}
        self._apps: set[str] = set()
        self._prefixes: dict[str, set[str]] = {}
        self._includes: list[tuple[str, str, str]] = []
        self._registered: list[_Registered] = []
        self._mounts: list[str] = []
        self._aliases: dict[str, str] = {}
        self._imports: dict[str, dict[str, tuple[str, str]]] = {file: {} for file in trees}
        self._read: set[ast.AST] = set()
        self._fastapi = False
        self._complete = True
        self._definitions = Definitions()

    def result(self) -> Routes:
        for file, tree in self._trees.items():
            self._define(tree, file)
        for file, tree in self._trees.items():
            self._calls(tree, file)
        routes = [
            Route(base + each.path, each.file, each.handlers)
            for each in self._registered
            for base in sorted(self._known_bases(each.owner))
        ]
        complete = bool(routes) and self._complete and self._has_plain_entry()
        routes += [Route(path, ENTRY) for path in _FASTAPI_OWN if self._fastapi]
        mounted = {base + path for path in self._mounts for base in self._known_bases(None)}
        return Routes(tuple(routes), frozenset(mounted), frozenset(self._texts()), complete, self._definitions)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """What is unclear in one place leaves the others as they are."""
        try:
            yield
        except _UnclearError:
            self._complete = False

    def _known_bases(self, owner: str | None) -> set[str]:
        with self._noted():
            return self._bases(owner)
        return {""}

    def _texts(self) -> Iterator[str]:
        for tree in self._trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in self._read:
                    yield node.value

    # --- first pass ---

    def _define(self, tree: ast.Module, file: str) -> None:
        for node in ast.walk(tree):
            if isinstance(node, Function):
                self._definitions.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.ClassDef):
                self._definitions.classes.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.ImportFrom):
                self._aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
                module = (node.module or "").rpartition(".")[2]
                self._imports[file] |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                named = {alias.asname: alias.name for alias in node.names if alias.asname}
                self._imports[file] |= {name: ("", module.rpartition(".")[2]) for name, module in named.items()}
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                with self._noted():
                    self._construct({name_of(target) for target in targets}, node.value, file)

    def _construct(self, names: set[str], call: ast.Call, file: str) -> None:
        if (kind := name_of(call.func)) in _APPS:
            self._apps |= names
            self._fastapi |= kind == "FastAPI"
            if kind in ("Flask", "Quart"):
                self._mounts.append("/static")
        elif kind in _ROUTERS:
            for name in names:
                self._prefixes.setdefault(_router(file, name), set()).add(self._keyword(call, *_PREFIX))

    def _has_plain_entry(self) -> bool:
        """`app` is made here, or by a function of the author's: a wrapper may answer what it likes."""
        bound = [(file, node) for file, tree in self._trees.items() for node in ast.walk(tree) if "app" in _bound(node)]
        return ENTRY in [file for file, _ in bound] and all(self._is_plain(node) for _, node in bound)

    def _is_plain(self, node: ast.AST) -> bool:
        if isinstance(node, ast.ImportFrom):
            return not self._foreign(node) and self._aliases.get("app", "app") in self._apps
        maker = name_of(getattr(node, "value", None))
        return maker in _APPS or maker in self._apps or maker in self._definitions.functions

    def _foreign(self, node: ast.Import | ast.ImportFrom) -> set[str]:
        """The names that an import binds, where they come from outside the sources."""
        if isinstance(node, ast.ImportFrom):
            own = node.level > 0 or (node.module or "").partition(".")[0] in self._own_modules
            return set() if own else {alias.asname or alias.name for alias in node.names}
        names = {(alias.asname or alias.name).partition(".")[0]: alias.name for alias in node.names}
        return {name for name, module in names.items() if module.partition(".")[0] not in self._own_modules}

    # --- second pass ---

    def _calls(self, tree: ast.Module, file: str) -> None:
        imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        foreign = set().union(*(self._foreign(node) for node in imports))
        for node in ast.walk(tree):
            with self._noted():
                self._node(node, file, foreign)

    def _node(self, node: ast.AST, file: str, foreign: set[str]) -> None:
        if isinstance(node, Function | ast.ClassDef):
            self._decorators(node, file)
        elif isinstance(node, ast.Call):
            self._call(node, file, foreign)
        elif isinstance(node, ast.Attribute) and self._is_list_of_routes(node):
            raise _UnclearError  # it may be changed, or handed on

    def _is_list_of_routes(self, node: ast.Attribute) -> bool:
        return node.attr == "routes" and node not in self._read and name_of(node.value) in self._routers()

    def _decorators(self, node: Function | ast.ClassDef, file: str) -> None:
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _DECORATORS:
                self._register(name_of(call.func.value), call, file, (node,) if isinstance(node, Function) else ())

    def _call(self, call: ast.Call, file: str, foreign: set[str]) -> None:
        name = name_of(call.func)
        if name in _ADDERS and isinstance(call.func, ast.Attribute):
            self._register(name_of(call.func.value), call, file, self._handlers(call))
        elif name in _ROUTES:
            self._register(None, call, file, self._handlers(call))
        elif name in _MOUNTS:
            self._mounts.append(self._first(call).rstrip("/"))
        elif name in _INCLUDES and isinstance(call.func, ast.Attribute):
            self._include(name_of(call.func.value), call, file, foreign)
        elif name == "FastAPI":
            self._own_pages(call, file)
        elif name == "get_openapi":  # FastAPI's, which describes routes and adds none
            self._read |= {keyword.value for keyword in call.keywords if keyword.arg == "routes"}
        elif name not in _KNOWN_CALLS | set(self._definitions.functions):
            self._require_not_given_away(call)

    def _register(self, owner: str | None, call: ast.Call, file: str, handlers: tuple[Function, ...]) -> None:
        path = self._first(call)
        if path and not path.startswith("/"):
            return  # `@settings.get("name")`: no route
        owners = [None] if owner is None else sorted(self._owners(ast.Name(owner), file))
        self._registered += [_Registered(each, path, file, handlers) for each in owners]

    def _handlers(self, call: ast.Call) -> tuple[Function, ...]:
        given = [*call.args[1:], *(keyword.value for keyword in call.keywords)]
        functions = self._definitions.functions
        return tuple(function for node in given for function in functions.get(name_of(node), ()))

    def _include(self, parent: str, call: ast.Call, file: str, foreign: set[str]) -> None:
        named = [keyword.value for keyword in call.keywords if keyword.arg in ("router", "blueprint")]
        child = next(iter([*call.args, *named]), None)
        root = child.value if isinstance(child, ast.Attribute) else child
        if child is None or not isinstance(root, ast.Name) or root.id in foreign:
            raise _UnclearError
        children = self._owners(child, file)
        if not children <= self._prefixes.keys():
            raise _UnclearError
        prefix = self._keyword(call, *_PREFIX)
        parents = self._owners(ast.Name(parent), file)
        self._includes += [(each, one, prefix) for each in sorted(parents) for one in sorted(children)]

    def _owners(self, node: ast.expr, file: str) -> set[str]:
        """The app or the routers that `router` or `module.router` means in a file: all of that name, where none is."""
        name = name_of(node)
        module = name_of(node.value) if isinstance(node, ast.Attribute) else ""
        if not module and _router(file, name) in self._prefixes:
            return {_router(file, name)}
        source, original = self._imports[file].get(module or name, ("", module or name))
        module, name = (original, name) if module else (source, original)
        if name in self._apps:
            return {name}
        named = {each for each in self._prefixes if each.endswith(_router("", name))}
        return {each for each in named if _module_of(each) == module} or named or {name}

    def _own_pages(self, call: ast.Call, file: str) -> None:
        if any(keyword.arg in (None, "routes") for keyword in call.keywords):
            raise _UnclearError
        for keyword in call.keywords:
            if keyword.arg and keyword.arg.endswith("_url") and not _is_none(keyword.value):
                self._registered.append(_Registered(None, self._text(keyword.value), file, ()))

    def _require_not_given_away(self, call: ast.Call) -> None:
        """What others are given, they may add routes to."""
        given = {name_of(node) for node in [*call.args, *(keyword.value for keyword in call.keywords)]}
        if given & (self._routers() | _APPS | _ROUTERS):
            raise _UnclearError

    def _routers(self) -> set[str]:
        return self._apps | {each.rpartition(":")[2] for each in self._prefixes} | {"router"}

    # --- texts and prefixes ---

    def _first(self, call: ast.Call) -> str:
        named = [keyword.value for keyword in call.keywords if keyword.arg in ("path", "rule")]
        if not call.args and not named:
            raise _UnclearError
        return self._text((call.args or named)[0])

    def _keyword(self, call: ast.Call, *names: str) -> str:
        if any(keyword.arg is None for keyword in call.keywords):
            raise _UnclearError
        values = [keyword.value for keyword in call.keywords if keyword.arg in names]
        return self._text(values[0]) if values and not _is_none(values[0]) else ""

    def _text(self, node: ast.AST) -> str:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            raise _UnclearError
        self._read.add(node)
        return node.value

    def _bases(self, owner: str | None, seen: tuple[str, ...] = ()) -> set[str]:
        """What may stand before the paths of an owner; of an unnamed one all that stands before any."""
        if owner is None:
            return {""}.union(*(self._bases(name) for name in self._prefixes))
        if owner in seen or not (owner in self._apps or owner in self._prefixes):
            raise _UnclearError
        outer = {""} if owner in self._apps else set()
        for parent, child, prefix in self._includes:
            if child == owner:
                outer |= {base + prefix for base in self._bases(parent, (*seen, owner))}
        return {base + prefix for base in outer or {""} for prefix in self._prefixes.get(owner, {""})}


def _router(file: str, name: str) -> str:
    """What a router goes by here."""
    return f"{file}:{name}"


def _module_of(router: str) -> str:
    """The last part of the name that the router's file is imported by."""
    path = router.partition(":")[0].removesuffix(".py").removesuffix("/__init__")
    return path.rpartition("/")[2]


def _bound(node: ast.AST) -> set[str]:
    """The names that a statement gives a value."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
