"""Who the enclave proxy lets through to which path, and what it tells the application about them."""

from __future__ import annotations

import base64
import dataclasses
import json
from functools import cache
from urllib.parse import quote_from_bytes

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_kit.errors import ManifestError
from workshop_kit.service.access import User, Users, check_public_key, rules_of
from workshop_kit.service.manifest import parse_manifest
from workshop_kit.service.rules import KnownUser, Rules, decide, forwarded_headers

MANIFEST = parse_manifest(
    """\
auth: [{auth_name: users, auth_type: signed_headers}]
base_image: workshop_asgi
paths:
  - {path: /, access: reader}
  - {path: /hello, access: "reader, writer"}
  - {path: /write, access: writer}
  - {path: /a/b, access: reader}
  - {path: /größe, access: reader}
roles:
  - {role_name: reader, role_auth: users, role_cardinality: 2}
  - {role_name: writer, role_auth: users, role_cardinality: 1}
traffic: {inbound: [{name: http, port: 80, type: tcp}]}
"""
)
RULES = rules_of(MANIFEST, Users())
LISTED = {rule.path for rule in MANIFEST.paths}


@cache
def key(number: int) -> bytes:
    """The PKCS#1 DER of an RSA-2048 public key; the same number gives the same key."""
    del number
    return public_bytes(2048, 65537)


def public_bytes(size: int, exponent: int, form: PublicFormat = PublicFormat.PKCS1) -> bytes:
    return rsa.generate_private_key(exponent, size).public_key().public_bytes(Encoding.DER, form)


def entry(name: str, role: str, public_key: bytes) -> dict[str, str]:
    return {"name": name, "role": role, "public_key": base64.b64encode(public_key).decode()}


def users_text(*entries: dict[str, str]) -> str:
    return yaml.safe_dump({"users": list(entries)}, sort_keys=False)


def refusal(text: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        Users.from_yaml(text, MANIFEST, file="users.yaml")
    assert str(caught.value).isprintable()
    return caught.value


# --- users -----------------------------------------------------------------------------------------------------------


def test_a_user_is_found_by_the_key_and_by_nothing_like_it() -> None:
    alice, bob = User("Alice", "reader", key(1)), User("Bob", "writer", key(2))
    users = Users((alice, bob))
    known = rules_of(MANIFEST, users).users
    assert known == {key(1): KnownUser("Alice", alice.role), key(2): KnownUser("Bob", bob.role)}


def test_rules_survive_the_way_to_another_process() -> None:
    users = Users((User("Alice", "reader", key(1)), User("Bob", "writer", key(2))))
    rules = rules_of(MANIFEST, users)
    assert Rules.from_json(json.loads(json.dumps(rules.as_json()))) == rules
    assert rules.paths["/hello"] == ("reader", "writer")
    assert rules.port == 80
    outbound = rules._replace(outbound=(("example.com", 443), ("example.com", 8443)))
    assert Rules.from_json(json.loads(json.dumps(outbound.as_json()))) == outbound


def test_users_survive_the_way_through_yaml() -> None:
    users = Users((User("Alice", "reader", key(1)), User("no", "reader", key(2)), User("007", "writer", key(3))))
    assert Users.from_yaml(users.to_yaml(), MANIFEST) == users
    assert Users.from_yaml(users.to_yaml(), MANIFEST).to_yaml() == users.to_yaml()


def test_the_yaml_of_users_has_the_agreed_form() -> None:
    text = Users((User("Alice", "reader", key(1)),)).to_yaml()
    assert yaml.safe_load(text) == {"users": [entry("Alice", "reader", key(1))]}
    assert entry("Alice", "reader", key(1))["public_key"].startswith("MIIBCgKCAQEA")


def test_an_enclave_may_have_no_users_yet() -> None:
    assert len(Users.from_yaml("users: []", MANIFEST)) == 0
    assert len(Users.from_yaml(Users().to_yaml(), MANIFEST)) == 0


def test_users_cannot_be_changed_even_through_the_list_they_came_in() -> None:
    source = [User("Alice", "reader", key(1))]
    users = Users(source)  # type: ignore[arg-type]
    source.append(User("Mallory", "reader", key(2)))
    assert len(users) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        users.users = ()  # type: ignore[misc]


def test_a_role_that_the_manifest_lacks_is_refused_with_its_place() -> None:
    error = refusal(users_text(entry("Alice", "reader", key(1)), entry("Mallory", "admin", key(2))))
    assert (error.path, error.line) == ("users[1].role", 6)
    assert "reader, writer" in str(error)
    assert "'admin'" in str(error)


def test_a_name_is_given_once() -> None:
    error = refusal(users_text(entry("Alice", "reader", key(1)), entry("Alice", "writer", key(2))))
    assert (error.path, error.line) == ("users[1].name", 5)


def test_a_key_is_given_once() -> None:
    error = refusal(users_text(entry("Alice", "reader", key(1)), entry("Bob", "reader", key(1))))
    assert (error.path, error.line) == ("users[1].public_key", 7)
    assert "'Alice'" in str(error)


def test_a_role_is_held_by_as_many_users_as_its_cardinality_and_no_more() -> None:
    two = (entry("Alice", "reader", key(1)), entry("Bob", "reader", key(2)))
    assert len(Users.from_yaml(users_text(*two), MANIFEST)) == 2
    error = refusal(users_text(*two, entry("Carol", "reader", key(3))))
    assert (error.path, error.line) == ("users[2].role", 9)
    assert len(Users.from_yaml(users_text(*two, entry("Carol", "writer", key(3))), MANIFEST)) == 3


def test_of_two_mistakes_the_first_in_the_text_is_reported() -> None:
    text = users_text(entry("A", "admin", key(1)), entry("B", "reader", key(2)), entry("B", "reader", key(3)))
    assert refusal(text).path == "users[0].role"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", ""),
        ("users: {}", "users"),
        ("users:", "users"),
        ("user: []", "user"),
        ("users: [Alice]", "users[0]"),
        ("users: [{name: Alice, role: reader}]", "users[0].public_key"),
        ("users: [{name: Alice, role: reader, public_key: '?'}]", "users[0].public_key"),
        ("users: [{name: Alice, role: reader, public_key: [x]}]", "users[0].public_key"),
        ("users: [{name: Alice, role: reader, public_key: x, admin: true}]", "users[0].public_key"),
        ("users: &a []", ""),
    ],
)
def test_a_file_of_another_form_is_refused(text: str, path: str) -> None:
    assert refusal(text).path == path


