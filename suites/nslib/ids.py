# SPDX-License-Identifier: GPL-2.0-only
"""What identifies a namespace: its id, its type, its inode number."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .ioctls import NS_GET_ID, NS_GET_NSTYPE, ioctl_u64, open_owner
from .namespaces import NS
from .syscalls import ioctl


@contextmanager
def owned(fd: int) -> Iterator[int]:
    """Close `fd` at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> Iterator[int]:
    """An fd (CLOEXEC) of the file `path`, closed at the end of the block."""
    with owned(os.open(path, flags | os.O_CLOEXEC)) as fd:
        yield fd


def open_ns(name: str | NS, pid: int | str = "thread-self") -> int:
    """A new nsfs fd of a namespace of the calling thread, or of the task `pid`."""
    # Not by ns_link(): in a slow guest a Path takes ten times as long as the call.
    link = name.link if isinstance(name, NS) else name
    return os.open(f"/proc/{pid}/ns/{link}", os.O_RDONLY | os.O_CLOEXEC)


def id_of(fd: int) -> int:
    """The 64-bit id of the namespace `fd` (NS_GET_ID; Linux 6.18, commit f861225b9ee9)."""
    return ioctl_u64(fd, NS_GET_ID)


def id_behind(fd: int) -> int:
    """The id of the namespace of a new `fd`, which is closed."""
    try:
        return id_of(fd)
    finally:
        os.close(fd)


def inode_of(name: str | NS, pid: int | str = "thread-self") -> int:
    """Inode number of a namespace of the calling thread, or of the task `pid`; unlike an id it
    can be had from every kernel, and tells namespaces apart that exist at the same time."""
    link = name.link if isinstance(name, NS) else name
    return os.stat(f"/proc/{pid}/ns/{link}").st_ino


def inode_behind(fd: int) -> int:
    """Inode number of the namespace of a new `fd`, which is closed."""
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def type_of(fd: int) -> NS:
    """The type of the namespace `fd` (NS_GET_NSTYPE)."""
    return NS(ioctl(fd, NS_GET_NSTYPE))


def owner_id_of(fd: int) -> int:
    """Id of the user namespace that owns the namespace `fd`."""
    return id_behind(open_owner(fd))


def ns_id(name: str | NS, pid: int | str = "thread-self") -> int:
    """Id of a namespace of the calling thread, or of the task `pid`."""
    return id_behind(open_ns(name, pid))


def ids_in(pid: int, kinds: NS = NS.ALL) -> dict[NS, int]:
    """Ids of the namespaces of some types that the task `pid` is in."""
    return {kind: ns_id(kind, pid) for kind in kinds}


def ns_name(name: str | NS, pid: int | str = "thread-self") -> str:
    """Text of a namespace link such as "net:[4026531833]", of the calling thread or of task `pid`.

    No other living namespace has it, so that it tells them apart on kernels without ids.
    """
    link = name.link if isinstance(name, NS) else name
    return os.readlink(f"/proc/{pid}/ns/{link}")


def ns_names(pid: int | str = "thread-self") -> dict[str, str]:
    """ns_name() of every link of a task, by the link's name.

    Left out is what cannot be read: pid_for_children before there is a child (until Linux 7.1,
    commit a3bdc23ba8ea), and all but user and pid of a zombie.
    """
    names = {}
    for link in os.listdir(f"/proc/{pid}/ns"):
        with suppress(FileNotFoundError):
            names[link] = ns_name(link, pid)
    return names


def current_ids() -> dict[NS, int]:
    """Ids of the eight namespaces that the calling thread is in, by type.

    `pid` is the active pid namespace; the *_for_children ones do not count as current.
    """
    return {kind: ns_id(kind) for kind in NS}


def own_ids(*without: NS) -> list[int]:
    """The ids of current_ids() in ascending order, `without` those of some types."""
    return sorted(one for kind, one in current_ids().items() if kind not in without)
