"""Who may ask for what: the rules that the enclave proxy enforces between a client's request and the application.

Pure and small: it knows plain values, made of a manifest and users by `access`, and neither a connection nor the
signature that proves who a user is.

Three steps for a request: `Rules.users` has the user by key, `decide` compares their role with the path, and
`forwarded_headers` tells the application who asks. Each is useless without the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from workshop_kit.service.wording import show

NAME_HEADER = b"x-oblv-user-name"
ROLE_HEADER = b"x-oblv-user-role"
_RESERVED = b"x-oblv-"

# CGI and WSGI write `-` as `_`, and some servers `.` and space too: every separator is the same one here.
_FOLDED = bytes(code if chr(code).isascii() and chr(code).isalnum() else ord("-") for code in bytes(range(256)).lower())

_VISIBLE = re.compile(rb"[!-~]+")
_HALF_AN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_HIDDEN = re.compile(rb"%(2f|5c|00)", re.IGNORECASE)


class KnownUser(NamedTuple):
    """A user, as the application is told."""

    name: str
    role: str


class Rules(NamedTuple):
    """What an enclave enforces.

    Attributes:
        paths: the roles that may ask for each.
        users: by public key, in PKCS#1 DER.
        port: where the application listens, or would.
        outbound: domains and ports that the application may reach.
    """

    paths: Mapping[str, tuple[str, ...]]
    users: Mapping[bytes, KnownUser]
    port: int
    outbound: tuple[tuple[str, int], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For another process, which reads it with `from_json`."""
        return {**self._asdict(), "users": {key.hex(): user for key, user in self.users.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Rules:
        return cls(
            paths={path: tuple(roles) for path, roles in values["paths"].items()},
            users={bytes.fromhex(key): KnownUser(*user) for key, user in values["users"].items()},
            port=values["port"],
            outbound=tuple((domain, port) for domain, port in values["outbound"]),
        )


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


def decide(rules: Rules, role: str, target: bytes) -> Decision:
    """May `role` send a request for `target`, the raw request target such as `b"/submit_value?value=5"`?

    Default deny, and no normalisation: the path before `?`, percent-decoded once, is one of the manifest's or refused.
    It looks at no method, query or header.
    """
    try:
        path = _path_of(target)
    except ValueError as error:
        return Decision(404, str(error))
    if (roles := rules.paths.get(path)) is None:
        return Decision(404, f"expected a path that the manifest lists, got {show(path)}", path)
    if role not in roles:
        message = f"expected one of the roles {', '.join(roles)} for {path}, got {show(role)}"
        return Decision(403, message, path)
    return Decision(200, f"{role} may ask for {path}", path)


def _path_of(target: bytes) -> str:
    # RFC 9112 3.2: a target holds no space, control or non-ASCII byte; where one passes, a request can hide in another.
    if not _VISIBLE.fullmatch(target) or b"#" in target:
        raise ValueError(f"expected visible ASCII without '#' as the target, got {_show_bytes(target)}")
    raw = target.partition(b"?")[0]
    if _HALF_AN_ESCAPE.search(raw):
        raise ValueError(f"expected two hexadecimal digits after each '%', got {_show_bytes(raw)}")
    # The application may decode again or split at what it finds: a slash that was hidden here is a slash there.
    if hidden := _HIDDEN.search(raw):
        raise ValueError(f"expected no hidden slash, backslash or NUL, got {hidden[0].decode()} in {_show_bytes(raw)}")
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"expected a path in UTF-8, got {_show_bytes(raw)}") from None


def _show_bytes(value: bytes) -> str:
    return show(value.decode("ascii", "backslashreplace"))


def forwarded_headers(headers: Iterable[tuple[bytes, bytes]], user: KnownUser) -> list[tuple[bytes, bytes]]:
    """The client's headers without any spelling of an X-OBLV one, then the two true ones.

    Names of the true ones are lower case, as ASGI has them; all other pairs keep their order and bytes.
    """
    kept = [(name, value) for name, value in headers if not name.strip().translate(_FOLDED).startswith(_RESERVED)]
    return [*kept, (NAME_HEADER, user.name.encode("ascii")), (ROLE_HEADER, user.role.encode("ascii"))]
