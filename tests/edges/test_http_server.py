"""A server of HTTP/1.1 by itself, over real sockets: what RFC 9110 and 9112 ask of it, and what its clients can do."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import LOOPS
from processes import until
from raw_http import DEADLINE, Answer, Raw, Served, request, served

from workshop_kit.channel.framing import MAX_HEAD
from workshop_kit.edges import http_connection
from workshop_kit.edges.http_call import Call

Serve = Callable[[Callable[[Call], Awaitable[None]]], AbstractContextManager[Served]]


async def echo(call: Call) -> None:
    """What came, as JSON."""
    body = b""
    while piece := await call.receive():
        body += piece
    said = {
        "method": call.method.decode(),
        "target": call.target.decode(),
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in call.headers],
        "body": body.decode("latin-1"),
    }
    await call.answer(200, ((b"content-type", b"application/json"),), json.dumps(said).encode())


async def early(call: Call) -> None:
    """Answers before the body is read, or while it comes."""
    if call.target == b"/after-some":
        await call.receive()
    await call.answer(413, (), b"too much")


async def pieces(call: Call) -> None:
    """A response in three pieces, whose length is not said."""
    await call.start(200, (), b"one ")
    await call.send(b"")
    await call.send(b"two ")
    await call.send(b"three")
    await call.end()


async def status(call: Call) -> None:
    """The status that the target names, with a body and its length."""
    code = int(call.target[1:])
    await call.answer(code, ((b"content-length", b"5"),) if code != 204 else (), b"" if code == 204 else b"12345")


async def nothing(call: Call) -> None:
    """No answer at all."""


async def half(call: Call) -> None:
    await call.start(200, ((b"content-length", b"10"),), b"12345")


async def faulty(call: Call) -> None:
    raise ValueError(call.target.decode())


HANDLERS: dict[bytes, Callable[[Call], object]] = {
    b"/early": early,
    b"/after-some": early,
    b"/pieces": pieces,
    b"/nothing": nothing,
    b"/half": half,
    b"/204": status,
    b"/304": status,
    b"/404": status,
}


async def handle(call: Call) -> None:
    await HANDLERS.get(call.target, echo)(call)  # type: ignore[misc]


@pytest.fixture(scope="module", params=LOOPS)
def serve(request: pytest.FixtureRequest) -> Serve:
    """Serves a handler, on each of the loops that the kit runs on."""
    return lambda handler: served(handler, LOOPS[request.param])


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Served]:
    with serve(handle) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[Raw]:
    with Raw(server.port) as raw:
        yield raw


def said(answer: Answer) -> dict[str, object]:
    assert answer.status == 200
    found: dict[str, object] = json.loads(answer.body)
    return found


# --- one request after the other ------------------------------------------------------------------------------------


def test_a_connection_carries_one_request_after_the_other(client: Raw) -> None:
    for number in range(3):
        answer = client.send(request(f"/{number}")).answer()
        assert said(answer)["target"] == f"/{number}"
        assert answer["connection"] is None


def test_pipelined_requests_are_answered_in_their_order(client: Raw) -> None:
    bodies = [bytes([65 + number]) * number for number in range(20)]
    client.send(b"".join(request(f"/{body.decode()}", method="POST", body=body) for body in bodies))
    for body in bodies:
        found = said(client.answer("POST"))
        assert (found["target"], found["body"]) == (f"/{body.decode()}", body.decode())


def test_a_slow_first_request_holds_back_those_behind_it_and_none_begins_before_its_turn(serve: Serve) -> None:
    """Requests of one connection may depend on each other: the second runs when the first is answered."""
    begun: list[bytes] = []
    let_go = threading.Event()

    async def slow(call: Call) -> None:
        begun.append(call.target)
        if call.target == b"/slow":
            await asyncio.get_running_loop().run_in_executor(None, let_go.wait)
        await call.answer(200, (), call.target)

    with serve(slow) as running, Raw(running.port) as client, Raw(running.port) as other:
        client.send(request("/slow") + request("/fast"))
        other.send(request("/other"))
        assert other.answer().body == b"/other"  # so the server has read what came before it
        assert begun == [b"/slow", b"/other"] or begun == [b"/other", b"/slow"]
        let_go.set()
        assert [client.answer().body, client.answer().body] == [b"/slow", b"/fast"]


def test_the_next_request_does_not_wait_for_a_handler_that_has_answered(serve: Serve) -> None:
    """An app may go on behind its answer, as background tasks do."""
    let_go = threading.Event()
    gone_on: list[bytes] = []

    async def background(call: Call) -> None:
        await call.answer(200, (), call.target)
        if call.target == b"/first":
            await call.disconnected()  # at once: nobody waits for more of this answer
            await asyncio.get_running_loop().run_in_executor(None, let_go.wait)
            gone_on.append(call.target)

    with serve(background) as running, Raw(running.port) as client:
        assert client.send(request("/first")).answer().body == b"/first"
        assert client.send(request("/second")).answer().body == b"/second"
        assert gone_on == []
        let_go.set()
    assert gone_on == [b"/first"]


@pytest.mark.parametrize(
    ("version", "fields", "keeps"),
    [
        ("1.1", (), True),
        ("1.1", ("Connection: close",), False),
        ("1.1", ("Connection: Keep-Alive",), True),
        ("1.0", (), False),
        ("1.0", ("Connection: keep-alive",), True),
        ("1.0", ("Connection: Close",), False),
    ],
)
def test_a_connection_is_kept_or_closed_as_client_and_version_say(
    client: Raw, version: str, fields: tuple[str, ...], keeps: bool
) -> None:
    answer = client.send(request("/", *fields, version=version)).answer()
    assert answer["connection"] == (None if keeps and version == "1.1" else "keep-alive" if keeps else "close")
    if keeps:
        assert said(client.send(request("/again", version=version)).answer())["target"] == "/again"
    else:
        assert client.ended()


def test_a_client_of_the_old_version_gets_a_body_without_chunks_that_ends_with_the_connection(client: Raw) -> None:
    client.send(request("/pieces", "Connection: keep-alive", version="1.0"))
    head, _, body = client.rest().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"one two three"


def test_a_client_of_the_old_version_need_not_name_a_host(client: Raw) -> None:
    assert b'"target": "/old"' in client.send(b"GET /old HTTP/1.0\r\n\r\n").rest()


def test_an_empty_line_before_a_request_is_let_go(client: Raw) -> None:
    """Some old clients write one behind a body (RFC 9112, 2.2)."""
    assert said(client.send(b"\r\n\r\n" + request("/a") + b"\r\n" + request("/b")).answer())["target"] == "/a"
    assert said(client.answer())["target"] == "/b"


# --- bodies ---------------------------------------------------------------------------------------------------------

CHUNKED = "Transfer-Encoding: chunked"


def test_bodies_in_chunks_arrive_whole_without_extensions_and_trailers(client: Raw) -> None:
    chunks = b'3;name=value;other="quoted"\r\nabc\r\n00a\r\n0123456789\r\n1\r\n\xff\r\n0\r\nX-Trailer: 1\r\n\r\n'
    answer = client.send(request("/", CHUNKED, method="POST") + chunks).answer("POST")
    found = said(answer)
    assert found["body"] == "abc0123456789\xff"
    assert "x-trailer" not in str(found["headers"])


def test_a_trailer_is_no_header_of_the_next_request(client: Raw) -> None:
    """Else whoever writes one request's trailers writes the next one's headers."""
    trailers = b"0\r\nHost: evil\r\nCookie: evil\r\nX-Trailer: 1\r\n\r\n"
    client.send(request("/first", CHUNKED, method="POST") + trailers + request("/second", "X-Mine: 2"))
    assert said(client.answer("POST"))["target"] == "/first"
    assert said(client.answer())["headers"] == [["host", "a"], ["x-mine", "2"]]


def test_bodies_arrive_byte_by_byte_too(client: Raw) -> None:
    measured = request("/measured", method="POST", body=b"hello")
    chunked = request("/chunked", CHUNKED, method="POST") + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    client.send(*(bytes([byte]) for byte in measured + chunked))
    assert [said(client.answer("POST"))["body"] for _ in range(2)] == ["hello", "hello"]


def test_a_response_of_unknown_length_goes_in_chunks(client: Raw) -> None:
    answer = client.send(request("/pieces")).answer()
    assert answer["transfer-encoding"] == "chunked"
    assert answer.body == b"one two three"
    assert client.send(request("/pieces")).answer().body == b"one two three"


@pytest.mark.parametrize("target", ["/pieces", "/304", "/404"])
def test_head_is_answered_without_a_body(client: Raw, target: str) -> None:
    """And the next answer is where a body would have been."""
    answer = client.send(request(target, method="HEAD") + request("/next")).answer("HEAD")
    assert answer.body == b""
    assert answer["content-length"] == (None if target == "/pieces" else "5")
    assert said(client.answer())["target"] == "/next"


@pytest.mark.parametrize(("code", "length"), [(204, None), (304, "5")])
def test_an_answer_that_has_no_body_has_none(client: Raw, code: int, length: str | None) -> None:
    answer = client.send(request(f"/{code}") + request("/next")).answer()
    assert (answer.status, answer.body, answer["content-length"]) == (code, b"", length)
    assert said(client.answer())["target"] == "/next"


def test_an_empty_answer_says_that_it_is_empty(serve: Serve) -> None:
    async def empty(call: Call) -> None:
        await call.answer(200, ())

    with serve(empty) as running, Raw(running.port) as client:
        answer = client.send(request()).answer()
        assert (answer["content-length"], answer.body) == ("0", b"")


# --- answers before the end of the request --------------------------------------------------------------------------

EXPECTING = ("Expect: 100-continue", "Content-Length: 5")


def test_a_client_that_asks_first_is_told_to_go_on_when_its_body_is_read(client: Raw) -> None:
    client.send(request("/", *EXPECTING, method="POST"))
    assert client.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hello")
    assert said(client.answer("POST"))["body"] == "hello"
    assert said(client.send(request("/kept")).answer())["target"] == "/kept"


def test_a_client_that_does_not_wait_for_the_word_is_not_told(client: Raw) -> None:
    answer = client.send(request("/", "Expect: 100-continue", method="POST", body=b"hello")).answer("POST")
    assert answer.interim == ()
    assert said(answer)["body"] == "hello"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_only_a_client_that_knows_it_is_told_to_go_on(client: Raw, version: str) -> None:
    """RFC 9110, 10.1.1: what HTTP/1.0 expects is let go."""
    client.send(request("/", *EXPECTING, method="POST", version=version))
    if version == "1.1":
        client.exactly(25)
    client.send(b"hello")
    assert client.exactly(15) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("sent", [b"", b"hel", b"hello"])
def test_a_client_that_asks_first_and_is_answered_need_not_send(client: Raw, sent: bytes) -> None:
    """Its connection ends: whether the body still comes, nobody could know (RFC 9110, 10.1.1)."""
    answer = client.send(request("/early", *EXPECTING, method="POST") + sent).answer("POST")
    assert (answer.status, answer.body, answer.interim) == (413, b"too much", ())
    if answer["connection"] == "close":
        assert client.ended()
    else:
        assert sent == b"hello"  # all of it was there


@pytest.mark.parametrize("target", ["/early", "/after-some"])
@pytest.mark.parametrize("framing", ["Content-Length: 50000000", CHUNKED])
def test_an_upload_that_is_answered_before_its_end_gets_the_answer_whole(
    client: Raw, target: str, framing: str
) -> None:
    """A client that sends all before it reads, as many do, is read to the end: closing would reset its connection,
    and the reset would take the answer with it."""
    client.send(request(target, framing, method="POST"))
    piece = bytes(100_000) if "Length" in framing else b"186a0\r\n" + bytes(100_000) + b"\r\n"
    for _ in range(500):
        client.send(piece)
    if framing == CHUNKED:
        client.send(b"0\r\n\r\n")
    answer = client.answer("POST")
    assert (answer.status, answer.body, answer["connection"]) == (413, b"too much", "close")
    assert client.ended()


def test_a_client_that_reads_as_it_sends_sees_the_early_answer_and_then_the_end(client: Raw) -> None:
    client.send(request("/early", "Content-Length: 50000000", method="POST"), bytes(1000))
    answer = client.answer("POST")
    assert (answer.status, answer.body) == (413, b"too much")
    assert client.ended()  # before the rest was sent


def test_what_follows_a_request_that_was_answered_early_never_begins(serve: Serve) -> None:
    """Its client was told that the connection ends here."""
    begun: list[bytes] = []

    async def first(call: Call) -> None:
        begun.append(call.target)
        await call.answer(413, ())

    with serve(first) as running:
        with Raw(running.port) as client:
            client.send(request("/first", "Content-Length: 5", method="POST"))
            assert client.answer("POST").status == 413
            client.send(b"hello" + request("/second") + request("/third"))
            assert client.ended()
        until(lambda: not running.open, "the end of the connection")
    assert begun == [b"/first"]


def test_an_answer_may_stream_while_the_request_still_comes(serve: Serve) -> None:
    async def upper(call: Call) -> None:
        await call.start(200, ())
        while piece := await call.receive():
            await call.send(piece.upper())
        await call.end()

    with serve(upper) as running, Raw(running.port) as client:
        client.send(request("/", CHUNKED, method="POST"))
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.some()
        client.send(b"3\r\nabc\r\n")
        assert client.exactly(8) == b"3\r\nABC\r\n"
        client.send(b"2\r\nde\r\n0\r\n\r\n")
        assert client.rest() == b"2\r\nDE\r\n0\r\n\r\n"


# --- what is no request ----------------------------------------------------------------------------------------------

NO_REQUESTS: dict[str, tuple[bytes, int]] = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "no version": (b"GET / \r\n\r\n", 400),
    "HTTP/2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a later version": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "an earlier version": (b"GET / HTTP/0.9\r\n\r\n", 505),
    "another protocol": (b"GET / FTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a name that is no token": (request("/", "a b: c"), 400),
    "a name without a value": (request("/", "foo"), 400),
    "no name": (request("/", ": b"), 400),
    "a space before the colon": (request("/", "Foo : b"), 400),
    "a folded line": (request("/", "Foo: a\r\n b"), 400),
    "a folded line after an empty one": (request("/", "Foo:\r\n\tb"), 400),
    "a space before the first name": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "NUL in a value": (request("/", "Foo: a\0b"), 400),
    "CR alone": (request("/", "Foo: a\rBar: b"), 400),
    "a control character": (request("/", "Foo: a\x01b"), 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (request("/", "Host: a", "Host: a"), 400),
    "a length and chunks": (request("/", "Content-Length: 3", CHUNKED, method="POST"), 400),
    "chunks and a length": (request("/", CHUNKED, "Content-Length: 3", method="POST"), 400),
    "two lengths": (request("/", "Content-Length: 3", "Content-Length: 4", method="POST"), 400),
    "the same length twice": (request("/", "Content-Length: 3", "Content-Length: 3", method="POST"), 400),
    "a list of lengths": (request("/", "Content-Length: 3, 3", method="POST"), 400),
    "a negative length": (request("/", "Content-Length: -1", method="POST"), 400),
    "a length with a plus": (request("/", "Content-Length: +3", method="POST"), 400),
    "a length in hex": (request("/", "Content-Length: 0x3", method="POST"), 400),
    "a length beyond counting": (request("/", f"Content-Length: {10**30}", method="POST"), 400),
    "another coding": (request("/", "Transfer-Encoding: gzip", method="POST"), 501),
    "another coding in chunks": (request("/", "Transfer-Encoding: gzip, chunked", method="POST"), 501),
    "a coding behind chunks": (request("/", "Transfer-Encoding: chunked, gzip", method="POST"), 400),
    "chunks twice": (request("/", CHUNKED, CHUNKED, method="POST"), 400),
    "almost chunks": (request("/", "Transfer-Encoding: xchunked", method="POST"), 501),
    "chunks in the old version": (request("/", CHUNKED, method="POST", version="1.0") + b"0\r\n\r\n", 400),
    "a tunnel": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method in small letters": (request("/", method="get"), 400),
    "a target beyond ASCII": (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target without a slash": (b"GET index HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a value beyond the limit": (request("/", "Foo: " + "x" * MAX_HEAD), 431),
    "a target beyond the limit": (request("/" + "x" * MAX_HEAD), 431),
    "fields beyond the limit": (request("/", *(f"F{number}: {'x' * 1000}" for number in range(70))), 431),
    "empty lines without end": (b"\r\n" * 8 * MAX_HEAD, 431),
}


@pytest.mark.parametrize("name", NO_REQUESTS)
@pytest.mark.parametrize("behind", [False, True])
def test_what_is_no_request_is_answered_in_one_line_and_nothing_is_read_behind_it(
    server: Served, name: str, behind: bool
) -> None:
    """In its turn: a request before it has its own answer."""
    data, code = NO_REQUESTS[name]
    with Raw(server.port) as client:
        client.send((request("/before") if behind else b"") + data + request("/after"))
        if behind:
            assert said(client.answer())["target"] == "/before"
        answer = client.answer()
        assert (answer.status, answer["connection"]) == (code, "close")
        assert answer.body.startswith(b"expected ")
        assert answer.body.count(b"\n") == 1
        assert client.ended()


@pytest.mark.parametrize("name", ["a value beyond the limit", "a target beyond the limit", "fields beyond the limit"])
def test_a_head_just_within_the_limit_is_taken(client: Raw, name: str) -> None:
    data, _ = NO_REQUESTS[name]
    shorter = data.replace(b"x" * 1000, b"x" * 900, 70 if name.startswith("fields") else 1)
    assert said(client.send(shorter).answer())["method"] == "GET"


BROKEN_BODIES: dict[str, bytes] = {
    "no hex": b"xyz\r\n",
    "a sign": b"-1\r\n",
    "0x": b"0x3\r\nabc\r\n",
    "a space": b"3 \r\nabc\r\n",
    "beyond counting": b"f" * 17 + b"\r\n",
    "LF alone": b"3\nabc\r\n",
    "longer than said": b"3\r\nabcd\r\n",
    "an extension with LF": b"3;a\nb\r\nabc\r\n",
    "a trailer that is none": b"0\r\nfoo\r\n\r\n",
    "extensions without end": b"3;" + b"x" * 3 * MAX_HEAD,
    "trailers without end": b"0\r\n" + b"X-Trailer: 1\r\n" * MAX_HEAD,
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
@pytest.mark.parametrize("sent", ["at once", "later"])
def test_a_body_that_breaks_the_rules_ends_its_request(client: Raw, name: str, sent: str) -> None:
    """The handler never gets the end of it: half a request is no request."""
    head = request("/", CHUNKED, method="POST") + b"5\r\nhello\r\n"
    client.send(head + BROKEN_BODIES[name]) if sent == "at once" else client.send(head, BROKEN_BODIES[name])
    received = client.rest()
    assert received == b"" or received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert b" 200 " not in received


def test_a_line_that_ends_with_lf_alone_is_never_read_in_two_ways(client: Raw) -> None:
    """It may end a line or not (RFC 9112, 2.2); some versions of the parser take it."""
    client.send(b"GET / HTTP/1.1\r\nHost: a\nX-Other: 1\r\n\r\n")
    answer = client.answer()
    assert answer.status == 400 or ["x-other", "1"] in json.loads(answer.body)["headers"]


VALID = [
    request("/a", method="POST", body=b"hello"),
    request("/b", CHUNKED, method="POST") + b"5;x\r\nhello\r\n0\r\nT: 1\r\n\r\n",
    request("/pieces", "Connection: keep-alive", version="1.0"),
    request("/early", "Expect: 100-continue", method="PUT", body=b"hello"),
    request("*", "Connection: upgrade", "Upgrade: h2c", method="OPTIONS", body=b"hello"),
    request("/404", method="HEAD"),
]
SPLICES = [b"", b"\0", b"\r", b"\n", b"\r\n", b" ", b":", b"0", b"\xff", b"GET / HTTP/1.1\r\n"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_comes_every_answer_is_one_and_nothing_is_said_to_the_loop(
    server: Served, data: st.DataObject
) -> None:
    """Requests with splices in them, and any bytes: what comes back is answers to the end, the last one perhaps cut."""
    sent = bytearray(b"".join(data.draw(st.lists(st.sampled_from(VALID) | st.binary(max_size=30), max_size=4))))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(sent)))
        sent[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(SPLICES))
    with Raw(server.port) as client:
        client.send(bytes(sent))
        client.half_close()
        received = client.rest()
    for line in re.findall(rb"HTTP/1\.1 [^\r]*", received):
        assert re.fullmatch(rb"HTTP/1\.1 (100|200|304|400|404|413|431|501|505) [ A-Za-z-]+", line)
    assert received == b"" or received.startswith(b"HTTP/1.1 ")
    assert not server.faults


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "PROPFIND", "QUERY"])
def test_methods_are_the_handlers_business(client: Raw, method: str) -> None:
    assert said(client.send(request("/", method=method, body=b"x")).answer(method))["method"] == method


@pytest.mark.parametrize(
    "target", ["*", "http://b:81/a?b", "http://b?q", "/a?", "/a??b=%2F&c=%zz", "/%41%2f", "//", "/a#b", '/<>|\\^`{}"']
)
def test_targets_arrive_as_they_were_sent(client: Raw, target: str) -> None:
    assert said(client.send(request(target, method="OPTIONS")).answer("OPTIONS"))["target"] == target


def test_fields_arrive_in_order_in_small_letters_and_without_space_around(client: Raw) -> None:
    client.send(request("/", "X-Two:  b c \t", "x-one:", "X-TWO: a,b", "X-Latin: caf\xe9", "X-Last:\tz"))
    expected = [["x-two", "b c"], ["x-one", ""], ["x-two", "a,b"], ["x-latin", "caf\xe9"], ["x-last", "z"]]
    assert said(client.answer())["headers"] == [["host", "a"], *expected]


# --- other protocols --------------------------------------------------------------------------------------------------

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")


def test_an_offer_of_http_2_is_not_taken_up_and_the_connection_goes_on(client: Raw) -> None:
    client.send(request("/one", *H2C) + request("/two", *H2C) + request("/three"))
    assert [said(client.answer())["target"] for _ in range(3)] == ["/one", "/two", "/three"]


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_body_behind_such_an_offer_is_that_requests_body(client: Raw, step: int) -> None:
    """Read as what follows, it would be somebody's next request."""
    inner = request("/inner")
    chunks = b"%x\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(inner), inner)
    data = request("/measured", *H2C, method="POST", body=inner)
    data += request("/chunked", *H2C, CHUNKED, method="POST") + chunks
    data += request("/empty", *H2C, "Content-Length: 0", method="POST") + request("/after")
    client.send(*(data[at : at + step] for at in range(0, len(data), step)))
    found = [said(client.answer("POST")) for _ in range(4)]
    assert [each["target"] for each in found] == ["/measured", "/chunked", "/empty", "/after"]
    assert [each["body"] for each in found] == [inner.decode(), inner.decode(), "", ""]
    assert found[3]["headers"] == [["host", "a"]]


