"""What an author is warned of, and where nothing is said because nothing is known. No line of an app runs here."""

from __future__ import annotations

from pathlib import Path

import pytest
from pair import user_key
from services import make_service

from workshop_kit.errors import ManifestError
from workshop_kit.service.access import User, Users
from workshop_kit.service.advice import advice
from workshop_kit.service.manifest import MANIFEST_PATH, parse_manifest
from workshop_kit.simulator.build import build_enclave

MILLIONAIRES = Path(__file__).parents[2] / "data/services/millionaires"

MANIFEST = """\
auth: [{auth_name: users, auth_type: signed_headers}]
base_image: workshop_asgi
paths:
  - path: /asked
    access: reader
roles:
  - {role_name: reader, role_auth: users, role_cardinality: 2}
traffic:
  inbound: [{name: http, port: 80, type: tcp}]
"""
OUTBOUND = "  outbound: [{name: api, domain: api.example.com, port: 443, type: tcp}]\n"


def warned(app: str, path: str = "/asked", *, more: str = "", **files: str) -> tuple[str, ...]:
    """The warnings for one path of an app, made of src/app.py and of `name="…"` for src/name.py."""
    text = MANIFEST.replace("/asked", path) + more
    sources = {f"src/{name}.py": source.encode() for name, source in {"app": app, **files}.items()}
    return advice(text, parse_manifest(text), sources, users=None)


FASTAPI = "from fastapi import APIRouter, FastAPI\napp = FastAPI()\n"
ROUTER = "from fastapi import APIRouter\nrouter = APIRouter({})\n@router.get('/x')\ndef x(): ...\n"

# --- paths that nothing answers --------------------------------------------------------------------------------------


def test_a_misspelt_path_is_one_line_with_its_place_and_the_near_one() -> None:
    """A real one: the manifest says /submit_values, the app /submit_value, and the route is blocked in silence."""
    (line,) = warned(FASTAPI + "@app.get('/submit_value')\ndef submit(): ...\n", "/submit_values")
    assert line.startswith("service.yaml:4: paths[0].path: ")
    assert "got '/submit_values': is '/submit_value' meant?" in line
    assert line.isprintable()


APPS = {
    "FastAPI, every verb": FASTAPI + "@app.post(path='/x')\nasync def x(): ...\n",
    "FastAPI, a router": FASTAPI + ROUTER.format("") + "app.include_router(router)\n",
    "FastAPI, an app from a function": "from fastapi import FastAPI\ndef make():\n    api = FastAPI()\n"
    "    @api.get('/x')\n    def x(): ...\n    return api\napp = make()\n",
    "FastAPI, add_api_route": FASTAPI + "def x(): ...\napp.add_api_route('/x', x)\n",
    "Starlette": "from starlette.applications import Starlette\nfrom starlette.routing import Route\n"
    "async def x(request): ...\napp = Starlette(routes=[Route('/x', x)])\n",
    "Flask": "from flask import Flask\napp = Flask(__name__)\n@app.route('/x', methods=['POST'])\ndef x(): ...\n",
}


@pytest.mark.parametrize("name", APPS)
def test_a_route_is_found_and_another_path_is_warned_of(name: str) -> None:
    assert warned(APPS[name], "/x") == ()
    assert len(warned(APPS[name], "/y")) == 1
    assert len(warned(APPS[name], "/x/")) == 1


