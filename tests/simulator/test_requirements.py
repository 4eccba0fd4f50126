"""A service that brings requirements of its own: what they resolve to is measured, file by file.

No test here needs a network: the distributions are wheels and sources made by hand, and pip is shown a folder.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import platform_tags
from services import make_service, write_wheel

from workshop_kit.errors import ImageError
from workshop_kit.evidence.cpio import read_archive
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.simulator import requirements
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.installing import Runner
from workshop_kit.simulator.pythons import own_python
from workshop_kit.simulator.requirement_lines import Line, read_lines
from workshop_kit.simulator.requirements import distribution_list, environment_for

FILES = {"tinydist.py": "VALUE = 1\n", "tinypackage/__init__.py": "", "tinypackage/data.txt": "one\n"}


def has_uv() -> bool:
    command = shutil.which("uv")
    return (
        bool(command) and subprocess.run([str(command), "--version"], capture_output=True, check=False).returncode == 0
    )


def has_pip() -> bool:
    return subprocess.run([sys.executable, "-I", "-m", "pip", "-V"], capture_output=True, check=False).returncode == 0


INSTALLERS = [name for name, there in (("uv", has_uv()), ("pip", has_pip())) if there]

pytestmark = pytest.mark.skipif(not INSTALLERS, reason="neither uv nor pip works here")


@pytest.fixture
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The named installer, or the one that a build would choose."""
    name: str = getattr(request, "param", INSTALLERS[0] if INSTALLERS else "")
    if name == "pip":
        monkeypatch.setattr(requirements.shutil, "which", lambda _: None)
    return name


@pytest.fixture
def own_pip() -> None:
    """For a test in which each environment has a pip of its own, as in a build; it takes seconds to come there."""


@pytest.fixture(autouse=True)
def borrowed_pip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all others, this Python's pip, as where a Python brings none."""
    if "own_pip" not in request.fixturenames:
        monkeypatch.setattr(requirements, "ask", lambda _: own_python()._replace(has_pip=False))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for environments."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def service(tmp_path: Path, cache: Path) -> Path:
    """A service that asks for the wheel in its own folder."""
    del cache
    folder = make_service(tmp_path / "service", "app = None\n")
    (folder / "wheels").mkdir()
    wheel = write_wheel(folder / "wheels", "tinydist", "1.0", FILES)
    (folder / "requirements.txt").write_text(f"./wheels/{wheel.name}\n")
    return folder


def listed(image: EnclaveImage) -> str | None:
    _, entry = read_archive(image.ramdisks[1]).get("distributions.txt", (0, None))
    return entry.decode() if isinstance(entry, bytes) else None


def moved(before: EnclaveImage, after: EnclaveImage) -> set[int]:
    one, other = before.measurements(), after.measurements()
    return {int(index) for index in one if one[index] != other[index]}


