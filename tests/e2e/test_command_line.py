"""The `workshop` command: exit codes, one line for what went wrong, and nothing left behind.

Most of it calls `main()` in this process, which is what both `workshop` and `python -m workshop_kit` call; some of it
starts real ones.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from attested import MEASUREMENTS, World
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key
from pair import flip, user_key
from processes import DEADLINE, REPOSITORY, program
from running import Running, running
from services import ASGI, make_service

from workshop_kit.__main__ import main
from workshop_kit.edges.user_key import UserKey
from workshop_kit.evidence import cbor
from workshop_kit.evidence.eif import read_image
from workshop_kit.evidence.handed_in import runtime_measurement
from workshop_kit.service.access import User, Users
from workshop_kit.simulator.build import build_enclave
from workshop_kit.simulator.enclave import run_enclave
from workshop_kit.verifier import ReferenceValues
from workshop_kit.verifier.ledger import RULES

MILLIONAIRES = REPOSITORY / "data/services/millionaires"
APP = ASGI + '\nasync def answer(scope, receive):\n    return as_json("answered")\n'


@dataclass(frozen=True)
class Outcome:
    code: int
    output: str
    errors: str

    @property
    def complaint(self) -> str:
        """The one line that a failing command writes."""
        (line,) = self.errors.splitlines()
        assert line.startswith("workshop: "), line
        return line.removeprefix("workshop: ")


def too_long(*_: object) -> None:
    raise AssertionError("the command did not end")


def workshop(*arguments: object) -> Outcome:
    """Run a command in this process."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    before, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["workshop", *map(str, arguments)]
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(int(DEADLINE))
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        raise AssertionError("the command let an interrupt through") from None
    finally:
        signal.alarm(0)
        sys.argv = before
        signal.signal(signal.SIGTERM, handler)
    return Outcome(code, output.getvalue(), errors.getvalue())


def real(*arguments: object, **more: object) -> Outcome:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "workshop_kit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, cwd=REPOSITORY, **more)  # type: ignore[call-overload]
    return Outcome(done.returncode, done.stdout, done.stderr)


# --- the command itself ----------------------------------------------------------------------------------------------

SUBCOMMANDS = (
    "keygen",
    "build",
    "run",
    "describe",
    "console",
    "terminate",
    "compare",
    "doctor",
    "connect",
    "describe-eif",
    "inspect",
    "verify",
    "demo",
    "lab",
    "test",
    "pages",
    "bench",
    "fuzz",
)


def test_help_lists_every_command() -> None:
    shown = workshop("--help")
    assert (shown.code, shown.errors) == (0, "")
    listed = re.findall(r"^  ([a-z][a-z-]+) ", shown.output, re.MULTILINE)
    assert sorted(listed) == sorted(SUBCOMMANDS)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    shown = workshop(name, "--help")
    assert (shown.code, shown.errors) == (0, "")
    assert f"workshop {name}" in shown.output


BAD_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "no such command": ("launch",),
    "no such option": ("keygen", "--name", "alice"),
    "a missing argument": ("verify",),
    "a missing option": ("connect", "--private-key", "x"),
    "an enclave without its id": ("terminate",),
    "one argument too many": ("inspect", "a", "b"),
    "a port that is none": ("run", "x.eif", "--port", "70000"),
    "a port that is no number": ("run", "x.eif", "--port", "http"),
    "a key's name with a slash": ("keygen", "--key-name", "../alice"),
    "a key's name that is hidden": ("keygen", "--key-name", ".alice"),
    "a user without a file": ("build", MILLIONAIRES, "--user", "Alice"),
    "a URL that is none": ("connect", "--url", "ftp://x", "--private-key", "x", "--disable-pcr-check"),
    "no reference values": ("connect", "--url", "http://127.0.0.1:1", "--private-key", "x"),
    "one reference value": ("verify", os.devnull, "--pcr0", "00" * 48),
    "a reference value that is none": ("verify", os.devnull, "--pcr0", "0", "--pcr1", "0", "--pcr2", "0"),
    "a reference value that is short": ("verify", os.devnull, "--pcr0", "00", "--pcr1", "00", "--pcr2", "00"),
    "two kinds of reference values": ("verify", os.devnull, "--pcr0", "00", "--reference-values", "x"),
    "a document that is not there": ("verify", "absent"),
    "a document that is a folder": ("verify", "."),
    "reference values that are not there": ("verify", os.devnull, "--reference-values", "absent"),
    "reference values that are none": ("verify", os.devnull, "--reference-values", os.devnull),
    "a root that is not there": ("verify", os.devnull, "--root", "absent"),
    "a root that is no certificate": ("verify", os.devnull, "--root", os.devnull),
    "a time that is none": ("verify", os.devnull, "--at", "yesterday"),
    "a nonce that is no hexadecimal": ("verify", os.devnull, "--nonce", "xyz"),
    "PCR16 alone": ("verify", os.devnull, "--pcr16", "00" * 48),
    "PCR16 that is short": ("verify", os.devnull, "--pcr16", "00", *("--pcr0", "00" * 48, "--pcr1", "00" * 48)),
    "PCR16 beside a policy": ("verify", os.devnull, "--policy", os.devnull, "--pcr16", "00" * 48),
    "users in two ways": ("run", "x.eif", "--users", "x.yaml", "--user", "Alice=x"),
    "a configuration that is not there": ("run", "x.eif", "--runtime-config", "absent"),
    "a part of the bench beside its peers": ("bench", "rates", "--peers"),
    "a file to fuzz without its target": ("fuzz", os.devnull),
    "a file to fuzz that is not there": ("fuzz", "absent", "--target", "document"),
    "no time to fuzz": ("fuzz", "--seconds", "0"),
    "an age that is none": ("verify", os.devnull, "--max-age", "-1"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_a_bad_argument_ends_with_2_and_one_line(name: str) -> None:
    result = workshop(*BAD_ARGUMENTS[name])
    assert (result.code, result.output) == (2, "")
    assert result.complaint.isprintable()


@pytest.mark.parametrize(("name", "code"), [("no such command", 2), ("a root that is no certificate", 2)])
def test_a_real_process_ends_the_same_way(name: str, code: int) -> None:
    """`python -m workshop_kit` is the same `main()`."""
    result = real(*BAD_ARGUMENTS[name])
    assert (result.code, result.output) == (code, "")
    assert result.complaint == workshop(*BAD_ARGUMENTS[name]).complaint


def test_a_reader_who_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -m workshop_kit verify {os.devnull} --json | head -c 1"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=DEADLINE, cwd=REPOSITORY, check=False
    )
    assert (done.stdout, done.stderr) == ("{", "")


