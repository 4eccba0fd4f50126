#!/usr/bin/env python3
"""Set the workshop up in .venv, then hand every argument to the `workshop` command there.

Standard library only, and written so that an old Python can at least read it and say what is missing.
A second start compares one digest and is gone.
"""

import hashlib
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, ".workshop-installed")


def say(text):
    print("workshop: " + text, file=sys.stderr)
    sys.stderr.flush()


def stop(text):
    say(text)
    sys.exit(1)


def check_python():
    if os.name == "nt":
        stop("runs on Linux and macOS; on Windows install WSL 2 (`wsl --install`) and run this command inside it.")
    version = "%d.%d" % sys.version_info[:2]
    if sys.version_info < OLDEST:
        stop(
            "needs Python 3.11, 3.12 or 3.13, this is %s. Install one (Debian, Ubuntu: sudo apt install python3.11; "
            "macOS: brew install python@3.13) and start this file with it." % version
        )
    if sys.version_info[:2] > NEWEST:
        say("tried with Python 3.11 to 3.13, this is %s: if the installation fails, start it with one of those." % version)


def wanted_stamp():
    """A digest of all that decides what .venv holds, the folder included, since an editable install names it."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read() + b"\0")
    digest.update(("%s %s" % (ROOT, sys.version_info[:2])).encode())
    return digest.hexdigest()


def installed_stamp():
    try:
        with open(STAMP) as file:
            return file.read().strip()
    except OSError:
        return None


def run(*command):
    try:
        code = subprocess.call(command, cwd=ROOT)
    except KeyboardInterrupt:
        stop("interrupted; the next start begins the set-up again.")
    if code:
        stop("`%s` ended with code %d; its own words stand above." % (" ".join(command), code))


def set_up():
    uv = shutil.which("uv")
    say("making .venv with Python %d.%d.%d, as this folder has no current one." % sys.version_info[:3])
    project = ["-c", "constraints.txt", "-e", ".[lab,test]"]
    if uv:
        run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV)
        say("installing the project and what it needs with uv (seconds, once).")
        run(uv, "pip", "install", "--quiet", "--python", PYTHON, *project)
        return
    try:
        import ensurepip  # noqa: F401  (Debian's python3 ships `venv` without it)
        import venv
    except ImportError:
        stop("this Python cannot make a virtual environment; install the module (Debian, Ubuntu: "
             "sudo apt install python3-venv) or uv, then run the same command again.")
    venv.create(VENV, clear=True, with_pip=True)
    say("installing the project and what it needs with pip (a minute or two, once).")
    run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *project)


def main():
    check_python()
    stamp = wanted_stamp()
    if installed_stamp() != stamp or not os.access(PYTHON, os.X_OK):
        set_up()
        with open(STAMP, "w") as file:
            file.write(stamp + "\n")
        say("ready.")
    os.execv(PYTHON, [PYTHON, "-m", "workshop_kit"] + sys.argv[1:])


if __name__ == "__main__":
    main()