def test_many_offers_in_one_piece_are_so_many_requests(client: Raw) -> None:
    client.send(request("/x", *H2C) * 200)
    for _ in range(200):
        assert said(client.answer())["target"] == "/x"


WEBSOCKET = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: x",
)


def test_behind_a_switch_to_websocket_bytes_go_both_ways_until_the_client_goes(serve: Serve) -> None:
    async def switch(call: Call) -> None:
        assert call.upgrade
        await call.start(101, ((b"upgrade", b"websocket"),))
        while piece := await call.receive():
            await call.send(piece.upper())
        ended.set()

    ended = threading.Event()
    with serve(switch) as running, Raw(running.port) as client:
        client.send(
            request("/", *WEBSOCKET) + b"GET / HTTP/1.1\r\n\r\n"
        )  # bytes of WebSocket's, whatever they look like
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.some()
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"connection: Upgrade" in head
        received = head.partition(b"\r\n\r\n")[2]
        received += client.exactly(18 - len(received))
        assert received == b"GET / HTTP/1.1\r\n\r\n"
        client.send(b"abc")
        assert client.exactly(3) == b"ABC"
    assert ended.wait(5)


def test_websocket_that_is_refused_ends_the_connection(client: Raw) -> None:
    answer = client.send(request("/404", *WEBSOCKET)).answer()
    assert (answer.status, answer["connection"]) == (404, "close")
    assert client.ended()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_offer_of_websocket_counts_for_a_get_of_this_version_without_a_body(client: Raw, version: str) -> None:
    """RFC 6455, 4.1. Else what follows is a body and a next request."""
    method = "POST" if version == "1.1" else "GET"
    client.send(request("/", *WEBSOCKET, method=method, body=b"body", version=version) + request("/next"))
    assert said(client.answer(method))["body"] == "body"
    assert said(client.answer())["target"] == "/next"


