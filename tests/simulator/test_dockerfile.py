"""A Dockerfile is read with docker's meaning, and what is not read is said or refused: never passed over.

The forms are those that are seen in service folders of others; the wordings are this project's own.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from services import MANIFEST

from workshop_kit.errors import ImageError, ManifestError, WorkshopKitError
from workshop_kit.evidence.cpio import Entry, Link
from workshop_kit.service.manifest import parse_manifest
from workshop_kit.simulator.container import RUN_SCRIPT, Plan, laid_out
from workshop_kit.simulator.dockerfile import DOCKERFILE, plan_of

RUN = ".oblivious/services/server/run"
FILES: dict[str, Entry] = {
    "requirements.txt": b"six\n",
    "api.py": b"",
    "README.md": b"",
    "src/app.py": b"",
    "src/routes/hello.py": b"",
    "wheels/tiny-1.0-py3-none-any.whl": b"",
    "archive.tar.gz": b"\x1f\x8b",
    "latest": Link("src"),
}
ARGUMENTS = """\
build_args:
  - {name: TOKEN, required_arg: true, type: string}
  - {name: COUNT, type: integer}
  - {name: SHARE, type: number}
  - {name: LOUD, type: boolean}
  - {name: FREE, type: colour}
"""
SCRIPT = b"#!/bin/sh\npython /code/uvicorn_serve.py\n"


def plan(
    dockerfile: str | bytes | None,
    *,
    run: bytes | None = SCRIPT,
    build_args: dict[str, str] | None = None,
    base: str = "oblv_ubuntu_18_04_proxy_python_3_8",
    **files: Entry,
) -> tuple[Plan, tuple[str, ...]]:
    """The plan and the notes for the folder above with this Dockerfile, with a run script unless `run` is None."""
    manifest = MANIFEST.format(paths="  - {path: /, access: querier}").replace("workshop_asgi", base)
    parsed = parse_manifest(manifest + (ARGUMENTS if build_args is not None else ""))
    folder: dict[str, Entry] = FILES | files
    if dockerfile is not None:
        folder[DOCKERFILE] = dockerfile.encode() if isinstance(dockerfile, str) else dockerfile
    if run is not None:
        folder[RUN] = run
    return plan_of(folder, parsed, build_args=build_args or {}, folder="there")


def refusal(dockerfile: str | bytes, **how: Entry) -> str:
    with pytest.raises(ImageError) as caught:
        plan(dockerfile, run=None, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- whole files -----------------------------------------------------------------------------------------------------

USUAL = """\
# no FROM here

workdir /code
copy ./requirements.txt /code/requirements.txt
run pip install --no-cache-dir --upgrade -r /code/requirements.txt
copy ./src/ /code/

