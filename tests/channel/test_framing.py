"""A record's plaintext: what is written reads back, and what HTTP does not allow is neither written nor read."""

from __future__ import annotations

import pytest
from pair import ANSWER, ASK

from workshop_kit.channel.framing import (
    MAX_DATA,
    MAX_HEAD,
    Head,
    Headers,
    Record,
    RequestHead,
    ResponseHead,
    decode_request_record,
    decode_response_record,
    encode_record,
)
from workshop_kit.errors import LocalProtocolError, RemoteProtocolError


def request_plaintext(head: bytes, *, flags: int = 1, length: int | None = None, data: bytes = b"") -> bytes:
    """A record as SPEC.md lays it out, written by hand."""
    return bytes([flags]) + (len(head) if length is None else length).to_bytes(4, "big") + head + data


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("data", [b"", b"body", bytes(range(256))])
def test_a_request_record_reads_back_as_it_was_written(data: bytes, end: bool) -> None:
    record = Record(ASK, data, end)
    assert decode_request_record(encode_record(record)) == record


@pytest.mark.parametrize("status", [100, 200, 204, 404, 599])
def test_a_response_record_reads_back_as_it_was_written(status: int) -> None:
    record = Record(ResponseHead(status, ((b"x", b"1"), (b"x", b"2"))), b"body", end=True)
    assert decode_response_record(encode_record(record)) == record


def test_a_record_has_the_bytes_that_the_specification_says() -> None:
    head = b"GET\0/a?b=c\0accept\0*/*"
    record = Record(RequestHead(b"GET", b"/a?b=c", ((b"accept", b"*/*"),)), b"data", end=True)
    assert encode_record(record) == b"\x03" + len(head).to_bytes(4, "big") + head + b"data"
    assert encode_record(Record(data=b"more")) == b"\x00more"
    assert encode_record(Record(end=True)) == b"\x02"


def test_duplicate_headers_keep_their_number_and_order() -> None:
    headers = ((b"b", b"1"), (b"a", b"2"), (b"b", b"1"))
    decoded = decode_request_record(encode_record(Record(RequestHead(b"GET", b"/", headers)))).head
    assert decoded is not None
    assert decoded.headers == headers


def test_a_header_name_is_read_in_lower_case_whoever_wrote_it() -> None:
    """`X-OBLV-USER-NAME` and `x-oblv-user-name` are one name to the proxy, so they must be one after decoding."""
    decoded = decode_request_record(request_plaintext(b"GET\0/\0X-OBLV-User-Name\0Mallory")).head
    assert decoded is not None
    assert decoded.headers == ((b"x-oblv-user-name", b"Mallory"),)


UNUSABLE_REQUESTS = {
    "line break in a value": RequestHead(b"GET", b"/", ((b"a", b"b\r\nx-oblv-user-name: Mallory"),)),
    "line feed in a value": RequestHead(b"GET", b"/", ((b"a", b"b\nc"),)),
    "NUL in a value": RequestHead(b"GET", b"/", ((b"a", b"b\0x-oblv-user-name\0Mallory"),)),
    "delete in a value": RequestHead(b"GET", b"/", ((b"a", b"\x7f"),)),
    "colon in a name": RequestHead(b"GET", b"/", ((b"a:", b"b"),)),
    "space in a name": RequestHead(b"GET", b"/", ((b"a ", b"b"),)),
    "line feed after a name": RequestHead(b"GET", b"/", ((b"a\n", b"b"),)),
    "no name": RequestHead(b"GET", b"/", ((b"", b"b"),)),
    "letters beyond ASCII in a name": RequestHead(b"GET", b"/", (("ä".encode(), b"b"),)),
    "no method": RequestHead(b"", b"/", ()),
    "space in the method": RequestHead(b"GET /x", b"/", ()),
    "a method of 33 bytes": RequestHead(b"G" * 33, b"/", ()),
    "line feed after the method": RequestHead(b"GET\n", b"/", ()),
    "NUL in the method": RequestHead(b"GET\0", b"/", ()),
    "no target": RequestHead(b"GET", b"", ()),
    "a target without a slash": RequestHead(b"GET", b"compare", ()),
    "a target with a scheme": RequestHead(b"GET", b"http://elsewhere/", ()),
    "space in the target": RequestHead(b"GET", b"/a b", ()),
    "line break in the target": RequestHead(b"GET", b"/a\r\nb", ()),
    "line feed after the target": RequestHead(b"GET", b"/\n", ()),
    "NUL in the target": RequestHead(b"GET", b"/\0a\0b", ()),
    "letters beyond ASCII in the target": RequestHead(b"GET", "/ä".encode(), ()),
    "a star and more": RequestHead(b"OPTIONS", b"*/", ()),
}
UNUSABLE_RESPONSES = {f"status {status}": ResponseHead(status, ()) for status in (0, 20, 99, 600, 999, 1000, -200)} | {
    "line feed in a value": ResponseHead(200, ((b"set-cookie", b"a\nb"),))
}


