"""What pip says, read: the names of files decide, and no address of an index comes out."""

from __future__ import annotations

import pytest
from packaging.tags import platform_tags

from workshop_kit.simulator.pip_words import essence, findings, suspects

HERE = next(iter(platform_tags()))
"""This kind of machine, as wheels name it."""
PAGE = "https://index.example/simple/tiny/"
SOURCE = "No sources permitted for tiny"


def passed_over(file: str, why: str = "none of the wheel's tags are compatible", asks: str = "") -> str:
    """The line in which pip passes over a file."""
    address = f"https://files.example/packages/ab/{file}#sha256=00"
    return f"  Skipping link: {why}: {address} (from {PAGE})" + f" (requires-python:{asks})" * bool(asks)


@pytest.mark.parametrize(
    ("files", "wanted", "refusal"),
    [
        ([("tiny-1.0.tar.gz", SOURCE)], "tiny==1.0", ""),
        ([("tiny-1.0.zip", SOURCE)], "Tiny==1.0", ""),
        ([("tiny-1.0.tar.gz", SOURCE), ("tiny-1.0-cp36-cp36m-win_amd64.whl",)], "tiny==1.0", ""),
        ([("tiny-1.0.tar.gz", SOURCE), (f"tiny-2.0-cp36-cp36m-{HERE}.whl",)], "tiny<2", ""),
        ([("tiny-1.9.tar.gz", SOURCE), (f"tiny-1.0-cp36-cp36m-{HERE}.whl",)], "tiny<2", ""),
        ([("tiny-1.0.tar.gz", SOURCE), ("tiny-2.0-py3-none-any.whl", "Python", ">=3.14")], "tiny", ""),
        ([("tiny-1.0.tar.gz", SOURCE), (f"tiny-1.0-cp36-cp36m-{HERE}.whl",)], "tiny==1.0",
         "tiny==1.0 has no build for Python 3.12 on this machine, but for 3.6; change the pin, or let base_image"),
        ([(f"tiny-1.4-cp{n}-cp{n}-{HERE}.whl",) for n in (38, 39, 310)], "tiny>=1,<2",
         "tiny>=1,<2 has no build for Python 3.12 on this machine, but for 3.8, 3.9 and 3.10; change the pin, or let"),
        ([("tiny-2.0-py3-none-any.whl", "Python", ">=3.14")], "tiny==2.0",
         "tiny==2.0 has no build for Python 3.12 on this machine and asks for Python >=3.14; change the pin"),
        ([("tiny-2.0.tar.gz", SOURCE, "<3.10")], "tiny==2.0",
         "tiny==2.0 has no build for Python 3.12 on this machine and asks for Python <3.10; change the pin"),
        ([("tiny-1.0-cp312-cp312-win_amd64.whl",)], "tiny",
         "tiny has no build for Python 3.12 on this machine, but for other kinds of machine; change the pin"),
        ([("tiny-1.0-cp36-none-any.whl",), ("tiny-1.1rc1.tar.gz", SOURCE)], "tiny==9.9",
         "expected a version that exists, got tiny==9.9; correct it, the newest is 1.0"),
        ([("other-9.9.tar.gz", SOURCE), ("nonsense.whl", "")], "tiny==9.9",
         "expected a package that the index has, got tiny==9.9; correct its name"),
    ],
)  # fmt: skip
def test_the_names_of_files_say_whether_a_source_is_worth_a_build(
    files: list[tuple[str, ...]], wanted: str, refusal: str
) -> None:
    """Builds for this kind of machine count, of the version that pip would take; no phrase of pip's does."""
    found = findings("\n".join(passed_over(*file) for file in files), wanted, "3.12.1", "")
    assert found.has_source == (refusal == "")
    assert found.refusal.startswith(refusal)
    assert bool(found.refusal) == bool(refusal)


def test_a_python_that_the_base_image_names_is_the_way_out_only_where_it_helps() -> None:
    said = passed_over(f"tiny-1.4-cp38-cp38-{HERE}.whl")
    assert findings(said, "tiny==1.4", "3.12.1", "3.8").refusal.endswith(
        "; change the pin, or install Python 3.8, which base_image names"
    )
    assert findings(said, "tiny==1.4", "3.12.1", "3.7").refusal.endswith(
        "; change the pin, or let base_image name one of those"
    )


