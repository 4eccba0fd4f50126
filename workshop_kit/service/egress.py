"""An enclave's way out: which names its app may reach, and which addresses nobody reaches through a parent instance.

Pure: it is given names and addresses as text, and resolves and dials nothing. A small process loads it, so it knows
neither the manifest nor pydantic.

Two rules in two places. `Allowlist.decide` is asked inside the enclave, in measured code: it keeps the users' data from
leaving. `unreachable` is asked by the parent instance, of what a name resolved to: it keeps the operator's own network
from an app, and promises users nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

MAX_NAME = 253
"""Characters of a domain name without its final dot (RFC 1035, 2.3.4: 255 octets on the wire)."""

_MAX_REASON = 700

# --- names -----------------------------------------------------------------------------------------------------------

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


# --- addresses -------------------------------------------------------------------------------------------------------

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Special(NamedTuple):
    network: _Network
    kind: str
    source: str


# The IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), with what they leave to other ones:
# multicast, and what clouds answer at. Written out, since `ipaddress.is_global` differs between versions of Python.
# The first match counts. Four of the registries' blocks are left out, since they are reachable from anywhere by design:
# 192.31.196.0/24, 192.175.48.0/24 and 2620:4f:8000::/48 (AS112), 192.52.193.0/24 (AMT).
_SPECIAL = tuple(
    _Special(ipaddress.ip_network(network), kind, source)
    for network, kind, source in (
        ("169.254.169.254/32", "a cloud's metadata service", "AWS, Azure, Google Cloud"),
        ("168.63.129.16/32", "a cloud's metadata service", "Azure; a global address"),
        ("100.100.100.200/32", "a cloud's metadata service", "Alibaba Cloud"),
        ("192.0.0.192/32", "a cloud's metadata service", "Oracle Cloud"),
        ("fd00:ec2::254/128", "a cloud's metadata service", "AWS"),
        ("0.0.0.0/32", "unspecified", "RFC 1122"),
        ("0.0.0.0/8", "reserved for this network", "RFC 791"),
        ("10.0.0.0/8", "private", "RFC 1918"),
        ("100.64.0.0/10", "shared by a provider's customers", "RFC 6598"),
        ("127.0.0.0/8", "loopback", "RFC 1122"),
        ("169.254.0.0/16", "link-local", "RFC 3927"),
        ("172.16.0.0/12", "private", "RFC 1918"),
        ("192.0.0.0/24", "reserved for protocols", "RFC 6890"),
        ("192.0.2.0/24", "for documentation", "RFC 5737"),
        ("192.88.99.0/24", "reserved, once for 6to4 relays", "RFC 7526"),
        ("192.168.0.0/16", "private", "RFC 1918"),
        ("198.18.0.0/15", "for benchmarking", "RFC 2544"),
        ("198.51.100.0/24", "for documentation", "RFC 5737"),
        ("203.0.113.0/24", "for documentation", "RFC 5737"),
        ("224.0.0.0/4", "multicast", "RFC 5771"),
        ("255.255.255.255/32", "broadcast", "RFC 919"),
        ("240.0.0.0/4", "reserved", "RFC 1112"),
        ("::/128", "unspecified", "RFC 4291"),
        ("::1/128", "loopback", "RFC 4291"),
        ("::/96", "IPv4-compatible", "RFC 4291"),
        ("::ffff:0:0/96", "IPv4-mapped", "RFC 4291"),
        ("64:ff9b:1::/48", "NAT64 for local use", "RFC 8215"),
        ("100::/64", "for packets to be discarded", "RFC 6666"),
        ("2001::/32", "Teredo", "RFC 4380"),
        ("2001:2::/48", "for benchmarking", "RFC 5180"),
        ("2001::/23", "reserved for protocols", "RFC 2928"),
        ("2001:db8::/32", "for documentation", "RFC 3849"),
        ("2002::/16", "6to4", "RFC 3056"),
        ("3fff::/20", "for documentation", "RFC 9637"),
        ("5f00::/16", "for segment routing", "RFC 9602"),
        ("fc00::/7", "unique local", "RFC 4193"),
        ("fe80::/10", "link-local", "RFC 4291"),
        ("fec0::/10", "site-local", "RFC 3879"),
        ("ff00::/8", "multicast", "RFC 4291"),
    )
)


class _Carrier(NamedTuple):
    """IPv6 addresses with an IPv4 address in them: `shift` bits from their end, every bit turned where `mask` says."""

    network: ipaddress.IPv6Network
    shift: int
    mask: int = 0


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: how a name's IPv4 address looks on an IPv6-only network
_CARRIERS = (
    _Carrier(ipaddress.IPv6Network("::/96"), 0),
    _Carrier(ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    _Carrier(_NAT64, 0),
    _Carrier(ipaddress.IPv6Network("64:ff9b:1::/48"), 0),
    _Carrier(ipaddress.IPv6Network("2002::/16"), 80),
    _Carrier(ipaddress.IPv6Network("2001::/32"), 0, 0xFFFFFFFF),  # the client's address; the server's is a public one
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA assigns from (RFC 4291, 2.4 and 4)


def unreachable(address: str) -> str:
    """What an address is that an app may not reach, fit to follow "which is"; "" where it is global unicast.

    An IPv4 address inside an IPv6 one is judged too. Of those, NAT64 under its well-known prefix passes with a global
    address inside; the others are refused with any, since no name needs them.

    It does not know what a network does with a global address, such as NAT64 under a prefix of the operator's own.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "no address"
    if isinstance(parsed, ipaddress.IPv4Address):
        return _special(parsed)
    if parsed.scope_id is not None:
        return "for one network interface only (RFC 4007: it has a scope id)"
    return _unreachable_ipv6(parsed)


def _unreachable_ipv6(address: ipaddress.IPv6Address) -> str:
    words, inner = _special(address), _inside(address)
    if inner is None or words.startswith(("unspecified", "loopback")):
        return words or ("" if address in _GLOBAL_UNICAST else "reserved (RFC 4291)")
    if inside := _special(inner):
        return f"{words or 'NAT64 (RFC 6052)'} for {inner}, which is {inside}"
    return words


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    for network, shift, mask in _CARRIERS:
        if address in network:
            return ipaddress.IPv4Address((int(address) >> shift & 0xFFFFFFFF) ^ mask)
    return None


def _special(address: _Address) -> str:
    found = next((each for each in _SPECIAL if address in each.network), None)
    return f"{found.kind} ({found.source})" if found else ""
