"""One user, three ways to ask: a program that calls and waits, an asyncio program, and any program through the client
proxy. All three look like `httpx.Client`, so that a test says once what must hold for each.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pair import user_key
from running import client_proxy

from workshop_kit.edges.async_client import AsyncAttestedTransport
from workshop_kit.edges.client import AttestedTransport
from workshop_kit.errors import WorkshopKitError
from workshop_kit.verifier import AnyPolicy, AppraisalResult

KINDS = ("sync", "async", "proxy")
PATIENCE = 60.0
"""Seconds after which a test gives up on a loop; nothing here takes more than a few."""

_T = TypeVar("_T")


class LoopClient:
    """An `httpx.AsyncClient` in a loop of its own, for threads that call and wait."""

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client = self._run(_made(make))

    def _run(self, asking: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(asking, self._loop).result(PATIENCE)

    def request(self, method: str, path: str, *, content: Any = None, **more: Any) -> httpx.Response:
        return self._run(self._client.request(method, path, content=_async(content), **more))

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)

    @contextmanager
    def stream(self, method: str, path: str, *, content: Any = None, **more: Any) -> Iterator[_LoopResponse]:
        request = self._client.build_request(method, path, content=_async(content), **more)
        response = self._run(self._client.send(request, stream=True))
        try:
            yield _LoopResponse(self._run, response)
        finally:
            self._run(response.aclose())

    def close(self) -> None:
        self._run(self._client.aclose())
        self._run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


class _LoopResponse:
    def __init__(self, run: Callable[..., Any], response: httpx.Response) -> None:
        self._run = run
        self._response = response
        self.status_code = response.status_code

    def iter_raw(self) -> Iterator[bytes]:
        pieces = aiter(self._response.aiter_raw())
        while piece := self._run(anext(pieces, b"")):
            yield piece

    def read(self) -> bytes:
        content: bytes = self._run(self._response.aread())
        return content


async def _made(make: Callable[[], httpx.AsyncClient]) -> httpx.AsyncClient:
    return make()


def _async(content: Any) -> Any:
    return _pieces(iter(content)) if isinstance(content, Iterator) else content


async def _pieces(content: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, content, None)) is not None:
        yield piece


@contextmanager
def client_of(
    kind: str,
    url: str,
    policy: AnyPolicy,
    *,
    user: str = "Alice",
    timeout: httpx.Timeout | float = 30.0,
    on_result: Callable[[AppraisalResult], None] = lambda _: None,
) -> Iterator[Any]:
    """A client of that kind, closed at the end."""
    more: dict[str, Any] = {"base_url": "http://enclave", "timeout": timeout}
    if kind == "sync":
        with httpx.Client(transport=AttestedTransport(url, user_key(user), policy, on_result=on_result), **more) as one:
            yield one
    elif kind == "async":

        def make() -> httpx.AsyncClient:
            transport = AsyncAttestedTransport(url, user_key(user), policy, on_result=on_result)
            return httpx.AsyncClient(transport=transport, **more)

        client = LoopClient(make)
        try:
            yield client
        finally:
            client.close()
    else:
        with (
            client_proxy(url, user, policy, on_result=on_result) as address,
            httpx.Client(**more | {"base_url": address}) as plain,
        ):
            yield plain


def failure(ask: Callable[[], httpx.Response]) -> str:
    """The line that says why `ask` cannot be served: an exception's, or that of the client proxy's 502."""
    try:
        response = ask()
    except (WorkshopKitError, httpx.TransportError) as error:
        return str(error)
    assert response.status_code == 502, f"expected a failure, got {response.status_code} {response.text[:200]}"
    (line,) = response.text.splitlines()
    return line
