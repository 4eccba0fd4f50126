"""Where the app's connections go: the kernel asks before each, and the answer comes from another process.

A filter hands every `connect`, and every `sendto` with an address, to whoever holds its listener (seccomp's user
notification, Linux 5.6). A connection that may go on is made by that other process, on the app's own socket, to
another address: to the app it is a connection like any other. Nothing depends on what the app changes in its memory
meanwhile, since its network has no other end: whoever slips through reaches the app's own loopback.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from workshop_kit.simulator.isolation import linux, seccomp
from workshop_kit.simulator.messages import WATCH

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_RECEIVE, _SEND, _STILL_WAITING = 0xC0502100, 0xC0182101, 0x40082102  # ioctls of linux/seccomp.h
_QUESTION, _ANSWER, _NUMBER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI"), struct.Struct("=Q")
_TIME = struct.Struct("@ll")
_GO_ON = 1
_LONGEST_ADDRESS = 128
_MAPPED = bytes(10) + b"\xff\xff"


def hand_over(answerer: socket.socket, listener: int) -> None:
    """Let another process answer what a filter asks."""
    socket.send_fds(answerer, [WATCH], [listener])
    os.close(listener)


class Attempt(NamedTuple):
    """A thread of the app's that waits for leave to connect a socket, or to send a datagram.

    Attributes:
        number: the question's; the answer repeats it.
        address: of IPv4 or IPv6, or "" where the call goes to neither.
        datagram: bytes to an address, and no connection.
    """

    number: int
    thread: int
    descriptor: int
    address: str
    port: int
    datagram: bool


def watch() -> int:
    """Put the filter on this thread and on all that it starts; the descriptor of its listener.

    Raises:
        OSError: the kernel has no such filter, or another program listens to one.
    """
    machine = linux.machine()
    program = seccomp.loaded(steps(machine))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    flags = (ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_NEW_LISTENER))
    return linux.syscall(_SECCOMP[machine], *flags, ctypes.byref(program))


def steps(machine: str) -> list[seccomp.Step]:
    """The filter: it asks, and refuses nothing."""
    connect, sendto = (seccomp.number_of(name, machine) for name in ("connect", "sendto"))
    return [
        (seccomp.LOAD, 0, 0, seccomp.NUMBER),
        (seccomp.EQUAL, 5, 0, connect),
        (seccomp.EQUAL, 0, 5, sendto),
        # Without an address the socket has been connected, and was asked about then.
        (seccomp.LOAD, 0, 0, seccomp.argument(4)),
        (seccomp.EQUAL, 0, 2, 0),
        (seccomp.LOAD, 0, 0, seccomp.argument(4) + 4),
        (seccomp.EQUAL, 1, 0, 0),
        (seccomp.RETURN, 0, 0, seccomp.ASK),
        (seccomp.RETURN, 0, 0, seccomp.ALLOW),
    ]


class Watch:
    """What an app asks through its filter.

    Args:
        listener: of the filter; closed by `close`.
        processes: a descriptor of /proc as this process sees it.
    """

    def __init__(self, listener: int, processes: int) -> None:
        self._listener = listener
        self._processes = processes

    def fileno(self) -> int:
        return self._listener

    def close(self) -> None:
        os.close(self._listener)

    @property
    def ended(self) -> bool:
        """Whether nobody is left who could ask."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return any(events & select.POLLHUP and not events & select.POLLIN for _, events in poll.poll(0))

    def attempt(self) -> Attempt | None:
        """The next question, or None where who asked has gone meanwhile."""
        buffer = bytearray(_QUESTION.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, buffer, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        number, thread, _, call, _, _, *arguments = _QUESTION.unpack(buffer)
        datagram = call == seccomp.number_of("sendto", linux.machine())
        place, length = arguments[4:6] if datagram else arguments[1:3]
        try:
            data = _read(thread, place, min(length, _LONGEST_ADDRESS))
        except OSError:  # the kernel will find no address there either
            data = b""
        return Attempt(number, thread, arguments[0] & 0xFFFFFFFF, *_address(data), datagram)

    def let(self, attempt: Attempt) -> None:
        """Let the call go on as if nobody had asked."""
        self._answer(attempt, flags=_GO_ON)

    def fail(self, attempt: Attempt, error: int) -> None:
        """Let the call fail with this `errno`."""
        self._answer(attempt, error=-error)

    def sends_datagrams(self, attempt: Attempt) -> bool:
        """Whether the app's socket is of another kind than a stream; also where it is none any more."""
        try:
            with self._socket_of(attempt) as theirs:
                return theirs.type != socket.SOCK_STREAM
        except OSError:
            return True

    def redirect(self, attempt: Attempt, port: int) -> tuple[str, int] | None:
        """Connect the app's socket to this port of its loopback instead; its own address, or None where that failed.

        To be followed by nothing: the app has its answer.
        """
        try:
            with self._socket_of(attempt) as theirs:
                here = "::ffff:127.0.0.1" if theirs.family == socket.AF_INET6 else "127.0.0.1"
                with _patient(theirs):
                    error = theirs.connect_ex((here, port))
                address, own = theirs.getsockname()[:2]
        except OSError as gone:
            self.fail(attempt, gone.errno or errno.EPERM)
            return None
        self._answer(attempt, error=-error)
        return (address.removeprefix("::ffff:"), own) if error in (0, errno.EINPROGRESS) else None

    def _socket_of(self, attempt: Attempt) -> socket.socket:
        process = linux.syscall(_PIDFD_OPEN, ctypes.c_int(self._process_of(attempt.thread)), ctypes.c_uint(0))
        try:
            # From here on the number means this process; before, it could have ended and another have its number.
            fcntl.ioctl(self._listener, _STILL_WAITING, _NUMBER.pack(attempt.number))
            target = (ctypes.c_int(process), ctypes.c_int(attempt.descriptor), ctypes.c_uint(0))
            return socket.socket(fileno=linux.syscall(_PIDFD_GETFD, *target))
        finally:
            os.close(process)

    def _process_of(self, thread: int) -> int:
        """Threads ask, and processes have descriptors."""
        descriptor = os.open(f"{thread}/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._processes)
        with os.fdopen(descriptor, encoding="ascii", errors="replace") as status:
            return next((int(line.split()[1]) for line in status if line.startswith("Tgid:")), thread)

    def _answer(self, attempt: Attempt, *, error: int = 0, flags: int = 0) -> None:
        try:
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(attempt.number, 0, error, flags))
        except OSError as gone:
            if gone.errno != errno.ENOENT:  # it no longer waits
                raise


@contextlib.contextmanager
def _patient(connection: socket.socket) -> Iterator[None]:
    """Connect within a second: an app's socket may be one that hears no answer."""
    given = connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIME.size)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIME.pack(1, 0))
    try:
        yield
    finally:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, given)