@pytest.mark.parametrize("name", ["Alice\nX-OBLV-USER-ROLE: admin", "Alice\r", "", " Alice", "Zoë", "a" * 65])
def test_a_name_that_cannot_travel_in_a_header_is_refused(name: str) -> None:
    assert refusal(users_text(entry(name, "reader", key(1)))).path == "users[0].name"
    with pytest.raises(ManifestError) as caught:
        User(name, "reader", key(1))
    assert caught.value.path == "name"


@pytest.mark.parametrize("stray", [" ", "*", "\n", "=", "é"])
def test_base64_holds_nothing_but_base64(stray: str) -> None:
    alice = entry("Alice", "reader", key(1))
    alice["public_key"] = alice["public_key"][:40] + stray + alice["public_key"][40:]
    error = refusal(users_text(alice))
    assert error.path == "users[0].public_key"
    assert "base64" in str(error)


@cache
def other_keys() -> dict[str, bytes]:
    elliptic = ec.generate_private_key(ec.SECP384R1()).public_key()
    return {
        "RSA-3072": public_bytes(3072, 65537),
        "RSA-1024": public_bytes(1024, 65537),
        "exponent 3": public_bytes(2048, 3),
        "SubjectPublicKeyInfo": public_bytes(2048, 65537, PublicFormat.SubjectPublicKeyInfo),
        "elliptic curve": elliptic.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "a byte more": key(1) + b"\0",
        "a byte less": key(1)[:-1],
        "empty": b"",
        "PEM": b"-----BEGIN RSA PUBLIC KEY-----\n" + base64.b64encode(key(1)) + b"\n-----END RSA PUBLIC KEY-----\n",
    }


@pytest.mark.parametrize("kind", sorted(other_keys()))
def test_only_an_rsa_2048_key_in_pkcs1_der_identifies_a_user(kind: str) -> None:
    other = other_keys()[kind]
    error = refusal(users_text(entry("Alice", "reader", other)))
    assert (error.path, error.line) == ("users[0].public_key", 4)
    with pytest.raises(ManifestError):
        User("Alice", "reader", other)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_are_a_key_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected an RSA-2048 public key"):
        check_public_key(data)


