# SPDX-License-Identifier: GPL-2.0-only
"""procfs with the option pidns=: an instance for another pid namespace than the mounter's."""

import ctypes
import os
from errno import EBUSY, EINVAL, EPERM

import pytest
from nslib import (
    NS,
    Cap,
    Sleeper,
    Task,
    configured_types,
    errno_of,
    open_ns,
    opened,
    owned,
    set_effective_caps,
    sleeper_in,
    syscall,
)

pytestmark = pytest.mark.needs("pid_ns", "proc_pidns")

SYS_FSOPEN = 430  # the same on every architecture but alpha (arch/*/syscall.tbl)
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_FSPICK = 433
FSPICK_EMPTY_PATH = 8  # include/uapi/linux/mount.h, as all of this block
SET_STRING, SET_FD, CREATE = 1, 5, 6


def new_proc() -> int:
    """The fd of a procfs that is not configured yet."""
    name = ctypes.create_string_buffer(b"proc")
    return syscall(SYS_FSOPEN, ctypes.addressof(name), 0)


def set_pidns(context: int, pidns: int | str) -> None:
    """Configure the procfs for the pid namespace that an fd, or a path, names."""
    key = ctypes.create_string_buffer(b"pidns")
    if isinstance(pidns, int):
        syscall(SYS_FSCONFIG, context, SET_FD, ctypes.addressof(key), 0, pidns)
    else:
        path = ctypes.create_string_buffer(pidns.encode())
        addresses = ctypes.addressof(key), ctypes.addressof(path)
        syscall(SYS_FSCONFIG, context, SET_STRING, *addresses, 0)


def mount_proc(pidns: int | str | None = None) -> int:
    """The fd of a procfs that is mounted nowhere, for the caller's pid namespace or another."""
    with owned(new_proc()) as context:
        if pidns is not None:
            set_pidns(context, pidns)
        syscall(SYS_FSCONFIG, context, CREATE, 0, 0, 0)
        return syscall(SYS_FSMOUNT, context, 0, 0)


def pidns_errno(pidns: int | str) -> int:
    """The errno with which a pid namespace is refused for a new procfs, 0 if it is not."""
    with owned(new_proc()) as context:
        return errno_of(set_pidns, context, pidns)


def pids_in(proc: int) -> list[int]:
    """The processes in the procfs behind the fd `proc` of mount_proc()."""
    return sorted(int(name) for name in os.listdir(f"/proc/self/fd/{proc}/") if name.isdecimal())


@pytest.mark.behaviour("PNS-57")
def test_instance_shows_the_given_namespace() -> None:
    with Task(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        init.call(sleeper_in)
        for pidns in (fd, f"/proc/{init.pid}/ns/pid"):
            with owned(mount_proc(pidns)) as proc:
                assert pids_in(proc) == [1, 2]


@pytest.mark.behaviour("PNS-57")
def test_own_namespace_and_those_below_are_accepted() -> None:
    with Task(NS.PID) as init:
        nested = init.call(sleeper_in, NS.PID)
        assert init.call(pidns_errno, f"/proc/{init.pid}/ns/pid") == 0
        assert init.call(pidns_errno, f"/proc/{nested}/ns/pid") == 0
        assert pidns_errno(f"/proc/{nested}/ns/pid") == 0


@pytest.mark.behaviour("PNS-57")
def test_namespaces_above_and_beside_are_invalid() -> None:
    with Task(NS.PID) as init, Sleeper(NS.PID) as beside:
        for pid in (os.getpid(), beside.pid):
            with owned(open_ns(NS.PID, pid)) as fd:
                assert init.call(pidns_errno, init.give(fd)) == EINVAL
            assert init.call(pidns_errno, f"/proc/{pid}/ns/pid") == EINVAL


@pytest.mark.behaviour("PNS-57")
def test_other_files_are_invalid() -> None:
    for kind in configured_types(NS.PID):
        with owned(open_ns(kind)) as fd:
            assert pidns_errno(fd) == EINVAL
    with opened("/proc/self/status") as fd:
        assert pidns_errno(fd) == EINVAL
    assert pidns_errno("/proc/self/status") == EINVAL


@pytest.mark.behaviour("PNS-57")
def test_option_needs_sys_admin() -> None:
    with Task() as task, Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        context, pidns = task.call(new_proc), task.give(fd)
        task.call(set_effective_caps, Cap.ALL & ~Cap.SYS_ADMIN)
        assert task.call(errno_of, set_pidns, context, pidns) == EPERM
        task.call(set_effective_caps, Cap.SYS_ADMIN)
        assert task.call(errno_of, set_pidns, context, pidns) == 0


@pytest.mark.behaviour("PNS-57")
def test_namespace_of_an_instance_cannot_be_changed() -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        empty = ctypes.create_string_buffer(b"")
        with (
            owned(mount_proc()) as proc,
            owned(syscall(SYS_FSPICK, proc, ctypes.addressof(empty), FSPICK_EMPTY_PATH)) as context,
        ):
            assert errno_of(set_pidns, context, fd) == EBUSY
            assert os.getpid() in pids_in(proc)
