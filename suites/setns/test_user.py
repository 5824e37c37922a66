# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) to a user namespace: who cannot, and what becomes of who does."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL, EPERM
from pathlib import Path

import pytest
from nslib import (
    CLONE_FS,
    NS,
    SOMEBODY,
    Cap,
    Idle,
    Task,
    configured_mask,
    configured_types,
    errno_of,
    errno_of_joining,
    errno_of_joining_file,
    ns_name,
    ns_names,
    open_ns,
    owned,
    prctl,
    scaled,
    set_effective_caps,
    set_inheritable_caps,
    setns,
    wait_until,
)

pytestmark = pytest.mark.needs("user_ns", "uts_ns")

PR_GET_SECUREBITS, PR_SET_SECUREBITS = 27, 28  # include/uapi/linux/prctl.h, as all of this block
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2  # include/uapi/linux/securebits.h


@contextmanager
def second_thread() -> Iterator[None]:
    """Another thread of the calling process for the block, gone to the kernel after it."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, args=[scaled(10)])
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        wait_until(lambda: len(os.listdir("/proc/self/task")) == 1, "end of the thread")


def errno_with_threads(fd: int, flags: int) -> int:
    """The errno of setns() in a process of two threads."""
    with second_thread():
        return errno_of(setns, fd, flags)


def errno_with_shared_fs(fd: int, flags: int) -> int:
    """The errno of setns() in a process that shares its fs_struct with another."""
    with Idle(CLONE_FS):
        return errno_of(setns, fd, flags)


@pytest.mark.behaviour("SNS-20")
def test_own_user_namespace_cannot_be_joined(joiner: Task) -> None:
    with owned(os.pidfd_open(os.getpid())) as pidfd, owned(open_ns(NS.USER)) as fd:
        assert errno_of(setns, fd, NS.USER) == EINVAL
        assert errno_of(setns, fd, 0) == EINVAL
        assert errno_of(setns, pidfd, NS.USER) == EINVAL
    with Idle(NS.UTS) as target:
        before = ns_names(joiner.pid)
        assert errno_of_joining(joiner, target, NS.USER | NS.UTS) == EINVAL
        assert errno_of_joining(joiner, target, configured_mask()) == EINVAL
        assert ns_names(joiner.pid) == before


@pytest.mark.behaviour("SNS-21")
def test_process_with_threads_cannot_join(joiner: Task) -> None:
    with Idle(NS.USER | NS.UTS) as target, owned(open_ns(NS.USER, target.pid)) as user:
        pidfd, fd = joiner.give(target.pidfd), joiner.give(user)
        before = ns_names(joiner.pid)
        for args in ((fd, NS.USER), (pidfd, NS.USER), (pidfd, NS.USER | NS.UTS)):
            assert joiner.call(errno_with_threads, *args) == EINVAL
        assert ns_names(joiner.pid) == before
        assert joiner.call(errno_with_threads, pidfd, NS.UTS) == 0
        assert joiner.call(errno_of, setns, fd, NS.USER) == 0


@pytest.mark.behaviour("SNS-23")
def test_invalid_comes_before_not_permitted() -> None:
    with Task(uid=SOMEBODY, caps=0) as joiner, Idle(NS.USER) as foreign:
        with owned(open_ns(NS.USER, foreign.pid)) as user:
            fd = joiner.give(user)
        assert joiner.call(errno_of, setns, fd, NS.USER) == EPERM
        assert joiner.call(errno_with_threads, fd, NS.USER) == EINVAL
        assert joiner.call(errno_with_shared_fs, fd, NS.USER) == EINVAL
        with owned(open_ns(NS.USER)) as own:
            assert errno_of_joining_file(joiner, own) == EINVAL


@pytest.mark.behaviour("SNS-25")
def test_joiner_has_all_capabilities_and_no_way_back(joiner: Task, target: Idle) -> None:
    joiner.call(_be_odd)
    with owned(open_ns(NS.USER, target.pid)) as fd, owned(open_ns(NS.USER)) as home:
        assert errno_of_joining_file(joiner, fd) == 0
        assert ns_name(NS.USER, joiner.pid) == ns_name(NS.USER, target.pid)
        everything = (2 << int(Path("/proc/sys/kernel/cap_last_cap").read_text())) - 1
        assert _capability_sets(joiner) == {
            "CapInh": 0,
            "CapPrm": everything,
            "CapEff": everything,
            "CapBnd": everything,
            "CapAmb": 0,
        }
        execute_bits = 0xF00  # SECBIT_EXEC_*, which some kernels keep
        assert joiner.call(prctl, PR_GET_SECUREBITS) & ~execute_bits == 0
        assert errno_of_joining_file(joiner, home) == EPERM
    assert errno_of_joining(joiner, target, configured_mask(NS.USER, NS.TIME)) == 0
    for kind in configured_types(NS.PID):
        assert ns_name(kind, joiner.pid) == ns_name(kind, target.pid)


def _be_odd() -> None:
    """Have unusual capability sets and secure bits, and what joining needs."""
    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    prctl(PR_CAPBSET_DROP, _number(Cap.NET_ADMIN))
    set_inheritable_caps(Cap.SYS_CHROOT)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, _number(Cap.SYS_CHROOT))
    set_effective_caps(Cap.SYS_ADMIN)


def _number(cap: Cap) -> int:
    return cap.bit_length() - 1


def _capability_sets(task: Task) -> dict[str, int]:
    lines = Path(f"/proc/{task.pid}/status").read_text().splitlines()
    fields = (line.split(":") for line in lines if line.startswith("Cap"))
    return {name: int(value, 16) for name, value in fields}
