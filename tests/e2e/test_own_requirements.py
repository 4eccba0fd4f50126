"""Services of other people's: their own libraries, their own server, their files where they expect them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import until
from running import Running, running
from services import write_wheel

from workshop_kit.errors import ImageError, LabError
from workshop_kit.service.access import Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import run_enclave
from workshop_kit.simulator.image import application_file, assemble_image, read_folder
from workshop_kit.simulator.isolation.levels import Level

MANIFEST = """\
auth: [{auth_name: users, auth_type: signed_headers}]
base_image: somebodys_ubuntu
paths:
  - {path: /, access: querier}
  - {path: /end, access: querier}
  - {path: /write, access: querier}
roles: [{role_name: querier, role_auth: users, role_cardinality: 3}]
traffic: {inbound: [{name: http, port: 80, type: tcp}]}
"""
DOCKERFILE = """\
WORKDIR /code
COPY ./requirements.txt /code/requirements.txt
RUN pip install -r /code/requirements.txt
ENV GREETING=hello PATH=/srv/tools:$PATH
COPY ./src/ /code/
"""
SERVER = """\
import http.server, json, os, pathlib, sys
import tinydist

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            os._exit(7)
        if self.path == "/write":
            pathlib.Path("written").write_text("by the service")
        said = {
            "pid": os.getpid(), "folder": os.getcwd(), "files": os.listdir(), "greeting": os.environ["GREETING"],
            "tinydist": tinydist.__file__, "python": sys.prefix, "user": self.headers["X-OBLV-USER-NAME"],
            "config": pathlib.Path("/usr/runtime.yaml").read_text(), "port": self.server.server_port,
        }
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("0.0.0.0", 80), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A service in the seed's form, with a wheel of its own, and a cache of its own for its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield make_container(tmp_path_factory.mktemp("container") / "service", SERVER)


def make_container(folder: Path, server: str) -> Path:
    for name in (".oblivious/services/server", "src", "wheels"):
        (folder / name).mkdir(parents=True)
    (folder / ".oblivious/service.yaml").write_text(MANIFEST)
    (folder / ".oblivious/Dockerfile").write_text(DOCKERFILE)
    (folder / ".oblivious/services/server/run").write_text("#!/bin/sh\ncd /code\nexec python server.py\n")
    (folder / "src/server.py").write_text(server)
    wheel = write_wheel(folder / "wheels", "tinydist", "1.0", {"tinydist.py": "NAME = 'tiny'\n"})
    (folder / "requirements.txt").write_text(f"--no-index\n./wheels/{wheel.name}\n")
    return folder


@pytest.fixture(scope="module")
def enclave(folder: Path) -> Iterator[Running]:
    with running(folder, users={"Alice": "querier"}, runtime_config=b"greeting: hi\n") as started:
        if started.enclave.isolation.level is not Level.NAMESPACES:
            pytest.skip(f"this machine gives no more: {started.enclave.isolation}")
        yield started


def test_a_service_finds_all_that_it_expects(enclave: Running) -> None:
    said = enclave.client().get("/").json()
    assert said["folder"] == "/code"
    assert {"requirements.txt", "server.py"} <= set(said["files"])
    assert (said["greeting"], said["config"], said["port"]) == ("hello", "greeting: hi\n", 80)
    assert said["user"] == "Alice"
    assert Path(said["tinydist"]).is_relative_to(said["python"])
    assert not Path("/code").exists()


def test_a_service_may_write_beside_its_files_and_the_image_stays_as_it_is(enclave: Running) -> None:
    assert "written" in enclave.client().get("/write").json()["files"]
    assert not list(enclave.enclave.infrastructure.directory.rglob("written"))


def test_a_service_that_ends_is_started_again(enclave: Running) -> None:
    client = enclave.client()
    before = client.get("/").json()["pid"]
    assert client.get("/end").status_code == 502
    answers: list[httpx.Response] = []
    until(lambda: answers.append(client.get("/")) or answers[-1].status_code == 200, "the service's next life")  # type: ignore[func-returns-value]
    assert answers[-1].json()["pid"] != before
    assert {answer.status_code for answer in answers[:-1]} <= {502}


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("raise SystemExit('no database')\n", "no database"),
        ("import absent\n", "No module named 'absent'"),
    ],
)
def test_a_service_that_does_not_start_says_so_in_its_own_words(
    folder: Path, tmp_path: Path, server: str, words: str
) -> None:
    del folder  # its cache
    image = build_enclave(make_container(tmp_path / "service", server)).image
    with pytest.raises(LabError, match="the service server ended 3 times, the last time with code 1") as caught:
        run_enclave(image)
    assert words in str(caught.value)


def test_without_a_network_of_its_own_it_is_refused_with_the_reason(folder: Path) -> None:
    image = build_enclave(folder, users=Users(())).image
    for level in (Level.SECCOMP, Level.NONE):
        with pytest.raises(LabError, match=r"listens by itself.*needs namespaces \(here: not asked for\)") as caught:
            run_enclave(image, isolation=level)
        assert len(str(caught.value).splitlines()) == 1


def test_other_distributions_than_the_measured_ones_are_not_run(folder: Path) -> None:
    image = build_enclave(folder).image
    plan = image_file(image, "plan.json")
    other = assemble_image(read_folder(folder), name="m", distributions="tinydist==1.0 sha256:00\n", plan=plan)
    with pytest.raises(ImageError, match=r"expected the distributions that the image measures.*tinydist==1\.0"):
        run_enclave(other)


def image_file(image: object, name: str) -> str:
    text = application_file(image, name)  # type: ignore[arg-type]
    assert text is not None
    return text


def test_what_runs_is_measured(folder: Path, tmp_path: Path) -> None:
    """A run script, the Dockerfile and a distribution each move PCR2 and leave PCR1."""
    before = build_enclave(folder).image.measurements()
    changed = make_container(tmp_path / "service", SERVER)
    for file in (".oblivious/services/server/run", ".oblivious/Dockerfile"):
        original = (changed / file).read_text()
        (changed / file).write_text(original + "# another\n")
        after = build_enclave(changed).image.measurements()
        assert (after[1] == before[1], after[2] == before[2]) == (True, False), file
        (changed / file).write_text(original)