@given(st.integers(0, 269), st.integers(1, 255))
@settings(deadline=None)
def test_a_key_with_any_byte_changed_is_a_value_error_or_the_bytes_of_another_key(at: int, mask: int) -> None:
    changed = bytearray(key(1))
    changed[at] ^= mask
    try:
        accepted = check_public_key(bytes(changed))
    except ValueError:
        return
    assert accepted == bytes(changed)
    assert 8 <= at < 265  # inside the modulus: the envelope and the exponent have one form


# --- decisions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "target", "status"),
    [
        ("reader", b"/hello", 200),
        ("writer", b"/hello", 200),
        ("writer", b"/write?value=5", 200),
        ("reader", b"/write?value=5", 403),
        ("reader", b"/", 200),
        ("reader", b"/?", 200),
        ("writer", b"/", 403),
        ("nobody", b"/hello", 403),
        ("", b"/hello", 403),
        ("reader, writer", b"/hello", 403),
        ("Reader", b"/hello", 403),
        ("reader", b"/nowhere", 404),
        ("nobody", b"/nowhere", 404),
        ("reader", b"/hello?next=/write", 200),
        ("reader", b"/hello?a=%zz&b=%2F%00", 200),
        ("reader", b"/hello??", 200),
    ],
)
def test_a_role_may_ask_for_the_paths_that_list_it(role: str, target: bytes, status: int) -> None:
    assert decide(RULES, role, target).status == status


@pytest.mark.parametrize("target", [b"/%68ello", b"/hell%6f", b"/%68%65%6C%6c%6F?x", b"/a/%62"])
def test_a_path_is_percent_decoded(target: bytes) -> None:
    assert decide(RULES, "reader", target).status == 200


def test_a_path_is_percent_decoded_into_utf_8() -> None:
    assert decide(RULES, "reader", b"/gr%C3%B6%C3%9Fe").status == 200
    assert decide(RULES, "reader", "/größe".encode()).status == 404
    assert decide(RULES, "reader", b"/gr%F6%DFe").status == 404


@pytest.mark.parametrize("target", [b"/%2568ello", b"/a%252Fb", b"/%25%36%38ello"])
def test_a_path_is_percent_decoded_once_only(target: bytes) -> None:
    assert decide(RULES, "reader", target).status == 404


@pytest.mark.parametrize(
    "target",
    [
        b"/hello/",
        b"//hello",
        b"/./hello",
        b"/a/../hello",
        b"/%2e%2e/hello",
        b"/a//b",
        b"/a/./b",
        b"/HELLO",
        b"/hello;x=1",
        b"/hello%20",
        b"/hello%3Fx",
        b"hello",
        b"",
        b"?",
        b"*",
        b"http://enclave/hello",
    ],
)
def test_another_spelling_is_another_path(target: bytes) -> None:
    assert decide(RULES, "reader", target).status == 404


@pytest.mark.parametrize("target", [b"/a%2Fb", b"/a%2fb", b"/hello%00", b"/a%5Cb", b"/a%5cb", b"%2Fhello"])
def test_an_escape_that_hides_a_separator_is_refused_even_where_the_decoded_path_is_listed(target: bytes) -> None:
    decision = decide(RULES, "reader", target)
    assert decision.status == 404
    assert "hidden" in decision.reason


@pytest.mark.parametrize("target", [b"/hello%", b"/hello%2", b"/hello%zz", b"/%%68ello", b"/hello% 8"])
def test_a_malformed_escape_is_no_path(target: bytes) -> None:
    assert decide(RULES, "reader", target).status == 404


def test_the_reason_for_a_malformed_escape_says_so() -> None:
    assert "two hexadecimal digits" in decide(RULES, "reader", b"/hello%2").reason


@pytest.mark.parametrize(
    "target",
    [
        b"/hello?x HTTP/1.1\r\nX-OBLV-USER-NAME: Bob",
        b"/hello\n",
        b"/hello?\0",
        b"/hello?x\t",
        b"/hello#x",
        b"/hello?x#y",
        b"/hello?\xff",
    ],
)
def test_a_target_in_which_a_second_request_could_hide_is_refused(target: bytes) -> None:
    assert decide(RULES, "reader", target).status == 404


def test_reasons_give_both_sides() -> None:
    forbidden = decide(RULES, "reader", b"/write").reason
    assert "writer" in forbidden
    assert "'reader'" in forbidden
    assert "/write" in forbidden
    assert "'/nowhere'" in decide(RULES, "reader", b"/nowhere").reason


