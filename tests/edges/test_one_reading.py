"""One parser reads a request: the app is given what was decided on, and nothing that it could read differently."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pair import sessions
from proxied import Proxied

from workshop_kit.channel.framing import Record, RequestHead, ResponseHead, encode_record
from workshop_kit.edges.message import MessageOpener
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError
from workshop_kit.service.access import Users, rules_of
from workshop_kit.service.manifest import parse_manifest
from workshop_kit.service.rules import decide

MANIFEST = parse_manifest(
    """\
auth: [{auth_name: users, auth_type: signed_headers}]
base_image: workshop_asgi
paths:
  - {path: /, access: reader}
  - {path: /hello, access: reader}
  - {path: /hello/, access: writer}
  - {path: /a/b, access: reader}
  - {path: "/a;p", access: reader}
  - {path: /a+b, access: reader}
  - {path: /größe, access: reader}
  - {path: /\ufffd, access: reader}
  - {path: /write, access: writer}
roles:
  - {role_name: reader, role_auth: users, role_cardinality: 2}
  - {role_name: writer, role_auth: users, role_cardinality: 1}
traffic: {inbound: [{name: http, port: 8000, type: tcp}]}
"""
)
RULES = rules_of(MANIFEST, Users())
READABLE = {rule.path for rule in MANIFEST.paths if "reader" in rule.access}
TRUE = [(b"x-oblv-user-name", b"Alice"), (b"x-oblv-user-role", b"reader")]


@pytest.fixture(scope="module")
def _proxy() -> Proxied:
    return Proxied(MANIFEST, "reader")


@pytest.fixture
def proxy(_proxy: Proxied) -> Iterator[Proxied]:
    """The same for all tests; each sees only its own requests."""
    _proxy.seen.clear()
    yield _proxy
    # Whatever a test sent, the session serves the next honest request.
    assert _proxy.ask(RequestHead(b"GET", b"/hello", ())).body == b"served"


# --- paths -----------------------------------------------------------------------------------------------------------

ALLOWED = {
    b"/": "/",
    b"/hello": "/hello",
    b"/%68ello": "/hello",
    b"/hell%6F": "/hello",
    b"/hell%6f": "/hello",
    b"/a/%62": "/a/b",
    b"/a;p": "/a;p",
    b"/a%3Bp": "/a;p",
    b"/a%3bp": "/a;p",
    b"/a+b": "/a+b",
    b"/a%2Bb": "/a+b",
    b"/gr%C3%B6%C3%9fe": "/größe",
}
REFUSED = {
    b"/%2568ello": 404,  # decoded once it is /%68ello
    b"/%25%36%38ello": 404,
    b"/a%252Fb": 404,
    b"/a%2Fb": 404,
    b"/a%2fb": 404,
    b"/a%5Cb": 404,
    b"//hello": 404,
    b"/%2Fhello": 404,
    b"/./hello": 404,
    b"/%2e/hello": 404,
    b"/a/../hello": 404,
    b"/a/%2E%2E/hello": 404,
    b"/hello/": 403,  # another path, another role
    b"/hello/.": 404,
    b"/hello;p": 404,
    b"/a": 404,
    b"/a;": 404,
    b"/a;q": 404,
    b"/a b": 400,
    b"/a%20b": 404,
    b"/hello%00": 404,
    b"/hello%3F": 404,
    b"/hello%23": 404,
    b"/hello#": 404,
    b"/hello?#": 404,
    b"/hello%": 404,
    b"/hello%6": 404,
    b"/hello%6g": 404,
    b"/HELLO": 404,
    b"/gr%F6%DFe": 404,  # Latin-1
    b"/%FF": 404,  # though a decoder that forgives would write U+FFFD, and that path is listed
    b"/gr%C3%B6%C3e": 404,  # cut
    b"/gro%CC%88%C3%9Fe": 404,  # the same letters, another normal form
    b"/hell%C1%AF": 404,  # overlong
    b"/a%C0%AFb": 404,
    b"/a%E0%80%AFb": 404,
    b"/hello%ED%A0%80": 404,  # a surrogate
    b"/a%EF%BC%8Fb": 404,  # a full-width slash
    b"/write": 403,
    b"/%77rite": 403,
    b"/hello\\": 404,
    b"*": 404,
    b"hello": 400,
    b"http://enclave/hello": 400,
    b"enclave:80": 400,
    b"/hello\xff": 400,
    b"/hello\t": 400,
    b"/hello HTTP/1.1\r\nx: y": 400,
}


@pytest.mark.parametrize("target", ALLOWED, ids=repr)
@pytest.mark.parametrize("query", [b"", b"?", b"?a=%2F&b=+&c=%zz", b"??/write"], ids=repr)
def test_the_app_is_given_the_path_that_was_decided_on(proxy: Proxied, target: bytes, query: bytes) -> None:
    assert proxy.ask(RequestHead(b"GET", target + query, ())).status == 200
    (seen,) = proxy.seen
    assert seen.scope["path"] == ALLOWED[target] == decide(RULES, "reader", target + query).path
    assert (seen.scope["raw_path"], seen.scope["query_string"]) == (target, query[1:])
    assert seen.scope["target"] == target + query  # an empty query too: a service of its own is asked with it
    assert (seen.scope["root_path"], seen.scope["server"]) == ("", ("enclave", 8000))
    assert seen.scope["client"] == ("0.0.0.0", 0)  # apps read it, and some trust whoever has this machine's


@pytest.mark.parametrize("target", REFUSED, ids=repr)
def test_another_spelling_never_reaches_the_app(proxy: Proxied, target: bytes) -> None:
    assert proxy.ask(RequestHead(b"GET", target, ())).status == REFUSED[target]
    assert proxy.seen == []


PIECES = st.sampled_from([*map(str.encode, sorted(READABLE)), *ALLOWED, *REFUSED])
ESCAPES = st.integers(0, 255).flatmap(lambda byte: st.sampled_from([b"%%%02x" % byte, b"%%%02X" % byte]))
TARGETS = st.lists(PIECES | ESCAPES | st.sampled_from([b"/", b"/hello", b"?", b"%25"]), max_size=4).map(b"".join)


def decoded_once(raw: bytes) -> bytes:
    """An oracle that splits at `%` by hand."""
    first, *rest = raw.split(b"%")
    return first + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in rest)


@given(TARGETS)
@example(b"/%2568ello")
@settings(deadline=None)
def test_what_is_allowed_is_a_listed_path_after_exactly_one_decoding(target: bytes) -> None:
    decision = decide(RULES, "reader", target)
    raw = target.partition(b"?")[0]
    if decision.allowed:
        assert decision.path in READABLE
        assert decision.path.encode() == decoded_once(raw) == unquote_to_bytes(raw)
        assert decision.path.encode() == decoded_once(decision.path.encode())  # a second decoding finds nothing


@given(st.sampled_from(sorted(READABLE)), st.data())
@settings(deadline=None)
def test_every_escaped_spelling_of_a_listed_path_is_that_path_but_for_its_slashes(
    path: str, data: st.DataObject
) -> None:
    spelt = b""
    for byte in path.encode():
        plain = [] if byte > 126 else [bytes([byte])]
        escaped = [] if byte == ord("/") else [b"%%%02x" % byte, b"%%%02X" % byte]
        spelt += data.draw(st.sampled_from(plain + escaped))
    assert decide(RULES, "reader", spelt).path == path
    assert decide(RULES, "reader", spelt).allowed
    assert not decide(RULES, "reader", spelt.replace(b"/", b"%2f", 1)).allowed


# --- headers ---------------------------------------------------------------------------------------------------------

HOST = (b"host", b"enclave")
NOT_A_REQUEST = {
    "two content-lengths": [(b"content-length", b"4"), (b"content-length", b"5")],
    "two equal content-lengths": [(b"content-length", b"4"), (b"Content-Length", b"4")],
    "a list of content-lengths": [(b"content-length", b"4, 4")],
    "a signed content-length": [(b"content-length", b"+4")],
    "a negative content-length": [(b"content-length", b"-4")],
    "a hexadecimal content-length": [(b"content-length", b"0x4")],
    "a content-length with a space": [(b"content-length", b" 4")],
    "an empty content-length": [(b"content-length", b"")],
    "a content-length too small": [(b"content-length", b"3")],
    "a content-length too large": [(b"content-length", b"5")],
    "a content-length of zero before a body": [(b"content-length", b"0")],
    "a content-length beside one that CGI folds": [(b"content-length", b"4"), (b"content_length", b"0")],
    "a content-length that CGI folds": [(b"Content_Length", b"4")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
    "Transfer-Encoding: identity": [(b"Transfer-Encoding", b"identity")],
    "transfer-encoding beside content-length": [(b"content-length", b"4"), (b"transfer-encoding", b"chunked")],
    "transfer-encoding as CGI folds it": [(b"transfer_encoding", b"chunked")],
    "te": [(b"te", b"trailers")],
    "trailer": [(b"trailer", b"x-oblv-user-name")],
    "upgrade": [(b"upgrade", b"h2c")],
    "connection": [(b"connection", b"close")],
    "a field that connection names": [(b"connection", b"x-oblv-user-name, x-mine"), (b"x-mine", b"1")],
    "a connection that names the length": [(b"connection", b"content-length"), (b"content-length", b"4")],
    "keep-alive": [(b"keep-alive", b"timeout=5")],
    "proxy-connection": [(b"proxy-connection", b"keep-alive")],
    "expect": [(b"expect", b"100-continue")],
    "two hosts": [HOST, (b"host", b"elsewhere")],
    "two equal hosts": [HOST, HOST],
    "two hosts in two spellings": [HOST, (b"HOST", b"elsewhere")],
    "a host with a path": [(b"host", b"enclave/write?")],
    "a host with a query": [(b"host", b"enclave?")],
    "a host with a fragment": [(b"host", b"enclave#")],
    "a host with a user": [(b"host", b"user@enclave")],
    "two hosts in one": [(b"host", b"enclave, elsewhere")],
    "an empty host": [(b"host", b"")],
    "two content-types": [(b"content-type", b"text/plain"), (b"content-type", b"application/json")],
    "two authorizations": [(b"authorization", b"a"), (b"authorization", b"b")],
    "two cookies": [(b"cookie", b"a=1"), (b"cookie", b"a=2")],
    "a line folded by CRLF": [(b"x-a", b"1\r\n 2")],
    "a line folded by LF": [(b"x-a", b"1\n\t2")],
    "CR in a value": [(b"x-a", b"1\r2")],
    "LF in a value": [(b"x-a", b"1\n2")],
    "a header in a value": [(b"x-a", b"1\r\nx-oblv-user-name: Mallory")],
    "a request in a value": [(b"x-a", b"1\r\n\r\nGET /write HTTP/1.1")],
    "a vertical tab in a value": [(b"x-a", b"1\x0b2")],
    "delete in a value": [(b"x-a", b"1\x7f")],
    "space before the colon": [(b"x-a ", b"1")],
    "tab before the colon": [(b"x-oblv-user-name\t", b"Mallory")],
    "space before the name": [(b" x-a", b"1")],
    "a colon in the name": [(b"x-a:", b"1")],
    "CRLF in the name": [(b"x-a\r\nx-b", b"1")],
    "an empty name": [(b"", b"1")],
    "a name beyond ASCII": [("x-ä".encode(), b"1")],
    "a name that lower() would fold": [("x-oblv-u\u017fer-name".encode(), b"1")],
    "brackets in a name": [(b"x[a]", b"1")],
}


@pytest.mark.parametrize("name", NOT_A_REQUEST)
@pytest.mark.parametrize("bodies", [(b"body",), (b"", b"bo", b"dy")], ids=["in one record", "in three"])
def test_what_two_parsers_read_differently_is_no_request(proxy: Proxied, name: str, bodies: tuple[bytes, ...]) -> None:
    answer = proxy.ask(RequestHead(b"POST", b"/hello", tuple(NOT_A_REQUEST[name])), *bodies)
    assert answer.status == 400
    assert len(answer.body.splitlines()) == 1
    assert b"Traceback" not in answer.body
    assert proxy.seen == []


@pytest.mark.parametrize("name", [name for name in NOT_A_REQUEST if "content-length" not in name])
def test_an_honest_client_does_not_write_it_either(name: str) -> None:
    """So a program behind a client proxy hears of it there."""
    with pytest.raises(LocalProtocolError):
        encode_record(Record(RequestHead(b"POST", b"/hello", tuple(NOT_A_REQUEST[name])), b"body", end=True))


@pytest.mark.parametrize("values", [(b"4", b"4"), (b"4", b"5"), (b"4, 4",), (b"+4",), (b"",), (b"4" * 19,)], ids=repr)
def test_a_response_has_one_length_too(values: tuple[bytes, ...]) -> None:
    client, enclave = sessions()
    asked, answered = client.exchange(), enclave.accept(0)
    head = ResponseHead(200, tuple((b"content-length", value) for value in values))
    opener = MessageOpener(asked.opener, method=b"GET")
    with pytest.raises(RemoteProtocolError, match="one content-length"):
        list(opener.receive(answered.sealer.seal(Record(head, b"body", end=True))))


@pytest.mark.parametrize("method", [b"get", b"Head", b"GET /write", b"GET\r\nx:", b""], ids=repr)
def test_a_method_has_one_spelling(proxy: Proxied, method: bytes) -> None:
    assert proxy.ask(RequestHead(method, b"/hello", ())).status == 400
    assert proxy.seen == []


@pytest.mark.parametrize("end", [b"x-a", b"x-a\0\0", b"x-a\0\0\0", b"\0\0", b"x-a\0 1\0x-b"], ids=repr)
def test_a_nul_too_few_or_too_many_is_no_request(proxy: Proxied, end: bytes) -> None:
    assert proxy.ask_sealed(b"GET\0/hello\0" + end).status == 400
    assert proxy.seen == []


PASSES = {
    "a host": [HOST],
    "a host with a port": [(b"host", b"127.0.0.1:3030")],
    "an IPv6 host": [(b"host", b"[::1]:80")],
    "no host": [],
    "the body's length": [(b"content-length", b"4")],
    "a list in two lines": [(b"accept", b"text/plain"), (b"accept", b"text/html")],
    "two of an unknown name": [(b"x-a", b"1"), (b"x-a", b"2")],
    "an underscore": [(b"x_a", b"1"), (b"x-a", b"2")],
    "letters beyond ASCII in a value": [(b"x-a", "ä".encode())],
    "an empty value": [(b"x-a", b"")],
    "a content-encoding": [(b"content-encoding", b"gzip")],
}


@pytest.mark.parametrize("name", PASSES)
def test_other_headers_reach_the_app_as_they_are_with_the_true_ones_behind(proxy: Proxied, name: str) -> None:
    assert proxy.ask(RequestHead(b"POST", b"/hello", tuple(PASSES[name])), b"bo", b"dy").status == 200
    (seen,) = proxy.seen
    chunked = [] if name == "the body's length" else [(b"transfer-encoding", b"chunked")]
    assert seen.headers == [*PASSES[name], *TRUE, *chunked]
    assert seen.body == b"body"


def test_a_body_is_said_to_have_no_length_where_one_may_follow_and_not_else(proxy: Proxied) -> None:
    """An app that asks its headers reads it, or does not wait for it."""
    for head, bodies in ((b"GET", ()), (b"POST", (b"body",)), (b"POST", (b"", b""))):
        assert proxy.ask(RequestHead(head, b"/hello", ()), *bodies).status == 200
    assert [len(seen.headers) - len(TRUE) for seen in proxy.seen] == [0, 0, 1]


FORGED = [b"X-OBLV-USER-NAME", b"x-oblv-user-role", b"X_OBLV_USER_NAME", b"x_oblv-user_role", b"x.oblv.user.name"]
FORGED += [b"x!oblv!user!name", b"X-Oblv-User-Id", b"x_oblv_", b"X-OBLV-USER-NAME-"]


@pytest.mark.parametrize("name", FORGED, ids=bytes.decode)
@pytest.mark.parametrize("count", [1, 2])
def test_what_a_client_says_of_itself_is_replaced(proxy: Proxied, name: bytes, count: int) -> None:
    assert proxy.ask(RequestHead(b"GET", b"/hello", ((name, b"Mallory"),) * count)).status == 200
    (seen,) = proxy.seen
    assert seen.headers == TRUE
    environ = {name.upper().replace(b"-", b"_"): value for name, value in seen.headers}  # as WSGI has it
    assert environ == {b"X_OBLV_USER_NAME": b"Alice", b"X_OBLV_USER_ROLE": b"reader"}
