"""An enclave proxy in memory, its NSM, an app that remembers what it is given, and a client that keeps no rule."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from attested import World
from pair import user_key

from workshop_kit.channel.client_handshake import ClientHandshake
from workshop_kit.channel.framing import RequestHead, ResponseHead
from workshop_kit.channel.session import ClientSession
from workshop_kit.edges import carrier
from workshop_kit.edges.carrier import CarrierResponse
from workshop_kit.edges.enclave_proxy import EnclaveProxy
from workshop_kit.edges.http_call import Call
from workshop_kit.service.access import User, Users, rules_of
from workshop_kit.service.manifest import Manifest


@dataclass(frozen=True)
class Answer:
    """Of the enclave proxy or the app: a refusal of the carrier's has its status too."""

    status: int
    body: bytes
    head: bytes = b""


@dataclass
class Seen:
    """One request as the app got it."""

    scope: dict[str, Any]
    body: bytes = b""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.scope["headers"])


class Line:
    """A connection that ends in memory."""

    ending = False

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        """There is always room."""

    async def answered(self, call: Call) -> None:
        """Nothing follows."""

    def balance(self) -> None:
        """Nobody waits."""


class _Device:
    def __init__(self, world: World) -> None:
        self._world = world
        self.asked = 0
        self.free: asyncio.Event | None = None

    async def request(self, data: bytes) -> bytes:
        self.asked += 1
        if self.free is not None:
            await self.free.wait()
        return self._world.nsm.handle(data, now=self._world.now)


@dataclass
class Proxied:
    """A running proxy with one user, Alice, in a session of hers."""

    manifest: Manifest
    role: str
    world: World = field(default_factory=World)
    seen: list[Seen] = field(default_factory=list)
    time: float = 0.0  # what the proxy's clock says
    wait: asyncio.Event | None = None  # what the app waits for

    def __post_init__(self) -> None:
        users = Users((User("Alice", self.role, user_key("Alice").public_bytes),))
        self.device = _Device(self.world)
        self._proxy = EnclaveProxy(
            self._app,
            websocket=self._app,
            rules=rules_of(self.manifest, users),
            nsm=self.device,
            clock=lambda: self.time,
        )
        self.connect()

    def connect(self) -> None:
        """A new session, which the following requests go into."""
        handshake = self.handshake()
        evidence = self.post(carrier.HELLO_PATH, handshake.hello())
        handshake.receive_evidence(evidence.body, now=self.world.now)
        self._session: ClientSession = handshake.session()

    @property
    def session_id(self) -> bytes:
        return self._session.session_id

    def handshake(self) -> ClientHandshake:
        return ClientHandshake(user_key("Alice"), self.world.policy(), random=self.world.random)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(Seen(scope))
        more = True
        while more:
            message = await receive()
            self.seen[-1].body += message["body"]
            more = message["more_body"]
        if self.wait is not None:
            await self.wait.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    def ask(self, head: RequestHead, *bodies: bytes) -> Answer:
        """Seal a request as it is, each body in a record; what an honest client refuses to write is written too."""
        fields = [head.method, head.target, *(part for header in head.headers for part in header)]
        return self.ask_sealed(b"\0".join(fields), *bodies)

    def ask_sealed(self, head: bytes, *bodies: bytes) -> Answer:
        return asyncio.run(self.asking(head, *bodies))

    async def asking(self, head: bytes, *bodies: bytes) -> Answer:
        pieces = bodies or (b"",)
        plaintexts = [b"\0" + piece for piece in pieces]
        plaintexts[0] = b"\1" + len(head).to_bytes(4, "big") + head + pieces[0]
        plaintexts[-1] = bytes([plaintexts[-1][0] | 2]) + plaintexts[-1][1:]
        asked = self._session.exchange()
        records = b"".join(self._sealed(asked.stream, plaintexts))
        answer = await self.posting(carrier.exchange_path(self._session.session_id, asked.stream), records)
        if answer.status != 200:
            return answer
        opened = list(asked.opener.receive(answer.body))
        asked.opener.finish()
        assert isinstance(opened[0].head, ResponseHead)
        return Answer(opened[0].head.status, b"".join(record.data for record in opened))

    def _sealed(self, stream: int, plaintexts: Iterable[bytes]) -> Iterable[bytes]:
        """SPEC.md R-1 and R-2, written by hand."""
        for index, plaintext in enumerate(plaintexts):
            nonce = stream.to_bytes(4, "big") + index.to_bytes(8, "big")
            sealed = self._session._sealing.cipher.encrypt(nonce, plaintext, None)
            yield len(sealed).to_bytes(4, "big") + sealed

    def post(self, path: str, body: bytes) -> Answer:
        """What the proxy answers to a carrier's request, whatever it holds."""
        return asyncio.run(self.posting(path, body))

    async def posting(self, path: str, body: bytes, *, whole: bool = True) -> Answer:
        line = Line()
        call = Call(line, (b"POST", path.encode(), ()), modern=True, keeps=True, upgrade=False)
        call.take(body)
        call.complete = whole
        await self._proxy(call)
        response = CarrierResponse()
        answer = response.receive(line.written)
        return Answer(response.status, answer, line.written.partition(b"\r\n\r\n")[0] + b"\r\n")
