"""Ways out, tried one after the other by a confined process; run as a program, it prints what became of each as JSON.

Standard library only: it runs under any Python of the machine, and as nobody.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_ARM = platform.machine() == "aarch64"
_RAW = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "mount": (165, 40),
    "io_uring_setup": (425, 425),
    "setns": (308, 268),
}
WORKED = "worked"
HARMLESS = (
    *("the machine's loopback", "a unix socket with a name", "an abstract unix socket", "netlink"),
    *("the machine's users", "a file of the parent's", "the parent's environment", "writing beside the enclave"),
    "signalling the parent",
)
"""What may succeed without harm, and does where nothing stands in the way."""


def raw(name: str, *arguments: object) -> int:
    """A system call that no function of the C library stands before."""
    result: int = _libc.syscall(ctypes.c_long(_RAW[name][_ARM]), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def send_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.sendto(b"out", ("192.0.2.1", 9))


def open_family(family: int, kind: int) -> Callable[[], None]:
    """By number: a Python that was built without a family's header has no name for it."""

    def attempt() -> None:
        socket.socket(family, kind).close()

    return attempt


def connect_unix(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as any_socket:
        any_socket.connect(address)


def leave_a_process_behind() -> None:
    """A daemon: forked twice, in a session of its own. The test looks for it once the enclave has ended."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            _libc.prctl(15, b"left-behind")  # its name, for whoever looks for it
            time.sleep(60)
        os._exit(0)


def attempts(parent: int, secret: str, port: int, unix: str) -> dict[str, Callable[[], object]]:
    """By name. `parent` is a process of the machine's, `secret` a file there, `port` and `unix` listen there."""
    return {
        "the machine's loopback": lambda: socket.create_connection(("127.0.0.1", port), 2).close(),
        "another machine": lambda: socket.create_connection(("192.0.2.1", 80), 2).close(),
        "udp": send_udp,
        "a unix socket with a name": lambda: connect_unix(unix),
        "an abstract unix socket": lambda: connect_unix("\0" + unix),
        "vsock": open_family(40, socket.SOCK_STREAM),
        "netlink": open_family(16, socket.SOCK_RAW),
        "packet": open_family(17, socket.SOCK_RAW),
        "raw": open_family(2, socket.SOCK_RAW),
        "alg": open_family(38, socket.SOCK_SEQPACKET),
        "bluetooth": open_family(31, socket.SOCK_RAW),
        "a raw system call for a socket": lambda: raw("socket", 40, 1, 0),
        "the machine's users": lambda: Path("/etc/passwd").read_text().index("root:"),
        "a file of the parent's": lambda: Path(secret).read_text(),
        "the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "writing beside the interpreter": lambda: Path(sys.prefix, "written-by-an-app").write_text("x"),
        "changing the interpreter's mode": lambda: os.chmod(os.path.realpath(sys.executable), 0o755),  # noqa: PTH101
        "writing beside the enclave": lambda: Path(secret).with_name("written-by-an-app").write_text("x"),
        "signalling the parent": lambda: os.kill(parent, 0),
        "tracing the parent": lambda: raw("ptrace", 16, parent, 0, 0),
        "mounting": lambda: raw("mount", b"none", b"/tmp", b"tmpfs", 0, 0),
        "new namespaces": lambda: _checked(_libc.unshare(0x10000000)),
        "another's namespace": lambda: raw("setns", 0, 0),
        "io_uring": lambda: raw("io_uring_setup", 1, 0),
        "a new root": lambda: os.chroot("/tmp"),
        "a device": lambda: os.mknod(Path(os.environ["TMPDIR"], "device"), 0o60600, os.makedev(8, 0)),
    }


def rights() -> dict[str, Callable[[], object]]:
    """What an app may do at every level."""
    return {
        "a thread": lambda: threading.Thread(target=int).start(),
        "a socket pair": lambda: [each.close() for each in socket.socketpair()],
        "a file of its own": lambda: Path(os.environ["TMPDIR"], "own").write_text("x"),
        "the time": time.time,
        "chance": lambda: os.urandom(8),
        "a module of the standard library": lambda: __import__("sqlite3"),
    }


def of_a_tree() -> dict[str, Callable[[], object]]:
    """What an app may do in a network and a process tree of its own."""
    return {
        "a program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        "its own port 80": lambda: socket.create_server(("127.0.0.1", 80)).close(),
        "a process left behind": leave_a_process_behind,
    }


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def become(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"
    return WORKED


def main(level: str, root: str, parent: str, secret: str, port: str, unix: str) -> None:
    from workshop_kit.simulator.isolation.levels import Level, isolate

    isolation = isolate(Path(root), at_most=Level(level))
    tried = attempts(int(parent), secret, int(port), unix)
    if isolation.level is Level.NONE:
        tried = {name: tried[name] for name in HARMLESS}
    kinds = {"escapes": tried, "rights": rights(), "of a tree": {} if isolation.level is Level.NONE else of_a_tree()}
    became = {kind: {name: become(attempt) for name, attempt in each.items()} for kind, each in kinds.items()}
    print(json.dumps({"isolation": isolation.as_dict(), **became}))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main(*sys.argv[2:])
