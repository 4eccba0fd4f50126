"""What moves a PCR and what does not: files count as bytes, and nothing else of a machine counts at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pair import user_key
from services import make_service

from workshop_kit.errors import ImageError, ManifestError
from workshop_kit.evidence.cpio import Link, read_archive, write_archive
from workshop_kit.evidence.eif import read_image
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.image import ENCLAVE_MODULES, KIT, application_file, read_folder, unpack

MILLIONAIRES = Path(__file__).resolve().parents[2] / "data/services/millionaires"
SERVICE_FILES = sorted(
    path.relative_to(MILLIONAIRES).as_posix() for path in MILLIONAIRES.rglob("*.*") if path.is_file()
)


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A copy of the demonstration service, to be changed."""
    return shutil.copytree(MILLIONAIRES, tmp_path / "millionaires", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="module")
def kit_files() -> dict[str, bytes]:
    """The kit's files, read once: other tests' processes may write byte code beside them."""
    return {path.relative_to(KIT).as_posix(): path.read_bytes() for path in KIT.rglob("*.py")}


@pytest.fixture
def kit(tmp_path: Path, kit_files: dict[str, bytes]) -> Path:
    """A copy of the kit, to be changed."""
    for path, data in kit_files.items():
        file = tmp_path / "kit" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return tmp_path / "kit"


def measured(folder: Path, kit: Path = KIT, users: Users | None = None) -> dict[int, bytes]:
    return build_enclave(folder, kit=kit, users=users).image.measurements()


def moved(before: dict[int, bytes], after: dict[int, bytes]) -> set[int]:
    """The PCRs whose values differ."""
    assert before.keys() == after.keys() == {0, 1, 2}
    return {int(index) for index in before if before[index] != after[index]}


# --- what moves a PCR ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SERVICE_FILES)
def test_one_byte_of_any_file_of_a_service_moves_pcr0_and_pcr2(service: Path, path: str) -> None:
    before = measured(service)
    with (service / path).open("ab") as file:
        file.write(b"\n")
    assert moved(before, measured(service)) == {0, 2}


def test_one_letter_of_the_manifest_moves_pcr0_and_pcr2(service: Path) -> None:
    """A description that no program reads: what is approved is the file, not what it means."""
    before = measured(service)
    manifest = service / ".oblivious/service.yaml"
    manifest.write_text(manifest.read_text().replace("Greets", "greets"))
    assert moved(before, measured(service)) == {0, 2}


@pytest.mark.parametrize("module", ENCLAVE_MODULES)
def test_one_byte_of_any_module_in_the_enclave_moves_pcr0_and_pcr1(service: Path, kit: Path, module: str) -> None:
    before = measured(service, kit)
    with (kit / module).open("ab") as file:
        file.write(b"\n")
    assert moved(before, measured(service, kit)) == {0, 1}


