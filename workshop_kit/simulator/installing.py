"""Installing requirements into an environment: ready-made builds first, source only where no build exists.

A package that has builds for other Pythons on this kind of machine is refused: compiling it would take minutes, and
fail more often than not. A package that has none here is built from source, by its environment's own pip.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from workshop_kit.errors import ImageError
from workshop_kit.simulator.pip_words import Findings, essence, findings, name_of, suspects
from workshop_kit.simulator.pythons import Python
from workshop_kit.simulator.requirement_lines import Line

TIMEOUT = 900.0
"""Seconds for everything: a large package is some minutes on a slow line."""
EXAMINED = 60.0
"""Seconds for one question about one package."""

_MOST_SOURCES = 20
_QUICKLY = ["--no-input", "--disable-pip-version-check", "--retries", "2"]
# As reproducible as can be had from here. What debuggers read would hold the names of pip's temporary folders: without
# -g0, one source built twice gives two digests.
_VARIABLES = {"SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0", "GIT_TERMINAL_PROMPT": "0"}
_FLAGS = "-g0"


class Runner:
    """Runs an installer's commands in the service folder, all of them within `TIMEOUT`.

    Args:
        lock: a descriptor that they inherit: what it locks stays locked until the last of them has ended.
    """

    def __init__(self, folder: Path, *, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._end = time.monotonic() + TIMEOUT

    def run(self, command: list[str], *, at_most: float = TIMEOUT) -> tuple[int, str]:
        """Exit status, and all that a command says.

        Raises:
            ImageError: it does not end in time.
        """
        seconds = max(1.0, min(at_most, self._end - time.monotonic()))
        with self._start(command) as process:
            try:
                said, _ = process.communicate(timeout=seconds)
            except BaseException as error:
                # A compiler that pip has started would go on without it.
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise ImageError(f"the requirements were not installed within {seconds:.0f} s") from None
                raise
        return process.returncode, said

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        flags = f"{os.environ.get('CFLAGS', '')} {_FLAGS}".strip()
        return subprocess.Popen(
            command,
            cwd=self._folder,
            env=os.environ | _VARIABLES | {"CFLAGS": flags},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=(self._lock,),
        )


class Installer:
    """What installs `lines` into one environment.

    Args:
        python: the one that the environment was made with.
        base: the version that base_image names, or "".
    """

    def __init__(
        self, environment: Path, lines: tuple[Line, ...], *, runner: Runner, python: Python, base: str
    ) -> None:
        self._environment = environment
        self._lines = lines
        self._runner = runner
        self._python = python
        self._base = base

    def install(self) -> None:
        """Install all of it, or raise ImageError with one line that says what is in the way."""
        file = self._environment / "requirements.txt"
        file.write_text("".join(f"{line.text}\n" for line in self._lines))
        if self._install_with_uv(file):
            return
        sources: list[str] = []
        while said := self._install_with_pip(file, sources):
            more = [name_of(each) for each in suspects(said) if self._is_source_alone(each, sources)]
            if not more or len(sources) > _MOST_SOURCES:
                raise self._failure(said)
            sources += more

    def _install_with_uv(self, file: Path) -> bool:
        """uv is faster, but knows neither pip's settings nor which source is worth a build: then it is pip's turn."""
        uv = shutil.which("uv")
        if not uv:
            return False
        target = ["--python", str(self._environment / "bin/python"), "--only-binary", ":all:", "-r", str(file)]
        return self._runner.run([uv, "pip", "install", "--quiet", *target])[0] == 0

    def _install_with_pip(self, file: Path, sources: list[str]) -> str:
        """What pip says where it fails; "" where it does not."""
        # An old pip would let some sources install themselves, which leaves no list of what they brought.
        how = ["--use-pep517", "--only-binary", ":all:", *(["--no-binary", ",".join(sources)] if sources else [])]
        arguments = ["--progress-bar", "off", *how, "-r", str(file)]
        status, said = self._runner.run([*self._pip(), "install", *_QUICKLY, *arguments])
        return (said or f"pip ended with {status}") if status else ""

    def _pip(self) -> list[str]:
        """The environment's own, since a newer one does not run on an old Python; ours where it has none."""
        python = str(self._environment / "bin/python")
        if self._python.has_pip:
            return [python, "-I", "-m", "pip"]
        return [sys.executable, "-I", "-m", "pip", "--python", python]

    def _is_source_alone(self, wanted: str, sources: list[str]) -> bool:
        """Whether a package that was not built from source yet has nothing else here.

        Raises:
            ImageError: it has builds, but not for this Python, or it is not there at all.
        """
        if name_of(wanted) in sources:
            return False
        found = self._examine(wanted)
        if found.refusal:
            raise ImageError(f"{self._file_of(wanted)}: {found.refusal}")
        return found.has_source

    def _examine(self, wanted: str) -> Findings:
        """Ask pip for a build of one package, as it is set up and the author's file says, and read why it has none."""
        if importlib.util.find_spec("packaging") is None:
            raise ImageError(f"{wanted}: expected a build, got none; to know why, install the package packaging")
        options = [line.text for line in self._lines if re.match("-(?!c )", line.text)]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "requirements.txt"
            file.write_text("\n".join([*options, wanted, ""]))
            arguments = ["--no-deps", "--only-binary", ":all:", "--dest", folder, "-r", str(file)]
            command = [*self._pip(), "download", "-vv", *_QUICKLY, *arguments]
            status, said = self._runner.run(command, at_most=EXAMINED)
        version = re.match(r"[\d.]*\d", self._python.version)
        return findings(said, wanted, version[0] if version else self._python.minor, self._base) if status else _A_BUILD

    def _file_of(self, wanted: str) -> str:
        """The file in which the author asks for a package, or the first for what another package asks for."""
        asks = re.compile(rf"{re.escape(name_of(wanted))}(?![\w.-])", re.IGNORECASE)
        return next((line.file for line in self._lines if asks.match(line.text)), self._lines[0].file)

    def _failure(self, said: str) -> ImageError:
        return ImageError(
            f"{self._lines[0].file}: the requirements cannot be installed with Python {self._python.minor}: "
            f"{essence(said)}"
        )


_A_BUILD = Findings(False, "")