# --- what goes wrong on our side --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/nothing", "/half"])
def test_a_handler_that_leaves_its_answer_leaves_no_doubt_that_it_is_cut(client: Raw, target: str) -> None:
    client.send(request(target))
    assert b"12345" in client.rest() or target == "/nothing"


def test_a_fault_of_the_handlers_is_told_without_what_was_asked(serve: Serve) -> None:
    """Class and line, for whoever mends it; words may hold a secret."""
    with serve(faulty) as running:
        with Raw(running.port) as client:
            assert client.send(request("/secret")).ended()
        (fault,) = running.faults
        assert "ValueError in test_http_server.py:" in fault
        assert "secret" not in fault
        running.faults.clear()


# --- a client that goes -----------------------------------------------------------------------------------------------

STAGES: dict[str, bytes] = {
    "before anything": b"",
    "in a head": b"GET / HT",
    "behind a head": request("/", "Content-Length: 5", method="POST"),
    "in a body": request("/", "Content-Length: 5", method="POST") + b"he",
    "in a chunk's size": request("/", CHUNKED, method="POST") + b"1",
    "in a chunk": request("/", CHUNKED, method="POST") + b"5\r\nhe",
    "in a trailer": request("/", CHUNKED, method="POST") + b"0\r\nX-T",
    "after a whole request": request("/wait"),
    "with another waiting": request("/wait") + request("/wait") + request("/wait"),
    "with half of another waiting": request("/wait") + b"POST / HTT",
    "behind a switch": request("/switch", *WEBSOCKET) + b"abc",
}


