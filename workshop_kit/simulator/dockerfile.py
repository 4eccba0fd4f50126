"""`.oblivious/Dockerfile`, read and not run: what it copies, sets and installs, as the plan of an image.

Nobody runs docker here. What a plan can hold is taken over with docker's meaning (Dockerfile reference); what it cannot
hold is refused, or left out with a note that says so.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator, Mapping

from workshop_kit.errors import ImageError, ManifestError
from workshop_kit.evidence.cpio import Entry, Link
from workshop_kit.service.manifest import MANIFEST_PATH, BuildArgument, Manifest
from workshop_kit.service.wording import show
from workshop_kit.simulator.container import RUN_SCRIPT, Plan, laid_out
from workshop_kit.simulator.dockerfile_copy import Copies, Folder, absolute
from workshop_kit.simulator.dockerfile_run import read_run
from workshop_kit.simulator.dockerfile_text import Instruction, Variables, read_instructions
from workshop_kit.simulator.pythons import wanted_python

DOCKERFILE = ".oblivious/Dockerfile"
SERVICES = ".oblivious/services/"
REQUIREMENTS = "requirements.txt"
WORKDIR = "/code"
"""Where a service stands unless its WORKDIR says otherwise."""
SERVICE = "service"
"""The name of a service that its folder gives no name."""

_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_PROGRAMS = (b"#!", b"\x7fELF")
_RUN_FLAGS = re.compile(r"(--(mount|network|security)\S*\s+)+")
_LEFT_OUT = {
    "EXPOSE": "left out: traffic.inbound of service.yaml names the port",
    "FROM": "ignored: base_image names the base",
    "HEALTHCHECK": "not run: nobody asks a service how it is",
    "LABEL": "left out: it describes the image only",
    "MAINTAINER": "left out: it describes the image only",
    "ONBUILD": "left out: nothing is built on this image",
    "STOPSIGNAL": "left out: an enclave ends as a whole",
    "USER": "left out: everything in an enclave belongs to one user",
    "VOLUME": "left out: an enclave keeps nothing when it ends",
}
_FLAGS = {
    "--chown": "left out: everything in an enclave belongs to one user",
    "--chmod": "left out: a file that begins like a program is executable, no other is",
}


def plan_of(
    files: Mapping[str, Entry], manifest: Manifest, *, build_args: Mapping[str, str], folder: str
) -> tuple[Plan, tuple[str, ...]]:
    """The plan that a service folder describes, and a line for the author for each thing that is left out.

    Args:
        files: the folder's, by relative path, as `read_folder` gives them.
        build_args: what the manifest's `build_args` are given.
        folder: its name in messages.

    Raises:
        ImageError: the description asks for what is not in the folder, or for what a plan cannot hold, with file and
            line; or nothing says what to start.
        ManifestError: the build arguments are not those that the manifest declares.
    """
    check_build_args(manifest, build_args, folder=folder)
    reading = _Reading(Folder(files), build_args, f"{folder}/{DOCKERFILE}")
    reading.read()
    services, notes = _services(files, folder)
    if services:
        notes += reading.unused_commands()
    else:
        if not (command := reading.commands()):
            command = _default_command(reading, manifest, folder)
            notes.append(f"{folder}: nothing says what to start, so this is: {' '.join(command)}")
        services = {SERVICE: command}
    plan = Plan(
        python=wanted_python(manifest.base_image),
        workdir=reading.workdir,
        copies=tuple(reading.copies.pairs),
        environment=dict(sorted(reading.variables.environment.items())),
        services=services,
        requirements=tuple(dict.fromkeys(reading.requirements)),
    )
    return plan, tuple(dict.fromkeys([*reading.notes, *notes]))


# --- what starts -----------------------------------------------------------------------------------------------------


def _services(files: Mapping[str, Entry], folder: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The run scripts by name of their service, and notes on what stands beside them."""
    services: dict[str, tuple[str, ...]] = {}
    notes = []
    for path in sorted(path for path in files if path.startswith(SERVICES)):
        *name, file = path.removeprefix(SERVICES).split("/")
        if file == "run" and len(name) <= 1:  # without a folder of its own: an old form, for one service
            _require_program(files[path], f"{folder}/{path}")
            services["".join(name) or SERVICE] = (RUN_SCRIPT, path)
        else:
            notes.append(f"{folder}/{path}: left out: {SERVICES}<name>/run alone is read")
    return services, notes


