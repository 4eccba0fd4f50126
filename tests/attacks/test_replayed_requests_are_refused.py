"""What Alice asks for once happens once, however often the operator delivers it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from operated import DONE, Operated, new_order

from workshop_kit.edges.tunnel import close
from workshop_kit.edges.vsock import PROXY_PORT, VsockAddress
from workshop_kit.simulator.misbehaving import Ask, Attack, Replay, Request, Response


def test_a_request_delivered_twice_is_executed_once(enclave: Operated) -> None:
    replay, order = Replay(), new_order()
    enclave.misbehave(replay)
    assert enclave.client().get(f"/pay?{order}").json() == DONE
    (copy,) = replay.answers
    assert copy.status == 400
    assert b"used before: it was recorded and repeated" in copy.body
    assert len(enclave.executed(order)) == 1
    assert enclave.goes_on()


class Together(Attack):
    """Delivers a request twice, byte for byte at the same time, so that both are begun before either can open."""

    def __init__(self, enclave: Path) -> None:
        self._enclave = enclave
        self.answers: list[bytes] = []

    async def exchange(self, request: Request, ask: Ask) -> Response:
        fields = f"host: enclave\r\ncontent-length: {len(request.body)}\r\nconnection: close"
        head = f"POST {request.path} HTTP/1.1\r\n{fields}\r\n\r\n"
        copies = [await asyncio.open_unix_connection(str(self._enclave)) for _ in range(2)]
        for _, writer in copies:
            writer.write(head.encode() + request.body[:-1])
        await ask(Request("GET", "/", (), b""))  # once this is answered, the enclave has read what came before
        for _, writer in copies:
            writer.write(request.body[-1:])
        self.answers = sorted([await reader.read() for reader, _ in copies])
        for _, writer in copies:
            await close(writer)
        return Response(200, (), self.answers[0].partition(b"\r\n\r\n")[2])


def test_of_two_copies_that_begin_together_one_is_executed(enclave: Operated) -> None:
    """Both find their number unused; only the one that opens first may have it."""
    running = enclave.running.enclave
    together = Together(
        VsockAddress(running.describe()["EnclaveCID"], PROXY_PORT).path(running.infrastructure.directory)
    )
    for _ in range(3):
        enclave.misbehave(together)
        order = new_order()
        assert enclave.client().get(f"/pay?{order}").json() == DONE
        assert together.answers[0].startswith(b"HTTP/1.1 200 ")
        assert together.answers[1].startswith(b"HTTP/1.1 400 ")
        assert b"used before" in together.answers[1]
        assert len(enclave.executed(order)) == 1
    assert enclave.goes_on()
