"""A network, a process tree and a file tree of the enclave's own (Linux namespaces), without root.

Inside, the loopback interface is the only one, process 1 is the enclave's own, and of the machine's files there are the
interpreter, its libraries and the enclave's folder, none of which can be written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from workshop_kit.errors import LabError
from workshop_kit.simulator.isolation import linux

_NEW = (
    *(linux.CLONE_NEWUSER, linux.CLONE_NEWNET, linux.CLONE_NEWPID, linux.CLONE_NEWNS),
    *(linux.CLONE_NEWIPC, linux.CLONE_NEWUTS, linux.CLONE_NEWCGROUP),
)
_NOBODY = 65534
_READ_ONLY = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_LOCKED = {  # flags of a mount that one made from it must keep (user_namespaces(7)), as statvfs(3) gives them
    0x2: linux.MS_NOSUID,
    0x4: linux.MS_NODEV,
    0x8: linux.MS_NOEXEC,
    0x400: 0x400,  # without times of access
    0x800: 0x800,  # nor those of folders
    0x1000: 0x200000,  # or rarely
}

_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
SYSTEM = tuple(map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")))
_SETTINGS_NAMES = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "alternatives")
SETTINGS = tuple(Path("/etc", name) for name in _SETTINGS_NAMES)
_WRITTEN = {
    "etc/passwd": "enclave:x:{uid}:{gid}:enclave:/tmp:/bin/false\n",
    "etc/group": "enclave:x:{gid}:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
}


class Tree(NamedTuple):
    """What the file tree of an enclave holds.

    Attributes:
        root: an empty folder of the caller's, over which the tree is mounted where nobody else sees it.
        visible: files and folders of the machine that stay, under their names and to be read only.
        files: further ones, which this machine does not have.
        copies: folders by the name that they have in the tree, where they can be written.
        sockets: of the machine's, by the name that they have in the tree.
    """

    root: Path
    visible: Iterable[Path] = ()
    files: Mapping[Path, bytes] = MappingProxyType({})
    copies: Mapping[Path, Path] = MappingProxyType({})
    sockets: Mapping[Path, Path] = MappingProxyType({})


def fork(tree: Tree) -> int:
    """Fork into new namespaces: 0 in process 1 of them, in a file tree of its own; its number in this process.

    This process keeps its place among the machine's processes. To be called while there is one thread. What is open
    stays open.

    Raises:
        OSError: this machine forbids it; nothing has changed.
        LabError: a later step failed, half-way in: the process is of no use any more.
    """
    _try_in_a_child(tree.root)
    try:
        inside = _separate()
        _raise_loopback()
        child = os.fork()
        if child == 0:
            _change_root(tree, inside)
    except OSError as error:
        raise LabError(f"namespaces: {error}; to do without them, say --isolation seccomp") from None
    return child


def _try_in_a_child(root: Path) -> None:
    """Half-way in there is no way back: machines that allow the first step and forbid the next must show it before."""

    def steps() -> None:
        _separate()
        _raise_loopback()
        linux.mount("tmpfs", str(root), "tmpfs")

    linux.try_in_a_child(steps)


def _separate() -> tuple[int, int]:
    """Leave the machine's namespaces; the user and group that this process has from now on."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(sum(_NEW))
    inside = (_NOBODY, _NOBODY) if uid == 0 else (uid, gid)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside[0]} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{inside[1]} {gid} 1")
    return inside


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
    # Port 80 for whoever listens inside; nobody else is in this network.
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")


def _change_root(tree: Tree, inside: tuple[int, int]) -> None:
    root = tree.root
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", str(root), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=64m")
    # Before what stays visible, which may be below the machine's /tmp.
    (root / "tmp").mkdir()
    linux.mount("tmpfs", str(root / "tmp"), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777,size=256m")
    own = {Path("/", name): text.format(uid=inside[0], gid=inside[1]).encode() for name, text in _WRITTEN.items()}
    for file, content in {**own, **tree.files}.items():
        target = root / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    for target, source in tree.copies.items():
        _copy(source, root / target.relative_to("/"))
    for path in (*SYSTEM, *SETTINGS, *tree.visible):
        _show(path, root)
    _make_dev(root / "dev")
    for target, source in tree.sockets.items():
        _bind(source, root / target.relative_to("/"))
    for name in ("proc", "old"):
        (root / name).mkdir(exist_ok=True)
    # A container that hides parts of its own /proc gives none; what reads it inside finds it empty.
    with contextlib.suppress(OSError):
        linux.mount("proc", str(root / "proc"), "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    directory = Path.cwd()
    linux.call("syscall", *_pivot(root, root / "old"))
    linux.unmount("/old")
    Path("/old").rmdir()
    linux.mount("none", "/", flags=_READ_ONLY | linux.MS_NOSUID | linux.MS_NODEV)
    os.chdir(directory if directory.is_dir() else "/")


def _pivot(new: Path, old: Path) -> tuple[int, bytes, bytes]:
    number = 155 if os.uname().machine == "x86_64" else 41
    return number, str(new).encode(), str(old).encode()


def _show(path: Path, root: Path) -> None:
    """`path` of the machine under the same name below `root`, to be read only; a link as a link."""
    target = root / path.relative_to("/")
    if target.is_dir() and target.stat().st_dev == root.stat().st_dev and path.is_dir() and not path.is_symlink():
        # A folder of the tree's own, for one of the app's files: around that, the machine's.
        for child in path.iterdir():
            _show(child, root)
    if target.exists() or target.is_symlink() or not (path.exists() or path.is_symlink()):
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return _show(path.resolve(), root)
    if path.is_dir():
        target.mkdir()
    else:
        target.touch()
    linux.mount(str(path), str(target), flags=linux.MS_BIND | linux.MS_REC)
    has = os.statvfs(target).f_flag
    kept = sum(ours for theirs, ours in _LOCKED.items() if has & theirs)
    linux.mount("none", str(target), flags=_READ_ONLY | kept)
    return None


def _copy(source: Path, target: Path) -> None:
    """A folder of the machine's as one of the enclave's own, in its memory, where the app may write."""
    import shutil  # late, as few enclaves copy

    target.mkdir(parents=True, exist_ok=True)
    linux.mount("tmpfs", str(target), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def _bind(source: Path, target: Path) -> None:
    target.touch()
    linux.mount(str(source), str(target), flags=linux.MS_BIND)


def _make_dev(folder: Path) -> None:
    folder.mkdir()
    for name in _DEVICES:
        _bind(Path("/dev", name), folder / name)
    for name, target in _LINKS.items():
        (folder / name).symlink_to(f"/proc/self/{target}")
    (folder / "shm").mkdir()
    linux.mount("tmpfs", str(folder / "shm"), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777,size=64m")
