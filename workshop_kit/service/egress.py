"""An enclave's way out: which names its app may reach.

Pure: it is given names as text, and resolves and dials nothing. A small process loads it, so it knows neither the
manifest nor pydantic.

Two rules in two places. `Allowlist.decide` is asked inside the enclave, in measured code: it keeps the users' data from
leaving. `addresses.unreachable` is asked by the parent instance, of what a name resolved to: it keeps the operator's
own network from an app, and promises users nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_NAME = 253
"""Characters of a domain name without its final dot (RFC 1035, 2.3.4: 255 octets on the wire)."""

_MAX_REASON = 700

# The underscore is in no host name (RFC 1123, 2.1), but in many a domain name (RFC 2181, 11).
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
# inet_aton(3) reads 127.1, 0x7f.1, 0177.1 and 2130706433 as 127.0.0.1; some resolvers wrap numbers that are too large.
_NUMBER = r"(0[xX][0-9A-Fa-f]*|[0-9]+)"
_NUMBERS = re.compile(rf"{_NUMBER}(\.{_NUMBER})*")


class EgressDecision(NamedTuple):
    """What was decided over a way out; `str` of it is one line for the log, whatever the app asked for.

    `name` is what was asked, with everything but visible ASCII escaped. An allowed one is the allowlist's own spelling:
    the parent instance is asked for this one and no other.
    """

    name: str
    port: int
    allowed: bool
    reason: str

    def __str__(self) -> str:
        verdict = "allowed" if self.allowed else "refused"
        name = f"[{self.name}]" if ":" in self.name and not self.name.startswith("[") else self.name
        return f"egress {_visible(name)}:{_decimal(self.port)} {verdict}: {_one_line(self.reason)}"


def is_address(name: str) -> bool:
    """Whether `name` is an address in any spelling that a resolver takes: IPv4, IPv6, in brackets, numbers alone."""
    bare = _bare(name.strip())
    if bare.startswith("[") and bare.endswith("]"):  # an IP-literal (RFC 3986, 3.2.2), IPvFuture too
        return True
    return _NUMBERS.fullmatch(bare) is not None or (":" in bare and _is_ipv6(bare))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def misnamed(name: str, port: int) -> str:
    """Why `name` and `port` are no domain and port, in one line; "" where they are. Knows no allowlist."""
    if not 1 <= port <= 65535:
        return f"expected a port from 1 to 65535, got {_decimal(port)}"
    bare = _bare(name)
    if not 1 <= len(bare) <= MAX_NAME:
        return f"expected a domain name of 1 to {MAX_NAME} characters, got {len(bare)}"
    if is_address(name):
        return "expected a domain, got an address, and the allowlist names domains"
    # ASCII before small letters: the Kelvin sign's small letter is an ordinary k.
    if not bare.isascii():
        return f"expected a domain name in ASCII, got {_visible(name, 60)}: write the form that begins with xn--"
    if not _NAME.fullmatch(bare):
        return f"expected a domain name of letters, digits, hyphens and dots, got {_visible(name, 60)}"
    return ""


def _bare(name: str) -> str:
    return name.removesuffix(".")  # one: the root's empty label (RFC 1034, 3.1); two are no name


class Allowlist:
    """The domains and ports that an app may reach: `(domain, port)` as `traffic.outbound` of the manifest has them.

    Exact name and port, and nothing else: no wildcard, no sub-domain, no address.
    """

    def __init__(self, pairs: Iterable[tuple[str, int]] = ()) -> None:
        ports: dict[str, list[int]] = {}
        for domain, port in pairs:
            ports.setdefault(domain, []).append(port)
        self._ports = ports

    def decide(self, name: str, port: int) -> EgressDecision:
        """May the app open a connection to `name` at `port`? Default deny; raises nothing on any text.

        A letter's case and one final dot do not matter (RFC 4343, RFC 1034 3.1).
        """
        listed = _bare(name).lower()
        if reason := misnamed(name, port) or self._missing(listed, port):
            return EgressDecision(_visible(name), port, False, reason)
        return EgressDecision(listed, port, True, "on the allowlist")

    def names(self, name: str) -> bool:
        """Whether `name` may be reached at some port."""
        return name.isascii() and _bare(name).lower() in self._ports

    def _missing(self, name: str, port: int) -> str:
        if name in self._ports:
            return "" if port in self._ports[name] else self._wrong_port(name, port)
        if not self._ports:
            return f"the allowlist is empty, without {name}: list it under traffic.outbound of service.yaml"
        parents = (name.split(".", cut)[-1] for cut in range(1, name.count(".") + 1))
        if parent := next((parent for parent in parents if parent in self._ports), None):
            return f"the allowlist has {parent}, and {name} is another name than {parent}: list it too"
        listed = ", ".join(list(self._ports)[:3]) + (", ..." if len(self._ports) > 3 else "")
        return _one_line(f"the allowlist has {listed} and not {name}: list it under traffic.outbound of service.yaml")

    def _wrong_port(self, name: str, port: int) -> str:
        ports = sorted(self._ports[name])
        listed = f"port {ports[0]}" if len(ports) == 1 else f"the ports {', '.join(map(str, ports))}"
        return _one_line(f"the allowlist has {name} with {listed}, not {port}")


def _visible(text: str, limit: int = MAX_NAME) -> str:
    """`text` in visible ASCII, anything else escaped: no space either, or a name could continue a log line."""
    return _cut("".join(map(_escape, text[: limit + 1])), limit)


def _escape(char: str) -> str:
    if "!" <= char <= "~":
        return char
    return r"\x20" if char == " " else char.encode("unicode_escape").decode("ascii")


def _one_line(text: str) -> str:
    whole = text[: _MAX_REASON + 1]
    return _cut("".join(char if char.isprintable() else _escape(char) for char in whole), _MAX_REASON)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _decimal(number: int) -> str:
    return str(number) if abs(number) < 10**9 else "a number of more than nine digits"  # int → str has a limit