@pytest.mark.parametrize("how", ["ends its sending", "closes", "resets"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_goes_at_any_stage_leaves_nothing(serve: Serve, stage: str, how: str) -> None:
    """Its request is ended, those behind it never begin; other connections notice nothing."""
    begun: list[bytes] = []

    async def wait(call: Call) -> None:
        begun.append(call.target)
        task = asyncio.current_task()
        assert task is not None
        call.on_gone = lambda: (task.cancel(), None)[1]
        if call.target == b"/switch":
            await call.start(101, ())
        elif call.target == b"/other":
            return await call.answer(200, ())
        while await call.receive():
            pass
        return await call.disconnected()

    with serve(wait) as running:
        with Raw(running.port) as other:
            client = Raw(running.port).send(STAGES[stage])
            assert other.send(request("/other")).answer().status == 200
            if how == "resets":
                client.reset()
            elif how == "closes":
                client.socket.close()
            else:
                client.half_close()
                assert client.rest() == b"" or stage == "behind a switch"
                client.socket.close()
            assert other.send(request("/other")).answer().status == 200
        assert begun.count(b"/wait") <= 1


def test_a_client_that_ends_its_sending_still_gets_an_answer_that_is_whole(serve: Serve) -> None:
    """The answer had left when the end was read."""
    with serve(echo) as running, Raw(running.port) as client:
        client.send(request("/a")).half_close()
        received = client.rest()
        assert received == b"" or b'"target": "/a"' in received


def test_a_handler_that_reads_on_is_told_that_its_client_has_gone(serve: Serve) -> None:
    told: list[str] = []
    gone = threading.Event()

    async def reads(call: Call) -> None:
        try:
            while await call.receive():
                pass
        except ConnectionResetError as error:
            told.append(str(error))
            gone.set()
            raise

    with serve(reads) as running:
        with Raw(running.port) as client:
            client.send(request("/", "Content-Length: 5", method="POST") + b"he")
        assert gone.wait(DEADLINE)
    assert told == ["the client has gone"]


def test_limits_that_a_test_shortens_are_where_the_server_looks() -> None:
    assert {"IDLE", "HEAD", "STALL", "LINGER", "MAX_AHEAD"} <= set(vars(http_connection))
