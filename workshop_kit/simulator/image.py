"""From a service folder to an enclave image, and so to what is measured.

    kernel, command line    constants that name the simulator
    ramdisk 1 → PCR1        the kit's modules that run inside the enclave
    ramdisk 2 → PCR2        service/: the author's folder; users.yaml, distributions.txt, plan.json and
                            authorities.pem, where the build has them

Files count as bytes. Their times, owners and modes do not, so the same folder and the same kit give the same PCRs on
every machine. What the enclave takes from the machine, CPython and the libraries of the built-in base, is not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from workshop_kit.errors import ImageError
from workshop_kit.evidence.cpio import Entry, Link, read_archive, stays_inside, write_archive
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.simulator.container import PLAN

ENCLAVE_MODULES = (
    "__init__.py",
    "channel/__init__.py",
    "channel/enclave_handshake.py",
    "channel/framing.py",
    "channel/handshake.py",
    "channel/hybrid.py",
    "channel/session.py",
    "edges/__init__.py",
    "edges/admission.py",
    "edges/asgi.py",
    "edges/carrier.py",
    "edges/egress_client.py",
    "edges/egress_httpx.py",
    "edges/enclave_proxy.py",
    "edges/forwarder.py",
    "edges/http_call.py",
    "edges/http_connection.py",
    "edges/http_reader.py",
    "edges/http_server.py",
    "edges/loops.py",
    "edges/message.py",
    "edges/nsm_device.py",
    "edges/nsm_socket.py",
    "edges/primitives.py",
    "edges/sealed_call.py",
    "edges/stream.py",
    "edges/tunnel.py",
    "edges/vsock.py",
    "edges/websocket.py",
    "errors.py",
    "evidence/__init__.py",
    "evidence/cbor.py",
    "evidence/handed_in.py",
    "evidence/nsm_api.py",
    "evidence/pcr.py",
    "service/__init__.py",
    "service/access.py",
    "service/egress.py",
    "service/manifest.py",
    "service/rules.py",
    "service/strict_yaml.py",
    "service/wording.py",
    "simulator/__init__.py",
    "simulator/boot.py",
    "simulator/container.py",
    "simulator/gate.py",
    "simulator/inside.py",
    "simulator/isolation/__init__.py",
    "simulator/isolation/connects.py",
    "simulator/isolation/landlock.py",
    "simulator/isolation/levels.py",
    "simulator/isolation/linux.py",
    "simulator/isolation/namespaces.py",
    "simulator/isolation/seccomp.py",
    "simulator/launch.py",
    "simulator/layout.py",
    "simulator/messages.py",
    "simulator/names.py",
    "simulator/reading.py",
    "simulator/supervisor.py",
)
"""Every module of the kit that an enclave's processes load. A test compares this with a running enclave's."""

KIT = Path(__file__).resolve().parents[1]
BOOT_SCRIPT = "workshop_kit/simulator/boot.py"
GATE_SCRIPT = "workshop_kit/simulator/gate.py"
SERVICE, USERS, DISTRIBUTIONS = "service", "users.yaml", "distributions.txt"
AUTHORITIES = "authorities.pem"
LEFT_OUT = frozenset({"__pycache__", ".git", ".DS_Store"})
"""Names that never belong to a service, wherever they stand. All others are measured and handed to the enclave."""

_KERNEL = b"enclave workshop, simulated kernel 1: a CPython process stands in for Linux\n"
_CMDLINE = f"simulated init={BOOT_SCRIPT}".encode()
_MAX_FILE = 64 * 1024 * 1024


def assemble_image(
    service: Mapping[str, Entry],
    *,
    name: str,
    users: str = "",
    distributions: str = "",
    plan: str = "",
    authorities: bytes = b"",
    kit: Path = KIT,
) -> EnclaveImage:
    """The image of a service.

    Args:
        service: the folder's files by relative path, as `read_folder` gives them.
        name: for the metadata, which are not measured.
        users: the text of users.yaml, where users are given at build time.
        distributions: the text of distributions.txt, where the service brings requirements of its own.
        plan: the text of plan.json, where it runs on another base than the built-in one.
        authorities: certificates in PEM that the service trusts in what it reaches.
        kit: the package whose modules become ramdisk 1.
    """
    bootstrap = {f"workshop_kit/{module}": (kit / module).read_bytes() for module in ENCLAVE_MODULES}
    application: dict[str, Entry] = {f"{SERVICE}/{path}": entry for path, entry in service.items()}
    application |= {USERS: users.encode()} if users else {}
    application |= {DISTRIBUTIONS: distributions.encode()} if distributions else {}
    application |= {PLAN: plan.encode()} if plan else {}
    application |= {AUTHORITIES: authorities} if authorities else {}
    return EnclaveImage(
        kernel=_KERNEL,
        cmdline=_CMDLINE,
        ramdisks=(write_archive(bootstrap), write_archive(application)),
        metadata=_metadata(name),
    )


def _metadata(name: str) -> dict[str, object]:
    """What nitro-cli writes there too; constant, so that the same image has the same bytes."""
    return {
        "ImageName": name,
        "ImageVersion": "1.0",
        "BuildMetadata": {
            "BuildTime": "1970-01-01T00:00:00Z",
            "BuildTool": "workshop",
            "BuildToolVersion": "1",
            "OperatingSystem": "Linux",
            "KernelVersion": "simulated",
        },
        "DockerInfo": {},
        "CustomMetadata": {},
    }


def read_folder(folder: Path) -> dict[str, Entry]:
    """The files of a service folder by relative path, `/` between names, without what `LEFT_OUT` names.

    Raises:
        ImageError: there is no such folder, a file cannot be read or is none, or a link leads out of the folder.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: expected a service folder, got {'a file' if folder.exists() else 'nothing'}")
    try:
        return {_name(path, folder): _entry(path, folder) for path in _walk(folder)}
    except OSError as error:
        raise ImageError(f"cannot read {error.filename}: {error.strerror}") from None


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in LEFT_OUT:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _name(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix()
    _require_utf8(name, path)
    return name


def _require_utf8(text: str, path: Path) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ImageError(f"{str(path)!r}: expected names in UTF-8, got other bytes; rename it") from None


def _entry(path: Path, folder: Path) -> Entry:
    if path.is_symlink():
        # By names, not by what they lead to on this machine: inside the enclave the folder has another one.
        target = path.readlink().as_posix()
        _require_utf8(target, path)
        if not stays_inside(path.relative_to(folder).as_posix(), target):
            raise ImageError(f"{path}: expected links that stay in the folder, got one to {target}")
        return Link(target)
    if not path.is_file():
        raise ImageError(f"{path}: expected a file, a folder or a link, got something else; remove it")
    if (size := path.stat().st_size) > _MAX_FILE:
        raise ImageError(f"{path}: expected files of at most {_MAX_FILE} bytes, got {size}")
    return path.read_bytes()


def unpack(image: EnclaveImage, root: Path) -> None:
    """Lay an image's ramdisks out under `root`: the first in base/, the second in application/.

    They stay apart, where Linux would unpack one over the other: the application cannot replace the enclave's own code
    and leave PCR1 as it was.

    Raises:
        ImageError: this is no image of `assemble_image`'s layout.
    """
    if len(image.ramdisks) != 2:
        raise ImageError(f"expected an image with 2 ramdisks, as `workshop build` writes, got {len(image.ramdisks)}")
    for name, ramdisk in zip(("base", "application"), image.ramdisks, strict=True):
        for path, (mode, entry) in read_archive(ramdisk).items():
            target = root / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(entry, Link):
                target.symlink_to(entry.target)
            else:
                target.write_bytes(entry)
                target.chmod(mode)


def application_file(image: EnclaveImage, path: str) -> str | None:
    """The text of a file in the second ramdisk, or None: what an image says of itself before it runs."""
    _, entry = read_archive(image.ramdisks[1]).get(path, (0, None)) if len(image.ramdisks) == 2 else (0, None)
    return entry.decode("utf-8", "replace") if isinstance(entry, bytes) else None