def _address(data: bytes) -> tuple[str, int]:
    """Address and port of a `struct sockaddr`; an IPv4 address in IPv6's form is given as what it is."""
    (family,) = struct.unpack_from("=H", data) if len(data) >= 2 else (0,)
    if family == socket.AF_INET and len(data) >= 8:
        return socket.inet_ntop(family, data[4:8]), int.from_bytes(data[2:4], "big")
    if family == socket.AF_INET6 and len(data) >= 24:
        raw = data[8:24]
        text = socket.inet_ntop(socket.AF_INET, raw[12:]) if raw.startswith(_MAPPED) else socket.inet_ntop(family, raw)
        return text, int.from_bytes(data[2:4], "big")
    return "", 0


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _read(thread: int, place: int, length: int) -> bytes:
    """Bytes of another process's memory (process_vm_readv(2))."""
    buffer = ctypes.create_string_buffer(max(length, 1))
    ours, theirs = _Vector(ctypes.addressof(buffer), length), _Vector(place, length)
    one = ctypes.c_ulong(1)
    vectors = (ctypes.byref(ours), one, ctypes.byref(theirs), one)
    count = linux.call("process_vm_readv", ctypes.c_int(thread), *vectors, ctypes.c_ulong(0))
    return buffer.raw[:count]
