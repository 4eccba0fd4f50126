"""An enclave whose operator misbehaves as a test says, and whose app keeps a book of what it has executed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from running import Running, running
from services import ASGI, make_service

from workshop_kit.errors import WorkshopKitError
from workshop_kit.simulator.enclave import Infrastructure
from workshop_kit.simulator.misbehaving import Attack

PATHS = ("/pay", "/refund", "/deposit", "/book", "/download")

APP = (
    ASGI
    + """
BOOK = []

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/download":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in range(4):
            await send({"type": "http.response.body", "body": bytes([piece]) * 100_000, "more_body": True})
        return await send({"type": "http.response.body", "body": b""})
    await plain(scope, receive, send)

async def answer(scope, receive):
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    if scope["path"] == "/book":
        return as_json(BOOK)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RuntimeError("the request did not come whole")
        size, more = size + len(message["body"]), message["more_body"]
    entry = {"user": headers["x-oblv-user-name"], "path": scope["path"], "order": scope["query_string"].decode()}
    BOOK.append(entry | {"amount": headers.get("x-amount"), "size": size})
    return as_json("done")
"""
).replace("async def app(", "async def plain(", 1)

DONE = "done"
LARGE = 700_000
"""Bytes of a body that needs three records."""

_numbers = itertools.count(1000)


@dataclass
class Operated:
    """`running` behind an operator, honest until a test lets him misbehave."""

    running: Running
    _clients: dict[str, httpx.Client] = field(default_factory=dict)

    def misbehave(self, attack: Attack) -> None:
        self.running.enclave.parent.misbehave = attack

    def client(self, user: str = "Alice") -> httpx.Client:
        """A user's client, which is there for all tests."""
        if user not in self._clients:
            self._clients[user] = self.running.client(user)
        return self._clients[user]

    def executed(self, order: str) -> list[dict[str, object]]:
        """What the app has done for an order, asked by somebody who is let alone."""
        before, self.running.enclave.parent.misbehave = self.running.enclave.parent.misbehave, Attack()
        try:
            book = self.client("Bob").get("/book").json()
        finally:
            self.running.enclave.parent.misbehave = before
        return [entry for entry in book if entry["order"] == order]

    def goes_on(self, user: str = "Alice") -> bool:
        """Whether, once let alone, a user's client is served: its session is whole, or it made another."""
        self.misbehave(Attack())
        order = new_order()
        assert self.client(user).get(f"/pay?{order}").json() == DONE
        return [entry["user"] for entry in self.executed(order)] == [user]


def new_order() -> str:
    """A query that no other test has, always as long."""
    return f"order={next(_numbers)}"


def refusal(ask: Callable[[], httpx.Response]) -> str:
    """In which words a request is refused: by an error on the way, or in a sealed answer."""
    try:
        response = ask()
    except (WorkshopKitError, httpx.TransportError) as error:
        return str(error)
    assert response.is_error, f"expected a refusal, got {response.status_code} {response.text[:200]}"
    return response.text


@contextmanager
def operated(folder: Path, *, more: str = "", infrastructure: Infrastructure | None = None) -> Iterator[Operated]:
    """Build and run the app, with `more` lines in it, behind an operator."""
    service = make_service(folder / "book", APP + more, *PATHS)
    with running(service, infrastructure=infrastructure, misbehave=Attack()) as started:
        yield Operated(started)
