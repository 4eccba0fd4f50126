"""Who may come in by the client proxy's port: programs of this machine, and no page of another site's (SPEC, P-3).

A browser lets any page send requests to localhost. It says whose page it was in `Origin` and `Sec-Fetch-Site`, and a
name that was made to resolve to this machine (DNS rebinding) stands in `Host`; a page can write none of the three.
Other users of this machine come through a port like anybody: against them there is the Unix socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from workshop_kit.channel.framing import Headers

_NAMES = (b"127.0.0.1", b"localhost", b"[::1]")


@dataclass(frozen=True)
class Door:
    """The rules of one listening port; port None is a Unix socket, which no browser reaches."""

    port: int | None

    def refusal(self, headers: Headers) -> str:
        """Why these headers do not come in, in one line, or ""."""
        if self.port is None:
            return ""
        hosts = [value.lower() for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._authorities:
            got = b", ".join(hosts).decode("ascii", "replace") or "none"
            return f"expected this machine as Host, localhost:{self.port} or 127.0.0.1:{self.port}, got {got[:80]}"
        for name, value in headers:
            if name == b"origin" and value.lower().removeprefix(b"http://") != hosts[0]:
                return f"expected no page of another site's, got Origin {value[:80].decode('ascii', 'replace')}"
            if name == b"sec-fetch-site" and value not in (b"same-origin", b"none"):
                return "expected an address typed here or a page of this address's, got a request by another page"
        return ""

    @cached_property
    def _authorities(self) -> frozenset[bytes]:
        assert self.port is not None
        with_port = {b"%s:%d" % (name, self.port) for name in _NAMES}
        return frozenset(with_port | set(_NAMES if self.port == 80 else ()))
