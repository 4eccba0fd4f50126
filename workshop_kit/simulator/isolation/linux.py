"""Linux system calls that Python has no functions for, or only later versions of it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_CAPSET_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def machine() -> str:
    """The processor's name, as `platform.machine` gives it."""
    return os.uname().machine


def call(name: str, *arguments: object) -> int:
    """A function of the C library by name.

    Raises:
        OSError: it failed, with its errno, or this system's library has none.
    """
    if not hasattr(_libc, name):
        raise OSError(errno.ENOSYS, f"{name}: {os.strerror(errno.ENOSYS)}")
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def syscall(number: int, *arguments: object) -> int:
    """A system call by its number.

    Raises:
        OSError: it failed, with its errno.
    """
    if sys.platform != "linux":  # others have other numbers
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return call("syscall", ctypes.c_long(number), *arguments)


def prctl(option: int, *arguments: int) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    call("prctl", ctypes.c_int(option), *map(ctypes.c_ulong, padded))


def unshare(flags: int) -> None:
    call("unshare", ctypes.c_int(flags))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    texts = [text.encode() if text else None for text in (source, target, kind)]
    call("mount", *texts, ctypes.c_ulong(flags), options.encode() if options else None)


def unmount(target: str) -> None:
    call("umount2", target.encode(), ctypes.c_int(MNT_DETACH))


def try_in_a_child(steps: Callable[[], object]) -> None:
    """Take steps in a process that ends, to see whether they may be taken.

    Raises:
        OSError: one failed, with its errno.
    """
    child = os.fork()
    if child == 0:
        code = errno.EPERM
        try:
            steps()
            code = 0
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)  # whatever happens, the child does not go on as a second enclave
    refused = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if refused:
        raise OSError(abs(refused), os.strerror(abs(refused)))


def drop_capabilities() -> None:
    """Give up every capability, those that a program could get back by `exec` included."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # the kernel knows fewer, or the set is not ours to change: then there is nothing in it for us
    header = (ctypes.c_uint32 * 2)(_CAPSET_VERSION_3, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