@pytest.mark.parametrize(
    ("app", "files", "answered", "unanswered"),
    [
        (ROUTER.format("prefix='/p'") + FASTAPI + "app.include_router(router)\n", {}, "/p/x", "/x"),
        (ROUTER.format("") + FASTAPI + "app.include_router(router, prefix='/p')\n", {}, "/p/x", "/x"),
        (ROUTER.format("") + FASTAPI + "app.include_router(prefix='/p', router=router)\n", {}, "/p/x", "/x"),
        (ROUTER.format("prefix='/q'") + FASTAPI + "app.include_router(router, prefix='/p')\n", {}, "/p/q/x", "/q/x"),
        (FASTAPI + "import b\napp.include_router(b.router, prefix='/p')\n", {"b": ROUTER.format("")}, "/p/x", "/x"),
        (
            FASTAPI + "from b import router as other\napp.include_router(other, prefix='/p')\n",
            {"b": ROUTER.format("")},
            "/p/x",
            "/x",
        ),
        (
            ROUTER.format("") + FASTAPI + "outer = APIRouter(prefix='/o')\nouter.include_router(router, prefix='/p')\n"
            "app.include_router(outer)\n",
            {},
            "/o/p/x",
            "/p/x",
        ),
        (
            "from flask import Blueprint, Flask\nb = Blueprint('b', __name__, url_prefix='/p')\n@b.get('/x')\n"
            "def x(): ...\napp = Flask(__name__)\napp.register_blueprint(b)\n",
            {},
            "/p/x",
            "/x",
        ),
        (FASTAPI + "@app.get('/x/{number}')\ndef x(): ...\n", {}, "/x/5", "/x/5/6"),
        (FASTAPI + "@app.get('/x/{rest:path}')\ndef x(): ...\n", {}, "/x/5/6", "/x"),
        (FASTAPI + "@app.get('/x')\ndef x(): ...\napp.mount('/files', Files())\n", {}, "/files/a/b", "/filesystem"),
        (FASTAPI + "@app.get('/x')\ndef x(): ...\n", {}, "/docs", "/doc"),
        (FASTAPI + "@app.get('/x')\ndef x(): ...\n@settings.get('y')\ndef y(): ...\n", {}, "/x", "/y"),
        (FASTAPI + "@app.get('/x')\ndef x():\n    return request.app.state.routes\n", {}, "/x", "/y"),
    ],
)
def test_prefixes_parameters_and_mounts_are_followed(
    app: str, files: dict[str, str], answered: str, unanswered: str
) -> None:
    assert warned(app, answered, **files) == ()
    assert len(warned(app, unanswered, **files)) == 1


TWO = {"one": ROUTER.format(""), "two": ROUTER.format("").replace("x", "y").replace("def y()", "def y(url: str)")}


@pytest.mark.parametrize(
    "app",
    [
        "import one, two\napp.include_router(one.router, prefix='/p')\napp.include_router(two.router, prefix='/q')\n",
        "from routes import one, two\napp.include_router(one.router, prefix='/p')\n"
        "app.include_router(two.router, prefix='/q')\n",
        "from routes.one import router as first\nfrom routes.two import router as second\n"
        "app.include_router(first, prefix='/p')\napp.include_router(second, prefix='/q')\n",
        "import one as first\nimport two as second\n"
        "app.include_router(first.router, prefix='/p')\napp.include_router(second.router, prefix='/q')\n",
    ],
)
def test_routers_of_one_name_in_two_files_are_two(app: str) -> None:
    """As most services of some size have them: each file its `router`."""
    folder = "routes/" if "routes" in app else ""
    files = {f"{folder}{name}": source for name, source in TWO.items()}
    assert warned(FASTAPI + app, "/p/x", more=OUTBOUND, **files) == ()
    for path in ("/p/y", "/q/x", "/x", "/y"):
        assert len(warned(FASTAPI + app, path, **files)) == 1, path
    (line,) = warned(FASTAPI + app, "/q/y", more=OUTBOUND, **files)
    assert f"the caller's URL ('url', src/{folder}two.py:4)" in line


def test_describing_routes_to_openapi_adds_none() -> None:
    """FastAPI's documentation has an app do so, to change its description."""
    described = "from fastapi.openapi.utils import get_openapi\n@app.get('/x')\ndef x(): ...\n"
    described += "def custom():\n    return get_openapi(title='t', routes=app.routes)\napp.openapi = custom\n"
    assert len(warned(FASTAPI + described, "/y")) == 1
    assert warned(FASTAPI + described.replace("get_openapi(title='t', ", "change("), "/y") == ()


