"""Which names an app may reach, and which addresses nobody reaches through a parent instance."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workshop_kit.service.addresses import unreachable
from workshop_kit.service.egress import Allowlist, EgressDecision, is_address, misnamed

LISTED = Allowlist(
    [("example.com", 443), ("api.example.org", 8443), ("api.example.org", 443), ("xn--bcher-kva.de", 443)]
)


def refused(name: str, port: int = 443, allowlist: Allowlist = LISTED) -> str:
    decision = allowlist.decide(name, port)
    assert not decision.allowed
    return decision.reason


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "port"),
    [("example.com", 443), ("api.example.org", 443), ("api.example.org", 8443), ("xn--bcher-kva.de", 443)],
)
def test_a_listed_name_is_allowed_at_its_ports(name: str, port: int) -> None:
    assert LISTED.decide(name, port) == EgressDecision(name, port, True, "on the allowlist")


@pytest.mark.parametrize("name", ["EXAMPLE.com", "example.com.", "Example.Com."])
def test_case_and_one_final_dot_do_not_matter_and_the_allowlists_spelling_is_handed_on(name: str) -> None:
    assert LISTED.decide(name, 443) == EgressDecision("example.com", 443, True, "on the allowlist")


def test_two_final_dots_are_no_name() -> None:
    assert "letters, digits, hyphens and dots" in refused("example.com..")


def test_a_listed_name_on_another_port_is_refused_with_the_ports_it_has() -> None:
    assert refused("example.com", 80) == "the allowlist has example.com with port 443, not 80"
    assert refused("api.example.org", 80) == "the allowlist has api.example.org with the ports 443, 8443, not 80"


@pytest.mark.parametrize("name", ["sub.example.com", "a.b.example.com", "SUB.example.com."])
def test_a_sub_domain_is_another_name(name: str) -> None:
    assert "is another name than example.com" in refused(name)


@pytest.mark.parametrize("name", ["com", "example.co", "notexample.com", "example.com.evil.org", "example.org"])
def test_a_name_that_is_alike_is_not_listed(name: str) -> None:
    assert f"and not {name}: list it under traffic.outbound" in refused(name)


def test_an_empty_allowlist_allows_nothing_and_says_that_it_is_empty() -> None:
    assert "the allowlist is empty" in refused("example.com", allowlist=Allowlist())


ADDRESSES = [
    "93.184.215.14",
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "0x7f.1",
    "0X7F.0.0.1",
    "0177.0.0.1",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "127.0.0.1 ",
    "4294967297",
    "::1",
    "[::1]",
    "2606:4700::1111",
    "[2606:4700::1111]",
    "::ffff:127.0.0.1",
    "fe80::1%eth0",
    "[fe80::1%25eth0]",
    "[v1.example]",
]


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_in_any_spelling_is_refused_as_one(name: str) -> None:
    assert "an address, and the allowlist names domains" in refused(name)
    assert is_address(name)


@given(st.text("0123456789abcdefxX.", max_size=20))
@example("0x7f.1")
@example("1.2.3.4.5")
def test_whatever_inet_aton_reads_is_an_address(name: str) -> None:
    try:
        socket.inet_aton(name)
    except OSError:
        return
    assert is_address(name)


@pytest.mark.parametrize("name", ["example.com", "1.example.com", "0x7f.com", "dead.beef", "7f", "xn--0.com", "a"])
def test_a_domain_is_no_address_however_alike(name: str) -> None:
    assert not is_address(name)
    assert misnamed(name, 443) == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "1 to 253 characters, got 0"),
        (".", "1 to 253 characters, got 0"),
        (f"{'a' * 63}." * 4 + "com", "1 to 253 characters, got 259"),
        ("a" * 64 + ".com", "letters, digits, hyphens and dots"),
        ("example..com", "letters, digits, hyphens and dots"),
        (".example.com", "letters, digits, hyphens and dots"),
        ("-example.com", "letters, digits, hyphens and dots"),
        ("example.com:443", "letters, digits, hyphens and dots"),
        ("user@example.com", "letters, digits, hyphens and dots"),
        ("*.example.com", "letters, digits, hyphens and dots"),
        ("example%2ecom", "letters, digits, hyphens and dots"),
        ("example.com\0.evil.org", r"got example.com\x00.evil.org"),
        ("example.com\r\nhost: x", r"got example.com\r\nhost:\x20x"),
        (" example.com", r"got \x20example.com"),
        ("example.com\n", r"got example.com\n"),
        ("b\u00fccher.de", r"in ASCII, got b\xfccher.de: write the form that begins with xn--"),
        ("example\u3002com", "in ASCII"),
        ("ex\u0430mple.com", "in ASCII"),
        ("\ud800.com", "in ASCII"),
    ],
)
def test_what_is_no_domain_name_is_refused_as_such(name: str, words: str) -> None:
    assert words in refused(name)


def test_a_character_whose_small_letter_is_ascii_is_not_that_letter() -> None:
    listed = Allowlist([("kb.example", 443)])
    assert "\u212ab.example".lower() == "kb.example"  # the Kelvin sign
    assert "in ASCII" in refused("\u212ab.example", allowlist=listed)


@pytest.mark.parametrize("name", ["example.com", "EXAMPLE.com.", "api.example.org"])
def test_a_listed_name_is_known_whatever_the_port(name: str) -> None:
    assert LISTED.names(name)


@pytest.mark.parametrize("name", ["", "com", "sub.example.com", "example.com..", "\u212ab.example"])
def test_a_name_that_no_port_allows_is_not_known(name: str) -> None:
    assert not Allowlist([("example.com", 443), ("kb.example", 443)]).names(name)


@pytest.mark.parametrize("port", [0, -1, 65536, 10**9, 10**5000], ids=["0", "-1", "65536", "10^9", "10^5000"])
def test_a_port_is_a_number_of_16_bits_and_not_nought(port: int) -> None:
    decision = Allowlist([("example.com", port)]).decide("example.com", port)
    assert not decision.allowed
    assert decision.reason.startswith("expected a port from 1 to 65535, got ")
    assert str(decision).isprintable()


def test_both_lines_of_the_log() -> None:
    assert str(LISTED.decide("example.com", 443)) == "egress example.com:443 allowed: on the allowlist"
    expected = "egress example.com:80 refused: the allowlist has example.com with port 443, not 80"
    assert str(LISTED.decide("example.com", 80)) == expected
    assert str(LISTED.decide("::1", 80)).startswith("egress [::1]:80 refused: ")


@pytest.mark.parametrize(
    "name",
    [
        "x refused: no\negress example.com:443 allowed: on the allowlist",
        "example.com:443 allowed: on the allowlist",
        "\x1b[2K\regress example.com",
        "\u202emoc.elpmaxe",
        "\u2028egress",
    ],
)
def test_a_name_cannot_forge_a_line_of_the_log(name: str) -> None:
    line = str(LISTED.decide(name, 443))
    assert line.isprintable()
    assert line.isascii()
    assert " allowed: " not in line
    assert line.split(" ")[2] == "refused:"


def test_a_decision_made_of_any_text_is_one_line() -> None:
    line = str(EgressDecision("a\nb" * 999, 443, False, "because\r\nof \x1b this " * 999))
    assert line.isprintable()
    assert len(line) < 1100


NAMES = st.text() | st.text("exampl.com-EXAMPL0123456789:[]%x \n\\") | st.sampled_from(ADDRESSES)


@given(NAMES, st.integers() | st.integers(0, 65535))
def test_any_text_gets_one_printable_line_and_never_raises(name: str, port: int) -> None:
    decision = LISTED.decide(name, port)
    assert all(part.isprintable() for part in (decision.name, decision.reason, str(decision)))
    assert len(decision.name) <= 253
    assert decision.name.isascii()
    assert decision.reason


@given(
    st.sampled_from(["example.com", "api.example.org", "other.org"]).flatmap(
        lambda name: st.tuples(*(st.sampled_from((char, char.upper())) for char in name)).map("".join)
    ),
    st.sampled_from(["", ".", ".."]),
    st.sampled_from([443, 8443, 80]),
)
def test_allowed_is_exactly_what_is_listed_by_a_plain_comparison(name: str, dots: str, port: int) -> None:
    pairs = {("example.com", 443), ("api.example.org", 443), ("api.example.org", 8443)}
    expected = dots != ".." and (name.lower(), port) in pairs
    assert LISTED.decide(name + dots, port).allowed == expected


@given(NAMES)
def test_nothing_but_a_listed_name_is_ever_allowed(name: str) -> None:
    if LISTED.decide(name, 443).allowed:
        assert name.lower().removesuffix(".") in ("example.com", "api.example.org", "xn--bcher-kva.de")


def test_the_rules_load_nothing_heavy() -> None:
    script = "import workshop_kit.service.egress, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "yaml", "cryptography", "asyncio", "socket", "ssl", "dataclasses"} & set(loaded)


# --- addresses -------------------------------------------------------------------------------------------------------

GLOBAL = [
    "93.184.215.14",
    "8.8.8.8",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "168.63.129.15",
    "192.31.196.1",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700::1111",
    "2001:200::1",
    "2001:db9::1",
    "2003::1",
    "2620:4f:8000::1",
    "3ffe::1",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", GLOBAL)
def test_a_global_address_passes_also_next_to_a_special_network(address: str) -> None:
    assert unreachable(address) == ""


KINDS = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "reserved for this network",
    "10.255.255.255": "private",
    "100.64.0.1": "shared",
    "100.100.100.200": "metadata service",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "metadata service",
    "169.254.1.1": "link-local",
    "169.254.169.254": "metadata service",
    "172.16.0.1": "private",
    "192.0.0.192": "metadata service",
    "192.0.0.8": "reserved for protocols",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4",
    "192.168.1.1": "private",
    "198.18.0.1": "benchmarking",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "224.0.0.1": "multicast",
    "240.0.0.1": "reserved (RFC 1112)",
    "255.255.255.255": "broadcast",
    "::": "unspecified",
    "::1": "loopback",
    "64:ff9b:1::808:808": "NAT64 for local use",
    "100::1": "discarded",
    "2001:2::1": "benchmarking",
    "2001:1::1": "reserved for protocols",
    "2001:20::1": "reserved for protocols",
    "2001:db8::1": "documentation",
    "3fff:fff::1": "documentation",
    "4000::1": "reserved (RFC 4291)",
    "5f00::1": "segment routing",
    "fc00::1": "unique local",
    "fd00:ec2::254": "metadata service",
    "fe80::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "fe80::1%eth0": "one network interface only",
    "2606:4700::1111%1": "one network interface only",
}


@pytest.mark.parametrize(("address", "kind"), KINDS.items())
def test_a_special_address_is_refused_for_what_it_is(address: str, kind: str) -> None:
    assert kind in unreachable(address)


def test_what_holds_no_address_inside_is_not_said_to_hold_one() -> None:
    assert unreachable("::1") == "loopback (RFC 4291)"
    assert unreachable("::") == "unspecified (RFC 4291)"


@pytest.mark.parametrize(
    "text",
    ["", "example.com", "127.1", "010.0.0.1", "8.8.8.8 ", "8.8.8.8/32", "[2606:4700::1111]", "\uff18.8.8.8", "1" * 99],
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    assert unreachable(text) == "no address"


def carried(inner: str) -> dict[str, ipaddress.IPv6Address]:
    """An IPv4 address as each of the IPv6 addresses that carry one, made by arithmetic of its own."""
    bits = int(ipaddress.IPv4Address(inner))
    return {
        "IPv4-compatible": ipaddress.IPv6Address(bits),
        "IPv4-mapped": ipaddress.IPv6Address(f"::ffff:{inner}"),
        "NAT64 (RFC 6052)": ipaddress.IPv6Address(f"64:ff9b::{inner}"),
        "NAT64 for local use": ipaddress.IPv6Address(f"64:ff9b:1::{inner}"),
        "6to4": ipaddress.IPv6Address(f"2002:{bits >> 16:x}:{bits & 0xFFFF:x}::1"),
        "Teredo": ipaddress.IPv6Address(f"2001:0:808:808:0:0:{~bits >> 16 & 0xFFFF:x}:{~bits & 0xFFFF:x}"),
    }


@pytest.mark.parametrize("carrier", carried("10.0.0.1"))
@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        ("10.0.0.1", "private"),
        ("127.0.0.1", "loopback"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
    ],
)
def test_an_address_inside_an_address_is_refused_for_what_it_is(carrier: str, inner: str, kind: str) -> None:
    words = unreachable(str(carried(inner)[carrier]))
    assert words.startswith(carrier)
    assert f"for {inner}, which is " in words
    assert kind in words


def test_with_a_global_address_inside_nat64_passes_and_no_other() -> None:
    passing = [carrier for carrier, address in carried("93.184.215.14").items() if not unreachable(str(address))]
    assert passing == ["NAT64 (RFC 6052)"]


@given(st.ip_addresses(v=4))
def test_nat64_passes_exactly_what_the_address_inside_passes(inner: ipaddress.IPv4Address) -> None:
    assert bool(unreachable(f"64:ff9b::{inner}")) == bool(unreachable(str(inner)))


# The registries once more, in an order of their own: a line lost in the module is found here.
# fmt: off
NETWORKS = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "::/96", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64",
    "100:0:0:1::/64", "2001::/23", "2001::/32", "2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28",
    "2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10",
    "fec0::/10", "ff00::/8", "::/8", "100::/8", "200::/7", "400::/6", "800::/5", "1000::/4", "4000::/3", "6000::/3",
    "8000::/3", "a000::/3", "c000::/3", "e000::/4", "f000::/5", "f800::/6", "fe00::/9",
]
# fmt: on
SPECIAL = st.sampled_from(NETWORKS).flatmap(lambda network: st.ip_addresses(network=network))


@given(SPECIAL)
def test_no_address_of_a_special_network_passes(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address not in ipaddress.ip_network("64:ff9b::/96"):
        assert unreachable(str(address))


@pytest.mark.parametrize("text", NETWORKS)
def test_the_first_and_the_last_address_of_a_special_network_are_refused(text: str) -> None:
    network = ipaddress.ip_network(text)
    assert unreachable(str(network[0]))
    assert unreachable(str(network[-1]))


@given(st.ip_addresses() | SPECIAL | st.ip_addresses(network="2000::/3"))
def test_what_pythons_own_table_calls_not_global_is_refused(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Its table is another's reading of the same registries; ours refuses more."""
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        assert unreachable(str(address)) or address in ipaddress.ip_network("64:ff9b::/96")


@given(st.text())
def test_any_text_gets_words_in_one_line(text: str) -> None:
    assert unreachable(text).isprintable()
