"""What a person wrote on the command line, turned into values. A mistake ends with exit code 2 or one line."""

from __future__ import annotations

import re
import resource
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from workshop_kit.edges.dialogue import Endpoint
from workshop_kit.edges.user_key import UserKey
from workshop_kit.errors import (
    EndorsementError,
    ImageError,
    LabError,
    LocalProtocolError,
    MalformedEvidenceError,
    ManifestError,
    WorkshopKitError,
)
from workshop_kit.evidence.cose import MAX_SIZE
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.evidence.eif import LARGEST_IMAGE, EnclaveImage, read_image
from workshop_kit.evidence.eif_signature import sign_image
from workshop_kit.evidence.pcr import Pcr, measure
from workshop_kit.files import MOST, read_beginning, read_file
from workshop_kit.service.access import User, Users
from workshop_kit.service.manifest import MANIFEST_PATH, Manifest, parse_manifest
from workshop_kit.service.strict_yaml import read_document, text_of
from workshop_kit.simulator.isolation.levels import Level
from workshop_kit.verifier import (
    AWS_NITRO_ROOT_G1,
    AnyPolicy,
    Policy,
    ReferenceValues,
    TrustAnchor,
    UnsafeAnyImagePolicy,
)
from workshop_kit.verifier.policy_file import load_policy

_USER = re.compile(r"([^:=]+)(?::([^:=]+))?=(.+)")

_DESCRIPTORS = 16_384


def require_file_name(name: str) -> None:
    """Refuse a key's name that would lead its files elsewhere."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise typer.BadParameter(f"expected letters, digits, _, - and ., got {name!r}", param_hint="--key-name")


def hexadecimal(text: str, option: str) -> bytes:
    """One byte or more: an empty text is more often a variable that was not set than a demand."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if not value:
        raise typer.BadParameter(f"expected hexadecimal digits, got {text[:40]!r}", param_hint=option)
    return value


def reference_values(pcrs: dict[int, str | None], file: Path | None) -> ReferenceValues | None:
    """From --pcr0, --pcr1 and --pcr2, or from a published file, and --pcr16 with either; None where none is given."""
    given = {index: text for index, text in pcrs.items() if text is not None}
    if file and given.keys() - {Pcr.USERS_AND_RUNTIME_CONFIG}:
        raise typer.BadParameter("expected --pcr0, 1 and 2 or --reference-values, got both")
    try:
        published = ReferenceValues.from_json(readable(file).decode("utf-8", "replace")).pcrs if file else {}
        if given.keys() & published.keys():
            raise typer.BadParameter(f"expected --pcr16 or a PCR16 in {file}, got both")
        given |= {index: value.hex() for index, value in published.items()}
        return ReferenceValues.from_hex(given) if given else None
    except WorkshopKitError as error:
        raise typer.BadParameter(str(error)) from None


def trust_anchor(root: str) -> TrustAnchor:
    """AWS's root, or the certificate in a file."""
    if root == "aws":
        return AWS_NITRO_ROOT_G1
    try:
        return TrustAnchor.from_certificate(read_file(Path(root)))
    except LabError as error:
        raise typer.BadParameter(f"{error}; `workshop run` writes it as it starts", param_hint="--root") from None
    except EndorsementError as error:
        raise typer.BadParameter(
            f"{root}: expected {error.expected}, got {error.actual}", param_hint="--root"
        ) from None


def policy(
    file: Path | None,
    pcrs: dict[int, str | None],
    values_file: Path | None,
    root: str | None,
    *,
    max_age: float | None = None,
    any_image: bool = False,
) -> AnyPolicy:
    """From the options, or from a policy file in their place."""
    if file is None:
        kind = UnsafeAnyImagePolicy if any_image else Policy
        return kind(
            reference_values=reference_values(pcrs, values_file),
            trust_anchor=None if root is None else trust_anchor(root),
            max_age=None if max_age is None else duration(max_age),
        )
    given = [value for value in (*pcrs.values(), values_file, root, max_age) if value is not None]
    if any_image or given:
        raise typer.BadParameter("expected --policy or the demands that it replaces, got both")
    try:
        return load_policy(file)
    except WorkshopKitError as error:
        raise typer.BadParameter(str(error), param_hint="--policy") from None


