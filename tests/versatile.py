"""An application that says what it was asked and answers in many of HTTP's ways, to be run in an enclave and anywhere.

Starlette, as most services of this kind are made of it. It is read as text where it becomes an enclave's `src/app.py`.
"""

from __future__ import annotations

import asyncio
import email
import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator
from email.message import Message
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

DATA = bytes(range(256)) * 40
TEXT = ("what an app says, over and over\n" * 200).encode()


async def echo(request: Request) -> Response:
    """All that arrived: bytes of path and query, fields in order, and the body by digest and beginning."""
    digest, size, start = hashlib.sha256(), 0, b""
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
        start = (start + piece)[:100]
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["path"],
            "raw": request.scope["raw_path"].decode("latin-1"),
            "query": request.scope["query_string"].decode("latin-1"),
            "scheme": request.scope["scheme"],
            "version": request.scope["http_version"],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw],
            "size": size,
            "sha256": digest.hexdigest(),
            "start": start.decode("latin-1"),
        }
    )


async def form(request: Request) -> Response:
    """The parts of a multipart body, read by the standard library's reader of mail."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode("latin-1")
    whole = email.message_from_bytes(head + await request.body())
    return JSONResponse([_part(part) for part in whole.walk() if not part.is_multipart()])


def _part(part: Message) -> dict[str, Any]:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    said = str(part["content-disposition"])
    return {"disposition": said, "type": part.get_content_type(), "sha256": hashlib.sha256(content).hexdigest()}


async def status(request: Request) -> Response:
    return Response(status_code=int(request.query_params["code"]))


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"], int(request.query_params.get("code", "307")))


async def redirect_by_name(request: Request) -> Response:
    """To an address that the framework makes of the Host that it sees."""
    return RedirectResponse(request.url_for("echo"))


async def cookies(_: Request) -> Response:
    response = PlainTextResponse("set")
    response.set_cookie("first", "1", httponly=True)
    response.set_cookie("second", "2; and more", path="/", samesite="strict")
    response.set_cookie("third", "3", max_age=60)
    return response


async def encoded(request: Request) -> Response:
    """Compressed by the app, as the path says."""
    deflated = request.url.path == "/deflate"
    body = zlib.compress(TEXT) if deflated else gzip.compress(TEXT, mtime=0)
    return Response(body, headers={"content-encoding": "deflate" if deflated else "gzip", "vary": "accept-encoding"})


async def conditional(request: Request) -> Response:
    tag = '"of this version"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag, "cache-control": "no-cache"})
    return Response(TEXT, headers={"etag": tag, "cache-control": "no-cache"})


async def ranges(request: Request) -> Response:
    """One range of RFC 9110, 14."""
    asked = request.headers.get("range")
    if asked is None:
        return Response(DATA, headers={"accept-ranges": "bytes"})
    first, _, last = asked.removeprefix("bytes=").partition("-")
    begin, end = int(first), min(int(last or len(DATA) - 1), len(DATA) - 1)
    if begin >= len(DATA):
        return Response(status_code=416, headers={"content-range": f"bytes */{len(DATA)}"})
    return Response(DATA[begin : end + 1], 206, {"content-range": f"bytes {begin}-{end}/{len(DATA)}"})


async def stream(request: Request) -> Response:
    return StreamingResponse(_pieces(int(request.query_params.get("count", "20"))), media_type="text/event-stream")


async def _pieces(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield f"data: {number}\n\n".encode()


async def download(request: Request) -> Response:
    size = int(request.query_params["size"])
    return Response((DATA * (size // len(DATA) + 1))[:size], media_type="application/octet-stream")


async def early(_: Request) -> Response:
    """An answer to a body that is not read."""
    return PlainTextResponse("too much", 413)


async def fields(_: Request) -> Response:
    """Fields that are long, doubled, empty, beyond ASCII, and of one connection only."""
    response = PlainTextResponse("fields")
    response.raw_headers += [
        (b"x-twice", b"1"),
        (b"x-long", b"y" * 20_000),
        (b"x-twice", b"2"),
        (b"x-empty", b""),
        (b"x-latin", "caf\xe9".encode("latin-1")),
        (b"link", b"</style.css>; rel=preload, </script.js>; rel=preload"),
        (b"www-authenticate", b'Basic realm="a", charset="UTF-8"'),
    ]
    return response


async def background(_: Request) -> Response:
    return PlainTextResponse("answered", background=BackgroundTask(_never))


async def _never() -> None:
    await asyncio.Event().wait()


GATE = asyncio.Event()
GONE: list[str] = []


async def gated(_: Request) -> Response:
    """One event, and another once somebody asks for `/open`."""
    return StreamingResponse(_at_the_gate(), media_type="text/event-stream")


async def _at_the_gate() -> AsyncIterator[bytes]:
    GATE.clear()
    try:
        yield b"data: first\n\n"
        await GATE.wait()
        yield b"data: second\n\n"
    except asyncio.CancelledError:
        GONE.append("gated")
        raise


async def open_gate(_: Request) -> Response:
    GATE.set()
    return PlainTextResponse("open")


class Upper:
    """Each piece comes back as it arrives: an ASGI app, since Starlette's own streams read ahead for a disconnect."""

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message.get("body", b"").upper(), "more_body": more})


async def gone(_: Request) -> Response:
    """Whose clients have gone before the end."""
    return JSONResponse(GONE)


async def swallow(request: Request) -> Response:
    try:
        async for _ in request.stream():
            pass
    except Exception:  # a disconnect before uvicorn, in an enclave an error: half a body is never taken for a whole one
        GONE.append("swallow")
        raise
    return PlainTextResponse("swallowed")


async def empty(_: Request) -> Response:
    return Response(headers={"x-empty": "yes"})


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "HEAD", "REPORT", "TRACE"]
ODD_PATHS = ("/caf\xe9", "/x+y;z,2@:$&'()!~", "/\u0436\U0001f980")
"""Decoded, as routes and manifests have them."""

ROUTES: dict[str, Any] = {
    "/echo": echo,
    "/form": form,
    "/status": status,
    "/redirect": redirect,
    "/redirect/by/name": redirect_by_name,
    "/cookies": cookies,
    "/gzip": encoded,
    "/deflate": encoded,
    "/conditional": conditional,
    "/ranges": ranges,
    "/stream": stream,
    "/download": download,
    "/early": early,
    "/fields": fields,
    "/background": background,
    "/empty": empty,
    "/gated": gated,
    "/open": open_gate,
    "/upper": Upper(),
    "/gone": gone,
    "/swallow": swallow,
    "/folder/": echo,
    **dict.fromkeys(ODD_PATHS, echo),
}
PATHS = (*ROUTES, "/folder", "/absent")

app = Starlette(routes=[Route(path, endpoint, methods=METHODS) for path, endpoint in ROUTES.items()])
