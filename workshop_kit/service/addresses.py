"""Which addresses nobody reaches through a parent instance, whatever the name that led there.

Pure: it is given addresses as text. It keeps the operator's own network from an app, and promises users nothing.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple, TypeAlias

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
