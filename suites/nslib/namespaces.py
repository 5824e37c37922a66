# SPDX-License-Identifier: GPL-2.0-only
"""The eight namespace types and the constants that belong to them."""

from enum import IntFlag
from pathlib import Path


class NS(IntFlag):
    """Namespace types by their CLONE_NEW* bit (include/uapi/linux/sched.h); also ns_type of listns.

    Iterating over the class gives the eight types; NONE and ALL are combinations.
    """

    NONE = 0
    TIME = 0x00000080
    MNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    USER = 0x10000000
    PID = 0x20000000
    NET = 0x40000000
    ALL = TIME | MNT | CGROUP | UTS | IPC | USER | PID | NET

    @property
    def link(self) -> str:
        """Name of the type's link in /proc/PID/ns, such as "net" (namespaces(7))."""
        return f"{self.name}".lower()

    @property
    def child_link(self) -> str:
        """Name of the link to what an unshare(2) of this type creates: for pid and time it
        concerns the children only (pid_namespaces(7), time_namespaces(7))."""
        return f"{self.link}_for_children" if self in (NS.PID, NS.TIME) else self.link


LINKS = (*(kind.link for kind in NS), "pid_for_children", "time_for_children")
"""Every entry of /proc/PID/ns (fs/proc/namespaces.c)."""

INITIAL_IDS = {
    NS.IPC: 1,
    NS.UTS: 2,
    NS.USER: 3,
    NS.PID: 4,
    NS.CGROUP: 5,
    NS.TIME: 6,
    NS.NET: 7,
    NS.MNT: 8,
}
"""Ids of the initial namespaces since Linux 6.19 (commit 3760342fd631, enum init_ns_id)."""

FIRST_DYNAMIC_ID = 10
"""Smallest id that a created namespace can have since Linux 6.19: the counter starts at 9 and is
incremented first (kernel/nscommon.c), so 9 itself is never given out."""
NEVER_AN_ID = 9
"""The number between the initial ids and the others."""
BEYOND_ALL_IDS = 2**62
"""A number that the counter of ids does not reach, but no special value for the kernel."""

INITIAL_INODES = {
    NS.IPC: 0xEFFFFFFF,
    NS.UTS: 0xEFFFFFFE,
    NS.USER: 0xEFFFFFFD,
    NS.PID: 0xEFFFFFFC,
    NS.CGROUP: 0xEFFFFFFB,
    NS.TIME: 0xEFFFFFFA,
    NS.NET: 0xEFFFFFF9,
    NS.MNT: 0xEFFFFFF8,
}
"""Inode numbers of the initial namespaces (include/uapi/linux/nsfs.h, enum init_ns_ino)."""


def ns_link(name: str | NS, pid: int | str = "thread-self") -> Path:
    """Path of a namespace link: of the calling thread, or of the task `pid` in /proc."""
    return Path("/proc", str(pid), "ns", name.link if isinstance(name, NS) else name)
