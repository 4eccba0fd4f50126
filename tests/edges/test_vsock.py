"""Vsock addresses over Unix sockets, and the device through which an enclave is handed its connections."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import DEADLINE

from workshop_kit.edges.vsock import EGRESS_PORT, VsockAddress, VsockDevice, listen, listen_for, serve_device

PARENT = VsockAddress(3, EGRESS_PORT)
Dial = Callable[[VsockAddress], Awaitable[socket.socket]]


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in a loop of its own; where it would wait for ever, it fails."""

    @functools.wraps(test)
    def in_a_loop(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), DEADLINE))

    return in_a_loop


@asynccontextmanager
async def device(dial: Dial) -> AsyncIterator[tuple[VsockDevice, asyncio.Task[None]]]:
    """An enclave's end of a device, and the task at the hypervisor's end."""
    inner, outer = socket.socketpair()
    with inner, outer:
        serving = asyncio.create_task(serve_device(outer, dial))
        try:
            yield VsockDevice(inner), serving
        finally:
            inner.close()
            await asyncio.gather(serving, return_exceptions=True)


def refusing(error: OSError) -> Dial:
    async def dial(_: VsockAddress) -> socket.socket:
        raise error

    return dial


@pytest.fixture
def directory() -> Iterator[Path]:
    """A Unix socket's name has some hundred bytes at most, and pytest's folders are deep."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@run
async def test_a_connection_through_the_device_carries_bytes_both_ways() -> None:
    asked: list[VsockAddress] = []
    near, far = socket.socketpair()
    far.settimeout(DEADLINE)

    async def dial(address: VsockAddress) -> socket.socket:
        asked.append(address)
        return near

    async with device(dial) as (ours, _):
        with far, await ours.connect(VsockAddress(0xFFFFFFFF, 0xFFFFFFFE)) as connection:
            connection.sendall(b"out")
            far.sendall(b"in")
            assert (far.recv(10), connection.recv(10)) == (b"out", b"in")
            # The hypervisor keeps no end of it: else the enclave's closing would end nothing.
            connection.close()
            assert far.recv(10) == b""
    assert asked == [VsockAddress(0xFFFFFFFF, 0xFFFFFFFE)]


@run
async def test_each_of_many_callers_is_handed_the_connection_that_it_asked_for() -> None:
    async def dial(address: VsockAddress) -> socket.socket:
        near, far = socket.socketpair()
        with far:
            for _ in range(address.port % 3):
                await asyncio.sleep(0)
            far.sendall(b"%d" % address.port)
        return near

    async with device(dial) as (ours, _):
        connections = await asyncio.gather(*(ours.connect(VsockAddress(3, port)) for port in range(50)))
        said = []
        for connection in connections:
            with connection:
                said.append(connection.recv(10))
    assert said == [b"%d" % port for port in range(50)]


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENODEV, errno.ENOENT, errno.EMFILE])
@run
async def test_where_nobody_listens_the_callers_error_has_the_hypervisors_number(number: int) -> None:
    async with device(refusing(OSError(number, os.strerror(number)))) as (ours, _):
        with pytest.raises(OSError, match=os.strerror(number)) as failed:
            await ours.connect(PARENT)
    assert failed.value.errno == number


@run
async def test_an_error_without_a_number_is_a_refused_connection() -> None:
    async with device(refusing(OSError("of an implementation's own"))) as (ours, _):
        with pytest.raises(ConnectionRefusedError):
            await ours.connect(PARENT)


@run
async def test_the_device_works_on_after_a_connection_that_failed() -> None:
    near, far = socket.socketpair()
    answers: list[socket.socket | OSError] = [ConnectionRefusedError(errno.ECONNREFUSED, "nobody"), near]

    async def dial(_: VsockAddress) -> socket.socket:
        answered = answers.pop(0)
        if isinstance(answered, OSError):
            raise answered
        return answered

    async with device(dial) as (ours, _):
        with far:
            with pytest.raises(ConnectionRefusedError):
                await ours.connect(PARENT)
            with await ours.connect(PARENT) as connection:
                far.sendall(b"in")
                assert connection.recv(10) == b"in"


@run
async def test_a_device_that_is_gone_is_an_error_at_once() -> None:
    inner, outer = socket.socketpair()
    with inner:
        outer.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await VsockDevice(inner).connect(PARENT)


@run
async def test_a_device_that_goes_while_a_caller_waits_is_an_error() -> None:
    inner, outer = socket.socketpair()
    with inner:
        outer.setblocking(False)
        waiting = asyncio.create_task(VsockDevice(inner).connect(PARENT))
        assert len(await asyncio.get_running_loop().sock_recv(outer, 100)) == 8
        outer.close()
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)) as failed:
            await waiting
    assert failed.value.errno == errno.ENODEV


@run
async def test_an_answer_without_a_connection_is_an_error() -> None:
    inner, outer = socket.socketpair()
    with inner, outer:
        outer.send(bytes(4))
        with pytest.raises(OSError, match=os.strerror(errno.EPROTO)) as failed:
            await VsockDevice(inner).connect(PARENT)
    assert failed.value.errno == errno.EPROTO


@run
async def test_serving_ends_with_the_enclave() -> None:
    async with device(refusing(ConnectionRefusedError())) as (_, serving):
        pass
    assert serving.done()
    assert serving.exception() is None


def test_an_address_is_a_socket_with_a_name_that_says_who_listens_and_for_whom(directory: Path) -> None:
    with listen(VsockAddress(16, 5005), directory), listen_for(16, PARENT, directory):
        listed = sorted(directory.iterdir())
    assert [path.name for path in listed] == ["16.5005", "16.to.3.5006"]
    assert all(stat.S_ISSOCK(path.stat().st_mode) for path in listed)


@run
async def test_what_an_enclave_calls_arrives_at_the_listener_for_this_enclave(directory: Path) -> None:
    async def dial(address: VsockAddress) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(address.path_from(16, directory)))
        return connection

    with listen_for(16, PARENT, directory) as mine, listen_for(17, PARENT, directory) as others:
        others.setblocking(False)
        async with device(dial) as (ours, _):
            with await ours.connect(PARENT) as connection, mine.accept()[0] as accepted:
                connection.sendall(b"out")
                assert accepted.recv(10) == b"out"
        with pytest.raises(BlockingIOError):
            others.accept()
