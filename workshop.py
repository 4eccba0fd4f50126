#!/usr/bin/env python3
"""Set the workshop up in .venv, then hand every argument to the `workshop` command there.

Standard library only, and written so that an old Python, 2.7 included, can read it and say what is missing.
A second start compares one digest and is gone.
"""

import hashlib
import os
import sys

# An old Python reads neither unpacking nor f-strings, and a second start has no time to import pathlib.
# ruff: noqa: PTH107, PTH118, PTH120, PTH123, RUF005, UP031

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = os.path.dirname(os.path.realpath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
COMMAND = os.path.join(VENV, "bin", "workshop")
STAMP = os.path.join(VENV, ".workshop-installed")


def say(text):
    sys.stderr.write("workshop: " + text + "\n")
    sys.stderr.flush()


def stop(text):
    say(text)
    sys.exit(1)


def check_python():
    if os.name == "nt":
        stop("runs on Linux and macOS; on Windows install WSL 2 (`wsl --install`) and run this command inside it.")
    if sys.version_info < OLDEST:
        stop(
            "needs Python 3.11, 3.12 or 3.13, and this is %d.%d; install one (Debian, Ubuntu: sudo apt install "
            "python3.11 python3.11-venv; macOS: brew install python@3.13) and start this file with it, as in "
            "`python3.11 workshop.py`." % sys.version_info[:2]
        )


def wanted_stamp():
    """A digest of all that decides what .venv holds, the folder included, since an editable install names it."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read() + b"\0")
    digest.update(os.fsencode("%s %d.%d" % ((ROOT,) + sys.version_info[:2])))
    return digest.hexdigest()


def is_current(stamp):
    try:
        with open(STAMP) as file:
            return file.read().strip() == stamp and os.access(PYTHON, os.X_OK) and os.access(COMMAND, os.R_OK)
    except FileNotFoundError:
        return False


def take_turn():
    """Wait until no other set-up of this folder runs; the answer is the lock, held until its last holder ends."""
    import fcntl

    lock = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is setting this folder up; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        pass  # Some network file systems have no locks; one start at a time needs none.
    return lock


def run(lock, step, *command):
    import subprocess

    # The installer inherits the lock, so that one left behind by a killed start is waited for, not run into.
    code = subprocess.call(command, cwd=ROOT, pass_fds=[lock])
    if code:
        stop(
            "%s failed with code %d, in its own words above; if it found no network, connect this machine "
            "and start again." % (step, code)
        )


def working_uv():
    import shutil
    import subprocess

    uv = shutil.which("uv")
    # A version manager's shim stands on PATH even where the chosen Python has no uv behind it.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return uv if uv and subprocess.call([uv, "--version"], **quiet) == 0 else None


def set_up(lock):
    if not os.access(ROOT, os.W_OK):
        stop("this folder cannot be written to; clone the workshop into one of your own and start it there.")
    version = sys.version_info[:2]
    if version > NEWEST:
        say("tried with Python 3.11 to 3.13, and this is %d.%d; if a step fails, start with one of those." % version)
    uv = working_uv()
    if not uv:
        try:
            import ensurepip  # noqa: F401  (Debian's python3 ships `venv` without it)
            import venv  # noqa: F401
        except ImportError:
            stop(
                "this Python cannot make a virtual environment; install its module (Debian, Ubuntu: sudo apt install "
                "python%d.%d-venv) or uv, and run the same command again." % version
            )
    if os.path.lexists(STAMP):
        os.remove(STAMP)  # First of all: an old .venv that is half removed must not look current.
    say("making .venv with Python %d.%d.%d, as this folder has no current one." % sys.version_info[:3])
    project = ["-c", "constraints.txt", "-e", ".[lab,test]"]
    if uv:
        run(lock, "uv venv", uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV)
        say("installing the project and what it needs with uv (seconds, once).")
        run(lock, "uv pip install", uv, "pip", "install", "--quiet", "--python", PYTHON, *project)
    else:
        run(lock, "python -m venv", sys.executable, "-I", "-m", "venv", "--clear", VENV)
        say("installing the project and what it needs with pip (a minute or two, once).")
        pip = [PYTHON, "-I", "-m", "pip", "install", "--quiet", "--no-user", "--disable-pip-version-check"]
        run(lock, "pip install", *(pip + project))
    # Where Python is told to write no byte code, each start would compile the kit anew.
    import compileall

    compileall.compile_dir(os.path.join(ROOT, "workshop_kit"), quiet=2)


def main():
    check_python()
    stamp = wanted_stamp()
    if not is_current(stamp):
        lock = take_turn()
        if not is_current(stamp):
            set_up(lock)
            with open(STAMP, "w") as file:
                file.write(stamp + "\n")
            say("ready.")
    # The same process goes on as the command: signals and the exit code need no passing on.
    os.execv(PYTHON, [PYTHON, COMMAND] + sys.argv[1:])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        stop("interrupted; the next start begins the set-up again.")
    except OSError as error:
        stop("cannot go on: %s (remove .venv, or clone the repository afresh, and start again)." % error)
