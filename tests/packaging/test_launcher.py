"""`workshop.py`, the file that runs before anything is installed: it sets up once, is then out of the way, and fails
in one line.

No test here reaches a network: where an installation is needed, a stub named `uv` stands first on PATH.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "workshop.py"
# The command that a set-up leaves in .venv says what reached it.
COMMAND = "import os, sys; print(os.getpid(), os.getcwd(), sys.argv[1:]); sys.exit(7)\n"
UV = """\
#!/bin/sh
if [ "$1" = --version ]; then exit; fi
echo "$*" >> uv.log  # in the folder it was started in
case "$1 $2" in
    "venv "*) mkdir -p "$HERE/.venv/bin"; ln -sf "$STUB_PYTHON" "$HERE/.venv/bin/python"; exit ${VENV_CODE:-0} ;;
    "pip install")
        tries=0
        while [ "$WAIT" ] && [ ! -e "$HERE/go" ] && [ $tries -lt 400 ]; do sleep 0.05; tries=$((tries + 1)); done
        cp "$HERE/command.py" "$HERE/.venv/bin/workshop" ;;
esac
exit ${INSTALL_CODE:-0}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository as small as the launcher sees it, in a folder whose name has a space."""
    root = tmp_path / "a workshop"
    root.mkdir()
    shutil.copy(LAUNCHER, root)
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "constraints.txt").write_text("click==8.5.1\n")
    (root / "command.py").write_text(COMMAND)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "uv").write_text(UV)
    (programs / "uv").chmod(0o755)
    return root


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A test run in the background has SIGINT ignored, and the programs that it starts would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def launcher(folder: Path) -> ModuleType:
    return load(folder)


def load(folder: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location("launcher", folder / "workshop.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def start(folder: Path, *arguments: str, **stub: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": f"{folder.parent / 'bin'}{os.pathsep}{os.defpath}",
        "HERE": str(folder),
        "STUB_PYTHON": sys.executable,
        **stub,
    }
    return subprocess.Popen(
        [sys.executable, str(folder / "workshop.py"), *arguments],
        env=environment,
        cwd=folder.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    output, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    return process.returncode, output, errors.splitlines()


def uv_steps(folder: Path) -> list[str]:
    log = folder / "uv.log"
    return log.read_text().splitlines() if log.exists() else []


def wait_for_step(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(uv_steps(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def fake(monkeypatch: pytest.MonkeyPatch, launcher: ModuleType, version: tuple[int, int, int]) -> None:
    interpreter = SimpleNamespace(version_info=version, executable="python", stderr=sys.stderr, exit=sys.exit)
    monkeypatch.setattr(launcher, "sys", interpreter)


def the_one_line(capsys: pytest.CaptureFixture[str]) -> str:
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("workshop: ")
    return line


# What is missing.


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 99)])
def test_an_old_python_gets_one_line_that_says_what_to_install(
    version: tuple[int, int, int],
    launcher: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As text, 3.9 would come after 3.11."""
    fake(monkeypatch, launcher, version)
    with pytest.raises(SystemExit) as ended:
        launcher.check_python()
    assert ended.value.code == 1
    line = the_one_line(capsys)
    assert f"this is {version[0]}.{version[1]};" in line
    assert "apt install python3.11" in line
    assert "brew install" in line


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 13), (3, 13, 0), (3, 14, 0)])
def test_a_python_that_is_new_enough_passes_in_silence(
    version: tuple[int, int, int],
    launcher: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake(monkeypatch, launcher, version)
    launcher.check_python()
    assert capsys.readouterr().err == ""


def test_a_python_newer_than_any_tried_gets_a_note_and_goes_on(
    launcher: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[tuple[str, ...]] = []
    fake(monkeypatch, launcher, (3, 14, 0))
    monkeypatch.setattr(launcher, "working_uv", lambda: "uv")
    monkeypatch.setattr(launcher, "run", lambda _lock, *step: steps.append(step))
    launcher.set_up(None)
    assert "this is 3.14" in capsys.readouterr().err
    assert len(steps) == 2


def test_windows_is_sent_to_wsl_in_one_line(
    launcher: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checked before the version: under WSL it is another Python anyway."""
    monkeypatch.setattr(launcher, "os", SimpleNamespace(name="nt"))
    fake(monkeypatch, launcher, (3, 6, 0))
    with pytest.raises(SystemExit) as ended:
        launcher.check_python()
    assert ended.value.code == 1
    assert "WSL 2" in the_one_line(capsys)


def test_a_python_without_ensurepip_gets_one_line_and_an_old_venv_stays(
    launcher: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian splits the module off, by version: `python3-venv` is of no use to python3.12 there."""
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".workshop-installed").write_text("of yesterday")
    monkeypatch.setattr(launcher, "working_uv", lambda: None)
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit) as ended:
        launcher.set_up(None)
    assert ended.value.code == 1
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in the_one_line(capsys)
    assert (folder / ".venv" / ".workshop-installed").exists()


def test_a_folder_that_cannot_be_written_to_gets_one_line(
    launcher: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user who runs this test may be root, to whom no folder says no."""
    monkeypatch.setattr(launcher.os, "access", lambda *_: False)
    with pytest.raises(SystemExit) as ended:
        launcher.set_up(None)
    assert ended.value.code == 1
    assert "cannot be written to" in the_one_line(capsys)


def test_the_launcher_alone_without_its_repository_says_so_in_one_line(folder: Path) -> None:
    (folder / "pyproject.toml").unlink()
    code, output, errors = finish(start(folder, "lab"))
    assert (code, output) == (1, "")
    [line] = errors
    assert "pyproject.toml" in line
    assert "clone" in line


def old_pythons() -> list[str]:
    """Interpreters on PATH that really are old: a version manager's shim may stand for none at all."""
    found = []
    for name in ("python2.7", "python2", *(f"python3.{minor}" for minor in range(5, 11))):
        asked = [path := shutil.which(name) or "", "-c", "import sys; sys.exit(sys.version_info >= (3, 11))"]
        if path and subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


def test_an_old_interpreter_reads_the_file_and_prints_its_line(folder: Path) -> None:
    interpreters = old_pythons()
    if not interpreters:
        pytest.skip("no Python older than 3.11 is on PATH; the test of the grammar stands in for it")
    for interpreter in interpreters:
        done = subprocess.run(
            [interpreter, str(folder / "workshop.py"), "lab"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert "needs Python 3.11" in done.stderr


def test_the_file_uses_no_grammar_that_python_2_lacks() -> None:
    """One f-string, and an old Python answers with a SyntaxError in place of the line that helps."""
    source = LAUNCHER.read_text()
    newer = ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.Match, ast.YieldFrom
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, newer), ast.unparse(node)
        if isinstance(node, ast.FunctionDef):
            assert not node.args.kwonlyargs
            assert node.returns is None
            assert all(argument.annotation is None for argument in node.args.args)
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            assert not any(isinstance(item, ast.Starred) for item in node.elts), ast.unparse(node)
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") != "print", "print with file= is a statement with an error there"
            starred = [isinstance(item, ast.Starred) for item in node.args]
            assert starred == sorted(starred), ast.unparse(node)
        if isinstance(node, ast.Raise):
            assert node.cause is None
    assert not re.search(r"\*[\w.()]+,\s*\)", source), "a comma after *arguments is an error there"
    assert source.isascii()


def test_the_launcher_and_the_project_name_the_same_pythons(launcher: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    ends = [tuple(map(int, version.split("."))) for version in (versions[0], versions[-1])]
    assert ends == [launcher.OLDEST, launcher.NEWEST]
    assert project["requires-python"] == f">={versions[0]}"


# When .venv is current.


def installed(launcher: ModuleType, folder: Path) -> None:
    bin_folder = folder / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").symlink_to(sys.executable)
    (bin_folder / "workshop").write_text(COMMAND)
    (folder / ".venv" / ".workshop-installed").write_text(launcher.wanted_stamp() + "\n")


def test_an_installation_is_current_until_something_changes(launcher: ModuleType, folder: Path) -> None:
    installed(launcher, folder)
    assert launcher.is_current(launcher.wanted_stamp())
    (folder / "command.py").write_text("other")
    assert launcher.is_current(launcher.wanted_stamp())


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_list_of_packages_asks_for_a_new_installation(name: str, launcher: ModuleType, folder: Path) -> None:
    installed(launcher, folder)
    (folder / name).write_text((folder / name).read_text() + "# one more line\n")
    assert not launcher.is_current(launcher.wanted_stamp())


def test_another_python_asks_for_a_new_installation(
    launcher: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(launcher, folder)
    fake(monkeypatch, launcher, (*sys.version_info[:2], 99))
    assert launcher.is_current(launcher.wanted_stamp())
    fake(monkeypatch, launcher, (3, 99, 0))
    assert not launcher.is_current(launcher.wanted_stamp())


def test_a_moved_folder_asks_for_a_new_installation(launcher: ModuleType, folder: Path) -> None:
    """An editable installation and the commands in .venv name the folder where they were made."""
    installed(launcher, folder)
    moved = load(folder.rename(folder.parent / "elsewhere"))
    assert not moved.is_current(moved.wanted_stamp())


def test_a_folder_reached_by_a_link_is_the_same_folder(launcher: ModuleType, folder: Path) -> None:
    installed(launcher, folder)
    link = folder.parent / "link"
    link.symlink_to(folder)
    linked = load(link)
    assert linked.is_current(linked.wanted_stamp())


def gone(file: Path) -> None:
    file.unlink()


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.parent / "uninstalled")


def stale(file: Path) -> None:
    file.write_text("0" * 64 + "\n")


@pytest.mark.parametrize(
    ("name", "breakage"),
    [
        (".workshop-installed", gone),
        (".workshop-installed", stale),
        ("bin/python", dangling),
        ("bin/workshop", gone),
    ],
    ids=["no stamp", "another stamp", "dangling python", "no command"],
)
def test_a_broken_venv_is_not_current(name: str, breakage: object, launcher: ModuleType, folder: Path) -> None:
    """An upgrade of the system's Python leaves .venv pointing at nothing."""
    assert callable(breakage)
    installed(launcher, folder)
    breakage(folder / ".venv" / name)
    assert not launcher.is_current(launcher.wanted_stamp())


# The hand-over.


def test_every_argument_the_folder_and_the_exit_code_pass_unchanged_and_nothing_is_said(
    launcher: ModuleType, folder: Path
) -> None:
    installed(launcher, folder)
    arguments = ["--help", "two words", "", "--", "*", "größe", "-c"]
    process = start(folder, *arguments)
    code, output, errors = finish(process)
    assert code == 7
    assert output.strip() == f"{process.pid} {folder.parent} {arguments}"
    assert errors == []


def test_the_command_takes_the_place_of_the_launcher_so_ctrl_c_reaches_it_once(
    launcher: ModuleType, folder: Path
) -> None:
    """A launcher that stays as the parent would end first and leave the terminal to two programs."""
    installed(launcher, folder)
    counting = """
        import signal, sys, time
        count = []
        signal.signal(signal.SIGINT, lambda *_: count.append(1))
        print("ready", flush=True)
        deadline = time.monotonic() + 20
        while not count and time.monotonic() < deadline: time.sleep(0.01)
        time.sleep(0.2)
        sys.exit(40 + len(count))
    """
    (folder / ".venv" / "bin" / "workshop").write_text("\n".join(line.strip() for line in counting.splitlines()))
    process = start(folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    code, _, errors = finish(process)
    assert (code, errors) == (41, [])


def test_a_python_that_is_no_program_gets_one_line(launcher: ModuleType, folder: Path) -> None:
    installed(launcher, folder)
    python = folder / ".venv" / "bin" / "python"
    python.unlink()
    python.write_bytes(b"\x7fELF of another machine")
    python.chmod(0o755)
    code, _, errors = finish(start(folder))
    assert code == 1
    [line] = errors
    assert "remove .venv" in line


# The set-up.


def test_a_first_start_installs_with_the_pins_and_a_second_installs_nothing(folder: Path) -> None:
    code, output, errors = finish(start(folder, "lab", "--help"))
    assert code == 7
    assert output.rstrip().endswith("['lab', '--help']")
    assert all(line.startswith("workshop: ") for line in errors)
    venv, install = uv_steps(folder)
    assert venv.startswith("venv ")
    assert "--clear" in venv
    assert install.endswith("-c constraints.txt -e .[lab,test]")
    code, _, errors = finish(start(folder, "lab"))
    assert (code, errors) == (7, [])
    assert len(uv_steps(folder)) == 2


def test_without_uv_venv_and_pip_take_the_same_steps(
    launcher: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--no-user` is for machines whose pip is set to install for the user: in a virtual environment that ends it."""
    steps: list[tuple[str, ...]] = []
    monkeypatch.setattr(launcher, "working_uv", lambda: None)
    monkeypatch.setattr(launcher, "run", lambda _lock, *step: steps.append(step))
    launcher.set_up(None)
    venv, install = steps
    assert venv[1:] == (sys.executable, "-I", "-m", "venv", "--clear", str(folder / ".venv"))
    assert install[1] == str(folder / ".venv" / "bin" / "python")
    assert install[2:6] == ("-I", "-m", "pip", "install")
    assert "--no-user" in install
    assert install[-4:] == ("-c", "constraints.txt", "-e", ".[lab,test]")


def test_a_uv_that_does_not_run_is_no_uv(launcher: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shim of a version manager is on PATH even where it has nothing to start."""
    monkeypatch.setenv("PATH", str(folder.parent / "bin"))
    uv = folder.parent / "bin" / "uv"
    assert launcher.working_uv() == str(uv)
    uv.write_text("#!/bin/sh\necho 'uv: command not found' >&2\nexit 127\n")
    assert launcher.working_uv() is None
    uv.unlink()
    assert launcher.working_uv() is None


def test_a_failed_installation_ends_in_one_line_and_the_next_start_begins_again(folder: Path) -> None:
    code, output, errors = finish(start(folder, INSTALL_CODE="3"))
    assert (code, output) == (1, "")
    assert "code 3" in errors[-1]
    assert "network" in errors[-1]
    code, _, errors = finish(start(folder))
    assert (code, errors[-1]) == (7, "workshop: ready.")


def test_a_venv_that_is_half_removed_does_not_look_current(launcher: ModuleType, folder: Path) -> None:
    """Whoever clears a folder may stop in the middle; what says that all is well has to go first."""
    installed(launcher, folder)
    before = (folder / "constraints.txt").read_text()
    (folder / "constraints.txt").write_text("click==9.0.0\n")
    assert finish(start(folder, VENV_CODE="1"))[0] == 1
    (folder / "constraints.txt").write_text(before)
    assert not launcher.is_current(launcher.wanted_stamp())


WAITING = "workshop: another start is setting this folder up; waiting for it.\n"


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def test_two_first_starts_install_once(folder: Path) -> None:
    first = start(folder, WAIT="yes")
    wait_for_step(folder, 2)
    second = start(folder)
    assert next_line(second) == WAITING
    (folder / "go").touch()
    assert finish(first)[0] == 7
    code, _, errors = finish(second)
    assert (code, errors) == (7, [])
    assert len(uv_steps(folder)) == 2


def test_an_interrupted_set_up_says_so_in_one_line_and_the_next_start_begins_again(folder: Path) -> None:
    process = start(folder, WAIT="yes")
    wait_for_step(folder, 2)
    os.killpg(process.pid, signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 1
    assert errors[-1] == "workshop: interrupted; the next start begins the set-up again."
    assert finish(start(folder))[0] == 7


def test_the_installer_of_a_killed_start_is_waited_for_and_its_work_done_again(folder: Path) -> None:
    """It goes on writing into .venv, and nobody is left to say whether it came to its end."""
    first = start(folder, WAIT="yes")
    wait_for_step(folder, 2)
    first.kill()
    second = start(folder)
    assert next_line(second) == WAITING
    (folder / "go").touch()
    first.communicate()
    code, _, errors = finish(second)
    assert (code, errors[-1]) == (7, "workshop: ready.")
    assert len(uv_steps(folder)) == 4
