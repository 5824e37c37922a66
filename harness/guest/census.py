# SPDX-License-Identifier: GPL-2.0-only
"""What a test may leave behind: processes, namespaces, mounts."""

import contextlib
import ctypes
import os
import signal
import struct
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

# include/uapi/linux/nsfs.h and asm-generic/unistd.h: listns(2), struct ns_id_req.
_SYS_LISTNS = 470
_REQUEST = struct.Struct("<IIQIIQ")
_PAGE = 4096
_GRACE_SECONDS = 2.0
# A child is told of its parent's end only then, and a test may leave it to that.
_ENDING_SECONDS = 1.0
# Thousands of processes take a slow guest a while to end.
_DYING_SECONDS = 5.0
_FEW = 10
# Documentation/filesystems/proc.rst; CONFIG_PROC_CHILDREN.
_CHILDREN = "/proc/{0}/task/{0}/children"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Census:
    """The namespaces that root can see and the mounts of this process."""

    namespaces: frozenset[int]
    mounts: frozenset[str]

    def leaked_since(self, before: "Census") -> str:
        """Say what is here that was not there before, and which mounts are missing; nothing if
        all is as it was."""
        parts = {
            "namespaces": few(sorted(self.namespaces - before.namespaces)),
            "mounts": few(sorted(self.mounts - before.mounts)),
            "unmounted": few(sorted(before.mounts - self.mounts)),
        }
        return ", ".join(f"{what} {found}" for what, found in parts.items() if found)


def take() -> Census:
    """Count what is there now.

    Where listns(2) is missing, namespaces show only through processes and mounts, both of which
    are looked at anyway.
    """
    with open("/proc/self/mountinfo") as file:
        mounts = frozenset(line.split(" - ")[0].split(" ", 2)[2] for line in file)
    return Census(_namespaces(), mounts)


def settle(before: Census) -> str:
    """Wait shortly until nothing more is there than `before`; return what stays behind."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while (leaked := take().leaked_since(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return leaked


@dataclass(frozen=True)
class Leftovers:
    """Processes that a test has left behind; `immortal` if SIGKILL did not end them all."""

    names: tuple[str, ...] = ()
    immortal: bool = False


def end_leftovers(spared: AbstractSet[int] = frozenset()) -> Leftovers:
    """Kill every process but this one, process 1, and wait until they are gone.

    Orphans become children of process 1, so a guest whose only children are the processes
    `spared`, which have no part in what is over, has no leftovers. Where there are some, these go
    too, but are not named.
    """
    _await_dying(spared)
    named: dict[int, str] = {}
    innocent = frozenset(spared)
    deadline = time.monotonic() + _DYING_SECONDS
    while (alive := bool(left := _living_children(spared))) and time.monotonic() < deadline:
        # They are orphans, and our children, as soon as their parents are killed.
        innocent |= {child for parent in spared for child in children(parent)}
        named |= {pid: _name(pid) for pid in left - named.keys() - innocent}
        spared = frozenset()
        kill_all()
        time.sleep(0.001)
    return Leftovers(tuple(f"{name} (pid {pid})" for pid, name in named.items()), immortal=alive)


def _await_dying(spared: AbstractSet[int]) -> None:
    """Give processes that are ending the time to."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while _living_children(spared) and time.monotonic() < deadline:
        time.sleep(0.001)


def few(items: Sequence[int] | Sequence[str]) -> str:
    """Write a list out, of a long one only the beginning, and nothing for an empty one."""
    more = f" and {len(items) - _FEW} more" if len(items) > _FEW else ""
    return f"{list(items[:_FEW])}{more}" if items else ""


def kill_all() -> None:
    """Kill every process but this one, process 1."""
    if os.getpid() != 1:
        raise RuntimeError("only process 1 may end all others")
    # One system call reaches every process, so that none can fork its way out (kernel/signal.c,
    # kill_something_info).
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def _living_children(spared: AbstractSet[int]) -> set[int]:
    """Reap the children that have ended and return the others."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return children() - spared
    return set()


def children(parent: int | None = None) -> set[int]:
    """Return the children of a process (this one's by default), of its first thread if the kernel
    tells them apart; none if it has gone."""
    parent = parent or os.getpid()
    try:
        with open(_CHILDREN.format(parent)) as file:
            return set(map(int, file.read().split()))
    except ProcessLookupError:
        return set()
    except FileNotFoundError:
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))
        return {pid for pid in pids if _parent(pid) == parent}


def _parent(pid: int) -> int:
    fields = _stat(pid)[1].split()
    return int(fields[1]) if fields else 0


def _name(pid: int) -> str:
    return _stat(pid)[0] or "?"


def _stat(pid: int) -> tuple[str, str]:
    """Return a process' name and the fields behind it, both empty when it has gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            head, _, rest = file.read().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return "", ""
    return head.partition("(")[2], rest


def _namespaces() -> frozenset[int]:
    found: set[int] = set()
    cursor = 0
    buffer = (ctypes.c_uint64 * _PAGE)()
    while True:
        request = _REQUEST.pack(_REQUEST.size, 0, cursor, 0, 0, 0)
        count = _libc.syscall(_SYS_LISTNS, request, buffer, ctypes.c_size_t(_PAGE), 0)
        page = buffer[: max(count, 0)]
        # Errors end the list: ENOSYS without the call, ENOENT past the last id. So does an id
        # that comes again, which a broken kernel can go on with for ever.
        if not page or not found.isdisjoint(page):
            return frozenset(found)
        found.update(page)
        cursor = page[-1]