def test_ctrl_c_while_the_command_is_still_being_loaded_shows_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a third of a second, and an impatient learner is quicker."""

    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "workshop_kit.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "workshop_kit.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert workshop("demo") == Outcome(130, "", "")


# --- keygen ----------------------------------------------------------------------------------------------------------


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_keygen_writes_a_pair_and_prints_the_public_key(tmp_path: Path) -> None:
    result = workshop("keygen", "--key-name", "alice", "--output", tmp_path / "new/keys")
    private, public = (tmp_path / "new/keys" / f"alice_{kind}.der" for kind in ("private", "public"))
    assert result.code == 0
    assert result.errors.splitlines() == [f"wrote {private}", f"wrote {public}"]
    assert result.output == base64.b64encode(public.read_bytes()).decode() + "\n"
    assert result.output.startswith("MIIBCgKCAQEA")
    key = load_der_public_key(public.read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    assert (key.key_size, key.public_numbers().e, len(public.read_bytes())) == (2048, 65537, 270)
    assert UserKey.load(private).public_bytes == public.read_bytes()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_private_key_is_readable_by_its_owner_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        workshop("keygen", "--key-name", "alice", "--output", tmp_path)
    finally:
        os.umask(before)
    assert mode(tmp_path / "alice_private.der") == 0o600
    assert mode(tmp_path / "alice_public.der") == 0o644 & ~umask


@pytest.mark.parametrize("there", ["alice_private.der", "alice_public.der"])
def test_a_key_file_is_never_overwritten(tmp_path: Path, there: str) -> None:
    """One of the two is enough to refuse both: half a pair would be worse than none."""
    (tmp_path / there).write_bytes(b"precious")
    result = workshop("keygen", "--key-name", "alice", "--output", tmp_path)
    assert result.code == 1
    assert "never overwritten" in result.complaint
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_bytes() == b"precious"


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "alice_private.der").symlink_to(tmp_path / "elsewhere")
    result = workshop("keygen", "--key-name", "alice", "--output", tmp_path)
    assert result.code == 1
    assert result.complaint
    assert not (tmp_path / "elsewhere").exists()


def test_keygen_into_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = workshop("keygen", "--key-name", "alice", "--output", tmp_path / "file")
    assert result.code == 1
    assert str(tmp_path / "file") in result.complaint


# --- build -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key files of Alice, Bob and Mallory, and files that are no key of a user's."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("Alice", "Bob", "Mallory"):
        user_key(name).save(folder, name.lower())
    elliptic = ec.generate_private_key(ec.SECP384R1())
    (folder / "elliptic.der").write_bytes(elliptic.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    small = rsa.generate_private_key(65537, 1024)
    (folder / "small.der").write_bytes(small.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "garbage.der").write_bytes(b"garbage")
    return folder


def test_build_prints_and_writes_the_measurements(tmp_path: Path, keys: Path) -> None:
    values = tmp_path / "values.json"
    users = ("--user", f"Alice={keys / 'alice_public.der'}", "--user", f"Bob:querier={keys / 'bob_public.der'}")
    result = workshop("build", MILLIONAIRES, "--output", tmp_path / "m.eif", "--reference-values", values, *users)
    assert result.code == 0
    assert f"wrote {tmp_path / 'm.eif'}" in result.errors
    assert f"{MILLIONAIRES / '.oblivious/service.yaml'}:22: paths[2].path: " in result.errors  # /call?url=
    assert result.output == values.read_text()
    printed = json.loads(result.output)["Measurements"]
    assert set(printed) == {"HashAlgorithm", "PCR0", "PCR1", "PCR2"}
    assert all(re.fullmatch("[0-9a-f]{96}", printed[name]) for name in ("PCR0", "PCR1", "PCR2"))
    nobody = workshop("build", MILLIONAIRES, "--output", tmp_path / "n.eif").output
    assert json.loads(nobody)["Measurements"]["PCR2"] != printed["PCR2"]


def test_an_image_is_written_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert workshop("build", MILLIONAIRES).code == 0
    assert (tmp_path / "millionaires.eif").is_file()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demonstration service."""
    return shutil.copytree(MILLIONAIRES, tmp_path / "millionaires", ignore=shutil.ignore_patterns("__pycache__"))