def test_what_is_no_requirement_is_left_to_pips_own_words() -> None:
    assert findings("", "???", "3.12.1", "") == (False, "")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (f"Could not fetch URL {PAGE}: connection error: HTTPSConnectionPool(host='index.example')", "no connection"),
        ("WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/tiny/", "no connection"),
        (f"Could not fetch URL {PAGE}: 503 Server Error: Busy", "got its error 503"),
        (f"Could not fetch URL {PAGE}: 404 Client Error: Not Found", "correct its name"),
        ("", "correct its name"),
    ],
)
def test_a_package_that_is_not_there_is_told_from_an_index_that_is_not(said: str, words: str) -> None:
    refusal = findings(said, "tiny", "3.12.1", "").refusal
    assert words in refusal
    assert "example" not in refusal


CONFLICT = """\
ERROR: Cannot install -r x.txt (line 1) and b==2 because these package versions have conflicting dependencies.

The conflict is caused by:
    The user requested b==2
    a 1.0 depends on b<2 and >=1.1

To fix this you could try to:
1. loosen the range of package versions you've specified

ERROR: ResolutionImpossible: for help visit https://index.example/help
"""
BROKEN = """\
Collecting tiny==1.0
  Downloading https://files.example/tiny-1.0.tar.gz
  ╰─> [4 lines of output]
      running build
      tiny.c:1:9: error: expected expression
      error: command '/usr/bin/gcc' failed with exit code 1
      [end of output]

  note: This error originates from a subprocess, and is likely not a problem with pip.
  ERROR: Failed building wheel for tiny
ERROR: Could not build wheels for tiny, which is required to install pyproject.toml-based projects
"""
HASHES = """\
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package versions…
    tiny==1.0 from https://files.example/tiny-1.0-py3-none-any.whl (from -r x.txt (line 1)):
        Expected sha256 0000
"""
GIT = """\
Collecting git+https://git.example/a/tiny.git
  fatal: unable to access 'https://git.example/a/tiny.git/': Failed to connect to git.example port 443
"""
TRACEBACK = """\
  File "/somewhere/pip/_internal/req.py", line 2, in parse
    raise InvalidMarker(
pip._vendor.packaging.markers.InvalidMarker: Expected a marker variable
    python_version < '4' and
                            ^
"""
IGNORED = "ERROR: Ignored the following versions that require a different python version: 1.0 Requires-Python >=3.14\n"
NO_MATCH = """\
ERROR: Could not find a version that satisfies the requirement tiny==1 (from versions: none)
ERROR: No matching distribution found for tiny==1
"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (CONFLICT, "these exclude each other: The user requested b==2; a 1.0 depends on b<2 and >=1.1"),
        (BROKEN, "tiny cannot be built from source: tiny.c:1:9: error: expected expression"),
        (BROKEN.replace("tiny.c:1:9: error: ", ""),
         "tiny cannot be built from source: error: command '/usr/bin/gcc' failed with exit code 1"),
        (HASHES, "tiny==1.0 has another digest than its --hash says"),
        (GIT, "there is no connection to where …/tiny.git is; check the network"),
        (GIT.replace("Failed to connect to git.example port 443", "The requested URL returned error: 403"),
         "git says unable to access '…/tiny.git': The requested URL returned error: 403"),
        (TRACEBACK, "Expected a marker variable"),
        (IGNORED + NO_MATCH, "No matching distribution found for tiny==1"),
        ("ERROR: Invalid requirement: '???' (from line 1 of /cache/4f/requirements.txt)", "Invalid requirement: '???'"),
        ("ERROR: HTTP error 403 while getting https://user:secret@index.example/simple/tiny-1.0.whl",
         "HTTP error 403 while getting …/tiny-1.0.whl"),
        ("ERROR: No access to https://index.example", "No access to …"),
        ("ERROR: No access to https://index.example/", "No access to …"),
        ("ERROR: No access to https://index.example:8080/simple?a=b", "No access to …/simple"),
        ("ERROR: " + "x" * 500, "x" * 300),
        ("one\n  two  \n\n", "two"),
        ("", "the installer says nothing"),
    ],
)  # fmt: skip
def test_an_installers_words_come_to_one_line_without_addresses(said: str, words: str) -> None:
    assert essence(said) == words


def test_the_packages_that_an_installation_may_have_failed_for_are_found() -> None:
    """Also in a conflict: pip reports one where several versions ask for what has no build at all."""
    assert suspects(NO_MATCH) == ["tiny==1"]
    assert suspects("ERROR: No matching distribution found for tiny==1 (from other)\n") == ["tiny==1"]
    assert suspects(CONFLICT) == ["b<2,>=1.1"]
    assert suspects(BROKEN) == []
