"""The users of an enclave, held against the roles of its manifest, and the rules that follow from both.

What is done with the rules is `rules`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pydantic import BeforeValidator

from workshop_kit.errors import ManifestError
from workshop_kit.service.manifest import Entries, Manifest, Name, check_name
from workshop_kit.service.rules import KnownUser, Rules
from workshop_kit.service.strict_yaml import Finding, Section, check_document, read_document, repeated
from workshop_kit.service.wording import show


@dataclass(frozen=True)
class User:
    """A person the enclave knows. `public_key` is an RSA-2048 `RSAPublicKey` in DER (RFC 8017 A.1.1), 270 bytes.

    Raises ManifestError for a name that cannot travel in a header and for any other key.
    """

    name: str
    role: str
    public_key: bytes

    def __post_init__(self) -> None:
        for key, check in (("name", check_name), ("role", check_name), ("public_key", check_public_key)):
            try:
                check(getattr(self, key))
            except ValueError as error:
                raise ManifestError(str(error), path=key) from error


def check_public_key(key: object) -> bytes:
    """The bytes again, if they are an RSA-2048 public key with e = 65537 in PKCS#1 DER. Raises ValueError."""
    if not isinstance(key, bytes):
        raise ValueError(_not_a_key(show(key)))
    try:
        parsed = load_der_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(_not_a_key(f"{len(key)} bytes that are no public key")) from None
    if not isinstance(parsed, RSAPublicKey):
        raise ValueError(_not_a_key("another kind of key"))
    if (parsed.key_size, parsed.public_numbers().e) != (2048, 65537):
        raise ValueError(_not_a_key(f"RSA-{parsed.key_size} with e = {parsed.public_numbers().e}"))
    # One key, one spelling: the loader also reads SubjectPublicKeyInfo, and a user is found by these very bytes.
    if parsed.public_bytes(Encoding.DER, PublicFormat.PKCS1) != key:
        raise ValueError(_not_a_key("another encoding of such a key"))
    return key


def _not_a_key(actual: str) -> str:
    return f"expected an RSA-2048 public key with e = 65537 in PKCS#1 DER, got {actual}: make one with keygen"


def _key_from_base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError(_not_base64(value))
    try:
        key = base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError(_not_base64(value)) from None
    return check_public_key(key)


def _not_base64(value: object) -> str:
    return f"expected a public key in base64, got {show(value)}: copy the line that keygen prints"


class _Entry(Section):
    name: Name
    role: Name
    public_key: Annotated[bytes, BeforeValidator(_key_from_base64)]


class _UsersFile(Section):
    users: Entries[_Entry]


@dataclass(frozen=True)
class Users:
    """The users of one enclave, in order. Raises ManifestError if a name or a key occurs twice."""

    users: tuple[User, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "users", tuple(self.users))  # a list handed in could change later
        for (_, index, key), message in _repeated_users(self.users):
            raise ManifestError(message, path=f"users[{index}].{key}")

    def __iter__(self) -> Iterator[User]:
        return iter(self.users)

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def from_yaml(cls, text: str, manifest: Manifest, *, file: str = "users.yaml") -> Users:
        """Read `users: [{name, role, public_key: base64}]` and hold it against the manifest's roles.

        Raises ManifestError: unknown role, more users than its cardinality, a name or key twice, another kind of key.
        """
        document = read_document(text, file=file)
        entries = check_document(document, _UsersFile).users
        users = tuple(User(entry.name, entry.role, entry.public_key) for entry in entries)
        if findings := [*_repeated_users(users), *_misplaced_users(users, manifest)]:
            raise document.first_of(findings)
        return cls(users)

    def to_yaml(self) -> str:
        """The text that `from_yaml` reads: the same users give the same text."""
        entries = [
            {"name": user.name, "role": user.role, "public_key": base64.b64encode(user.public_key).decode("ascii")}
            for user in self.users
        ]
        return yaml.safe_dump({"users": entries}, sort_keys=False, width=1000)


def _repeated_users(users: tuple[User, ...]) -> Iterator[Finding]:
    for index, first in repeated(user.name for user in users):
        message = f"expected each name once, got {users[first].name!r} again: rename one"
        yield ("users", index, "name"), message
    for index, first in repeated(user.public_key for user in users):
        message = f"expected each key once, got the key of {users[first].name!r} again: make one key for each user"
        yield ("users", index, "public_key"), message


def _misplaced_users(users: tuple[User, ...], manifest: Manifest) -> Iterator[Finding]:
    free = {role.role_name: role.role_cardinality for role in manifest.roles}
    for index, user in enumerate(users):
        if user.role not in free:
            roles = ", ".join(free)
            yield ("users", index, "role"), f"expected a role of the manifest ({roles}), got {user.role!r}: correct it"
            continue
        free[user.role] -= 1
        if free[user.role] < 0:
            message = f"expected no more users with the role {user.role!r} than its role_cardinality, got one more"
            yield ("users", index, "role"), f"{message}: remove {user.name!r} or raise the cardinality"


def rules_of(manifest: Manifest, users: Users) -> Rules:
    """What an enclave proxy enforces for them."""
    return Rules(
        paths={rule.path: rule.access for rule in manifest.paths},
        users={user.public_key: KnownUser(user.name, user.role) for user in users},
        port=manifest.traffic.inbound[0].port,
        outbound=tuple((entry.domain, entry.port) for entry in manifest.traffic.outbound),
    )