@pytest.mark.parametrize("head", [*UNUSABLE_REQUESTS.values(), *UNUSABLE_RESPONSES.values()], ids=repr)
def test_a_head_that_http_does_not_allow_is_not_written(head: Head) -> None:
    with pytest.raises(LocalProtocolError):
        encode_record(Record(head))


# A NUL inside a field is another splitting of the same bytes: tested below.
@pytest.mark.parametrize("name", [name for name in UNUSABLE_REQUESTS if not name.startswith("NUL")])
def test_a_head_that_http_does_not_allow_is_not_read(name: str) -> None:
    """The peer need not run this code: what he seals is checked as strictly as what we write."""
    head = UNUSABLE_REQUESTS[name]
    encoded = b"\0".join([head.method, head.target, *(part for header in head.headers for part in header)])
    with pytest.raises(RemoteProtocolError):
        decode_request_record(request_plaintext(encoded))


def test_a_nul_splits_fields_and_is_part_of_none() -> None:
    """The proxy's decision and the app's request come from one splitting: there is no second one to disagree."""
    decoded = decode_request_record(request_plaintext(b"GET\0/\0a\0b\0c\0d"))
    assert decoded.head == RequestHead(b"GET", b"/", ((b"a", b"b"), (b"c", b"d")))


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\x04",
        b"\xff" + bytes(20),
        b"\x01",
        b"\x01\0\0\0",
        b"\x03\0\0\0\x01",
        request_plaintext(b"GET\0/", length=6),
        request_plaintext(b"GET\0/", length=2**32 - 1),
        request_plaintext(b""),
        request_plaintext(b"GET"),
        request_plaintext(b"GET\0/\0odd"),
        request_plaintext(b"GET\0/\0a\0b\0"),
        request_plaintext(b"\0\0"),
    ],
    ids=repr,
)
def test_a_plaintext_that_is_no_request_record_is_refused(plaintext: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_request_record(plaintext)


@pytest.mark.parametrize(
    "head", [b"", b"200\0odd", b"2000", b"20", b"abc", b"+20", b" 20", b"099", b"600", b"2\xb2\xb3"]
)
def test_a_plaintext_that_is_no_response_record_is_refused(head: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_response_record(request_plaintext(head))


def test_a_request_is_no_response_and_a_response_no_request() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_response_record(encode_record(Record(ASK)))
    with pytest.raises(RemoteProtocolError):
        decode_request_record(encode_record(Record(ANSWER)))


def head_of(size: int) -> RequestHead:
    """A head of `size` bytes: GET, a slash, one header of one letter, and three NULs between them."""
    return RequestHead(b"GET", b"/", ((b"a", b"x" * (size - len(b"GET\0/\0a\0"))),))


def test_a_head_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    record = Record(head_of(MAX_HEAD))
    assert decode_request_record(encode_record(record)) == record
    with pytest.raises(LocalProtocolError, match=str(MAX_HEAD)):
        encode_record(Record(head_of(MAX_HEAD + 1)))
    larger = b"GET\0/\0a\0" + b"x" * (MAX_HEAD - 7)
    with pytest.raises(RemoteProtocolError, match=str(MAX_HEAD)):
        decode_request_record(request_plaintext(larger))


def test_data_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    record = Record(ASK, bytes(MAX_DATA))
    assert decode_request_record(encode_record(record)) == record
    with pytest.raises(LocalProtocolError, match=str(MAX_DATA)):
        encode_record(Record(ASK, bytes(MAX_DATA + 1)))


@pytest.mark.parametrize("method", [b"GET", b"PROPFIND", b"M-SEARCH", b"!#$%&'*+-.^_`|~09AZ"])
def test_every_method_that_is_a_token_in_capitals_passes(method: bytes) -> None:
    record = Record(RequestHead(method, b"/", ()))
    assert decode_request_record(encode_record(record)) == record


@pytest.mark.parametrize("headers", [((b"a", b""),), ((b"a", b"\t x \xff"),), tuple((b"a", b"b") for _ in range(500))])
def test_every_value_that_http_allows_passes(headers: Headers) -> None:
    record = Record(RequestHead(b"GET", b"/", headers))
    assert decode_request_record(encode_record(record)) == record