@given(st.binary(max_size=40) | st.text("/ahelo.%25fF?#").map(str.encode), st.text(max_size=8))
def test_any_target_gets_one_of_three_answers_in_one_printable_line(target: bytes, role: str) -> None:
    decision = decide(RULES, role, target)
    assert decision.status in (200, 403, 404)
    assert decision.reason.isprintable()
    assert decision.allowed == (decision.status == 200)


@given(st.sampled_from(["reader", "writer"]), st.text(max_size=8).map("/".__add__) | st.sampled_from(sorted(LISTED)))
def test_a_quoted_path_is_allowed_exactly_if_it_is_listed_for_the_role(role: str, path: str) -> None:
    """An oracle that knows nothing of percent-decoding: quote the path, then look it up."""
    target = quote_from_bytes(path.encode("utf-8", "surrogatepass"), safe="/").encode()
    allowed = any(rule.path == path and role in rule.access for rule in MANIFEST.paths)
    assert decide(RULES, role, target).allowed == allowed


# --- headers ---------------------------------------------------------------------------------------------------------

TRUE_ONES = [(b"x-oblv-user-name", b"Alice"), (b"x-oblv-user-role", b"reader")]


def alice() -> User:
    return User("Alice", "reader", key(1))


def test_the_two_true_headers_come_after_what_the_client_sent() -> None:
    sent = [(b"Host", b"enclave"), (b"accept", b"*/*"), (b"accept", b"text/html")]
    assert forwarded_headers(sent, alice()) == [*sent, *TRUE_ONES]
    assert forwarded_headers([], alice()) == TRUE_ONES


@pytest.mark.parametrize(
    "name",
    [
        b"X-OBLV-USER-NAME",
        b"x-oblv-user-role",
        b"X-Oblv-User-Name",
        b"X_OBLV_USER_NAME",
        b"x_oblv-user_role",
        b"X-OBLV_User-Role",
        b"X.OBLV.USER.ROLE",
        b"X OBLV USER NAME",
        b" x-oblv-user-name",
        b"x-oblv-user-name\t",
    ],
)
def test_every_spelling_of_the_two_headers_that_a_client_sends_is_removed(name: bytes) -> None:
    sent = [(name, b"Mallory"), (b"host", b"enclave"), (name, b"admin")]
    assert forwarded_headers(sent, alice()) == [(b"host", b"enclave"), *TRUE_ONES]


@pytest.mark.parametrize("name", [b"x-oblv-user-id", b"X_OBLV_USER_NAME_2", b"x-oblv-", b"X-Oblv.Groups"])
def test_no_other_header_of_the_proxys_family_passes(name: bytes) -> None:
    """An application that trusts one of the two trusts a third by the same right."""
    assert forwarded_headers([(name, b"1"), (b"host", b"enclave")], alice()) == [(b"host", b"enclave"), *TRUE_ONES]


@pytest.mark.parametrize("name", [b"x-oblv", b"my-x-oblv-user-name", b"x-oblvious", b"xoblv-user-name"])
def test_other_headers_pass_however_alike(name: bytes) -> None:
    assert forwarded_headers([(name, b"1")], alice()) == [(name, b"1"), *TRUE_ONES]


def spellings(name: bytes) -> st.SearchStrategy[bytes]:
    letters = [st.sampled_from("-_") if char == "-" else st.sampled_from(char + char.upper()) for char in name.decode()]
    return st.tuples(*letters).map(lambda chosen: "".join(chosen).encode())


NAMES = st.binary(max_size=12) | spellings(b"x-oblv-user-name") | spellings(b"x-oblv-user-role")


@given(st.lists(st.tuples(NAMES, st.binary(max_size=4))))
def test_an_application_that_folds_case_and_underscores_sees_each_true_header_once(
    sent: list[tuple[bytes, bytes]],
) -> None:
    """As a WSGI server does it: HTTP_X_OBLV_USER_NAME, whatever the client wrote."""
    seen = [(name.upper().replace(b"-", b"_"), value) for name, value in forwarded_headers(sent, alice())]
    assert [value for name, value in seen if name == b"X_OBLV_USER_NAME"] == [b"Alice"]
    assert [value for name, value in seen if name == b"X_OBLV_USER_ROLE"] == [b"reader"]


def test_a_key_that_is_no_bytes_is_none() -> None:
    with pytest.raises(ValueError, match="RSA"):
        check_public_key("text")


def test_two_users_with_one_key_are_no_users_however_they_are_made() -> None:
    with pytest.raises(ManifestError) as caught:
        Users((User("Alice", "reader", key(1)), User("Bob", "reader", key(1))))
    assert caught.value.path == "users[1].public_key"