def _require_program(entry: Entry, place: str) -> None:
    if isinstance(entry, Link):
        raise ImageError(f"{place}: expected a file, got a link; replace it by what it leads to")
    first = entry.partition(b"\n")[0]
    if not entry.startswith(_PROGRAMS):
        raise ImageError(f"{place}:1: expected a program or a script that begins with #!/bin/sh, got neither; add it")
    if first.startswith(b"#!") and first.endswith(b"\r"):
        raise ImageError(f"{place}:1: expected lines that end as on Linux, got a carriage return; save it anew")


def _default_command(reading: _Reading, manifest: Manifest, folder: str) -> tuple[str, ...]:
    if f"{reading.workdir.rstrip('/')}/app.py" not in laid_out(reading.copies.pairs, reading.copies.folder.files):
        raise ImageError(
            f"{folder}: expected what the enclave is to start, got none of the three ways to say it: "
            f"a script {SERVICES}<name>/run, a CMD in {DOCKERFILE}, or an app.py copied to {reading.workdir}; add one"
        )
    port = str(manifest.traffic.inbound[0].port)
    return ("python", "-m", "uvicorn", "app:app", "--host", "0.0.0.0", "--port", port)


# --- build arguments -------------------------------------------------------------------------------------------------

_TYPES = {
    "boolean": (re.compile("true|false", re.IGNORECASE), "true or false"),
    "integer": (re.compile("[+-]?[0-9]+"), "an integer"),
    "number": (re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"), "a number"),
}


def check_build_args(manifest: Manifest, given: Mapping[str, str], *, folder: str) -> None:
    """Hold build arguments against the manifest's `build_args`. A type that is none of ours is text.

    Raises:
        ManifestError: one is required and not given, not declared, or not of its type.
    """
    file = f"{folder}/{MANIFEST_PATH}"
    declared = [argument.name for argument in manifest.build_args]
    for name in given:
        if name not in declared:
            known = f"one of {', '.join(declared)}" if declared else "none, since none is declared"
            message = f"expected {known}, got the build argument {show(name)}: declare it, or leave it out"
            raise ManifestError(message, path="build_args", file=file)
    for index, argument in enumerate(manifest.build_args):
        if message := _mistake(argument, given.get(argument.name)):
            raise ManifestError(message, path=f"build_args[{index}]", file=file)


def _mistake(argument: BuildArgument, value: str | None) -> str:
    if value is None:
        wanted = f"expected a value for the build argument {show(argument.name)}, which is required, got none: give it"
        return wanted if argument.required_arg else ""
    form, kind = _TYPES.get(argument.type, (None, ""))
    if form is None or form.fullmatch(value):
        return ""
    return f"expected {kind} for the build argument {show(argument.name)}, got {show(value)}: correct it"


# --- the instructions ------------------------------------------------------------------------------------------------


class _Reading:
    """A Dockerfile as far as it was read, or what a folder without one means."""

    def __init__(self, folder: Folder, build_args: Mapping[str, str], file: str) -> None:
        self.file = file
        self.notes: list[str] = []
        self.variables = Variables(build_args, self.notes)
        self.workdir = WORKDIR
        self.copies = Copies(folder)
        self.copies.make_folder(WORKDIR)
        self.requirements: list[str] = []
        self._starts: dict[str, Instruction] = {}
        self._shell = ["/bin/sh", "-c"]
        self._stages = 0
        self._left_out_commands = False
        self._handlers: dict[str, Callable[[Instruction], None]] = {
            "ADD": self._add,
            "ARG": self.variables.declare,
            "CMD": self._start,
            "COPY": self._copy,
            "ENTRYPOINT": self._start,
            "ENV": self.variables.set_environment,
            "FROM": self._from,
            "RUN": self._run,
            "SHELL": self._set_shell,
            "WORKDIR": self._enter,
        }

    def read(self) -> None:
        """Take over every instruction. Raises ImageError for the first that a plan cannot hold."""
        files = self.copies.folder.files
        text = files.get(DOCKERFILE)
        if text is None:
            self.copies.pairs += [("src", WORKDIR)] if "src" in self.copies.folder.folders else []
            self.requirements += [f"-r {REQUIREMENTS}"] if REQUIREMENTS in files else []
        elif isinstance(text, Link):
            raise ImageError(f"{self.file}: expected a file, got a link; replace it by what it leads to")
        elif importlib.util.find_spec("dockerfile_parse") is None:
            raise ImageError(f"{self.file}: expected the package dockerfile-parse to read it, got none; install it")
        else:
            for at in read_instructions(text, self.file):
                self._take(at)
            self.notes += self._unread()

    def _take(self, at: Instruction) -> None:
        if at.name in _LEFT_OUT:
            self._from(at) if at.name == "FROM" else self._leave_out(at)
        elif at.name in self._handlers:
            self._handlers[at.name](at)
        else:
            raise at.error("an instruction of a Dockerfile", repr(at.name), "correct its spelling, or remove it")

    def _unread(self) -> Iterator[str]:
        """What of the folder a reader would expect to count, and does not."""
        if ".dockerignore" in self.copies.folder.files:
            yield f"{self.file}: .dockerignore is not read: a COPY copies all that it names"
        if REQUIREMENTS in self.copies.folder.files and not self.requirements:
            yield f"{self.file}: {REQUIREMENTS} is not installed: no RUN pip install names it"
        for name in sorted(self.variables.unused):
            yield f"{self.file}: the build argument {name} has no effect: no ARG names it"

    def _leave_out(self, at: Instruction) -> None:
        self.notes.append(f"{at.place}: {at.name} {at.value[:60]}: {_LEFT_OUT[at.name]}")

    def _from(self, at: Instruction) -> None:
        self._stages += 1
        if self._stages > 1:
            raise at.error("one FROM at most", f"another, {at.value[:60]}", "keep the last stage's instructions alone")
        self._leave_out(at)

    # CMD, ENTRYPOINT, SHELL

    def _start(self, at: Instruction) -> None:
        self._starts[at.name] = at

    def _set_shell(self, at: Instruction) -> None:
        words = at.words_in_brackets()
        if words is None:
            raise at.error('words in brackets such as ["/bin/bash", "-c"]', at.value[:60], "rewrite it")
        self._shell = words

    def commands(self) -> tuple[str, ...]:
        """What ENTRYPOINT and CMD come to; empty where there is neither."""
        entrypoint, cmd = self._starts.get("ENTRYPOINT"), self._starts.get("CMD")
        if entrypoint and cmd and entrypoint.words_in_brackets() is None:
            self.notes.append(f"{cmd.place}: CMD: left out: an ENTRYPOINT without brackets takes no arguments")
            cmd = None
        return (*self._command(entrypoint), *self._command(cmd))

    def _command(self, at: Instruction | None) -> list[str]:
        if at is None:
            return []
        return at.words_in_brackets() or [*self._shell, at.value]

    def unused_commands(self) -> list[str]:
        """A note for each command that run scripts stand before."""
        return [f"{at.place}: {at.name}: not run: {SERVICES} names what runs" for at in self._starts.values()]

    # WORKDIR, COPY, ADD, RUN

    def _enter(self, at: Instruction) -> None:
        self.workdir = absolute(at, self.variables.text(at), self.workdir)
        self.copies.make_folder(self.workdir)

    def _copy(self, at: Instruction) -> None:
        *sources, target = self._operands(at)
        self.copies.copy(at, sources, target, self.workdir)

    def _add(self, at: Instruction) -> None:
        *sources, target = self._operands(at)
        for source in sources:
            if "://" in source or source.startswith("git@"):
                raise at.error("files of the service folder", repr(source), "put it into the folder and COPY it")
        for path in self.copies.copy(at, sources, target, self.workdir):
            content = self.copies.folder.files.get(path)
            if isinstance(content, bytes) and (content.startswith(_ARCHIVES) or content[257:262] == b"ustar"):
                raise at.error("files as they are", f"the archive {path}, which ADD unpacks", "COPY what is in it")

    def _operands(self, at: Instruction) -> list[str]:
        value = at.value
        while value.startswith("--"):
            flag, _, value = value.partition(" ")
            self._flag(at, flag)
            value = value.lstrip()
        rest = at._replace(value=value)
        words = rest.words_in_brackets() or self.variables.words(rest)
        if len(words) < 2:
            raise at.error("sources and a target", repr(value[:60]), "complete it")
        return words

    def _flag(self, at: Instruction, flag: str) -> None:
        name = flag.partition("=")[0]
        if name in _FLAGS:
            self.notes.append(f"{at.place}: {at.name} {flag}: {_FLAGS[name]}")
        elif name == "--from":
            raise at.error("files of the service folder", flag, "put them into the folder: there is no other image")
        elif name != "--link":
            raise at.error("no option but --chown, --chmod and --link", flag, "remove it")

    def _run(self, at: Instruction) -> None:
        words = at.words_if_json()
        found = read_run(
            shlex.join(words) if words else _RUN_FLAGS.sub("", at.value, count=1),
            workdir=self.workdir,
            variables=self.variables.all(),
            origin=lambda place: self.copies.origin(at, place),
            after_others=self._left_out_commands,
        )
        self.requirements += found.lines
        self._left_out_commands |= found.may_have_made_files
        for why in dict.fromkeys(why for _, why in found.left_out):
            left_out = " && ".join(command for command, reason in found.left_out if reason == why)
            self.notes.append(f"{at.place}: RUN {left_out[:60]}: not run: {why}")
