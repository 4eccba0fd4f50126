"""What an app receives of a sealed request, also where several of its tasks receive at once, as Starlette's do."""

from __future__ import annotations

import asyncio

import pytest
from pair import sessions
from proxied import Line

from workshop_kit.channel.framing import Record, RequestHead
from workshop_kit.edges.asgi import Message
from workshop_kit.edges.http_call import Call
from workshop_kit.edges.sealed_call import SealedRequest

HEAD = RequestHead(b"POST", b"/", ())


@pytest.mark.parametrize("ends", ["with its last record", "later"])
def test_a_task_that_waits_while_another_takes_the_end_is_told_of_it_too(ends: str) -> None:
    """It must neither wait for ever nor ask for ever: nothing else in the enclave would run."""

    async def receive() -> list[Message]:
        client, enclave = sessions()
        asked = client.exchange()
        call = Call(Line(), (b"POST", b"/", ()), modern=True, keeps=True, upgrade=False)
        request = SealedRequest(enclave.accept(asked.stream), call)
        call.take(asked.sealer.seal(Record(HEAD, b"first")))
        await request.head()
        first = await request.receive()
        waiting = asyncio.create_task(request.receive())
        await asyncio.sleep(0)
        call.take(asked.sealer.seal(Record(None, b"last", end=True)))
        if ends == "with its last record":
            call.end_of_request()
        last = await request.receive()  # before the one that waits is woken
        call.end_of_request()
        return [first, last, await asyncio.wait_for(waiting, 5)]

    first, last, other = asyncio.run(receive())
    assert (first["body"], first["more_body"]) == (b"first", True)
    assert (last["body"], last["more_body"]) == (b"last", False)
    assert (other["body"], other["more_body"]) == (b"", False)


def test_all_that_wait_are_told_what_is_new() -> None:
    """One takes it; the others wait on, and hear of the client's going."""

    async def receive() -> list[str]:
        client, enclave = sessions()
        asked = client.exchange()
        call = Call(Line(), (b"POST", b"/", ()), modern=True, keeps=True, upgrade=False)
        request = SealedRequest(enclave.accept(asked.stream), call)
        call.take(asked.sealer.seal(Record(HEAD, b"first")))
        await request.head()
        await request.receive()
        waiting = {asyncio.create_task(request.receive()) for _ in range(3)}
        await asyncio.sleep(0)
        call.take(asked.sealer.seal(Record(None, b"second")))
        taken, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        impatient = left.pop()
        impatient.cancel()
        call.go()
        gone, none = await asyncio.wait(left, timeout=5)
        return [*(str(task.result()["body"]) for task in taken), *(task.result()["type"] for task in gone), str(none)]

    assert asyncio.run(receive()) == ["b'second'", "http.disconnect", "set()"]