def duration(seconds: float) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise typer.BadParameter(f"expected seconds, got {seconds}", param_hint="--max-age") from None


def isolation(name: str, *, unisolated: bool) -> Level:
    """The level that an enclave has at most; none only where that is said by its own name."""
    if unisolated:
        return Level.NONE
    if name not in ("namespaces", "seccomp"):
        raise typer.BadParameter(f"expected namespaces or seccomp, got {name!r}", param_hint="--isolation")
    return Level(name)


def readable(file: Path, *, most: int = MOST) -> bytes:
    """The bytes of a file that is an argument: unreadable, it is a bad argument."""
    try:
        return read_file(file, most=most)
    except LabError as error:
        raise typer.BadParameter(str(error)) from None


def document(file: Path) -> bytes:
    """As much of a document's file as shows that it is too long, should it be."""
    try:
        return read_beginning(file, MAX_SIZE + 1)
    except LabError as error:
        raise typer.BadParameter(str(error)) from None


def time_of_appraisal(at: str, evidence: bytes) -> datetime:
    """now, the document's own time, an ISO 8601 time (UTC where it names no zone) or seconds since 1970."""
    if at == "now":
        return datetime.now(UTC)
    if at == "document":
        try:
            return decode_unverified(evidence).time
        except MalformedEvidenceError:
            return datetime.now(UTC)  # there is no document to ask; the ledger will say so
    try:
        time = (
            datetime.fromtimestamp(float(at), UTC) if re.fullmatch(r"\d+(\.\d+)?", at) else datetime.fromisoformat(at)
        )
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(
            f"expected now, document, an ISO 8601 time or seconds since 1970, got {at[:40]!r}", param_hint="--at"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def endpoint(url: str, port: int | None) -> Endpoint:
    """Where the parent instance listens."""
    try:
        return Endpoint.parse(url, port)
    except LocalProtocolError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def key_pair(private_key: Path, public_key: Path | None) -> UserKey:
    """The user's key, compared with the public file where one is named."""
    key = UserKey.load(private_key)
    if public_key is not None and read_file(public_key) != key.public_bytes:
        raise LabError(f"{public_key}: expected the public key of {private_key}, got something else: name a pair")
    return key


def users_for_folder(texts: list[str], folder: Path) -> Users | None:
    """Those of `--user` for a service folder, to be built into its image."""
    if not texts:
        return None
    file = folder / MANIFEST_PATH
    return parse_users(texts, parse_manifest(read_file(file).decode("utf-8", "replace"), file=str(file)))


def users_at_run_time(texts: list[str], file: Path | None, image: Path) -> bytes | None:
    """What `run` hands in: a users' file byte for byte, or those of `--user`, which need the image's manifest."""
    if texts and file:
        raise typer.BadParameter("expected --users FILE or --user, got both")
    if not texts and not file:
        return None
    from workshop_kit.simulator.image import SERVICE, application_file

    opened = read_image(read_file(image, most=LARGEST_IMAGE))
    manifest = parse_manifest(application_file(opened, f"{SERVICE}/{MANIFEST_PATH}") or "", file=f"{image}, manifest")
    if file is None:
        return parse_users(texts, manifest).to_yaml().encode()
    data = readable(file)
    Users.from_yaml(text_of(data, file=str(file)), manifest, file=str(file))
    return data


def runtime_config(file: Path | None) -> bytes | None:
    """A runtime configuration, byte for byte; the enclave holds it against the same rules, and knows no file's name."""
    if file is None:
        return None
    data = readable(file)
    read_document(text_of(data, file=str(file)), file=str(file))
    return data


def build_args(texts: list[str]) -> dict[str, str]:
    """Build arguments from `NAME=VALUE`; the build holds them against the manifest."""
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (name, equals, _) in zip(texts, pairs, strict=True) if not name or not equals]:
        raise typer.BadParameter(f"expected NAME=VALUE, got {wrong[0][:60]!r}", param_hint="--build-arg")
    given = {name: value for name, _, value in pairs}
    if len(given) < len(pairs):
        raise typer.BadParameter("expected each name once, got one again", param_hint="--build-arg")
    return given


