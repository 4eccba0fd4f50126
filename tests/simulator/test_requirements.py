"""A service that brings requirements of its own: what they resolve to is measured, file by file.

No test here needs a network: the distributions are wheels made by hand, named by path.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from services import make_service, write_wheel

from workshop_kit.errors import ImageError
from workshop_kit.evidence.cpio import read_archive
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.simulator import requirements
from workshop_kit.simulator.build import build_enclave

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
