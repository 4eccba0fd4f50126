"""Which system calls the app keeps: a filter of classic BPF, which the kernel runs before each call.

It needs neither root nor a library, only that the process gives up gaining privileges. It cannot be taken off, and what
the app starts inherits it. A raw system call passes through it like any other.
"""

from __future__ import annotations

import ctypes
import errno
import socket
from collections.abc import Iterable

from workshop_kit.simulator.isolation import linux

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ASK, FAIL_WITH = 0x7FFF0000, 0x7FC00000, 0x00050000
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_X32 = 0x40000000
_NEWEST_KNOWN = 480

_COLUMN = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Numbers on x86-64 and on arm64; None where the architecture has no such call.
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "sendto": (44, 206),
    "setsockopt": (54, 208),
    "prctl": (157, 167),
    "bind": (49, 200),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "mq_open": (240, 180),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "ioperm": (173, None),
    "iopl": (172, None),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
_DECIDED_BY_ARGUMENT = ("socket", "clone", "clone3", "kill", "tgkill", "prlimit64", "prctl", "sendto", "setsockopt")
_NETWORK = ("connect", "bind")
_PROCESSES = ("fork", "vfork", "execve", "execveat")
_OTHER_PROCESSES = (
    *("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"),
    *("setpriority", "sched_setparam", "sched_setscheduler", "sched_setattr", "sched_setaffinity", "ioprio_set"),
    *("migrate_pages", "move_pages"),
)
# What Landlock does not know: without a file tree of its own, the app could change modes, owners and times of files
# that it may only read.
_ATTRIBUTES = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
)
_AMONG_ITS_OWN = frozenset({*_PROCESSES, *_OTHER_PROCESSES, *_ATTRIBUTES})
_BEYOND_ANY_APP = frozenset(_NUMBERS) - {*_DECIDED_BY_ARGUMENT, *_NETWORK, *_AMONG_ITS_OWN}
_NEW_NAMESPACES = 0x7E020080
_CLONE_THREAD = 0x00010000

OWN_LOOPBACK = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
"""The kinds of socket that an app has in a network of its own."""


class UnsupportedProcessorError(OSError):
    """This processor's system calls have other numbers."""


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


Step = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


def program(
    *,
    sockets: Iterable[int],
    own_tree: bool,
    signals: Iterable[int],
    machine: str,
    spared: Iterable[str] = (),
    ends_with_parent: bool = False,
) -> list[Step]:
    """The filter, for a processor by the name that `linux.machine` gives it.

    Args:
        sockets: families that may be opened; () leaves neither connect nor bind.
        own_tree: whether processes and files around the app are its own, so that it may start and signal the ones and
            change the others' attributes.
        signals: without a tree, the processes that may be signalled.
        spared: calls that are left although others have no use for them.
        ends_with_parent: the process may not change that it is killed when its parent ends.

    Raises:
        UnsupportedProcessorError: the processor is neither x86-64 nor arm64.
    """
    column, architecture = _column(machine)
    families = tuple(sockets)
    steps: list[Step] = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), _fail(errno.EPERM)]
    steps += [(LOAD, 0, 0, NUMBER)]
    # The x32 calls of x86-64 have the same meaning under other numbers; so may calls newer than this list.
    steps += [(AT_LEAST, 0, 1, _X32), _fail(errno.EPERM), (AT_LEAST, 0, 1, _NEWEST_KNOWN), _fail(errno.ENOSYS)]
    refused = _BEYOND_ANY_APP | (set() if families else {*_NETWORK}) | (set() if own_tree else _AMONG_ITS_OWN)
    for name in sorted(refused - set(spared)):
        steps += _when(_NUMBERS[name][column], [_fail(errno.EPERM)])
    # clone3 has its flags in memory, where a filter cannot look: the C library then falls back to clone.
    steps += _when(_NUMBERS["clone3"][column], [_fail(errno.ENOSYS)])
    steps += _when(_NUMBERS["clone"][column], _clone(own_tree))
    if not own_tree:
        for name, targets in (("kill", signals), ("tgkill", signals), ("prlimit64", [0, *signals])):
            steps += _when(_NUMBERS[name][column], _only(0, targets, errno.EPERM))
    if ends_with_parent:
        steps += _when(_NUMBERS["prctl"][column], _all_but(0, linux.PR_SET_PDEATHSIG, errno.EPERM))
    if families:
        steps += _when(_NUMBERS["setsockopt"][column], _LINGERING)
    steps += _when(_NUMBERS["socket"][column], _only(0, families, errno.EAFNOSUPPORT))
    return [*steps, (RETURN, 0, 0, ALLOW)]


def install(steps: list[Step]) -> None:
    """Put a filter on this thread and on all that it starts from now on; call it before there are others.

    Raises:
        OSError: the kernel has none.
    """
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.call("prctl", linux.PR_SET_SECCOMP, 2, ctypes.byref(loaded(steps)), 0, 0)


def loaded(steps: list[Step]) -> _Program:
    """A filter as the kernel takes it."""
    filter_ = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    return _Program(len(steps), filter_)


def number_of(name: str, machine: str) -> int:
    """A call's number on a processor that has it."""
    number = _NUMBERS[name][_column(machine)[0]]
    assert number is not None
    return number


def argument(place: int) -> int:
    """The offset of a call's argument in struct seccomp_data: its lower half; the upper one is 4 bytes behind."""
    return 16 + 8 * place


def _column(machine: str) -> tuple[int, int]:
    if machine not in _COLUMN:
        raise UnsupportedProcessorError(errno.ENOSYS, f"expected x86_64 or aarch64, this processor is {machine}")
    return _COLUMN[machine]


def _fail(error: int) -> Step:
    return (RETURN, 0, 0, FAIL_WITH | error)


def _when(number: int | None, steps: list[Step]) -> list[Step]:
    """`steps` for one call, which they end or leave as they found it; nothing where the call does not exist."""
    return [] if number is None else [(EQUAL, 0, len(steps), number), *steps]


def _clone(processes: bool) -> list[Step]:
    """No new namespaces; where the app starts no processes, threads alone."""
    steps = [(LOAD, 0, 0, argument(0)), (ANY_BIT, 0, 1, _NEW_NAMESPACES), _fail(errno.EPERM)]
    if not processes:
        steps += [(ANY_BIT, 1, 0, _CLONE_THREAD), _fail(errno.EPERM)]
    return [*steps, (RETURN, 0, 0, ALLOW)]


# Whoever is handed such a socket and closes it may wait for its peer as long as the app likes (SO_LINGER): the call
# succeeds and changes nothing.
_LINGERING: list[Step] = [
    *((LOAD, 0, 0, argument(1)), (EQUAL, 0, 3, 1)),  # SOL_SOCKET
    *((LOAD, 0, 0, argument(2)), (EQUAL, 0, 1, 13)),  # SO_LINGER
    (RETURN, 0, 0, FAIL_WITH),
    (RETURN, 0, 0, ALLOW),
]


def _only(place: int, values: Iterable[int], error: int) -> list[Step]:
    """Allow the call with one of these values as argument, and fail it with any other."""
    steps: list[Step] = [(LOAD, 0, 0, argument(place))]
    for value in values:
        steps += [(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
    return [*steps, _fail(error)]


def _all_but(place: int, value: int, error: int) -> list[Step]:
    """Fail the call with this value as argument, and allow it with any other."""
    return [(LOAD, 0, 0, argument(place)), (EQUAL, 0, 1, value), _fail(error), (RETURN, 0, 0, ALLOW)]