@pytest.mark.parametrize("installer", INSTALLERS, indirect=True)
def test_distributions_are_measured_by_name_version_and_digest(service: Path, installer: str) -> None:
    """Computed again here, from the wheel and not from what was installed."""
    del installer
    with zipfile.ZipFile(service / "wheels/tinydist-1.0-py3-none-any.whl") as wheel:
        contents = {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/RECORD")}
    digest = hashlib.sha256(
        b"".join(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode() for name, data in sorted(contents.items()))
    )
    built = build_enclave(service)
    assert listed(built.image) == f"tinydist==1.0 sha256:{digest.hexdigest()}\n"
    assert any("1 distributions are measured by digest" in note for note in built.notes)


def test_a_service_without_requirements_lists_none(service: Path) -> None:
    for text in ("", "# tinydist\n\n"):
        (service / "requirements.txt").write_text(text)
        assert listed(build_enclave(service).image) is None


def test_a_changed_file_in_a_distribution_moves_pcr0_and_pcr2(tmp_path: Path, service: Path) -> None:
    """The wheel stands outside the folder under one path, so the folder's own files are the same throughout."""
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(service / "wheels")
    wheel = write_wheel(outside, "tinydist", "1.0", FILES)
    (service / "requirements.txt").write_text(f"{wheel}\n")
    before = build_enclave(service).image
    write_wheel(outside, "tinydist", "1.0", FILES | {"tinypackage/data.txt": "two\n"})
    after = build_enclave(service).image
    assert listed(before) != listed(after)
    assert moved(before, after) == {0, 2}


def test_a_new_version_without_a_changed_file_moves_pcr0_and_pcr2(service: Path, tmp_path: Path) -> None:
    before = build_enclave(service).image
    wheel = write_wheel(tmp_path, "tinydist", "1.1", FILES)
    (service / "requirements.txt").write_text(f"tinydist @ file://{wheel}\n")
    assert moved(before, build_enclave(service).image) == {0, 2}


def test_two_environments_give_the_same_pcrs(service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made anew elsewhere, from a wheel with other times in it, by another working directory's build."""
    before = build_enclave(service).image
    (service / "wheels/tinydist-1.0-py3-none-any.whl").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    monkeypatch.chdir(tmp_path)
    after = build_enclave(service).image
    assert listed(before) == listed(after)
    assert moved(before, after) == set()
    assert len(list(tmp_path.glob("*cache/enclave-workshop/environments/*"))) == 2


@pytest.mark.usefixtures("own_pip")
def test_an_environments_own_pip_gives_the_same_pcrs_as_another(
    service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build_enclave(service).image
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    monkeypatch.setattr(requirements, "ask", lambda _: own_python()._replace(has_pip=False))
    assert moved(before, build_enclave(service).image) == set()
    assert len(list(tmp_path.glob("*cache/enclave-workshop/environments/*/bin/pip"))) == 1


@pytest.mark.skipif(len(INSTALLERS) < 2, reason="only one of uv and pip works here")
def test_uv_and_pip_give_the_same_pcrs(service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build_enclave(service).image
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    monkeypatch.setattr(requirements.shutil, "which", lambda _: None)
    assert moved(before, build_enclave(service).image) == set()


def test_an_environment_is_made_once(service: Path, cache: Path) -> None:
    build_enclave(service)
    (environment,) = (cache / "enclave-workshop/environments").iterdir()
    made = environment.stat().st_ino
    build_enclave(service)
    assert [each.stat().st_ino for each in environment.parent.iterdir()] == [made]


def test_an_environment_whose_making_was_interrupted_is_made_again(service: Path, cache: Path) -> None:
    before = build_enclave(service).image
    (environment,) = (cache / "enclave-workshop/environments").iterdir()
    (environment / ".complete").unlink()
    for file in environment.rglob("tinydist.py"):
        file.unlink()
    assert moved(before, build_enclave(service).image) == set()


def test_byte_code_is_not_measured(service: Path, cache: Path) -> None:
    """It holds the environment's path. pip compiles what it installs, and lists that in the distribution's RECORD."""
    before = build_enclave(service).image
    (python,) = cache.glob("enclave-workshop/environments/*/bin/python")
    subprocess.run([python, "-m", "compileall", "-q", *cache.rglob("site-packages")], check=True)
    compiled = next(cache.rglob("tinydist.*.pyc"))
    site = compiled.parents[1]
    record = site / "tinydist-1.0.dist-info/RECORD"
    line = f"{compiled.relative_to(site).as_posix()},,\n"
    record.write_text(record.read_text() + line * (line not in record.read_text()))
    assert moved(before, build_enclave(service).image) == set()


@pytest.mark.parametrize("installer", INSTALLERS, indirect=True)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("./wheels/absent-1.0-py3-none-any.whl\n", "the requirements cannot be installed with Python"),
        ("???\n", "the requirements cannot be installed with Python"),
        ("-r elsewhere.txt\n", "expected a file elsewhere.txt, which -r names, got none"),
    ],
)
def test_requirements_that_cannot_be_installed_are_refused_in_one_line(
    service: Path, cache: Path, installer: str, text: str, words: str
) -> None:
    del installer
    (service / "requirements.txt").write_text(text)
    with pytest.raises(ImageError, match=words) as caught:
        build_enclave(service)
    assert "\n" not in str(caught.value)
    assert not list(cache.rglob(".complete"))


def test_no_file_of_the_folder_runs_at_build_time(service: Path, tmp_path: Path) -> None:
    """The folder is the installer's working directory, where Python looks for modules first unless told not to."""
    for name in ("venv", "json", "pip", "sitecustomize"):
        (service / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    build_enclave(service)
    assert not (tmp_path / "ran").exists()


# --- environments ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """A folder whose packages pip finds, with nothing else to find them in."""
    del cache
    (tmp_path / "folder/packages").mkdir(parents=True)
    return tmp_path / "folder"


def environment(folder: Path, *lines: str, base: str = "") -> Path:
    """The environment for these lines, which pip looks for in packages/ alone."""
    text = "\n".join(["--no-index", "-f packages", *lines, ""])
    return environment_for(text.encode(), folder, base=base)


def names(environment: Path) -> list[str]:
    return [line.split(" ")[0] for line in distribution_list(environment).splitlines()]


BACKEND = """\
import os, time, zipfile
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    {action}
    info, file = "{name}-{version}.dist-info/", "{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, file), "w") as wheel:
        wheel.writestr("{name}.py", "FROM_SOURCE = True")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "".join(each + ",,\\n" for each in wheel.namelist()))
    return file
"""
PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def write_source(directory: Path, name: str, version: str, *, action: str = "pass") -> None:
    """A source distribution that brings what builds it, so that nothing is fetched for that."""
    contents = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": PROJECT,
        "backend.py": BACKEND.format(name=name, version=version, action=action),
    }
    with tarfile.open(directory / f"{name}-{version}.tar.gz", "w:gz") as archive:
        for path, text in contents.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


def write_build(directory: Path, name: str, version: str, tag: str) -> None:
    """A wheel by its name alone: nobody is to open it."""
    (directory / f"{name}-{version}-{tag}.whl").write_bytes(b"")


HERE = next(iter(platform_tags()))
"""This kind of machine, as wheels name it."""
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
NEVER = "raise SystemExit('this was built')"


def test_without_requirements_an_environment_is_empty_and_has_no_pip(folder: Path) -> None:
    made = environment_for(b"# nothing\n", folder)
    assert distribution_list(made) == ""
    assert not list(made.rglob("pip*"))


@pytest.mark.usefixtures("own_pip")
def test_a_package_without_builds_is_built_from_source_and_has_the_same_digest_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds for another kind of machine are no builds here."""
    write_source(folder / "packages", "tinysource", "1.0")
    write_build(folder / "packages", "tinysource", "1.0", "cp36-cp36m-win_amd64")
    before = distribution_list(environment(folder, "tinysource==1.0"))
    assert before.startswith("tinysource==1.0 sha256:")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    assert distribution_list(environment(folder, "tinysource==1.0")) == before


def test_a_package_that_has_builds_for_other_pythons_only_is_refused_though_its_source_is_there(folder: Path) -> None:
    write_source(folder / "packages", "tinysource", "1.0", action=NEVER)
    write_build(folder / "packages", "tinysource", "1.0", f"cp36-cp36m-{HERE}")
    with pytest.raises(ImageError) as caught:
        environment(folder, "tinysource==1.0", base="3.6")
    assert str(caught.value) == (
        f"requirements.txt: tinysource==1.0 has no build for Python {THIS} on this machine, but for 3.6; "
        "change the pin, or install Python 3.6, which base_image names"
    )


def test_a_build_is_taken_before_a_source(folder: Path) -> None:
    write_source(folder / "packages", "tinydist", "1.0", action=NEVER)
    write_wheel(folder / "packages", "tinydist", "1.0", FILES)
    assert names(environment(folder, "tinydist==1.0")) == ["tinydist==1.0"]


@pytest.mark.usefixtures("own_pip")
def test_what_comes_with_python_is_listed_only_where_the_requirements_change_it(folder: Path) -> None:
    """pip is in every environment, and asking for it changes nothing."""
    write_wheel(folder / "packages", "tinydist", "1.0", FILES)
    write_wheel(folder / "packages", "setuptools", "999", {"setuptools.py": ""})
    plain = environment(folder, "tinydist", "pip")
    assert (plain / "bin/pip").exists()
    assert names(plain) == ["tinydist==1.0"]
    assert names(environment(folder, "tinydist", "setuptools==999")) == ["setuptools==999", "tinydist==1.0"]


def test_a_build_that_fails_is_told_in_one_line(folder: Path) -> None:
    write_source(folder / "packages", "tinysource", "1.0", action="raise RuntimeError('it needs a compiler')")
    with pytest.raises(ImageError, match=r"tinysource.* cannot be built from source: RuntimeError: it needs a compile"):
        environment(folder, "tinysource")


def test_a_file_that_a_distribution_lists_and_lacks_counts_as_absent(folder: Path) -> None:
    """It can be gone, as what another distribution overwrote and took along; that is another digest."""
    write_wheel(folder / "packages", "tinydist", "1.0", FILES)
    made = environment(folder, "tinydist")
    before = distribution_list(made)
    next(made.rglob("tinydist.py")).unlink()
    assert distribution_list(made) != before


def test_pins_that_exclude_each_other_are_told_with_who_asks_for_them(folder: Path) -> None:
    write_wheel(folder / "packages", "tinydist", "1.0", FILES)
    with pytest.raises(ImageError, match=r"these exclude each other: .*tinydist==1.0.*tinydist==2.0"):
        environment(folder, "tinydist==1.0", "tinydist==2.0 ; python_version >= '3'", "tinydist")


def test_two_builds_at_the_same_time_make_one_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(folder / "packages", "tinydist", "1.0", FILES)
    made, make = [], requirements._make

    def counting(*arguments: Any) -> None:
        made.append(arguments)
        make(*arguments)

    monkeypatch.setattr(requirements, "_make", counting)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(environment(folder, "tinydist"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(found) == 3
    assert len(set(found)) == 1


def test_what_a_killed_build_left_is_made_anew_once_its_installer_has_ended(folder: Path, tmp_path: Path) -> None:
    """The installer outlives who started it, and still writes: nobody else may begin before it ends."""
    log = tmp_path / "log"
    # Slow the first time alone, so that one that does not wait would begin in between.
    note = f"open({str(log)!r}, 'a').write"
    slow = f"seconds = 0 if os.path.exists({str(log)!r}) else 4; {note}('begin '); time.sleep(seconds); {note}('end ')"
    write_source(folder / "packages", "tinysource", "1.0", action=slow)
    text = b"--no-index\n-f packages\ntinysource\n"
    script = (
        "from pathlib import Path; from workshop_kit.simulator.requirements import environment_for; "
        f"environment_for({text!r}, Path({str(folder)!r}))"
    )
    killed = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    while not log.exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    made = environment_for(text, folder)
    assert log.read_text() == "begin end begin end "
    assert names(made) == ["tinysource==1.0"]


def test_a_refused_build_leaves_nothing_in_the_cache(folder: Path, cache: Path) -> None:
    with pytest.raises(ImageError, match=r"requirements.txt: expected a package that the index has, got nosuchdist"):
        environment(folder, "nosuchdist")
    assert list((cache / "enclave-workshop/environments").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ImageError, match=r"cannot write to .*: .*; name another folder in XDG_CACHE_HOME"):
        environment_for(b"", folder)


def test_what_does_not_end_in_time_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "sleep 60 & echo $! > pid; wait"]
    with (tmp_path / "lock").open("w") as lock, pytest.raises(ImageError, match="were not installed within 1 s"):
        Runner(tmp_path, lock=lock.fileno()).run(command, at_most=1)
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    """A process that nobody collects stays as a zombie: that one has ended too."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


# --- the file --------------------------------------------------------------------------------------------------------


def test_files_that_are_named_are_taken_in_and_paths_are_made_whole(folder: Path) -> None:
    """Each line is known by the file that it stands in; `-r` and `-c` begin where their file is."""
    (folder / "more").mkdir()
    (folder / "more/inner.txt").write_text("-r innermost.txt\n-c limits.txt\nidna \\\n==3.4  # a comment\n")
    (folder / "more/innermost.txt").write_text("six #egg\n")
    (folder / "more/limits.txt").write_text("six<2\n")
    lines = read_lines(b"# none\n\n-r more/inner.txt\nurllib3\n", folder, file="requirements.txt")
    assert lines == (
        Line("more/innermost.txt", "six"),
        Line("more/inner.txt", f"-c {folder}/more/limits.txt"),
        Line("more/inner.txt", "idna  ==3.4"),
        Line("requirements.txt", "urllib3"),
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_that_an_editor_saved_in_another_encoding_is_read(folder: Path, encoding: str) -> None:
    """What PowerShell's redirection writes is UTF-16, with a mark."""
    data = "six==1.16.0\r\n".encode(encoding)
    assert data.startswith(codecs.BOM_UTF16) == (encoding == "utf-16")
    assert read_lines(data, folder, file="r") == (Line("r", "six==1.16.0"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-r elsewhere.txt", "there: expected a file elsewhere.txt, which -r names, got none"),
        ("-c elsewhere.txt", "there: expected a file elsewhere.txt, which -c names, got none"),
        ("-r circle.txt", "circle.txt: expected files that do not name each other"),
        ("-e .", "expected distributions to install, got '-e .'"),
        ("--editable=./packages", "expected distributions to install"),
        ("./packages", "expected distributions, got the folder './packages'"),
        (".[extra]", "expected distributions, got the folder"),
    ],
)
def test_a_file_that_asks_for_what_no_environment_holds_is_refused(folder: Path, text: str, words: str) -> None:
    (folder / "circle.txt").write_text("-r circle.txt\n")
    with pytest.raises(ImageError) as caught:
        read_lines(text.encode(), folder, file="there")
    assert words in str(caught.value)


def test_a_changed_file_that_is_named_makes_another_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits, and the folder that is searched, count by their content as the lines do; a file's time does not."""
    monkeypatch.setattr(requirements.Installer, "install", lambda _: None)
    wheel = write_wheel(folder / "packages", "tinydist", "1.0", FILES)
    (folder / "limits.txt").write_text("tinydist<2\n")
    first = environment(folder, "tinydist", "-c limits.txt")
    (folder / "limits.txt").write_text("tinydist<3\n")
    second = environment(folder, "tinydist", "-c limits.txt")
    os.utime(wheel, (1, 1))
    assert environment(folder, "tinydist", "-c limits.txt") == second
    write_wheel(folder / "packages", "tinydist", "1.0", {"tinydist.py": "VALUE = 2\n"})
    assert len({first, second, environment(folder, "tinydist", "-c limits.txt")}) == 3


def test_the_same_folder_elsewhere_has_the_same_environment(folder: Path, tmp_path: Path) -> None:
    """An image is unpacked under another name than the folder that it was built from."""
    write_wheel(folder / "packages", "tinydist", "1.0", FILES)
    before = environment(folder, "tinydist")
    shutil.copytree(folder, tmp_path / "unpacked")
    assert environment(tmp_path / "unpacked", "tinydist") == before