def authorities(file: Path | None) -> bytes:
    """Certificates in PEM, or nothing."""
    if file is None:
        return b""
    data = readable(file)
    try:
        x509.load_pem_x509_certificates(data)
    except ValueError:
        raise typer.BadParameter(
            f"{file}: expected certificates in PEM, got something else", param_hint="--authorities"
        ) from None
    return data


def parse_users(texts: list[str], manifest: Manifest) -> Users:
    """Users from `NAME[:ROLE]=FILE`; a role may be left out where the manifest has one only."""
    try:
        users = Users(tuple(_user(text, [role.role_name for role in manifest.roles]) for text in texts))
        return Users.from_yaml(users.to_yaml(), manifest)
    except ManifestError as error:
        raise LabError(f"--user: {error.message}") from None


def _user(text: str, roles: list[str]) -> User:
    match = _USER.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"expected NAME=FILE or NAME:ROLE=FILE, got {text!r}", param_hint="--user")
    name, role, file = match.groups()
    if role is None and len(roles) != 1:
        raise typer.BadParameter(f"expected {name}:ROLE=FILE with one of {', '.join(roles)}", param_hint="--user")
    data = read_file(Path(file))
    try:
        return User(name, role or roles[0], data)
    except ManifestError as error:
        raise LabError(f"--user {name}: {file}: {error.message}; give the _public.der of `workshop keygen`") from None


def write_file(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        raise ImageError(f"cannot write {file}: {error.strerror}") from None


def as_pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def allow_many_connections() -> None:
    """As many descriptors as this user may have, where the system gives few at first: each connection takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def end_on_sigterm() -> None:
    """Let SIGTERM run the same clean-up as Ctrl-C."""

    def interrupt(_: int, __: FrameType | None) -> None:
        sys.exit(143)

    signal.signal(signal.SIGTERM, interrupt)


def run_until_sigterm(main: Coroutine[Any, Any, None]) -> None:
    """Run it in a loop; SIGTERM cancels it as Ctrl-C does.

    An exception out of a signal's handler could not do that: it may come up in a callback of uvloop's, which logs it
    and goes on.
    """
    import asyncio

    from workshop_kit.edges.loops import run

    told = False

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None

        def end() -> None:
            nonlocal told
            told = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
        await main

    try:
        run(serve())
    except asyncio.CancelledError:
        if not told:
            raise
        sys.exit(128 + signal.SIGTERM)


def image_or_folder(path: Path) -> EnclaveImage:
    """An image from its file, or built from a service folder."""
    from workshop_kit.simulator.build import build_enclave

    return build_enclave(path).image if path.is_dir() else read_image(readable(path, most=LARGEST_IMAGE))


def signed(
    image: EnclaveImage, certificate: Path | None, private_key: Path | None
) -> tuple[EnclaveImage, dict[int, bytes]]:
    """The image, signed where both files are given, and its measurements, PCR8 among them where it is signed."""
    if certificate is None and private_key is None:
        return image, image.measurements()
    if certificate is None or private_key is None:
        raise typer.BadParameter("expected --signing-certificate and --private-key together, got one of them")
    try:
        key = load_pem_private_key(read_file(private_key), password=None)
        signer = x509.load_pem_x509_certificate(read_file(certificate))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise LabError(f"expected a certificate in {certificate} and a private key in {private_key}, in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise LabError(f"{private_key}: expected a key on P-256, P-384 or P-521, got {type(key).__name__}")
    result = sign_image(image, key, signer)
    pcr8 = measure(signer.public_bytes(Encoding.DER))
    return result, {**result.measurements(), Pcr.SIGNING_CERTIFICATE: pcr8}
