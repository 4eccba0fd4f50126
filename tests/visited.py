"""A service with a page, and a web page of somebody else's that tries in every way a page has to reach it."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from running import Running, running
from services import make_service

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

ATTEMPTS = """\
const base = BASE, tried = [];
const to = name => `${base}/act?by=${name}`;
const settled = (name, begin) => new Promise(end => {
  tried.push(name);
  setTimeout(end, 3000);
  try { begin(end); } catch (error) { end(); }
});
const element = (name, tag, attribute, more = {}) => settled(name, end => {
  const made = Object.assign(document.createElement(tag), more, {onload: end, onerror: end});
  made[attribute] = to(name);
  document.body.append(made);
});
const asked = (name, options) => settled(name, end => fetch(to(name), options).then(end, end));
const form = (name, method) => settled(name, end => {
  const frame = Object.assign(document.createElement("iframe"), {name, onload: end, onerror: end});
  const made = Object.assign(document.createElement("form"), {method, action: to(name), target: name});
  made.append(Object.assign(document.createElement("input"), {name: "by", value: name}));
  document.body.append(frame, made);
  made.submit();
});
async function attempt() {
  await Promise.all([
    asked("fetch", {}),
    asked("fetch-no-cors", {mode: "no-cors"}),
    asked("fetch-post-no-cors", {mode: "no-cors", method: "POST", body: "x", credentials: "include"}),
    asked("fetch-with-preflight", {method: "PUT", headers: {"content-type": "application/json", "x-mine": "1"}}),
    asked("fetch-no-referrer", {mode: "no-cors", referrerPolicy: "no-referrer"}),
    element("image", "img", "src"),
    element("image-no-referrer", "img", "src", {referrerPolicy: "no-referrer"}),
    element("script", "script", "src"),
    element("module", "script", "src", {type: "module"}),
    element("style", "link", "href", {rel: "stylesheet"}),
    element("prefetch", "link", "href", {rel: "prefetch"}),
    element("frame", "iframe", "src"),
    element("sandboxed-frame", "iframe", "src", {sandbox: "allow-scripts"}),
    element("object", "object", "data"),
    element("video", "video", "src"),
    form("form-get", "get"),
    form("form-post", "post"),
    settled("beacon", end => { navigator.sendBeacon(to("beacon"), "x"); end(); }),
    settled("events", end => {
      const made = new EventSource(to("events"));
      made.onerror = () => { made.close(); end(); };
    }),
    settled("socket", end => {
      const made = new WebSocket(to("socket").replace("http", "ws").replace("/act", "/socket"));
      made.onopen = made.onerror = end;
    }),
  ]);
  await settled("location", end => {
    const frame = document.createElement("iframe");
    document.body.append(frame);
    frame.onload = end;
    frame.contentWindow.location = to("location");
  });
}
"""
"""`attempt()` tries all of it at `BASE`, and then has the names of what it tried in `tried`."""

APP = (
    """\
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import HTMLResponse, PlainTextResponse

app = FastAPI()
BOOK = []

@app.api_route("/act", methods=["GET", "POST", "PUT", "OPTIONS", "DELETE"])
async def act(request: Request):
    BOOK.append(request.query_params.get("by", "nothing"))
    return PlainTextResponse("done")

@app.websocket("/socket")
async def socket(made: WebSocket):
    BOOK.append(made.query_params.get("by", "nothing"))
    await made.accept()

@app.get("/book")
async def book():
    return BOOK

@app.get("/")
async def page():
    return HTMLResponse(PAGE)

PAGE = '''<!doctype html><title>a page of the app's</title><body><script>
"""
    + ATTEMPTS.replace("BASE", "location.origin")
    + """
attempt().then(() => { document.body.textContent = JSON.stringify({tried}); });
</script>'''
"""
)
PATHS = ("/", "/act", "/socket", "/book")


@contextmanager
def visited(folder: Path) -> Iterator[Running]:
    """The service in an enclave."""
    with running(make_service(folder / "service", APP, *PATHS)) as started:
        yield started


@dataclass
class Site:
    """Somebody else's web site on this machine, whose page attempts what it can at `target`.

    Attributes:
        asked: what came to this site itself, by the names of attempts.
        tried: what its page says that it has tried, once it says so.
    """

    port: int
    target: str
    asked: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def page(self) -> bytes:
        attempts = ATTEMPTS.replace("BASE", json.dumps(self.target))
        report = 'fetch("/report", {method: "POST", body: JSON.stringify(tried)})'
        return f"<!doctype html><body><script>{attempts}\nattempt().then(() => {report});</script>".encode()


@contextmanager
def site(target: str) -> Iterator[Site]:
    """Serve it; where `target` is "", its page turns to the site itself by another name, which has no door."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            where = urlsplit(self.path)
            body = made.page if where.path == "/page" else b"here"
            if where.path in ("/act", "/socket"):
                made.asked += parse_qs(where.query).get("by", [])
            self.send_response(200)
            self.send_header("content-type", "text/html" if where.path == "/page" else "text/plain")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def report(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            if self.path == "/report":
                made.tried = json.loads(body)
                made.done.set()
            self.answer()

        def log_message(self, *_: object) -> None: ...

    for method in ("GET", "POST", "PUT", "OPTIONS"):
        setattr(Handler, f"do_{method}", Handler.answer if method == "GET" else Handler.report)

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A browser breaks connections off."""

    with Server(("127.0.0.1", 0), Handler) as server:
        made = Site(server.server_port, target or f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browsing(folder: Path, address: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A browser without a window at `address`; skips the test where there is none."""
    command = _command(folder, *options)
    with subprocess.Popen(
        [*command, address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def content_of(folder: Path, address: str, *options: str) -> str:
    """A page as it is once its scripts have done what they do."""
    command = [*_command(folder, *options), "--virtual-time-budget=20000", "--dump-dom", address]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        try:
            return process.communicate(timeout=60)[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _command(folder: Path, *options: str) -> list[str]:
    if BROWSER is None:
        pytest.skip("no Chromium is installed here")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    quiet = ["--disable-background-networking", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    profile = f"--user-data-dir={folder / 'profile'}"
    return [BROWSER, "--headless", profile, "--proxy-server=direct://", *sandbox, *quiet, *options]
