"""Make the vectors: `python tests/vectors/generate.py` writes them, with `--check` it says which are not as made."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vectors.crafting import Vector
from vectors.documents import vectors
from vectors.handshakes import refusals, success
from vectors.images import ImageVector, images

from workshop_kit.channel.handshake import Profile

FOLDER = Path(__file__).resolve().parent
KINDS = ("nitro", "eif", "handshake")
ROOT, CHAIN_ROOT = "root.pem", "chain_root.pem"


def files() -> dict[str, bytes]:
    """Every file that is made, by its path in this folder."""
    documents, whole = vectors(), images()
    roots = _roots(documents)
    made = {f"nitro/{vector.file}.bin": vector.evidence for vector in documents}
    made |= {f"nitro/{name}": _pem(der) for der, name in roots.items()}
    made["nitro/MANIFEST.json"] = _json([_document_entry(vector, roots[vector.root]) for vector in documents])
    made |= {f"eif/{image.name}.eif": image.data for image in whole}
    made["eif/MANIFEST.json"] = _json([_image_entry(image) for image in whole])
    made |= {f"handshake/{profile.value}.json": _json(success(profile)) for profile in Profile}
    made |= {"handshake/refusals.json": _json(refusals()), f"handshake/{ROOT}": made[f"nitro/{ROOT}"]}
    return made


def _roots(documents: Sequence[Vector]) -> dict[bytes, str]:
    """A file for each root: the simulator's, the usual one of crafted chains, and those that deviate themselves."""
    by_name = {vector.name: vector.root for vector in documents}
    roots = {by_name["ok_null_fields"]: ROOT, by_name["ok_chain"]: CHAIN_ROOT}
    for vector in documents:
        roots.setdefault(vector.root, f"root_of_{vector.file}.pem")
    return roots


def _document_entry(vector: Vector, root: str) -> dict[str, Any]:
    return {
        "name": vector.name,
        "file": f"{vector.file}.bin",
        "expected": "affirm" if vector.check is None else "refuse",
        "check": vector.check,
        "ledger": vector.ledger or None,
        "why": vector.why,
        "at": _iso(vector.at),
        "trust_root": root,
        "reference_values": None if vector.reference_values is None else _hex(vector.reference_values),
        "max_age": int(vector.max_age.total_seconds()),
        "nonce": None if vector.nonce is None else vector.nonce.hex(),
        "public_key": None if vector.public_key is None else vector.public_key.hex(),
        "user_data": None if vector.user_data is None else vector.user_data.hex(),
    }


def _image_entry(image: ImageVector) -> dict[str, Any]:
    return {
        "file": f"{image.name}.eif",
        "measurements": _hex(image.pcrs) if image.pcrs else None,
        "fault": image.faults[0] if image.faults else None,
        "also": list(image.faults[1:]),
        "why": image.why,
        "at": _iso(image.at),
    }


def _hex(pcrs: Any) -> dict[str, str]:
    return {f"PCR{int(index)}": value.hex() for index, value in sorted(pcrs.items())}


def _iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _json(entries: list[dict[str, Any]] | dict[str, Any]) -> bytes:
    return (json.dumps(entries, indent=1, ensure_ascii=False) + "\n").encode()


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def differences(folder: Path = FOLDER) -> Iterator[str]:
    """What `folder` has and the generator does not make, and the reverse; one line for each file."""
    made, there = files(), _there(folder)
    for name in sorted(made.keys() | there):
        if name not in there:
            yield f"missing: {name}"
        elif name not in made:
            yield f"extra: {name}"
        elif (folder / name).read_bytes() != made[name]:
            yield f"stale: {name}"


def _there(folder: Path) -> set[str]:
    found = (file for kind in KINDS for file in (folder / kind).glob("*"))
    return {file.relative_to(folder).as_posix() for file in found}


def write(folder: Path = FOLDER) -> None:
    """Make `folder` have these files, and no others of their kinds."""
    made = files()
    for name in _there(folder) - made.keys():
        (folder / name).unlink()
    for name, content in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def main(arguments: Sequence[str] | None = None, *, folder: Path = FOLDER) -> int:
    """0 where the files are written or as made, 1 where `--check` finds another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is not as made")
    if not parser.parse_args(arguments).check:
        write(folder)
        return 0
    found = list(differences(folder))
    print("\n".join(found) if found else "the vectors are as made")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