def edit(folder: Path, old: str, new: str) -> None:
    manifest = folder / ".oblivious/service.yaml"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new, 1))


def line_of(folder: Path, beginning: str) -> int:
    """The number of the first line of the manifest that begins so."""
    lines = (folder / ".oblivious/service.yaml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if line.startswith(beginning))


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unknown key": (
        lambda folder: edit(folder, "    access:", "    acess:"),
        r"service\.yaml:{line}: paths\[0\]\.acess: ",
    ),
    "an unknown role": (
        lambda folder: edit(folder, "access: querier", "access: query"),
        r"service\.yaml:{line}: paths\[0\]\.access: ",
    ),
    "bad syntax": (lambda folder: edit(folder, "paths:", "paths: ["), r"service\.yaml:\d+: "),
    "a port that is none": (
        lambda folder: edit(folder, "port: 80", "port: http"),
        r"service\.yaml:\d+: traffic\.inbound\[0\]\.port: ",
    ),
    "no manifest": (
        lambda folder: (folder / ".oblivious/service.yaml").unlink(),
        r"expected \.oblivious/service\.yaml",
    ),
    "no app": (lambda folder: (folder / "src/app.py").unlink(), r"expected src/app\.py"),
    "an app that is no Python": (lambda folder: (folder / "src/app.py").write_text("\n(\n"), r"src/app\.py:2: "),
    "no folder": (shutil.rmtree, "expected a service folder, got nothing"),
    "a link that leaves": (lambda folder: (folder / "x").symlink_to("../../y"), "links that stay in the folder"),
    "requirements that are none": (
        lambda folder: (folder / "requirements.txt").write_text("???\n"),
        "cannot be installed",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_service_is_one_line_with_its_place(
    folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    change, words = MISTAKES[name]
    line = line_of(folder, "    access:")
    change(folder)
    result = workshop("build", folder, "--output", tmp_path / "out.eif")
    assert (result.code, result.output) == (1, "")
    assert re.search(words.replace("{line}", str(line)), result.complaint), result.complaint
    assert str(folder) in result.complaint or name == "requirements that are none"
    assert not (tmp_path / "out.eif").exists()


def test_a_malformed_manifest_is_one_line_of_a_real_process(folder: Path) -> None:
    line = line_of(folder, "    access:")
    edit(folder, "    access:", "    acess:")
    result = real("build", folder)
    assert (result.code, result.output) == (1, "")
    assert f"{folder}/.oblivious/service.yaml:{line}: paths[0].acess: expected" in result.complaint


WRONG_USERS: dict[str, tuple[tuple[str, ...], str]] = {
    "a key that is not there": (("Alice=absent",), "cannot read absent"),
    "a private key": (("Alice=alice_private.der",), "expected an RSA-2048 public key"),
    "garbage": (("Alice=garbage.der",), "expected an RSA-2048 public key"),
    "a role that is none": (("Alice:king=alice_public.der",), "expected a role of the manifest"),
    "a name twice": (("Alice=alice_public.der", "Alice=bob_public.der"), "expected each name once"),
    "a key twice": (("Alice=alice_public.der", "Bob=alice_public.der"), "expected each key once"),
    "more than the role holds": (
        ("Alice=alice_public.der", "Bob=bob_public.der", "Mallory=mallory_public.der"),
        "role_cardinality",
    ),
}


@pytest.mark.parametrize("name", WRONG_USERS)
def test_a_wrong_user_is_one_line(tmp_path: Path, keys: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    users, words = WRONG_USERS[name]
    monkeypatch.chdir(keys)
    result = workshop(
        "build", MILLIONAIRES, "--output", tmp_path / "x.eif", *(part for user in users for part in ("--user", user))
    )
    assert (result.code, result.output) == (1, "")
    assert words in result.complaint
    assert not (tmp_path / "x.eif").exists()


# --- run -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that run, and some that do not."""
    folder = tmp_path_factory.mktemp("images")
    apps = {"good": APP, "broken": "import nothing_of_this_name\n", "without": "application = 1\n", "unready": UNREADY}
    for name, app in apps.items():
        image = build_enclave(make_service(folder / name, app, "/")).image
        (folder / f"{name}.eif").write_bytes(image.encode())
    good = (folder / "good.eif").read_bytes()
    (folder / "cut.eif").write_bytes(good[:-1])
    (folder / "flipped.eif").write_bytes(flip(good, len(good) // 2))
    (folder / "text.eif").write_text("hello")
    return folder


UNREADY = """\
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("no database")
    yield

app = FastAPI(lifespan=lifespan)
"""


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("absent", "cannot read"),
        ("text", "begins with .eif"),
        ("cut", "the file is damaged, build it again"),
        ("flipped", "the file is damaged, build it again"),
    ],
)
def test_an_image_that_cannot_run_is_one_line(images: Path, image: str, words: str) -> None:
    result = workshop("run", images / f"{image}.eif")
    assert (result.code, result.output) == (1, "")
    assert words in result.complaint
    assert not (images / f"{image}.root.pem").exists()


@pytest.mark.parametrize(
    ("image", "last"),
    [
        ("broken", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("without", "AttributeError: module 'app' has no attribute 'app'"),
        ("unready", "RuntimeError: no database"),
    ],
)
def test_a_service_that_does_not_start_ends_with_one_line_and_its_own_traceback(
    images: Path, image: str, last: str
) -> None:
    """Its own: none of the files in it is the kit's."""
    result = workshop("run", images / f"{image}.eif")
    assert (result.code, result.output) == (1, "")
    first, *console = result.errors.splitlines()
    assert re.fullmatch("workshop: the service does not start.*; its own words:", first)
    assert any(line.startswith(last) for line in console), console
    assert not any("workshop_kit" in line for line in console), console
    assert sum("Traceback" in line for line in console) <= 1


def test_a_port_in_use_is_one_line(images: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = workshop("run", images / "good.eif", "--port", port)
        assert (result.code, result.output) == (1, "")
        assert f"cannot listen on 127.0.0.1:{port}" in result.complaint
        assert "choose another port" in result.complaint


CONFIG = "greeting: hi\nlist: [1, 2]\n"


@pytest.fixture(scope="module")
def handed_in(keys: Path) -> Path:
    """The keys' folder with users and configurations in files."""
    alice = base64.b64encode((keys / "alice_public.der").read_bytes()).decode()
    (keys / "users.yaml").write_text(f"# Alice\nusers:\n  - {{name: Alice, role: querier, public_key: {alice}}}\n")
    (keys / "kings.yaml").write_text(f"users:\n  - {{name: Alice, role: king, public_key: {alice}}}\n")
    (keys / "runtime.yaml").write_text(CONFIG)
    (keys / "list.yaml").write_text("- 1\n")
    (keys / "twice.yaml").write_text("a: 1\na: 2\n")
    (keys / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    return keys


def test_run_hands_in_users_and_configuration_and_prints_what_a_client_can_demand(
    images: Path, handed_in: Path, tmp_path: Path
) -> None:
    """Byte for byte: Alice has the two files, and computes PCR16 herself."""
    values = images / "good.json"
    values.write_text(ReferenceValues(read_image((images / "good.eif").read_bytes()).measurements()).to_json())
    pcr16 = runtime_measurement((handed_in / "users.yaml").read_bytes(), CONFIG.encode()).hex()
    files = ("--users", handed_in / "users.yaml", "--runtime-config", handed_in / "runtime.yaml")
    run = ("run", images / "good.eif", "--root-file", tmp_path / "root.pem", *files)
    with program("-m", "workshop_kit", *map(str, run), temporary=tmp_path / "tmp") as operator:
        assert operator.await_line("pcr16 ") == pcr16
        url = operator.await_line("listening on ")
        usual = {"url": url, "private_key": handed_in / "alice_private.der", "reference_values": values, "lport": 0}
        usual |= {"root": tmp_path / "root.pem"}
        options = [str(part) for name, value in usual.items() for part in (f"--{name.replace('_', '-')}", value)]
        with program("-m", "workshop_kit", "connect", *options, "--pcr16", pcr16, temporary=tmp_path / "c") as alice:
            assert httpx.get(alice.await_line("listening on")).json() == "answered"
        other = workshop("connect", *options, "--pcr16", runtime_measurement().hex())
    assert (other.code, other.output) == (1, "")
    assert "refused by check 9" in other.complaint
    assert "PCR16 differs: other users or another runtime configuration." in other.complaint


def test_run_takes_single_users_as_build_does(images: Path, handed_in: Path, tmp_path: Path) -> None:
    users = Users((User("Alice", "querier", user_key("Alice").public_bytes),))
    one = ("--user", f"Alice:querier={handed_in / 'alice_public.der'}", "--root-file", tmp_path / "root.pem")
    with program("-m", "workshop_kit", "run", *map(str, (images / "good.eif", *one)), temporary=tmp_path / "t") as run:
        assert run.await_line("pcr16 ") == runtime_measurement(users.to_yaml().encode()).hex()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--users", "kings.yaml"), r"kings\.yaml:2: users\[0\]\.role: expected a role of the manifest"),
        (("--users", "list.yaml"), r"list\.yaml: expected keys with values, got a list"),
        (("--user", "Alice:king=alice_public.der"), "--user: expected a role of the manifest"),
        (("--user", "Alice:querier=garbage.der"), "garbage.der: expected an RSA-2048 public key"),
        (("--runtime-config", "list.yaml"), r"list\.yaml: expected keys with values, got a list"),
        (("--runtime-config", "twice.yaml"), r"twice\.yaml:2: a: expected the key once"),
        (("--runtime-config", "latin.yaml"), r"latin\.yaml:2: expected text in UTF-8"),
    ],
)
def test_what_an_enclave_would_refuse_is_one_line_with_its_place(
    images: Path, handed_in: Path, options: tuple[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(handed_in)
    result = workshop("run", images / "good.eif", *options)
    assert (result.code, result.output) == (1, "")
    assert re.search(words, result.complaint), result.complaint
    assert not (images / "good.root.pem").exists()


# --- connect ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(make_service(tmp_path_factory.mktemp("enclave") / "service", APP, "/")) as started:
        yield started


@pytest.fixture(scope="module")
def debug(enclave: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same image in debug mode, under the same root."""
    with run_enclave(enclave.image, debug_mode=True, infrastructure=enclave.enclave.infrastructure) as started:
        yield Running(enclave.image, started)
    del tmp_path_factory


@pytest.fixture(scope="module")
def known(enclave: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user knows of the enclave: its root and its reference values, in files."""
    folder = tmp_path_factory.mktemp("known")
    root = x509.load_der_x509_certificate(enclave.enclave.root)
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "values.json").write_text(ReferenceValues(enclave.image.measurements()).to_json())
    (folder / "foreign.pem").write_bytes(x509.load_der_x509_certificate(World().pki.root).public_bytes(Encoding.PEM))
    other = {index: bytes([7]) * 48 for index in (0, 1, 2)}
    (folder / "other.json").write_text(ReferenceValues(other).to_json())
    return folder


def connecting(enclave: Running, keys: Path, known: Path, **instead: object) -> list[object]:
    """The arguments of a `connect` that succeeds, some of them replaced or, with None, left out."""
    usual: dict[str, object] = {
        "url": enclave.enclave.url,
        "private_key": keys / "alice_private.der",
        "lport": 0,
        "reference_values": known / "values.json",
        "root": known / "root.pem",
    }
    chosen = {name: value for name, value in (usual | instead).items() if value is not None}
    return [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", value)]


def test_connect_attests_and_then_offers_plain_http(enclave: Running, keys: Path, known: Path, tmp_path: Path) -> None:
    arguments = connecting(enclave, keys, known, public_key=keys / "alice_public.der")
    with program("-m", "workshop_kit", "connect", *map(str, arguments), temporary=tmp_path / "tmp") as command:
        address = command.await_line("listening on")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        assert httpx.get(address).json() == "answered"
        command.signal(signal.SIGINT)
        code, _, errors = command.end()
        assert code == 130
        (line,) = errors.splitlines()
        assert line.startswith(f"affirmed {enclave.enclave.enclave_id}")


@pytest.mark.parametrize("profile", [None, "modern", "seed"])
def test_the_handshake_is_made_in_the_profile_that_was_chosen(
    enclave: Running, keys: Path, known: Path, tmp_path: Path, profile: str | None
) -> None:
    """As the parent instance sees it pass; without a choice it is the modern one."""
    arguments, before = connecting(enclave, keys, known, profile=profile), len(enclave.enclave.parent.seen)
    with program("-m", "workshop_kit", "connect", *map(str, arguments), temporary=tmp_path / "tmp") as command:
        assert httpx.get(command.await_line("listening on")).json() == "answered"
        command.signal(signal.SIGINT)
        command.end()
    carried = b"".join(seen.data for seen in enclave.enclave.parent.seen[before:])
    names = {name for name in ("seed", "modern") if cbor.encode("profile") + cbor.encode(name) in carried}
    assert names == {profile or "modern"}
    assert (b"\r\ncontent-type: application/cose; cose-type" in carried) == (profile == "seed")


def test_a_profile_that_does_not_exist_is_a_bad_argument(enclave: Running, keys: Path, known: Path) -> None:
    result = workshop("connect", *connecting(enclave, keys, known, profile="ancient"))
    assert (result.code, "'seed', 'modern'" in result.complaint) == (2, True)


def test_pcrs_can_be_given_one_by_one_and_the_port_apart(enclave: Running, keys: Path, known: Path) -> None:
    """Here with one wrong digit, so that the command ends by itself."""
    pcrs = {f"pcr{index}": value.hex() for index, value in enclave.image.measurements().items()}
    wrong = pcrs | {"pcr2": flip(enclave.image.measurements()[2], 47).hex()}
    apart = {"url": "http://127.0.0.1", "port": enclave.enclave.parent.port, "reference_values": None}
    result = workshop("connect", *connecting(enclave, keys, known, **apart, **wrong))
    assert result.code == 1
    assert "refused by check 9" in result.complaint
    assert "PCR2" in result.complaint
    assert "PCR0 " not in result.complaint.partition("; got")[0]


# Each says what was expected, what came and, behind it, what to do; its exact words are others' tests.
REFUSALS: dict[str, tuple[dict[str, object], str]] = {
    "another image": (
        {"reference_values": "{known}/other.json"},
        "refused by check 9, .*: expected PCR0 .*; got PCR0 .*",
    ),
    "a foreign root": ({"root": "{known}/foreign.pem"}, "refused by check 4, .*: expected simulated.*; got .*"),
    "AWS's root": ({"root": "aws"}, "refused by check 4, .*: expected aws.nitro-enclaves.*; got .*"),
    "an unknown user": (
        {"private_key": "{keys}/mallory_private.der"},
        "401, expected the public key of a user.* got .*; ",
    ),
    "another's public key": ({"public_key": "{keys}/bob_public.der"}, "bob_public.der.*alice_private.der.* got .*: "),
    "a key that is not there": ({"private_key": "{keys}/absent.der"}, "cannot read .*absent.der"),
    "a key that is none": ({"private_key": "{keys}/garbage.der"}, "garbage.der: expected an RSA private key"),
    "a public key as private": (
        {"private_key": "{keys}/alice_public.der"},
        "alice_public.der: expected an RSA private",
    ),
    "an elliptic key": (
        {"private_key": "{keys}/elliptic.der"},
        "elliptic.der: expected an RSA-2048 private key, got .*EC",
    ),
    "a small key": ({"private_key": "{keys}/small.der"}, "small.der: expected an RSA-2048 private key, got RSA-1024"),
    "nobody there": ({"url": "http://127.0.0.1:{free}"}, "nothing answers at 127.0.0.1:.*`workshop run`"),
    "a port in use": ({"lport": "{taken}"}, "cannot listen on 127.0.0.1:.*choose another port"),
    "no HTTP there": ({"url": "http://127.0.0.1:{rude}"}, "expected an HTTP response, got something else"),
    "another server": ({"url": "http://127.0.0.1:{server}"}, "expected an enclave's evidence, got 404"),
}


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, object]]:
    """Ports: one that is free, one that is taken, one that answers rudely, one that answers as another server does."""
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        with socket.create_server(("127.0.0.1", 0)) as gone:
            free = gone.getsockname()[1]
        found: dict[str, object] = {"taken": taken.getsockname()[1], "free": free}
        for name, answer in (
            ("rude", b"220 mail\r\n"),
            ("server", b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
        ):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            stack.enter_context(answering(listener, answer))
            found[name] = listener.getsockname()[1]
        yield found


@contextlib.contextmanager
def answering(listener: socket.socket, answer: bytes) -> Iterator[None]:
    """Answer one connection, whatever it asks."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                connection.recv(65536)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield


@pytest.mark.parametrize("name", REFUSALS)
def test_connect_refuses_in_one_line_and_listens_nowhere(
    enclave: Running, keys: Path, known: Path, places: dict[str, object], name: str
) -> None:
    instead, words = REFUSALS[name]
    filled = {option: str(value).format(keys=keys, known=known, **places) for option, value in instead.items()}
    result = workshop("connect", *connecting(enclave, keys, known, **filled))
    assert (result.code, result.output) == (1, "")
    assert re.search(words, result.complaint), result.complaint


def test_a_refusal_is_one_line_of_a_real_process(enclave: Running, keys: Path, known: Path) -> None:
    result = real("connect", *connecting(enclave, keys, known, reference_values=known / "other.json"))
    assert (result.code, result.output) == (1, "")
    assert "refused by check 9" in result.complaint


def test_disabling_the_pcr_check_disables_nothing_else(
    enclave: Running, debug: Running, keys: Path, known: Path
) -> None:
    cases = ((enclave, {"root": known / "foreign.pem"}, 4), (enclave, {"root": None}, 4), (debug, {}, 8))
    for running_one, instead, check in cases:
        arguments = connecting(running_one, keys, known, reference_values=None, **instead)
        result = workshop("connect", *arguments, "--disable-pcr-check")
        assert (result.code, result.output) == (1, "")
        assert f"refused by check {check}" in result.complaint


def test_disabling_the_pcr_check_warns_at_every_connection(
    enclave: Running, keys: Path, known: Path, tmp_path: Path
) -> None:
    """The enclave is run anew behind the same port: its connections have ended, so a second handshake comes first."""
    infrastructure = enclave.enclave.infrastructure
    arguments = ["connect", "--disable-pcr-check"]
    with run_enclave(enclave.image, infrastructure=infrastructure) as first:
        port = first.parent.port
        arguments += map(str, connecting(Running(enclave.image, first), keys, known, reference_values=None))
        command = contextlib.ExitStack()
        proxy = command.enter_context(program("-m", "workshop_kit", *arguments, temporary=tmp_path / "tmp"))
        address = proxy.await_line("listening on")
        assert httpx.get(address).json() == "answered"
    with command, run_enclave(enclave.image, infrastructure=infrastructure, port=port):
        assert httpx.get(address).json() == "answered"
        proxy.signal(signal.SIGINT)
        _, _, errors = proxy.end()
    warnings = [line for line in errors.splitlines() if line.startswith("warning: PCRs are not checked")]
    assert len(warnings) == 2


IN_A_CALLBACK = """\
import asyncio, os, signal, socket
from workshop_kit import arguments

class Told(asyncio.Protocol):
    def data_received(self, data):
        os.kill(os.getpid(), signal.SIGTERM)

async def main():
    ours, theirs = socket.socketpair()
    await asyncio.get_running_loop().create_connection(Told, sock=ours)
    theirs.send(b"now")
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up")

arguments.end_on_sigterm()
arguments.run_until_sigterm(main())
"""


def test_sigterm_ends_a_command_whatever_its_loop_is_doing(tmp_path: Path) -> None:
    """Here it comes in the middle of a callback of a transport's, out of which uvloop lets no exception."""
    with program("-c", IN_A_CALLBACK, temporary=tmp_path / "tmp") as started:
        assert started.end() == (143, "cleaned up\n", "")


# --- inspect and verify ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """A simulated document of a moment ago, in a file, with all that one may know to appraise it."""

    world: World
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "document"

    def verify(self, *more: object, **instead: object) -> Outcome:
        usual: dict[str, object] = {"root": self.folder / "root.pem", "reference_values": self.folder / "values.json"}
        chosen = {name: value for name, value in (usual | instead).items() if value is not None}
        options = [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", value)]
        return workshop("verify", self.file, *options, *more)


NONCE = bytes(range(32))


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    world = World(now=datetime.now(UTC) - timedelta(seconds=10))
    made = Evidence(world, tmp_path)
    made.file.write_bytes(world.attest(nonce=NONCE, user_data=b"data", public_key=user_key("Alice").public_bytes))
    root = x509.load_der_x509_certificate(world.pki.root)
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (tmp_path / "root.der").write_bytes(world.pki.root)
    (tmp_path / "values.json").write_text(ReferenceValues(MEASUREMENTS).to_json())
    return made


def test_verify_affirms_with_0_and_prints_the_ledger(evidence: Evidence) -> None:
    result = evidence.verify()
    assert (result.code, result.errors) == (0, "")
    assert result.output.count("passed") == 12
    assert result.output.splitlines()[-2:] == ["affirmed", "Simulated evidence: no hardware stands behind it."]


def test_verify_reads_a_root_in_pem_or_der_and_pcrs_one_by_one(evidence: Evidence) -> None:
    pcrs = {f"pcr{int(index)}": value.hex() for index, value in MEASUREMENTS.items()}
    assert evidence.verify(root=evidence.folder / "root.der").code == 0
    assert evidence.verify(reference_values=None, **pcrs).code == 0
    upper = {name: value.upper() for name, value in pcrs.items()}
    assert evidence.verify(reference_values=None, **upper).code == 0


def test_verify_demands_pcr16_beside_reference_values_however_they_are_given(evidence: Evidence) -> None:
    world, pcrs = evidence.world, {f"pcr{int(index)}": value.hex() for index, value in MEASUREMENTS.items()}
    world.ask("ExtendPCR", index=16, data=b"users")
    world.ask("LockPCR", index=16)
    evidence.file.write_bytes(world.attest(nonce=NONCE))
    right, wrong = world.ask("DescribePCR", index=16)["data"].hex(), runtime_measurement().hex()
    for values in ({}, {"reference_values": None} | pcrs):
        assert evidence.verify(pcr16=right, **values).code == 0
        assert failing(evidence.verify("--json", pcr16=wrong, **values)) == [9]
    (evidence.folder / "values.json").write_text(ReferenceValues(MEASUREMENTS | {16: bytes.fromhex(right)}).to_json())
    assert evidence.verify().code == 0
    both = evidence.verify(pcr16=right)
    assert (both.code, both.output) == (2, "")
    assert "expected --pcr16 or a PCR16 in" in both.complaint


def test_the_json_is_the_ledger(evidence: Evidence) -> None:
    result = evidence.verify("--json", nonce=NONCE.hex())
    ledger = json.loads(result.output)
    assert result.code == 0
    assert set(ledger) == {"affirmed", "checks"}
    assert ledger["affirmed"] is True
    assert [check["number"] for check in ledger["checks"]] == list(RULES)
    members = {"number", "name", "outcome", "expected", "actual", "explanation", "reference", "if_skipped"}
    assert all(set(check) == members for check in ledger["checks"])
    outcomes = {check["number"]: check["outcome"] for check in ledger["checks"]}
    assert {outcomes.pop(number) for number in (10, "10a")} == {"not evaluated"}
    assert set(outcomes.values()) == {"passed"}


def failing(result: Outcome) -> list[object]:
    """The checks that failed, by the JSON of a refusal."""
    ledger = json.loads(result.output)
    assert (result.code, ledger["affirmed"], result.errors) == (1, False, "")
    return [check["number"] for check in ledger["checks"] if check["outcome"] == "failed"]


def seconds(moment: datetime) -> str:
    return str(moment.timestamp())


@pytest.mark.parametrize(
    ("option", "failed"),
    [
        ({"at": "document"}, None),
        ({"at": "now"}, None),
        ({"at": lambda signed: (signed + timedelta(seconds=60)).isoformat()}, None),
        ({"at": lambda signed: (signed + timedelta(seconds=60)).replace(tzinfo=None).isoformat()}, None),
        ({"at": lambda signed: seconds(signed + timedelta(seconds=60))}, None),
        ({"at": lambda signed: str(int(signed.timestamp()) + 60)}, None),
        ({"at": lambda signed: (signed + timedelta(minutes=6)).isoformat()}, [7]),
        ({"at": lambda signed: (signed + timedelta(minutes=6)).isoformat(), "max_age": 600}, None),
        ({"at": lambda signed: (signed + timedelta(hours=4)).isoformat(), "max_age": 1e6}, [4]),
        ({"at": "2020-01-01"}, [4]),
        ({"at": "1"}, [4]),
        ({"max_age": 1}, [7]),
        ({"nonce": NONCE.hex()}, None),
        ({"nonce": bytes(32).hex()}, [6]),
        ({"root": "aws"}, [4]),
        ({"root": None}, [4]),
    ],
)
def test_an_option_decides_what_is_affirmed(
    evidence: Evidence, option: dict[str, object], failed: list[object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far from Greenwich, so that a time without a zone is read as UTC and not as this machine's."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    filled = {name: value(evidence.world.now) if callable(value) else value for name, value in option.items()}
    result = evidence.verify("--json", **filled)
    monkeypatch.undo()
    time.tzset()
    assert (failing(result) if failed else result.code) == (failed or 0)


def test_without_reference_values_nothing_is_affirmed(evidence: Evidence) -> None:
    result = evidence.verify(reference_values=None)
    assert (result.code, result.errors) == (1, "")
    assert "not affirmed: No reference values were given" in result.output


CHANGES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "cut": (lambda document: document[:-1], 1),
    "empty": (lambda _: b"", 1),
    "base64": (base64.b64encode, 1),
    "flipped in its payload": (lambda document: flip(document, document.index(b"Ddata") + 1), 5),
    "flipped in its signature": (lambda document: flip(document, len(document) - 1), 5),
    "flipped in its algorithm": (lambda document: flip(document, 5), 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_document_is_refused_by_its_check_in_one_line(evidence: Evidence, name: str) -> None:
    change, check = CHANGES[name]
    evidence.file.write_bytes(change(evidence.file.read_bytes()))
    assert failing(evidence.verify("--json")) == [check]
    result = evidence.verify()
    assert (result.code, result.errors) == (1, "")
    (line,) = [line for line in result.output.splitlines() if line.startswith("refused")]
    assert re.fullmatch(rf"refused by check {check}, .*: expected .*; got .*\. .*\.", line)
    assert failing(evidence.verify("--json", at="document")) == [check]


def test_verify_is_the_same_in_a_real_process(evidence: Evidence) -> None:
    options = ("--root", evidence.folder / "root.pem", "--reference-values", evidence.folder / "values.json")
    affirmed = real("verify", evidence.file, *options, "--at", "document")
    assert (affirmed.code, affirmed.errors) == (0, "")
    assert affirmed.output == evidence.verify(at="document").output
    refused = real("verify", evidence.file, *options, "--nonce", "00")
    assert (refused.code, refused.errors) == (1, "")
    assert "refused by check 6" in refused.output


def test_inspect_shows_a_document_without_judging_it(evidence: Evidence) -> None:
    result = workshop("inspect", evidence.file)
    assert (result.code, result.errors) == (0, "")
    assert result.output.startswith("unverified; `workshop verify` appraises\n")
    assert evidence.world.nsm.module_id in result.output
    assert "simulated: no hardware stands behind it" in result.output
    assert MEASUREMENTS[0].hex() in result.output  # type: ignore[index]


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_inspect_refuses_what_is_no_document_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    result = workshop("inspect", file)
    assert (result.code, result.output) == (2 if content is None else 1, "")
    assert str(file) in result.complaint


# --- demo ------------------------------------------------------------------------------------------------------------


def test_the_demo_does_the_main_job_and_leaves_nothing(tmp_path: Path) -> None:
    with program("-m", "workshop_kit", "demo", temporary=tmp_path / "tmp") as command:
        code, output, errors = command.end()
        assert (code, errors) == (0, "")
        assert 'both learn "Alice < Bob"' in output
        assert "'submit_value' occurs in them 0 times" in output
        assert "refused by check 9" in output
        assert command.left_behind() == []