# nor CMD
"""


@pytest.mark.parametrize("text", [USUAL, USUAL.upper().replace("/CODE", "/code"), USUAL.replace("\n", "\r\n")])
def test_the_usual_dockerfile_copies_and_installs_whatever_the_case_of_its_words(text: str) -> None:
    for word in ("requirements.txt", "src", "pip install", "--no-cache-dir --upgrade -r"):
        text = text.replace(word.upper(), word)
    assert plan(text) == (
        Plan(
            python="3.8",
            workdir="/code",
            copies=(("requirements.txt", "/code/requirements.txt"), ("src", "/code")),
            environment={},
            services={"server": (RUN_SCRIPT, RUN)},
            requirements=("-r requirements.txt",),
        ),
        (),
    )


def test_a_folder_without_a_dockerfile_is_copied_and_installed_in_the_usual_way() -> None:
    """From src/ to /code, with the requirements beside it."""
    found, notes = plan(None)
    assert (found.copies, found.requirements, notes) == ((("src", "/code"),), ("-r requirements.txt",), ())


def test_the_base_images_name_says_which_python() -> None:
    assert plan(USUAL, base="oblv_ubuntu_18_04_proxy")[0].python == ""
    assert plan(USUAL, base="oblv_ubuntu_18_04_proxy_nsm_api_python_3_8")[0].python == "3.8"


def test_what_would_bring_something_is_left_out_with_the_reason() -> None:
    """Continued lines, with a comment and an empty line among them, are one instruction."""
    text = (
        "FROM python:3.9 AS base\nRUN apt-get update && \\\n  # git is for pip\n\n    apt-get install -y git\n"
        "RUN git clone https://example.com/a/b\nRUN cd b && pip install .\n" + USUAL
    )
    found, notes = plan(text)
    absent = "what it would bring is not there"
    assert found == plan(USUAL)[0]
    assert notes == (
        f"there/{DOCKERFILE}:1: FROM python:3.9 AS base: ignored: base_image names the base",
        f"there/{DOCKERFILE}:2: RUN apt-get update && apt-get install -y git: not run: {absent}",
        f"there/{DOCKERFILE}:6: RUN git clone https://example.com/a/b: not run: {absent}",
        f"there/{DOCKERFILE}:7: RUN pip install .: not run: no distribution is built from a folder; COPY it, or put a "
        "wheel into it",
    )


@pytest.mark.parametrize(
    "line",
    [
        *("LABEL a=b", "MAINTAINER me", "EXPOSE 80", "USER nobody", "VOLUME /data", "STOPSIGNAL 9", "HEALTHCHECK NONE"),
        *(
            "ONBUILD RUN x",
            "COPY --chown=a:b api.py /code/",
            "COPY --chmod=755 api.py /code/",
            "ADD --chown=a api.py /x",
        ),
    ],
)
def test_an_instruction_without_a_meaning_here_is_noted(line: str) -> None:
    _, notes = plan(f"\n{line}\n" + USUAL)
    [note] = notes
    assert note.startswith(f"there/{DOCKERFILE}:2: {line.split()[0]} {line.split()[1]}")


def test_what_a_reader_expects_to_count_and_does_not_is_noted() -> None:
    _, notes = plan("COPY . /code", **{".dockerignore": b"*.md"})
    assert notes == (
        f"there/{DOCKERFILE}: .dockerignore is not read: a COPY copies all that it names",
        f"there/{DOCKERFILE}: requirements.txt is not installed: no RUN pip install names it",
    )


# --- COPY, ADD, WORKDIR ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "copies"),
    [
        ("COPY . /code", [(".", "/code")]),
        ("COPY . .", [(".", "/code")]),
        ("COPY ./ ./", [(".", "/code")]),
        ("COPY ./api.py /code/api.py", [("api.py", "/code/api.py")]),
        ("COPY /api.py /code/", [("api.py", "/code/api.py")]),
        ("COPY api.py /code", [("api.py", "/code/api.py")]),
        ("COPY api.py /data", [("api.py", "/data")]),
        ("COPY api.py /data/", [("api.py", "/data/api.py")]),
        ("COPY api.py /usr", [("api.py", "/usr/api.py")]),
        ("COPY api.py main.py", [("api.py", "/code/main.py")]),
        ("COPY src /srv/app", [("src", "/srv/app")]),
        ("COPY src/ /srv/app/", [("src", "/srv/app")]),
        ("COPY src /srv/app\nCOPY api.py /srv/app", [("src", "/srv/app"), ("api.py", "/srv/app/api.py")]),
        ("COPY src /x\nCOPY api.py /x/routes", [("src", "/x"), ("api.py", "/x/routes/api.py")]),
        ("COPY api.py README.md /code/", [("api.py", "/code/api.py"), ("README.md", "/code/README.md")]),
        ("COPY *.py /code/", [("api.py", "/code/api.py")]),
        ("COPY s?c/[ab]*.py /code/", [("src/app.py", "/code/app.py")]),
        ("COPY latest/app.py /code/", [("src/app.py", "/code/app.py")]),
        ("COPY latest /code/", [("src", "/code")]),
        ('COPY ["api.py", "/my code/"]', [("api.py", "/my code/api.py")]),
        ("COPY --link api.py /code/", [("api.py", "/code/api.py")]),
        ("WORKDIR /srv\nWORKDIR app\nCOPY api.py .", [("api.py", "/srv/app/api.py")]),
        ("COPY api.py /code/../srv/x.py", [("api.py", "/srv/x.py")]),
        ("ADD api.py /code/", [("api.py", "/code/api.py")]),
        ("COPY \\\n  api.py \\\n  # the second\n  README.md \\\n\n  /code/", [("api.py", "/code/api.py")] * 1
         + [("README.md", "/code/README.md")]),
    ],
)  # fmt: skip
def test_copy_means_what_docker_means_by_it(text: str, copies: list[tuple[str, str]]) -> None:
    """With slashes or without, into folders that are there, from patterns, through links of the folder."""
    assert plan(text)[0].copies == tuple(copies)


def test_a_later_workdir_is_where_services_start() -> None:
    assert plan("WORKDIR /srv\nWORKDIR app/\n")[0].workdir == "/srv/app"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("COPY absent.py /code/", "COPY: expected a path in the service folder, got 'absent.py', which is not there"),
        ("COPY *.c /code/", "got '*.c', which is not there"),
        ("COPY ../secret /code/", "got '../secret', which leaves it"),
        ("COPY src/../../secret /code/", "which leaves it"),
        ("COPY --from=builder /app /code", "COPY: expected files of the service folder, got --from=builder"),
        ("COPY --exclude=*.md . /code", "expected no option but --chown, --chmod and --link, got --exclude=*.md"),
        ("COPY api.py", "expected sources and a target, got 'api.py'"),
        ("COPY api.py README.md /code/both", "expected a target that ends with '/' for several sources"),
        ("COPY api.py /code/../../etc/x", "COPY: expected a path below the root, got '/code/../../etc/x'"),
        ("WORKDIR /../x", "WORKDIR: expected a path below the root"),
        ("COPY api.py /code/a\nCOPY README.md /code/a/b", "expected a folder at /code/a, got the file api.py there"),
        ("ADD https://example.com/x /code/", "ADD: expected files of the service folder, got 'https://example.com/x'"),
        ("ADD git@example.com:a/b.git /code/", "ADD: expected files of the service folder"),
        ("ADD archive.tar.gz /code/", "got the archive archive.tar.gz, which ADD unpacks; COPY what is in it"),
        ("COPY ['api.py', '/code/']", "COPY: expected words in double quotes"),
    ],
)
def test_a_copy_that_cannot_be_made_is_refused_with_its_line(text: str, words: str) -> None:
    message = refusal(f"# first\n{text}")
    line = 1 + len(text.splitlines())
    assert message.startswith(f"there/{DOCKERFILE}:{line}: ")
    assert words in message


def test_copies_of_links_that_lead_in_circles_end() -> None:
    assert "which is not there" in refusal("COPY a /code/", a=Link("b"), b=Link("a"))


# --- ENV, ARG --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("ENV MODE=quiet PORT=80", {"MODE": "quiet", "PORT": "80"}),
        ("ENV MODE very quiet", {"MODE": "very quiet"}),
        ('ENV MODE="very quiet" ONE=two\\ words', {"MODE": "very quiet", "ONE": "two words"}),
        ("ENV A=1\nENV B=$A/${A}x C='$A' D=\\$A", {"A": "1", "B": "1/1x", "C": "$A", "D": "$A"}),
        ("ENV A=1\nENV A=2 B=$A", {"A": "2", "B": "1"}),
        ("ARG V=1\nENV B=$V", {"B": "1"}),
        ("ARG V=1\nARG W=$V.2\nENV B=$W", {"B": "1.2"}),
        ("ARG V=1\nENV V=2\nENV B=$V", {"V": "2", "B": "2"}),
        ("ENV PATH=/srv/x:$PATH", {"PATH": "/srv/x:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}),
    ],
)
def test_env_stays_and_arg_is_substituted_only(text: str, environment: dict[str, str]) -> None:
    found, notes = plan(f"{text}\n{USUAL}")
    assert (found.environment, notes) == (environment, ())


def test_variables_are_substituted_in_paths() -> None:
    found, _ = plan('ARG HOME=srv\nENV APP=app\nWORKDIR /$HOME\nCOPY ./src "${APP}/"\n')
    assert (found.workdir, found.copies) == ("/srv", (("src", "/srv/app"),))


def test_a_variable_that_nothing_sets_is_empty_as_in_docker_and_noted() -> None:
    found, notes = plan("ARG V\nENV A=$V B=$PYTHONPATH:/code\n" + USUAL)
    assert found.environment == {"A": "", "B": ":/code"}
    assert notes == tuple(
        f"there/{DOCKERFILE}:2: ENV: nothing above gives a value to ${name}: it is empty"
        for name in ("V", "PYTHONPATH")
    )


@pytest.mark.parametrize(
    "text",
    [
        *("ENV A=${B:-c}", "ENV A=${B:+c}", "ENV A=${B#c}", "ENV A=$(date)", "ENV A=$$", "ENV A=$1", 'ENV A="\\$B"'),
        *('ENV A="C:\\\\x"', "WORKDIR /${X:-y}", "COPY api.py /${X-y}/"),
    ],
)
def test_a_substitution_that_the_parser_would_read_otherwise_than_docker_is_refused(text: str) -> None:
    assert "expected $NAME or ${NAME} alone" in refusal(text)


@pytest.mark.parametrize("text", ["ENV A", "ENV A=1 B", "ENV =1", "ENV ''"])
def test_an_env_without_a_value_is_refused(text: str) -> None:
    assert "ENV: expected name=value" in refusal(text)


def test_build_arguments_are_substituted() -> None:
    text = "ARG TOKEN\nARG COUNT=1\nENV A=$TOKEN B=$COUNT\n" + USUAL
    found, notes = plan(text, build_args={"TOKEN": "abc"})
    assert (found.environment, notes) == ({"A": "abc", "B": "1"}, ())
    assert plan(text, build_args={"TOKEN": "abc", "COUNT": "7"})[0].environment == {"A": "abc", "B": "7"}


def test_a_build_argument_that_no_arg_names_is_noted() -> None:
    _, notes = plan(USUAL, build_args={"TOKEN": "abc"})
    assert notes == (f"there/{DOCKERFILE}: the build argument TOKEN has no effect: no ARG names it",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"build_args\[0\]: expected a value for the build argument 'TOKEN', which is required, got none"),
        ({"COUNT": "1"}, "'TOKEN', which is required"),
        ({"TOKEN": "", "X": "1"}, "build_args: expected one of TOKEN, COUNT, SHARE, LOUD, FREE, got .* 'X'"),
        ({"TOKEN": "", "COUNT": "1.5"}, r"build_args\[1\]: expected an integer for .* 'COUNT', got '1.5'"),
        ({"TOKEN": "", "COUNT": "one"}, "expected an integer"),
        ({"TOKEN": "", "SHARE": "half"}, "expected a number for .* 'SHARE', got 'half'"),
        ({"TOKEN": "", "LOUD": "yes"}, "expected true or false for .* 'LOUD', got 'yes'"),
    ],
)
def test_build_arguments_are_held_against_the_manifest(given: dict[str, str], words: str) -> None:
    with pytest.raises(ManifestError, match=words) as caught:
        plan(USUAL, build_args=given)
    assert caught.value.file == "there/.oblivious/service.yaml"


def test_build_arguments_of_their_types_and_of_unknown_types_are_accepted() -> None:
    given = {"TOKEN": "x", "COUNT": "-3", "SHARE": "1.5e3", "LOUD": "True", "FREE": "blue"}
    plan("".join(f"ARG {name}\n" for name in given) + USUAL, build_args=given)


def test_a_manifest_without_build_arguments_takes_none() -> None:
    manifest = parse_manifest(MANIFEST.format(paths="  - {path: /, access: querier}"))
    with pytest.raises(ManifestError, match="expected none, since none is declared, got the build argument 'X'"):
        plan_of({RUN: SCRIPT}, manifest, build_args={"X": "1"}, folder="there")


# --- RUN -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "requirements"),
    [
        ("pip install -r requirements.txt", ["-r requirements.txt"]),
        ("pip3 install -Ur ./requirements.txt", ["-r requirements.txt"]),
        ("python3 -m pip install --requirement=/code/requirements.txt", ["-r requirements.txt"]),
        ("pip install -q --no-cache-dir --progress-bar off --timeout=9 six", ["six"]),
        ("pip install 'fastapi>=0.68,<0.69' uvicorn[standard]", ["fastapi>=0.68,<0.69", "uvicorn[standard]"]),
        ("pip install git+https://example.com/a/b.git#egg=b", ["git+https://example.com/a/b.git#egg=b"]),
        ("pip install --upgrade pip && pip install -r requirements.txt", ["pip", "-r requirements.txt"]),
        ("set -ex; pip install six", ["six"]),
        ("cd /code && pip install -r requirements.txt", ["-r requirements.txt"]),
        ("pip install -i https://example.com/simple --pre six", ["-i https://example.com/simple", "--pre", "six"]),
        ("pip install --no-index -f wheels ./wheels/tiny-1.0-py3-none-any.whl",
         ["--no-index", "-f wheels", "./wheels/tiny-1.0-py3-none-any.whl"]),
        ("pip install -c requirements.txt six", ["-c requirements.txt", "six"]),
        ("--mount=type=cache,target=/cache pip install six", ["six"]),
        ('["pip", "install", "six>=1"]', ["six>=1"]),
        ("pip install \\\n   six==1.16.0 \\\n   # and\n   idna", ["six==1.16.0", "idna"]),
        ("pip install six==$VERSION", ["six==1.2"]),
    ],
)  # fmt: skip
def test_pip_installs_become_lines_of_a_requirements_file(run: str, requirements: list[str]) -> None:
    """With the path that the file has in the service folder, not the one it has in the image."""
    found, notes = plan(f"ARG VERSION=1.2\nCOPY . /code\nRUN {run}\n")
    assert (found.requirements, notes) == (tuple(requirements), ())


@pytest.mark.parametrize(
    ("run", "why"),
    [
        ("pip install fastapi>=0.68", "the shell reads > as its own"),
        ("pip install six || true", "the shell reads || as its own"),
        ("pip install --no-deps six", "the option --no-deps is not supported"),
        ("pip install -e .", "what -e installs stays outside of Python's own folders"),
        ("pip install ./src", "no distribution is built from a folder"),
        ("pip install six==$UNKNOWN", "nothing above gives the value of six==$UNKNOWN"),
        ("pip install $(cat list)", "the shell reads"),
        ("cd $HOME && pip install -r requirements.txt", "the folder in which it runs is not clear"),
        ("curl x && pip install -r x.txt", "what it names is not there"),
        ("poetry install", "what it would bring is not there"),
        ("[ -d x ] || mkdir x", "what it would bring is not there"),
        ("pip install 'six", "what it would bring is not there"),
        ('""', "what it would bring is not there"),
    ],
)
def test_a_command_that_is_left_out_is_noted_with_the_reason(run: str, why: str) -> None:
    found, notes = plan(f"COPY . /code\nRUN pip install -r requirements.txt\nRUN {run}\n")
    assert found.requirements == ("-r requirements.txt",)
    assert [note for note in notes if note.startswith(f"there/{DOCKERFILE}:3: RUN ") and why in note]


def test_a_requirements_file_that_a_command_above_may_have_brought_is_noted() -> None:
    text = "RUN git clone https://example.com/a/b\nRUN cd b && pip install -r requirements.txt\n"
    _, notes = plan(text + USUAL)
    assert notes[1] == (
        f"there/{DOCKERFILE}:2: RUN pip install -r requirements.txt: not run: what it names is not there"
    )


def test_a_requirements_file_that_no_copy_brings_is_refused() -> None:
    """Installing system packages above does not bring it either."""
    text = "RUN apt-get update\nRUN pip install -r /code/requirements.txt\nCOPY requirements.txt /code/"
    message = refusal(text)
    assert message.startswith(f"there/{DOCKERFILE}:2: RUN: expected what a COPY above brings, got /code/requirements")


def test_the_last_copy_says_where_a_requirements_file_is_from() -> None:
    text = "COPY . /code\nCOPY more.txt /code/requirements.txt\nRUN pip install -r requirements.txt"
    assert plan(text, **{"more.txt": b""})[0].requirements == ("-r more.txt",)


# --- what starts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('CMD ["uvicorn", "api:app"]', ("uvicorn", "api:app")),
        ("CMD uvicorn api:app --port ${PORT:-80}", ("/bin/sh", "-c", "uvicorn api:app --port ${PORT:-80}")),
        ('CMD ["a"]\nCMD ["b"]', ("b",)),
        ('ENTRYPOINT ["python"]\nCMD ["app.py"]', ("python", "app.py")),
        ('CMD ["app.py"]\nENTRYPOINT ["python"]', ("python", "app.py")),
        ('SHELL ["/bin/bash", "-c"]\nCMD x && y', ("/bin/bash", "-c", "x && y")),
    ],
)
def test_without_a_run_script_cmd_and_entrypoint_say_what_starts(text: str, command: tuple[str, ...]) -> None:
    assert plan(text, run=None)[0].services == {"service": command}


def test_an_entrypoint_without_brackets_takes_no_arguments_and_says_so() -> None:
    found, notes = plan(f'{USUAL}ENTRYPOINT python app.py\nCMD ["x"]', run=None)
    assert found.services == {"service": ("/bin/sh", "-c", "python app.py")}
    assert notes == (f"there/{DOCKERFILE}:10: CMD: left out: an ENTRYPOINT without brackets takes no arguments",)


def test_an_app_that_is_copied_to_the_workdir_is_served_on_the_first_port() -> None:
    expected = ("python", "-m", "uvicorn", "app:app", "--host", "0.0.0.0", "--port", "80")
    assert plan(USUAL, run=None)[0].services == {"service": expected}
    assert plan(None, run=None)[0].services == {"service": expected}


@pytest.mark.parametrize("text", ["COPY . /code", "COPY src /srv", "WORKDIR /srv\nCOPY src /code", "ENV A=1"])
def test_a_service_that_nothing_starts_is_refused_with_the_three_ways(text: str) -> None:
    message = refusal(text)
    for way in (".oblivious/services/<name>/run", "a CMD in .oblivious/Dockerfile", "an app.py copied to"):
        assert way in message


def test_run_scripts_stand_before_cmd_and_say_so() -> None:
    found, notes = plan(f'{USUAL}CMD ["x"]')
    assert found.services == {"server": (RUN_SCRIPT, RUN)}
    assert notes == (f"there/{DOCKERFILE}:9: CMD: not run: .oblivious/services/ names what runs",)


def test_every_run_script_is_a_service_and_the_old_form_is_one_too() -> None:
    more: dict[str, Entry] = {".oblivious/services/run": b"#!/bin/sh\n", ".oblivious/services/b/run": b"\x7fELF"}
    found, notes = plan(USUAL, **more, **{".oblivious/services/b/finish": b"#!/bin/sh\n"})
    assert found.services == {
        "service": (RUN_SCRIPT, ".oblivious/services/run"),
        "b": (RUN_SCRIPT, ".oblivious/services/b/run"),
        "server": (RUN_SCRIPT, RUN),
    }
    assert notes == ("there/.oblivious/services/b/finish: left out: .oblivious/services/<name>/run alone is read",)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (b"python app.py\n", "expected a program or a script that begins with #!/bin/sh"),
        (b"", "expected a program or a script"),
        (b"#!/bin/sh\r\npython app.py\r\n", "got a carriage return"),
    ],
)
def test_a_run_script_that_would_not_start_is_refused(script: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        plan(USUAL, run=script)
    assert str(caught.value).startswith(f"there/{RUN}:1: ")


# --- the text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("RUN <<EOF\npip install x\nEOF\n", 1, "RUN: expected one instruction, got a here-document"),
        ("ENV A=1\nCOPY <<-'EOF' /x\nEOF\n", 2, "got a here-document"),
        ("FROM a AS b\nRUN x\nFROM c\n", 3, "FROM: expected one FROM at most, got another, c"),
        ("\nCOPPY a b\n", 2, "COPPY: expected an instruction of a Dockerfile"),
        ("ENV A=1\nCMD\n", 2, "CMD: expected what it is for, got nothing"),
        ("ENV A=1\nCMD", 2, "CMD: expected what it is for, got nothing"),
        ("# x\n\nCOPY api.py \\\n", 3, "expected an instruction and what it is for, got 'COPY api.py"),
        ("# escape=`\nCOPY a `\n b\n", 1, "expected lines continued by \\"),
        ("RUN x\\\\\nRUN y\n", 1, "expected one \\ at most at a line's end"),
        ("ENV A=1\0\n", 1, "expected text, got a control character"),
        (b"ENV A=1\nENV B=\xff\n", 2, "expected text in UTF-8, got other bytes"),
        ("SHELL bash -c\n", 1, "SHELL: expected words in brackets"),
        ("CMD ['python']\n", 1, "CMD: expected words in double quotes"),
        ("CMD []\n", 1, "CMD: expected words in double quotes"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_with_its_line(text: str | bytes, line: int, words: str) -> None:
    message = refusal(text)
    assert message.startswith(f"there/{DOCKERFILE}:{line}: ")
    assert words in message


def test_a_name_that_is_continued_is_a_name() -> None:
    assert plan("COPY\\\n api.py /code/\n")[0].copies == (("api.py", "/code/api.py"),)
    assert plan("\ufeffCOPY api.py /code/\n")[0].copies == (("api.py", "/code/api.py"),)


def test_a_dockerfile_that_is_too_long_or_a_link_is_refused() -> None:
    assert "expected at most 65536 bytes" in refusal("#" * 65537)
    manifest = parse_manifest(MANIFEST.format(paths="  - {path: /, access: querier}"))
    for path in (DOCKERFILE, RUN):
        with pytest.raises(ImageError, match=f"there/{path}: expected a file, got a link"):
            plan_of({path: Link("x")}, manifest, build_args={}, folder="there")


PARTS = """FROM RUN COPY ADD ENV ARG CMD ENTRYPOINT WORKDIR SHELL # \\ \\\\ [ ] " ' $ ${ } : = , . / .. && ; |
pip install -r requirements.txt src api.py /code --from= --chown= << EOF * ? cd x é"""
WORDS = st.sampled_from([*PARTS.split(), "\n", "\n", "\t", "\ufeff"])


@given(st.one_of(st.text(), st.lists(WORDS, max_size=40).map(" ".join), st.lists(WORDS, max_size=40).map("".join)))
def test_any_text_gives_a_plan_or_one_of_our_errors(text: str) -> None:
    """And what it gives is a plan that can be read again, whose files are in the folder and below the root."""
    try:
        found, notes = plan(text.encode("utf-8", "surrogatepass"))
    except WorkshopKitError:
        return
    assert Plan.from_json(found.to_json()) == found
    assert all("\n" not in note for note in notes)
    for target, path in laid_out(found.copies, FILES).items():
        assert target.startswith("/")
        assert path in FILES
