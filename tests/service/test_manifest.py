"""service.yaml is read strictly: what is accepted, what is refused, where the mistake is said to be."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from workshop_kit.errors import ManifestError
from workshop_kit.service.manifest import Manifest, parse_manifest
from workshop_kit.service.strict_yaml import MAX_BYTES

DEMO = (Path(__file__).parents[2] / "data/services/millionaires/.oblivious/service.yaml").read_text(encoding="utf-8")

SMALL = """\
auth:
  - auth_name: users
    auth_type: signed_headers
base_image: workshop_asgi
paths:
  - path: /hello
    access: reader, writer
  - path: /write
    access: writer
roles:
  - role_name: reader
    role_auth: users
    role_cardinality: 2
  - role_name: writer
    role_auth: users
    role_cardinality: 1
traffic:
  inbound:
    - name: http
      port: 80
      type: tcp
  outbound:
    - name: api
      domain: api.example.com
      port: 443
      type: tcp
"""


def changed(old: str, new: str) -> str:
    """SMALL with the first `old` replaced: a test changes one thing and says which."""
    assert old in SMALL
    return SMALL.replace(old, new, 1)


def refusal(text: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def place(text: str) -> tuple[str, int | None]:
    error = refusal(text)
    return error.path, error.line


# --- what is accepted ------------------------------------------------------------------------------------------------


def test_the_demo_manifest_promises_five_paths_to_two_queriers_and_one_way_out() -> None:
    manifest = parse_manifest(DEMO)
    paths = [rule.path for rule in manifest.paths]
    assert paths == ["/hello", "/settings", "/call", "/submit_value", "/compare"]
    assert {rule.access for rule in manifest.paths} == {("querier",)}
    assert [(role.role_name, role.role_cardinality) for role in manifest.roles] == [("querier", 2)]
    assert [entry.port for entry in manifest.traffic.inbound] == [80]
    assert [(entry.domain, entry.port) for entry in manifest.traffic.outbound] == [("example.com", 443)]
    assert manifest.base_image == "workshop_asgi"
    assert manifest.warnings == ()


def test_access_is_split_at_commas_and_keeps_its_order() -> None:
    assert parse_manifest(SMALL).paths[0].access == ("reader", "writer")


def test_sections_that_may_be_absent_may_also_be_empty() -> None:
    absent = parse_manifest(SMALL[: SMALL.index("  outbound:")])
    empty = parse_manifest(SMALL[: SMALL.index("  outbound:")] + "  outbound:\nmeta:\nbuild_args:\n")
    assert absent == empty
    assert absent.traffic.outbound == ()
    assert absent.meta.author == ""
    assert absent.paths[0].short_description == ""


def test_build_arguments_and_meta_are_kept() -> None:
    more = (
        "build_args:\n  - {name: MODEL, required_arg: true, type: string}\nmeta: {version: 1.10, docs: https://x.org}\n"
    )
    manifest = parse_manifest(SMALL + more)
    assert (manifest.build_args[0].name, manifest.build_args[0].required_arg) == ("MODEL", True)
    assert (manifest.meta.version, manifest.meta.docs) == ("1.10", "https://x.org")


@pytest.mark.parametrize("name", ["no", "on", "1.10", "2024-01-01", "0x1F", "12:30"])
def test_a_name_that_yaml_would_turn_into_another_type_stays_the_text_that_stands_there(name: str) -> None:
    assert parse_manifest(SMALL.replace("reader", name)).roles[0].role_name == name


def test_a_stray_traffic_entry_of_the_old_form_is_ignored_and_mentioned() -> None:
    manifest = parse_manifest(SMALL + '  "0":\n    name: http\n    port: 80\n')
    assert manifest.model_dump() == parse_manifest(SMALL).model_dump()
    assert len(manifest.warnings) == 1
    assert manifest.warnings[0].startswith('service.yaml:27: traffic."0": ')


def test_a_manifest_cannot_be_changed() -> None:
    manifest = parse_manifest(SMALL)
    with pytest.raises(ValidationError):
        manifest.base_image = "another"
    with pytest.raises(ValidationError):
        manifest.paths[0].path = "/another"
    assert hash(manifest) == hash(parse_manifest(SMALL))


def test_a_manifest_made_in_python_obeys_the_same_relations() -> None:
    parts = parse_manifest(SMALL).model_dump()
    assert Manifest.model_validate(parts) == parse_manifest(SMALL)
    parts["roles"][0]["role_auth"] = "nobody"
    with pytest.raises(ValidationError, match=r"roles\[0\]\.role_auth"):
        Manifest.model_validate(parts)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["auth", "base_image", "paths", "roles", "traffic"])
def test_a_required_section_that_is_absent_is_named(key: str) -> None:
    parts = yaml.safe_load(SMALL)
    del parts[key]
    assert place(yaml.safe_dump(parts)) == (key, 1)


@pytest.mark.parametrize(
    ("line", "path", "number"),
    [
        ("    auth_type: signed_headers\n", "auth[0].auth_type", 2),
        ("    access: writer\n", "paths[1].access", 8),
        ("    role_auth: users\n", "roles[0].role_auth", 11),
        ("    role_cardinality: 2\n", "roles[0].role_cardinality", 11),
        ("      port: 80\n", "traffic.inbound[0].port", 19),
        ("      type: tcp\n", "traffic.inbound[0].type", 19),
        ("      domain: api.example.com\n", "traffic.outbound[0].domain", 23),
    ],
)
def test_a_required_key_that_is_absent_has_the_line_of_its_entry(line: str, path: str, number: int) -> None:
    assert place(changed(line, "")) == (path, number)


@pytest.mark.parametrize("section", ["auth", "paths", "roles"])
def test_a_required_section_needs_an_entry(section: str) -> None:
    parts = yaml.safe_load(SMALL) | {section: []}
    error = refusal(yaml.safe_dump(parts))
    assert error.path == section
    assert "at least one entry" in str(error)


def test_an_enclave_listens_somewhere() -> None:
    without = SMALL[: SMALL.index("    - name: http")] + SMALL[SMALL.index("  outbound:") :]
    assert place(without) == ("traffic.inbound", 18)
    assert place(without.replace("inbound:", "inbound: []")) == ("traffic.inbound", 18)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("base_image:", "base_imaje:", "base_imaje"),
        ("    auth_type:", "    auth_typ:", "auth[0].auth_typ"),
        ("role_cardinality: 2", "role_cardinality: 2\n    colour: red", "roles[0].colour"),
        ("  outbound:", "  outbond:", "traffic.outbond"),
        ("roles:", "meta:\n  licence: MIT\nroles:", "meta.licence"),
        ("roles:", "outbond:\nroles:", "outbond"),
        ("  inbound:", '  "1": x\n  inbound:', 'traffic."1"'),
    ],
)
def test_an_unknown_key_is_refused_before_the_key_it_was_meant_to_be_is_missed(old: str, new: str, path: str) -> None:
    error = refusal(changed(old, new))
    assert error.path == path
    assert "expected one of the keys" in str(error)


def test_the_keys_offered_for_an_unknown_one_are_those_of_its_own_section() -> None:
    message = str(refusal(changed("    role_auth:", "    rol_auth:")))
    assert "role_name, role_auth, role_cardinality, role_description" in message


@pytest.mark.parametrize("port", ["0", "65536", "-1", "0443", "8e1", "80.0", "0x50", "8_0", "http", "''", "٨٠", "[80]"])
def test_a_port_is_a_decimal_number_from_1_to_65535(port: str) -> None:
    assert place(changed("port: 443", f"port: {port}")) == ("traffic.outbound[0].port", 25)
    assert place(changed("port: 80", f"port: {port}")) == ("traffic.inbound[0].port", 20)


@pytest.mark.parametrize("port", [1, 443, 65535])
def test_the_limits_themselves_are_ports(port: int) -> None:
    assert parse_manifest(changed("port: 443", f"port: {port}")).traffic.outbound[0].port == port


@pytest.mark.parametrize("cardinality", ["0", "-1", "1.5", "many", "9" * 5000])
def test_a_role_is_held_by_at_least_one_user(cardinality: str) -> None:
    assert place(changed("role_cardinality: 2", f"role_cardinality: {cardinality}")) == (
        "roles[0].role_cardinality",
        13,
    )


@pytest.mark.parametrize(
    "domain",
    [
        "https://api.example.com",
        "api.example.com/v1",
        "api.example.com:443",
        "'*.example.com'",
        "93.184.216.34",
        "'[2606:2800:220:1::1]'",
        "'2606:2800:220:1::1'",
        "127.1",
        "1.2.3.0x4",
        "localhost",
        "api.example.com.",
        "API.example.com",
        "api..example.com",
        "-api.example.com",
        "api_1.example.com",
        "user@example.com",
        "bücher.example",
        f"{'a' * 64}.com",
        f"{'a.' * 127}com",
        "'api.example.com '",
        '"api.example.com\\n"',
    ],
)
def test_an_outbound_domain_is_a_full_name_and_nothing_else(domain: str) -> None:
    assert place(changed("api.example.com", domain)) == ("traffic.outbound[0].domain", 24)


@pytest.mark.parametrize(
    "domain", ["example.com", "a.b.c.example.org", "xn--bcher-kva.example", "1.example.com", "a-b.io"]
)
def test_ordinary_domains_pass(domain: str) -> None:
    assert parse_manifest(changed("api.example.com", domain)).traffic.outbound[0].domain == domain


@pytest.mark.parametrize(
    "path",
    [
        "hello",
        "''",
        "https://example.com/hello",
        "/hello?x=1",
        "'/hello#top'",
        "/a/../b",
        "/a/./b",
        "/..",
        "//hello",
        "/a//b",
        "/a%2Fb",
        "/a%20b",
        "'/a b'",
        "'/a\\b'",
        "'/items/{id}'",
        "/*",
        '"/hello\\n"',
        '"/he\\u202Ello"',
    ],
)
def test_a_path_is_exact_and_has_one_spelling(path: str) -> None:
    assert place(changed("/write", path)) == ("paths[1].path", 8)


@pytest.mark.parametrize("path", ["/", "/a/b", "/a/", "/.well-known/x", "/a..b", "/größe", "/a;b", "/~x"])
def test_unusual_paths_that_have_one_spelling_pass(path: str) -> None:
    assert parse_manifest(changed("/write", path)).paths[1].path == path


@pytest.mark.parametrize("name", ['"a\\nb"', '"a,b"', "''", "' a'", "'a  b'", "größe", "a" * 65, "[a]"])
def test_a_role_name_can_travel_in_a_header(name: str) -> None:
    assert place(changed("role_name: reader", f"role_name: {name}")) == ("roles[0].role_name", 11)


@pytest.mark.parametrize("access", ["", "''", "','", "'writer,'", "'writer, writer'", "[writer]", "{writer: yes}"])
def test_access_names_each_role_once(access: str) -> None:
    error = refusal(changed("access: writer", f"access: {access}"))
    assert (error.path, error.line) == ("paths[1].access", 9)
    assert "expected role names separated by commas" in str(error) or "expected a value" in str(error)


def test_only_signed_headers_authenticate() -> None:
    assert place(changed("signed_headers", "password")) == ("auth[0].auth_type", 3)


def test_only_tcp_is_traffic() -> None:
    assert place(changed("type: tcp", "type: udp")) == ("traffic.inbound[0].type", 21)


@pytest.mark.parametrize("image", ["../../etc", "a/b", "''", ".hidden", "a b"])
def test_a_base_image_is_a_name_and_no_place(image: str) -> None:
    assert place(changed("workshop_asgi", image)) == ("base_image", 4)


@pytest.mark.parametrize(
    ("new", "path"),
    [("roles: {}", "roles"), ("roles: reader", "roles"), ("roles: [reader]", "roles[0]"), ("roles: [[]]", "roles[0]")],
)
def test_a_list_of_mappings_is_nothing_else(new: str, path: str) -> None:
    text = SMALL[: SMALL.index("roles:")] + new + "\n" + SMALL[SMALL.index("traffic:") :]
    assert place(text) == (path, 10)


# --- relations -------------------------------------------------------------------------------------------------------


def test_a_role_names_a_declared_way_to_authenticate() -> None:
    text = SMALL.replace("role_auth: users\n    role_cardinality: 1", "role_auth: user\n    role_cardinality: 1")
    error = refusal(text)
    assert (error.path, error.line) == ("roles[1].role_auth", 15)
    assert "users" in str(error)
    assert "'user'" in str(error)


def test_access_names_declared_roles() -> None:
    assert place(changed("access: reader, writer", "access: reader, wroter")) == ("paths[0].access", 7)


@pytest.mark.parametrize(
    ("old", "new", "path", "line"),
    [
        ("base_image", "  - {auth_name: users, auth_type: signed_headers}\nbase_image", "auth[1].auth_name", 4),
        ("/write", "/hello", "paths[1].path", 8),
        ("role_name: writer", "role_name: reader", "roles[1].role_name", 14),
        ("  outbound", "    - {name: http, port: 81, type: tcp}\n  outbound", "traffic.inbound[1].name", 22),
        ("  outbound", "    - {name: more, port: 80, type: tcp}\n  outbound", "traffic.inbound[1].port", 22),
        ("traffic", "build_args: [{name: A}, {name: A}]\ntraffic", "build_args[1].name", 17),
    ],
)
def test_names_and_paths_occur_once(old: str, new: str, path: str, line: int) -> None:
    text = (
        changed(old, new)
        .replace("access: reader, writer", "access: reader")
        .replace("access: writer", "access: reader")
    )
    assert place(text) == (path, line)


def test_outbound_names_occur_once() -> None:
    again = "    - {name: api, domain: www.example.com, port: 443, type: tcp}\n"
    assert place(SMALL + again) == ("traffic.outbound[1].name", 27)


def test_a_domain_and_a_port_are_opened_once() -> None:
    """Two entries for one way out: whoever removes the first believes it closed."""
    again = "    - {name: again, domain: api.example.com, port: 443, type: tcp}\n"
    error = refusal(SMALL + again)
    assert (error.path, error.line) == ("traffic.outbound[1].domain", 27)
    assert "got 'api.example.com:443' again: traffic.outbound[0] has it" in str(error)
    other_port = parse_manifest(SMALL + again.replace("443", "444"))
    assert [entry.port for entry in other_port.traffic.outbound] == [443, 444]
    assert parse_manifest(SMALL + again.replace("api.", "www.api.")).traffic.outbound[1].domain == "www.api.example.com"


# --- which mistake, and where ----------------------------------------------------------------------------------------


def test_the_message_is_one_line_with_file_line_path_expected_and_actual() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(changed("port: 443", "port: 70000"), file="demo/service.yaml")
    expected = "demo/service.yaml:25: traffic.outbound[0].port: expected a decimal number from 1 to 65535, got '70000'"
    assert str(caught.value).startswith(expected)


def test_of_two_wrong_values_the_first_in_the_text_is_reported() -> None:
    """Fields are declared in another order than this text has them."""
    head, tail = SMALL.split("traffic:")
    text = "traffic:" + tail.replace("port: 80", "port: 0") + head.replace("signed_headers", "password")
    assert place(text) == ("traffic.inbound[0].port", 4)


def test_of_two_broken_relations_the_first_in_the_text_is_reported() -> None:
    text = SMALL.replace("role_auth: users", "role_auth: user").replace("access: writer", "access: wroter")
    assert place(text) == ("paths[1].access", 9)


def test_on_one_line_the_leftmost_mistake_is_reported() -> None:
    text = changed("  - path: /write\n    access: writer\n", "  - {access: [], path: write}\n")
    assert place(text) == ("paths[1].access", 8)


def test_a_name_misspelt_where_it_is_declared_is_not_reported_where_it_is_used() -> None:
    assert place(changed("role_name: reader", "role_nam: reader")) == ("roles[0].role_nam", 11)


def test_comments_blank_lines_and_windows_line_ends_do_not_move_the_line() -> None:
    text = "# a comment\n\n" + changed("port: 443", "port: 0")
    assert place(text.replace("\n", "\r\n")) == ("traffic.outbound[0].port", 27)


# --- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected keys with values, got nothing"),
        ("# only a comment\n", "expected keys with values, got nothing"),
        ("- a\n- b\n", "expected keys with values, got a list"),
        ("text", "expected keys with values, got plain text"),
        ("auth: [", "expected valid YAML"),
        ("auth:\n\t- x", "expected valid YAML"),
        (SMALL + "---\n" + SMALL, "expected valid YAML"),
        ("? [a, b]\n: c", "expected a key of text, got a list"),
        ("? {a: b}\n: c", "expected a key of text, got a mapping"),
        ("1: 2", "expected one of the keys"),
        ("null: 2", "expected one of the keys"),
        ("<<: {auth: x}", "expected one of the keys"),
        ("auth: !!python/object/apply:os.system [id]", "got the tag"),
        ("auth: !mine x", "got the tag"),
        ("auth: \x00", "got the character #x0000"),
        ("auth: \ud800", "got the character #xd800"),
        ('auth: "\\ud800"', "expected printable text"),
        ('auth: "\\e[2J"', "expected printable text"),
        ('"\\e[2J": x', "expected printable text"),
        ('auth: "\\UFFFFFFFF"', "out of range"),
        ("%YAML " + "1" * 5000 + ".1\n---\na: b", "out of range"),
        ("[" * 5000, "expected at most 8 levels"),
        ("- " * 5000, "expected at most 8 levels"),
        ("{a: " * 5000, "expected at most 8 levels"),
    ],
)
def test_what_is_no_plain_mapping_of_text_is_a_manifest_error(text: str, says: str) -> None:
    assert says in str(refusal(text))


def test_a_mistake_in_the_yaml_has_its_line() -> None:
    assert refusal("auth:\n  - x\n  y: [\n").line == 3
    assert refusal("a: b\nc: \x07\n").line == 2


def test_a_key_written_twice_is_refused_where_pyyaml_keeps_the_last() -> None:
    error = refusal(changed("    role_cardinality: 2\n", "    role_cardinality: 2\n    role_cardinality: 9\n"))
    assert (error.path, error.line) == ("roles[0].role_cardinality", 14)
    assert "first on line 13" in str(error)
    assert place(SMALL + "auth: []\n") == ("auth", 27)


def test_a_billion_laughs_are_refused_at_the_first_anchor() -> None:
    lines = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    error = refusal("\n".join(lines))
    assert error.line == 1
    assert "anchor" in str(error)


def test_an_alias_is_refused_too() -> None:
    assert "alias" in str(refusal("a: *b"))


def test_a_text_over_64_kib_is_refused_before_it_is_parsed() -> None:
    padding = "#" * (MAX_BYTES - len(SMALL) - 1)
    assert parse_manifest(SMALL + padding + "\n")
    assert "expected at most 65536 bytes" in str(refusal(SMALL + padding + "##\n"))
    assert "expected at most 65536 bytes" in str(refusal("é" * (MAX_BYTES // 2 + 1)))


# --- any text --------------------------------------------------------------------------------------------------------

YAML_LIKE = st.text(st.sampled_from(string.ascii_lowercase[:4] + "0:-?,[]{}&*!|>'\"%@`#\\ \n\t\r~<=.x\x85\ufeff\u2028"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text(max_size=8)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def error_of(text: str) -> ManifestError | None:
    try:
        assert isinstance(parse_manifest(text), Manifest)
    except ManifestError as error:
        return error
    return None


def is_manifest_or_one_line_of_error(text: str) -> None:
    if (error := error_of(text)) is not None:
        assert str(error).isprintable()
        assert error.line is None or 1 <= error.line <= len(text.splitlines()) + 1


@given(st.text() | YAML_LIKE)
@settings(deadline=None)
@example("a: !<%ff> b")
@example("- ?")
@example('"\\x')
def test_any_text_is_a_manifest_or_a_manifest_error(text: str) -> None:
    is_manifest_or_one_line_of_error(text)


@given(st.integers(0, len(SMALL)), st.integers(0, 30), st.text(max_size=8) | YAML_LIKE)
@settings(max_examples=300, deadline=None)
def test_a_manifest_with_any_piece_replaced_is_a_manifest_or_a_manifest_error(at: int, length: int, piece: str) -> None:
    is_manifest_or_one_line_of_error(SMALL[:at] + piece + SMALL[at + length :])


@given(st.sampled_from(sorted(Manifest.model_fields)), TREES)
@settings(max_examples=200, deadline=None)
def test_a_manifest_with_any_section_replaced_is_a_manifest_or_a_manifest_error(key: str, tree: object) -> None:
    is_manifest_or_one_line_of_error(yaml.dump(yaml.safe_load(SMALL) | {key: tree}, allow_unicode=True))


def _with_flag(text: str) -> str:
    return DEMO.replace("build_args: []\n", f"build_args:\n  - {{name: MODEL, required_arg: {text}, type: string}}\n")


@pytest.mark.parametrize(("text", "flag"), [('"true"', True), ('"False"', False), ("true", True)])
def test_a_flag_may_be_text_as_some_writers_of_yaml_make_it(text: str, flag: bool) -> None:
    assert parse_manifest(_with_flag(text)).build_args[0].required_arg is flag


def test_a_flag_that_is_neither_says_what_to_write() -> None:
    assert "expected true or false, got '2': write one of the two" in str(refusal(_with_flag("2")))
