"""Which files the app may read, and which it may write: Landlock (Linux 5.13), by the kernel and without root."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from workshop_kit.simulator.isolation import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights on files each version of the interface knows; from the fifth on, 16."""
_BIND_AND_CONNECT_TCP = 3
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Of the kernel's interface.

    Raises:
        OSError: the kernel has none (ENOSYS), or it is switched off (EOPNOTSUPP).
    """
    found = linux.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    if found < 1:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return found


def restrict(*, read: Iterable[Path], write: Iterable[Path], network: bool) -> int:
    """Leave this thread, and all that it starts from now on, these files and folders; the interface's version.

    `network` leaves TCP as it is. Paths that do not exist are passed over. From version 6 on, signals and abstract Unix
    sockets do not leave the app either.

    Raises:
        OSError: the kernel has no Landlock.
    """
    known = version()
    rights = (1 << _RIGHTS.get(known, 16)) - 1
    scoped = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if known >= 6 else 0
    attributes = _Ruleset(rights, 0 if network or known < 4 else _BIND_AND_CONNECT_TCP, scoped)
    size = ctypes.c_size_t(8 if known < 4 else 16 if known < 6 else 24)
    ruleset = linux.syscall(_CREATE_RULESET, ctypes.byref(attributes), size, ctypes.c_uint32(0))
    try:
        for paths, allowed in ((read, _EXECUTE | _READ_FILE | _READ_DIR), (write, rights)):
            for path in paths:
                _allow(ruleset, path, allowed & rights)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return known


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_A_FILE
        beneath = _Beneath(rights, opened)
        rule = (ctypes.c_int(_PATH_BENEATH), ctypes.byref(beneath), ctypes.c_uint32(0))
        linux.syscall(_ADD_RULE, ctypes.c_int(ruleset), *rule)
    finally:
        os.close(opened)
