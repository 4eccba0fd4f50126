"""A plan is one text, and a text that is none is refused: it comes out of an image, which anybody may have made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workshop_kit.errors import ImageError
from workshop_kit.simulator.container import RUN_SCRIPT, Plan, laid_out, script_of

PLAN = Plan(
    python="3.8",
    workdir="/code",
    copies=(("requirements.txt", "/code/requirements.txt"), ("src", "/code"), (".", "/all")),
    environment={"MODE": "quiet", "EMPTY": ""},
    services={"server": (RUN_SCRIPT, ".oblivious/services/server/run"), "other": ("python", "-m", "http.server")},
    requirements=("-r requirements.txt", "six==1.16.0"),
)


def test_a_plan_comes_back_as_it_was() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_the_same_plan_is_the_same_text_whatever_order_it_was_made_in() -> None:
    turned = PLAN._replace(
        environment=dict(reversed(PLAN.environment.items())), services=dict(reversed(PLAN.services.items()))
    )
    assert turned.to_json() == PLAN.to_json()


def test_the_order_of_copies_is_part_of_a_plan() -> None:
    """A later copy covers an earlier one."""
    assert PLAN._replace(copies=PLAN.copies[::-1]).to_json() != PLAN.to_json()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("python", 3.8),
        ("python", None),
        ("workdir", "code"),
        ("workdir", "/code/../.."),
        ("workdir", "//code"),
        ("workdir", "/code/"),
        ("workdir", "/co\0de"),
        ("copies", {"src": "/code"}),
        ("copies", [["src"]]),
        ("copies", [["src", "/code", "/more"]]),
        ("copies", [["../src", "/code"]]),
        ("copies", [["..", "/code"]]),
        ("copies", [["/etc/passwd", "/code"]]),
        ("copies", [["./src", "/code"]]),
        ("copies", [["src", "code"]]),
        ("copies", [["src", "/../code"]]),
        ("copies", [[1, "/code"]]),
        ("environment", ["MODE"]),
        ("environment", {"MODE": 1}),
        ("environment", {"": "quiet"}),
        ("environment", {"A=B": "quiet"}),
        ("services", []),
        ("services", {"server": "python app.py"}),
        ("services", {"server": []}),
        ("services", {"server": [RUN_SCRIPT]}),
        ("services", {"server": [RUN_SCRIPT, "../run"]}),
        ("services", {"server": [RUN_SCRIPT, "/bin/sh"]}),
        ("services", {"server": ["python", 1]}),
        ("requirements", "six"),
        ("requirements", [None]),
    ],
)
def test_a_plan_with_something_else_in_it_is_refused_with_the_key(key: str, value: Any) -> None:
    data = json.loads(PLAN.to_json()) | {key: value}
    with pytest.raises(ImageError, match=rf"the image's plan: expected .* in {key}, got .*; build the image again"):
        Plan.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"python": "3.8"}', "[" * 100_000])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="the image's plan: expected"):
        Plan.from_json(text)


def test_a_further_key_is_refused() -> None:
    """It would have been written by a kit that means something by it."""
    with pytest.raises(ImageError, match="expected the keys"):
        Plan.from_json(json.dumps(json.loads(PLAN.to_json()) | {"user": "root"}))


def test_a_run_script_is_told_from_a_command_line() -> None:
    assert {name: script_of(command) for name, command in PLAN.services.items()} == {
        "server": ".oblivious/services/server/run",
        "other": None,
    }


FILES = ("src/app.py", "src/routes/hello.py", "srcs.txt", "README.md")


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        ([("README.md", "/code/README.md")], {"/code/README.md": "README.md"}),
        ([("src", "/code")], {"/code/app.py": "src/app.py", "/code/routes/hello.py": "src/routes/hello.py"}),
        ([("src/routes", "/")], {"/hello.py": "src/routes/hello.py"}),
        ([(".", "/code")], {f"/code/{path}": path for path in FILES}),
        ([("README.md", "/x"), ("srcs.txt", "/x")], {"/x": "srcs.txt"}),
        ([("absent", "/code")], {}),
    ],
)
def test_copies_lay_files_out(copies: list[tuple[str, str]], expected: dict[str, str]) -> None:
    """The content of a folder goes into its target, and a later copy covers an earlier one."""
    assert laid_out(copies, FILES) == expected


def test_reading_a_plan_loads_the_standard_library_alone() -> None:
    """It happens inside an enclave, in a process that is to stay small."""
    script = "import workshop_kit.simulator.container, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"yaml", "pydantic", "cryptography", "dockerfile_parse", "packaging", "subprocess", "shlex"}
