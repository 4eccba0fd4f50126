"""Vsock addresses over Unix sockets, and the device through which an enclave is handed its connections."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import DEADLINE

from workshop_kit.edges.vsock import EGRESS_PORT, VsockAddress, VsockDevice, listen, listen_for, serve_device

PARENT = VsockAddress(3, EGRESS_PORT)
Dial = Callable[[VsockAddress], socket.socket]


def pair() -> tuple[socket.socket, socket.socket]:
    """Connected sockets on which nobody waits for ever."""
    sockets = socket.socketpair()
    for each in sockets:
        each.settimeout(DEADLINE)
    return sockets


@contextmanager
def device(dial: Dial) -> Iterator[tuple[VsockDevice, threading.Thread]]:
    """An enclave's end of a device, and the thread at the hypervisor's end, which has ended afterwards."""
    inner, outer = pair()
    with inner, outer:
        serving = threading.Thread(target=serve_device, args=(outer, dial))
        serving.start()
        try:
            yield VsockDevice(inner), serving
        finally:
            inner.close()
            serving.join(DEADLINE)


def refusing(error: OSError) -> Dial:
    def dial(_: VsockAddress) -> socket.socket:
        raise error

    return dial


@pytest.fixture
def directory() -> Iterator[Path]:
    """A Unix socket's name has some hundred bytes at most, and pytest's folders are deep."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_connection_through_the_device_carries_bytes_both_ways() -> None:
    asked: list[VsockAddress] = []
    near, far = pair()

    def dial(address: VsockAddress) -> socket.socket:
        asked.append(address)
        return near

    with device(dial) as (ours, _), far, ours.connect(VsockAddress(0xFFFFFFFF, 0xFFFFFFFE)) as connection:
        connection.sendall(b"out")
        far.sendall(b"in")
        assert (far.recv(10), connection.recv(10)) == (b"out", b"in")
        # The hypervisor keeps no end of it: else the enclave's closing would end nothing.
        connection.close()
        assert far.recv(10) == b""
    assert asked == [VsockAddress(0xFFFFFFFF, 0xFFFFFFFE)]


def test_each_of_many_calls_is_handed_the_connection_that_it_asked_for() -> None:
    def dial(address: VsockAddress) -> socket.socket:
        near, far = pair()
        with far:
            far.sendall(b"%d" % address.port)
        return near

    said = []
    with device(dial) as (ours, _):
        for port in range(50):
            with ours.connect(VsockAddress(3, port)) as connection:
                said.append(connection.recv(10))
    assert said == [b"%d" % port for port in range(50)]


def test_a_request_that_arrives_in_pieces_is_one() -> None:
    asked: list[VsockAddress] = []

    def dial(address: VsockAddress) -> socket.socket:
        asked.append(address)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody")

    inner, outer = pair()
    with inner, outer:
        serving = threading.Thread(target=serve_device, args=(outer, dial))
        serving.start()
        for byte in (3).to_bytes(4, "little") + (7).to_bytes(4, "little"):
            inner.sendall(bytes([byte]))
        assert len(inner.recv(10)) == 4
        inner.close()
        serving.join(DEADLINE)
    assert asked == [VsockAddress(3, 7)]


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENODEV, errno.ENOENT, errno.EMFILE])
def test_where_nobody_listens_the_callers_error_has_the_hypervisors_number(number: int) -> None:
    with (
        device(refusing(OSError(number, os.strerror(number)))) as (ours, _),
        pytest.raises(OSError, match=os.strerror(number)) as failed,
    ):
        ours.connect(PARENT)
    assert failed.value.errno == number


def test_an_error_without_a_number_is_a_refused_connection() -> None:
    with device(refusing(OSError("of an implementation's own"))) as (ours, _), pytest.raises(ConnectionRefusedError):
        ours.connect(PARENT)


def test_the_device_works_on_after_a_connection_that_failed() -> None:
    near, far = pair()
    answers: list[socket.socket | OSError] = [ConnectionRefusedError(errno.ECONNREFUSED, "nobody"), near]

    def dial(_: VsockAddress) -> socket.socket:
        answered = answers.pop(0)
        if isinstance(answered, OSError):
            raise answered
        return answered

    with device(dial) as (ours, _), far:
        with pytest.raises(ConnectionRefusedError):
            ours.connect(PARENT)
        with ours.connect(PARENT) as connection:
            far.sendall(b"in")
            assert connection.recv(10) == b"in"


def test_a_device_that_is_gone_is_an_error_at_once() -> None:
    inner, outer = pair()
    with inner:
        outer.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            VsockDevice(inner).connect(PARENT)


def test_a_device_that_goes_while_a_caller_waits_is_an_error() -> None:
    inner, outer = pair()

    def go() -> None:
        with outer:
            assert len(outer.recv(100)) == 8

    with inner:
        going = threading.Thread(target=go)
        going.start()
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)) as failed:
            VsockDevice(inner).connect(PARENT)
        going.join(DEADLINE)
    assert failed.value.errno == errno.ENODEV


def test_an_answer_without_a_connection_is_an_error() -> None:
    inner, outer = pair()
    with inner, outer:
        outer.send(bytes(4))
        with pytest.raises(OSError, match=os.strerror(errno.EPROTO)) as failed:
            VsockDevice(inner).connect(PARENT)
    assert failed.value.errno == errno.EPROTO


def test_serving_ends_with_the_enclave() -> None:
    with device(refusing(ConnectionRefusedError())) as (_, serving):
        assert serving.is_alive()
    assert not serving.is_alive()


def test_an_address_is_a_socket_with_a_name_that_says_who_listens_and_for_whom(directory: Path) -> None:
    with listen(VsockAddress(16, 5005), directory), listen_for(16, PARENT, directory):
        listed = sorted(directory.iterdir())
    assert [path.name for path in listed] == ["16.5005", "16.to.3.5006"]
    assert all(stat.S_ISSOCK(path.stat().st_mode) for path in listed)


def test_what_an_enclave_calls_arrives_at_the_listener_for_this_enclave(directory: Path) -> None:
    def dial(address: VsockAddress) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(address.path_from(16, directory)))
        return connection

    with listen_for(16, PARENT, directory) as mine, listen_for(17, PARENT, directory) as others:
        others.setblocking(False)
        with device(dial) as (ours, _), ours.connect(PARENT) as connection, mine.accept()[0] as accepted:
            connection.sendall(b"out")
            assert accepted.recv(10) == b"out"
        with pytest.raises(BlockingIOError):
            others.accept()
