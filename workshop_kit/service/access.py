"""Who may ask for what: the rules that the enclave proxy enforces between a client's request and the application.

Pure: it knows a manifest, users and bytes, and neither a connection nor the signature that proves who a user is.

Three steps for a request: `Users.by_public_key` finds the user, `decide` compares their role with the path, and
`forwarded_headers` tells the application who asks. Each is useless without the one before.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import unquote_to_bytes

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pydantic import BeforeValidator

from workshop_kit.errors import ManifestError
from workshop_kit.service.manifest import Entries, Manifest, Name, PathRule, check_name
from workshop_kit.service.strict_yaml import Finding, Section, check_document, read_document, repeated, show

NAME_HEADER = b"x-oblv-user-name"
ROLE_HEADER = b"x-oblv-user-role"
_RESERVED = b"x-oblv-"

# --- users -----------------------------------------------------------------------------------------------------------


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

    def by_public_key(self, public_key: bytes) -> User | None:
        """The user who holds the key, or None. It does not say that whoever sent the bytes holds it too."""
        return next((user for user in self.users if user.public_key == public_key), None)

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


# --- requests --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """200 allowed, 403 the role may not, 404 no such path; `reason` is one line for the log.

    `path` is the decoded path on which it was decided; the application is given this one and no other.
    """

    status: int
    reason: str
    path: str = ""

    @property
    def allowed(self) -> bool:
        return self.status == 200


def decide(manifest: Manifest, role: str, target: bytes) -> Decision:
    """May `role` send a request for `target`, the raw request target such as `b"/submit_value?value=5"`?

    Default deny, and no normalisation: the path before `?`, percent-decoded once, is one of the manifest's or refused.
    It looks at no method, query or header.
    """
    try:
        path = _path_of(target)
    except ValueError as error:
        return Decision(404, str(error))
    rule = _rule_for(manifest, path)
    if rule is None:
        return Decision(404, f"expected a path that the manifest lists, got {show(path)}", path)
    if role not in rule.access:
        message = f"expected one of the roles {', '.join(rule.access)} for {path}, got {show(role)}"
        return Decision(403, message, path)
    return Decision(200, f"{role} may ask for {path}", path)


def _rule_for(manifest: Manifest, path: str) -> PathRule | None:
    return next((rule for rule in manifest.paths if rule.path == path), None)


def _path_of(target: bytes) -> str:
    # RFC 9112 3.2: a target holds no space, control or non-ASCII byte; where one passes, a request can hide in another.
    if not re.fullmatch(rb"[!-~]+", target) or b"#" in target:
        raise ValueError(f"expected visible ASCII without '#' as the target, got {_show_bytes(target)}")
    raw = target.partition(b"?")[0]
    if re.search(rb"%(?![0-9A-Fa-f]{2})", raw):
        raise ValueError(f"expected two hexadecimal digits after each '%', got {_show_bytes(raw)}")
    # The application may decode again or split at what it finds: a slash that was hidden here is a slash there.
    if hidden := re.search(rb"%(2f|5c|00)", raw, re.IGNORECASE):
        raise ValueError(f"expected no hidden slash, backslash or NUL, got {hidden[0].decode()} in {_show_bytes(raw)}")
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"expected a path in UTF-8, got {_show_bytes(raw)}") from None


def _show_bytes(value: bytes) -> str:
    return show(value.decode("ascii", "backslashreplace"))


def forwarded_headers(headers: Iterable[tuple[bytes, bytes]], user: User) -> list[tuple[bytes, bytes]]:
    """The client's headers without any spelling of an X-OBLV one, then the two true ones.

    Names of the true ones are lower case, as ASGI has them; all other pairs keep their order and bytes.
    """
    kept = [(name, value) for name, value in headers if not _folded(name).startswith(_RESERVED)]
    return [*kept, (NAME_HEADER, user.name.encode("ascii")), (ROLE_HEADER, user.role.encode("ascii"))]


def _folded(name: bytes) -> bytes:
    # CGI and WSGI write `-` as `_`, and some servers `.` and space too: every separator is the same one here.
    return re.sub(rb"[^a-z0-9]", b"-", name.strip().lower())