def test_no_byte_of_the_rest_of_the_kit_moves_a_pcr(service: Path, kit: Path, kit_files: dict[str, bytes]) -> None:
    """The verifier, the client and the simulator may be mended without asking everybody to approve again."""
    before = measured(service, kit)
    others = kit_files.keys() - set(ENCLAVE_MODULES)
    assert {"cli.py", "verifier/appraisal.py", "edges/client.py", "simulator/hypervisor.py"} <= others
    for path in others:
        (kit / path).write_text("raise SystemExit\n")
    assert not moved(before, measured(service, kit))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda folder: (folder / "new").write_text("x"),
    "a new empty file": lambda folder: (folder / "new").touch(),
    "a hidden file": lambda folder: (folder / ".env").write_text("x"),
    "a file that git ignores": lambda folder: (folder / ".gitignore").write_text("*\n"),
    "a name that is left out, and more": lambda folder: (folder / "__pycache__x").write_text("x"),
    "byte code in the open": lambda folder: (folder / "src/app.pyc").write_text("x"),
    "another name": lambda folder: (folder / "README.md").rename(folder / "Readme.md"),
    "another folder": lambda folder: (folder / "README.md").rename(folder / "src/README.md"),
    "a file less": lambda folder: (folder / "README.md").unlink(),
    "a link": lambda folder: (folder / "new").symlink_to("README.md"),
    "a file of the kit's name": lambda folder: (folder / "workshop_kit.py").write_text("x"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_folder_moves_pcr0_and_pcr2(service: Path, name: str) -> None:
    before = measured(service)
    CHANGES[name](service)
    assert moved(before, measured(service)) == {0, 2}


def test_a_byte_that_moves_from_one_file_to_the_next_moves_pcr2(service: Path) -> None:
    """What is measured is an archive with borders, not the files laid end to end."""
    (service / "a").write_bytes(b"12")
    (service / "b").write_bytes(b"3")
    before = measured(service)
    (service / "a").write_bytes(b"1")
    (service / "b").write_bytes(b"23")
    assert moved(before, measured(service)) == {0, 2}


def test_a_link_is_measured_as_a_link_and_not_as_what_it_leads_to(service: Path) -> None:
    (service / "link").symlink_to("README.md")
    before = measured(service)
    (service / "link").unlink()
    (service / "link").write_bytes((service / "README.md").read_bytes())
    assert moved(before, measured(service)) == {0, 2}


def test_users_at_build_time_are_measured(service: Path) -> None:
    alice = User("Alice", "querier", user_key("Alice").public_bytes)
    bob = User("Bob", "querier", user_key("Bob").public_bytes)
    mallory = User("Bob", "querier", user_key("Mallory").public_bytes)
    nobody, both = measured(service), measured(service, users=Users((alice, bob)))
    assert moved(nobody, both) == {0, 2}
    assert moved(both, measured(service, users=Users((alice, mallory)))) == {0, 2}
    assert moved(both, measured(service, users=Users((alice,)))) == {0, 2}
    assert not moved(both, measured(service, users=Users((alice, bob))))


def test_a_users_file_in_the_folder_is_not_the_users(service: Path) -> None:
    """Else a service's author could slip users in, and a page that looks at users.yaml would look at the wrong one."""
    text = Users((User("Mallory", "querier", user_key("Mallory").public_bytes),)).to_yaml()
    (service / "users.yaml").write_text(text)
    files = read_archive(build_enclave(service).image.ramdisks[1])
    assert "service/users.yaml" in files
    assert "users.yaml" not in files


# --- what moves none -------------------------------------------------------------------------------------------------


def set_modes(folder: Path, mode: int) -> None:
    for path in folder.rglob("*"):
        path.chmod(mode | 0o111 if path.is_dir() else mode)


def set_owner(folder: Path) -> None:
    if os.geteuid() == 0:  # nobody else may give files away
        for path in folder.rglob("*"):
            os.chown(path, 12345, 54321)


def add_left_out(folder: Path) -> None:
    for place in (folder, folder / "src", folder / ".oblivious"):
        (place / "__pycache__").mkdir()
        (place / "__pycache__/app.cpython-311.pyc").write_bytes(b"byte code")
        (place / ".git").mkdir()
        (place / ".git/HEAD").write_text("ref: refs/heads/main\n")
        (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


def rewrite_backwards(folder: Path) -> None:
    """The same files, made anew in another order, so that the folder lists them in another one."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in files:
        path.unlink()
    for path in reversed(files):
        path.write_bytes(files[path])


INDIFFERENT: dict[str, Callable[[Path], object]] = {
    "readable by all": lambda folder: set_modes(folder, 0o644),
    "readable by the owner": lambda folder: set_modes(folder, 0o600),
    "executable and writable by all": lambda folder: set_modes(folder, 0o777),
    "another time": lambda folder: [os.utime(path, (1, 1)) for path in folder.rglob("*")],
    "another owner": set_owner,
    "another order": rewrite_backwards,
    "what is left out": add_left_out,
    "a git worktree's file": lambda folder: (folder / ".git").write_text("gitdir: elsewhere\n"),
    "an empty folder": lambda folder: (folder / "empty/folder").mkdir(parents=True),
    "another name of the folder": lambda folder: shutil.copytree(folder, folder.parent / "x").rename(
        folder.parent / "y"
    ),
}


@pytest.mark.parametrize("name", INDIFFERENT)
def test_what_is_no_file_of_the_service_moves_no_pcr(service: Path, name: str) -> None:
    before = measured(service)
    INDIFFERENT[name](service)
    again = service.parent / "y" if (service.parent / "y").exists() else service
    assert not moved(before, measured(again))


@pytest.mark.parametrize("spelling", ["millionaires", "./millionaires", "x/../millionaires", "link"])
def test_the_place_from_which_it_is_built_moves_no_pcr(
    service: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = measured(service)
    (service.parent / "x").mkdir()
    (service.parent / "link").symlink_to("millionaires")
    monkeypatch.chdir(service.parent)
    assert not moved(before, measured(Path(spelling)))


def test_the_same_folder_gives_the_same_image_byte_for_byte(service: Path) -> None:
    assert build_enclave(service).image.encode() == build_enclave(service).image.encode()


ELSEWHERE = """
import sys
sys.path.insert(0, {kit!r})
from pathlib import Path
from workshop_kit.simulator.image import assemble_image, read_folder
image = assemble_image(read_folder(Path({folder!r})), name="millionaires", kit=Path({kit!r}) / "workshop_kit")
print(*(value.hex() for value in image.measurements().values()))
"""
"""The part of a build that measures. It needs the standard library only, so that any Python can be asked."""


def other_pythons() -> list[str]:
    """Pythons of other versions that can be started here."""
    found = []
    for minor in range(11, 16):
        command = shutil.which(f"python3.{minor}")
        if command and minor != sys.version_info.minor and _answers(command, f"3.{minor}"):
            found.append(command)
    return found


def _answers(command: str, version: str) -> bool:
    """A shim may be there and have nothing behind it."""
    done = subprocess.run([command, "-V"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and f"Python {version}" in done.stdout


@pytest.mark.parametrize(
    "python",
    [sys.executable, *other_pythons()]
    if other_pythons()
    else [sys.executable, pytest.param("", marks=pytest.mark.skip(reason="no Python of another version is here"))],
    ids=lambda command: Path(command).name or "another",
)
def test_every_python_under_every_setting_measures_the_same(service: Path, python: str, tmp_path: Path) -> None:
    expected = [value.hex() for value in measured(service).values()]
    script = ELSEWHERE.format(kit=str(KIT.parent), folder=str(service))
    for setting in ({"LC_ALL": "C", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"}):
        environment = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"} | setting
        command = [python, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, umask=0o077)
        assert done.stdout.split() == expected, done.stderr


# --- what the enclave is given ---------------------------------------------------------------------------------------


def test_an_enclave_gets_what_is_measured_and_nothing_else(service: Path, tmp_path: Path) -> None:
    """Byte code that is not measured would be a program that is not measured: Python prefers it to its source."""
    add_left_out(service)
    (service / "run").write_text("#!/bin/sh\n")
    (service / "latest").symlink_to("src/app.py")
    users = Users((User("Alice", "querier", user_key("Alice").public_bytes),))
    image = read_image(build_enclave(service, users=users).image.encode())
    unpack(image, tmp_path / "root")
    root = tmp_path / "root"
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    application = {f"application/service/{path}" for path in [*SERVICE_FILES, "run", "latest"]}
    base = {f"base/workshop_kit/{module}" for module in ENCLAVE_MODULES}
    assert found == application | base | {"application/users.yaml"}
    for path in SERVICE_FILES:
        assert (root / "application/service" / path).read_bytes() == (service / path).read_bytes()
    for module in ENCLAVE_MODULES:
        assert (root / "base/workshop_kit" / module).read_bytes() == (KIT / module).read_bytes()
    assert (root / "application/service/latest").readlink() == Path("src/app.py")
    assert Users.from_yaml((root / "application/users.yaml").read_text(), build_enclave(service).manifest) == users


def test_an_enclaves_files_have_the_modes_of_the_image_and_not_those_of_the_folder(
    service: Path, tmp_path: Path
) -> None:
    (service / "run").write_text("#!/bin/sh\n")
    set_modes(service, 0o600)
    unpack(build_enclave(service).image, tmp_path / "root")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "root").rglob("*") if path.is_file()}
    assert modes["run"] == 0o755
    assert {mode for name, mode in modes.items() if name != "run"} == {0o644}


def test_an_application_cannot_lay_its_files_over_the_enclaves_own(service: Path, tmp_path: Path) -> None:
    """Linux unpacks ramdisk 2 over ramdisk 1. Here they stay apart, or PCR1 would say nothing."""
    forged = service / "base/workshop_kit"
    forged.mkdir(parents=True)
    (forged / "errors.py").write_text("forged")
    image = build_enclave(service).image
    hostile = read_archive(image.ramdisks[1]) | {"base/workshop_kit/errors.py": (0o644, b"forged")}
    files = {path: entry for path, (_, entry) in hostile.items()}
    for ramdisk in (image.ramdisks[1], write_archive(files)):
        root = tmp_path / f"root-{len(ramdisk)}"
        unpack(image._replace(ramdisks=(image.ramdisks[0], ramdisk)), root)
        assert (root / "base/workshop_kit/errors.py").read_bytes() == (KIT / "errors.py").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_image_with_another_number_of_ramdisks_is_not_unpacked(service: Path, tmp_path: Path, count: int) -> None:
    image = build_enclave(service).image
    other = image._replace(ramdisks=(image.ramdisks * 2)[:count])
    with pytest.raises(ImageError, match=f"2 ramdisks.*got {count}"):
        unpack(other, tmp_path / "root")


# --- what is no service folder ---------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="expected a service folder, got nothing"):
        build_enclave(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="expected a service folder, got a file"):
        build_enclave(tmp_path / "file")


def test_a_folder_without_a_manifest_is_refused(service: Path) -> None:
    (service / ".oblivious/service.yaml").unlink()
    with pytest.raises(ImageError, match=r"expected \.oblivious/service\.yaml"):
        build_enclave(service)


def test_a_manifest_that_is_no_text_is_refused(service: Path) -> None:
    manifest = service / ".oblivious/service.yaml"
    manifest.write_bytes(b"auth:\n\xff\xfe")
    with pytest.raises(ManifestError, match="UTF-8") as caught:
        build_enclave(service)
    assert (caught.value.file, caught.value.line) == (str(manifest), 2)


def test_a_mistake_in_the_manifest_names_file_line_and_key(service: Path) -> None:
    manifest = service / ".oblivious/service.yaml"
    manifest.write_text(manifest.read_text().replace("access: querier", "access: query", 1))
    with pytest.raises(ManifestError) as caught:
        build_enclave(service)
    line = manifest.read_text().splitlines().index("    access: query") + 1
    assert (caught.value.file, caught.value.line, caught.value.path) == (str(manifest), line, "paths[0].access")


def out(folder: Path, target: str) -> None:
    (folder / "src/link").symlink_to(target)


UNFIT: dict[str, Callable[[Path], object]] = {
    "a link to above": lambda folder: out(folder, "../../secret"),
    "a link to an absolute path": lambda folder: out(folder, "/etc/passwd"),
    "a link to the folder's own absolute path": lambda folder: out(folder, str(folder / "README.md")),
    # Here it leads back in; in the enclave the folder has another name.
    "a link that leaves and comes back": lambda folder: out(folder, f"../../{folder.name}/README.md"),
    "a pipe": lambda folder: os.mkfifo(folder / "pipe"),
    "a name that is no text": lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch(),
    "a link to a name that is no text": lambda folder: out(folder, os.fsdecode(b"\xff")),
    "a file beyond the limit": lambda folder: os.truncate(_touched(folder / "large"), 64 * 1024 * 1024 + 1),
}


def _touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_measured_is_refused_with_its_name(service: Path, name: str) -> None:
    if name == "a name that is no text" and sys.platform == "darwin":
        pytest.skip("this system's files have names in UTF-8 only")
    UNFIT[name](service)
    with pytest.raises(ImageError) as caught:
        build_enclave(service)
    assert str(service) in str(caught.value)
    assert "expected" in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_files_listed_above_are_those_of_the_service() -> None:
    assert sorted(read_folder(MILLIONAIRES)) == SERVICE_FILES


def test_links_that_lead_nowhere_or_in_circles_are_measured_as_they_are(service: Path) -> None:
    """Nobody follows them at build time."""
    (service / "one").symlink_to("two")
    (service / "two").symlink_to("one")
    (service / "nowhere").symlink_to("absent")
    assert read_folder(service)["one"] == Link("two")
    assert moved(measured(service), measured(service)) == set()


def test_a_service_made_for_a_test_is_a_service(tmp_path: Path) -> None:
    """The helper that other tests build their services with."""
    built = build_enclave(make_service(tmp_path / "service", "app = None\n", "/a", "/b"))
    assert [rule.path for rule in built.manifest.paths] == ["/a", "/b"]


def test_the_text_of_a_file_in_the_application_is_found_and_of_no_other(service: Path) -> None:
    image = build_enclave(service).image
    (name,) = [name for name in read_archive(image.ramdisks[1]) if name.endswith("service.yaml")]
    assert application_file(image, name) == (service / ".oblivious" / "service.yaml").read_text()
    assert application_file(image, "absent") is None
    assert application_file(image._replace(ramdisks=image.ramdisks[:1]), name) is None