KNOWN = FASTAPI + "@app.get('/x')\ndef x(): ...\n"
UNCLEAR = {
    "no route at all": FASTAPI,
    "no app": "x = 1\n",
    "an app of its own kind": "async def app(scope, receive, send): ...\n",
    "a wrapper around the app": KNOWN.replace("app", "api") + "app = Wrapper(api)\n",
    "a wrapper from a function": KNOWN.replace("app", "api") + "def make():\n    return Wrapper(api)\napp = make()\n",
    "a wrapper in a condition": KNOWN + "if DEBUG:\n    app = Wrapper(app)\n",
    "an app from a library": "from library import app\nfrom fastapi import FastAPI\n" + KNOWN.replace("app", "api"),
    "a subclass": "class Mine(FastAPI): ...\napp = Mine()\n@app.get('/x')\ndef x(): ...\n",
    "a path that is made": KNOWN + "for name in NAMES:\n    app.add_api_route('/' + name, x)\n",
    "a path in a variable": KNOWN + "@app.get(PATH)\ndef y(): ...\n",
    "a formatted path": KNOWN + "@app.get(f'/{name}')\ndef y(): ...\n",
    "a prefix in a variable": KNOWN + "r = APIRouter(prefix=PREFIX)\n",
    "options out of a mapping": KNOWN + "r = APIRouter(**OPTIONS)\n",
    "a router from a library": KNOWN + "import library\napp.include_router(library.router)\n",
    "a library's router under our name": KNOWN + ROUTER.format("") + "import lib\napp.include_router(lib.router)\n",
    "a router from a loop": KNOWN + "for router in ROUTERS:\n    app.include_router(router)\n",
    "a router that is made": KNOWN + "app.include_router(make())\n",
    "an app handed to a library": KNOWN + "Metrics().expose(app)\n",
    "an app that a parameter is": KNOWN + "def add(other):\n    @other.get('/y')\n    def y(): ...\n",
    "a list of routes that is changed": KNOWN + "app.router.routes.extend(load())\n",
    "routes given to the app": KNOWN.replace("FastAPI()", "FastAPI(routes=load())"),
    "a mount whose place is made": KNOWN + "app.mount(PLACE, other)\n",
    "a mount of everything": KNOWN + "app.mount('/', other)\n",
    "a path that something else compares": KNOWN + "def y(request):\n    return request.url.path == '/asked'\n",
    "a syntax error": "@app.get(\n",
    "a NUL": "x = 1\0",
    "a depth that nobody writes": KNOWN + "x = " + "(" * 5000 + ")" * 5000,
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_where_routes_cannot_be_told_nothing_is_said(name: str) -> None:
    assert warned(UNCLEAR[name]) == ()


def test_without_the_cause_of_doubt_the_same_path_is_warned_of() -> None:
    """Or the test above could not fail."""
    assert len(warned(KNOWN)) == 1


@pytest.mark.parametrize("depth", [10, 300, 600, 900, 3000, 100_000])
def test_a_sum_of_any_length_ends_in_no_recursion(depth: int) -> None:
    """`ast` goes down a level for each; how far it comes differs between versions of Python."""
    assert len(ends(handler("url=" + "+".join("1" * depth)))) <= 1


def test_an_app_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    build_enclave(make_service(tmp_path / "service", f"open({str(mark)!r}, 'w').close()\n" + KNOWN, "/x"))
    assert not mark.exists()


# --- roles -----------------------------------------------------------------------------------------------------------

AUDITOR = "  - {role_name: auditor, role_auth: users, role_cardinality: 1}\n"


def test_a_role_that_no_path_lists_is_warned_of() -> None:
    text = MANIFEST.replace("traffic:", AUDITOR + "traffic:")
    (line,) = advice(text, parse_manifest(text), {}, users=None)
    assert line.startswith(
        "service.yaml:8: roles[1].role_name: expected a path that lists the role 'auditor', got none"
    )


def test_a_role_that_nobody_holds_is_warned_of_where_users_are_given() -> None:
    text = MANIFEST.replace("access: reader", "access: reader, auditor").replace("traffic:", AUDITOR + "traffic:")
    users = Users((User("Alice", "reader", user_key("Alice").public_bytes),))
    assert advice(text, parse_manifest(text), {}, users=None) == ()
    (line,) = advice(text, parse_manifest(text), {}, users=users)
    assert line.startswith("service.yaml:8: roles[1].role_name: expected a user with the role 'auditor', got none")


# --- a way out that the caller chooses -------------------------------------------------------------------------------


def ends(app: str, path: str = "/asked", more: str = OUTBOUND, **files: str) -> tuple[str, ...]:
    return tuple(line for line in warned(app, path, more=more, **files) if "the caller's URL" in line)


def handler(parameters: str, body: str = "...", before: str = "") -> str:
    return FASTAPI + f"{before}\n@app.get('/asked')\nasync def asked({parameters}):\n    {body}\n"


def test_a_path_that_takes_a_url_is_warned_of_with_what_it_opens() -> None:
    (line,) = ends(handler("url: str"))
    assert line.startswith("service.yaml:4: paths[0].path: ")
    assert "'url', src/app.py:5" in line
    assert "leaves to api.example.com:443" in line


def test_a_warning_is_one_line_whatever_a_file_is_called() -> None:
    route = b"from app import app\n@app.get('/asked')\ndef asked(url): ...\n"
    text = MANIFEST + OUTBOUND
    sources = {"src/app.py": FASTAPI.encode(), "src/a\nb.py": route}
    (line,) = advice(text, parse_manifest(text), sources, users=None)
    assert line.isprintable()
    assert r"src/a\nb.py:3" in line


TAKES_A_URL = {
    "no annotation": handler("uri"),
    "an optional one": handler("link: str | None = None"),
    "a last word": handler("callback_url: str"),
    "camel case": handler("imageUrl: str"),
    "a keyword": handler("*, target: Annotated[str, Query()] = ''"),
    "a type of URLs": handler("where: HttpUrl"),
    "a list of them": handler("webhook: list[str]"),
    "a body's field": handler("job: Job", before="class Job(BaseModel):\n    where: AnyUrl"),
    "a dependency": handler("to: str = Depends(given)", before="def given(endpoint: str): return endpoint"),
    "a circle of dependencies with one in it": handler("x=Depends(a)", before="def a(url: str, x=Depends(a)): ..."),
    "a query by name": handler("request", "return fetch(request.query_params['url'])"),
    "a form by name": handler("", "return fetch(request.form.get('url'))"),
    "an unclear app": handler("url: str") + "app.include_router(make())\n",
    "a route given as an object": "from starlette.applications import Starlette\nasync def asked(request):\n"
    "    return request.query_params.get('url')\napp = Starlette(routes=[Route('/asked', asked)])\n",
}
TAKES_NONE = {
    "nothing": handler(""),
    "a number": handler("target: float"),
    "another word": handler("curl: str"),
    "a record": handler("link: Link"),
    "a dependency of the app's own": handler("url: Annotated[str, Depends(base)]", before="def base(): return 'x'"),
    "a setting by name": handler("", "return fetch(settings['url'])"),
    "a circle of dependencies": handler("x=Depends(a)", before="def a(x=Depends(a)): ..."),
    "another path": handler("url: str").replace("'/asked'", "'/other'"),
}


@pytest.mark.parametrize("name", TAKES_A_URL)
def test_a_handler_that_takes_a_url_is_recognised(name: str) -> None:
    assert len(ends(TAKES_A_URL[name])) == 1


@pytest.mark.parametrize("name", TAKES_NONE)
def test_a_handler_that_takes_none_is_left_in_peace(name: str) -> None:
    assert ends(TAKES_NONE[name]) == ()


def test_where_nothing_may_leave_a_url_is_no_way_out() -> None:
    assert ends(handler("url: str"), more="") == ()


# --- the build -------------------------------------------------------------------------------------------------------


def test_the_demonstration_is_warned_of_its_call_and_of_nothing_else() -> None:
    text = (MILLIONAIRES / MANIFEST_PATH).read_text()
    app = (MILLIONAIRES / "src/app.py").read_bytes()
    (line,) = advice(text, parse_manifest(text), {"src/app.py": app}, users=None)
    assert "paths[2].path" in line
    assert "leaves to example.com:443" in line
    assert line.replace("service.yaml:", f"{MILLIONAIRES / MANIFEST_PATH}:", 1) in build_enclave(MILLIONAIRES).notes


def test_an_app_on_another_base_is_read_as_well(tmp_path: Path) -> None:
    folder = make_service(tmp_path / "service", KNOWN, "/y", "/z=auditor")
    manifest = folder / MANIFEST_PATH
    assert sum("a route of the app answers" in note for note in build_enclave(folder).notes) == 2
    manifest.write_text(manifest.read_text().replace("workshop_asgi", "another_base"))
    assert sum("a route of the app answers" in note for note in build_enclave(folder).notes) == 2


def test_more_users_than_a_role_may_have_are_no_image(tmp_path: Path) -> None:
    folder = make_service(tmp_path / "service", KNOWN, "/x", "/y=auditor")
    names = ("Alice", "Bob", "Carol", "Dave")
    users = tuple(User(name, "querier", user_key(name).public_bytes) for name in names)
    build_enclave(folder, users=Users(users[:3]))
    with pytest.raises(ManifestError) as caught:
        build_enclave(folder, users=Users(users))
    assert caught.value.path == "users[3].role"
