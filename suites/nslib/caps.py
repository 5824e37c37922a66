# SPDX-License-Identifier: GPL-2.0-only
"""Credentials of the calling thread: capabilities, user id, id maps of a user namespace."""

import ctypes
import os
from enum import IntFlag
from pathlib import Path

from .syscalls import PR_SET_DUMPABLE, PR_SET_KEEPCAPS, capget, capset, prctl


class Cap(IntFlag):
    """Capabilities as a mask (include/uapi/linux/capability.h); those that namespaces ask for."""

    NONE = 0
    DAC_READ_SEARCH = 1 << 2
    SETGID = 1 << 6
    SETUID = 1 << 7
    NET_ADMIN = 1 << 12
    SYS_CHROOT = 1 << 18
    SYS_PTRACE = 1 << 19
    SYS_ADMIN = 1 << 21
    SYS_BOOT = 1 << 22
    SYS_RESOURCE = 1 << 24
    CHECKPOINT_RESTORE = 1 << 40
    ALL = (1 << 64) - 1


SOMEBODY = 54321
"""An unprivileged user who has created nothing: creating a user namespace gives power over it."""

_CAPABILITY_VERSION_3 = 0x20080522
_CapData = (
    ctypes.c_uint32 * 6
)  # twice effective, permitted, inheritable: low words, then high words


_HEADER = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)  # the calling thread


def _get() -> ctypes.Array[ctypes.c_uint32]:
    data = _CapData()
    capget(ctypes.addressof(_HEADER), ctypes.addressof(data))
    return data


def _set(effective: int, permitted: int) -> None:
    data = _get()
    for word in (0, 1):
        data[word * 3] = effective >> word * 32 & 0xFFFFFFFF
        data[word * 3 + 1] = permitted >> word * 32 & 0xFFFFFFFF
    capset(ctypes.addressof(_HEADER), ctypes.addressof(data))


def effective_caps() -> Cap:
    """The calling thread's effective capabilities."""
    data = _get()
    return Cap(data[0] | data[3] << 32)


def permitted_caps() -> Cap:
    """The calling thread's permitted capabilities."""
    data = _get()
    return Cap(data[1] | data[4] << 32)


def set_effective_caps(caps: int) -> None:
    """Make those of `caps` effective that are permitted; the others can be raised again."""
    _set(caps & permitted_caps(), permitted_caps())


def set_inheritable_caps(caps: int) -> None:
    """Make exactly `caps`, all of them permitted, the inheritable ones."""
    data = _get()
    for word in (0, 1):
        data[word * 3 + 2] = caps >> word * 32 & 0xFFFFFFFF
    capset(ctypes.addressof(_HEADER), ctypes.addressof(data))


def limit_caps(caps: int) -> None:
    """Keep only `caps` of the permitted capabilities, and make them effective; for good."""
    kept = caps & permitted_caps()
    _set(kept, kept)


def become(uid: int | None, caps: int | None) -> None:
    """Become user and group `uid`, without supplementary groups, keeping `caps`.

    None leaves the user, or the capabilities that go with it, as they are. The task stays dumpable,
    so that it keeps access to its own files in /proc (proc(5)).
    """
    if uid is not None:
        prctl(PR_SET_KEEPCAPS, caps is not None)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        prctl(PR_SET_DUMPABLE, 1)
    if caps is not None:
        limit_caps(caps)


def map_ids(pid: int | str) -> None:
    """Write the id maps of a new user namespace, made by the task `pid` of /proc or by "self".

    A writer with CAP_SETUID outside maps every id that it has to itself; any other maps its own
    user and group to root (user_namespaces(7)).
    """
    task = Path("/proc", str(pid))
    if pid != "self" and effective_caps() & Cap.SETUID:
        uids, gids = _identity("uid_map"), _identity("gid_map")
    else:
        (task / "setgroups").write_text("deny")
        uids, gids = f"0 {os.geteuid()} 1", f"0 {os.getegid()} 1"
    (task / "uid_map").write_text(uids)
    (task / "gid_map").write_text(gids)


def _identity(name: str) -> str:
    """The ids that exist in the caller's user namespace, each mapped to itself."""
    lines = [line.split() for line in Path("/proc/self", name).read_text().splitlines()]
    return "\n".join(f"{inside} {inside} {count}" for inside, _, count in lines)
