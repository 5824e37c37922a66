# SPDX-License-Identifier: GPL-2.0-only
"""ns_last_pid: the last pid given out in the pid namespace that the reader is in."""

import os
from collections.abc import Callable, Iterator
from errno import EINVAL, EPERM

import pytest
from nslib import (
    NS,
    SOMEBODY,
    Cap,
    Task,
    errno_of,
    get_sysctl,
    mount,
    owned,
    pids_by_level,
    set_effective_caps,
    set_sysctl,
    sleeper_in,
    unshare,
)

pytestmark = pytest.mark.needs("pid_ns", "ns_last_pid")

RESERVED_PIDS = 300  # kernel/pid.c


def last_pid() -> int:
    """The last pid given out in the caller's pid namespace."""
    return get_sysctl("kernel/ns_last_pid")


def set_last_pid(pid: int) -> None:
    """Have the next pid in the caller's pid namespace be the one after `pid`."""
    set_sysctl("kernel/ns_last_pid", pid)


def next_pids(task: Task, count: int) -> list[int]:
    """The pids in the task's pid namespace of its next children."""
    return task.call(_pids_of_children, count)


def _pids_of_children(count: int) -> list[int]:
    return [pids_by_level(sleeper_in())[-1] for _ in range(count)]


@pytest.fixture
def init() -> Iterator[Task]:
    """The init of a new pid namespace."""
    with Task(NS.PID) as task:
        yield task


@pytest.mark.behaviour("PNS-40")
def test_next_pid_follows_the_last_one(init: Task) -> None:
    assert init.call(last_pid) == 1
    assert next_pids(init, 2) == [2, 3]
    assert init.call(last_pid) == 3
    init.call(set_last_pid, 100)
    assert init.call(last_pid) == 100
    assert next_pids(init, 2) == [101, 102]
    assert init.call(last_pid) == 102
    # Those in use are passed over.
    init.call(set_last_pid, 0)
    assert next_pids(init, 2) == [4, 5]


@pytest.mark.behaviour("PNS-41")
def test_it_is_that_of_the_active_namespace(init: Task) -> None:
    init.call(unshare, NS.PID)
    assert pids_by_level(init.call(sleeper_in))[1:] == [2, 1]
    init.call(set_last_pid, 500)
    assert init.call(last_pid) == 500
    assert pids_by_level(init.call(sleeper_in))[1:] == [501, 2]


@pytest.mark.behaviour("PNS-41")
def test_it_is_that_of_the_caller_in_any_proc(init: Task) -> None:
    # The other tests use the /proc of the test; this is one of the namespace below.
    with Task(NS.PID | NS.MNT) as other:
        other.call(mount, "proc", "/proc", "proc")
        proc = other.call(os.open, "/proc", os.O_RDONLY)
        # /proc is an instance of the other namespace from here on.
        with owned(other.fetch(os.dup, proc)) as folder:
            inside = init.give(folder)
            assert init.call(last_pid_at, inside) == 1
            init.call(set_last_pid_at, inside, 700)
        assert next_pids(init, 1) == [701]
        assert other.call(last_pid) == 1


def last_pid_at(proc: int) -> int:
    """As last_pid(), by the procfs instance whose root directory is `proc`."""
    with owned(os.open("sys/kernel/ns_last_pid", os.O_RDONLY, dir_fd=proc)) as fd:
        return int(os.read(fd, 32))


def set_last_pid_at(proc: int, pid: int) -> None:
    """As set_last_pid(), by the procfs instance whose root directory is `proc`."""
    with owned(os.open("sys/kernel/ns_last_pid", os.O_WRONLY, dir_fd=proc)) as fd:
        os.write(fd, b"%d" % pid)


@pytest.mark.behaviour("PNS-42")
def test_last_pid_is_limited_by_pid_max(init: Task, observe: Callable[[str, object], None]) -> None:
    # Since 6.14 a new pid namespace has one of its own, as large as can be.
    limit = init.call(get_sysctl, "kernel/pid_max")
    observe("pid_max_of_new_namespace", limit)
    init.call(set_last_pid, 200)
    for wrong in (-1, limit + 1, 2**31):
        assert init.call(errno_of, set_last_pid, wrong) == EINVAL
        assert init.call(last_pid) == 200
    for right in (limit - 1, 0):
        init.call(set_last_pid, right)
        assert init.call(last_pid) == right


@pytest.mark.behaviour("PNS-43")
def test_writing_needs_one_of_two_capabilities(init: Task) -> None:
    for caps in (Cap.CHECKPOINT_RESTORE, Cap.SYS_ADMIN):
        init.call(set_effective_caps, Cap.ALL & ~Cap.CHECKPOINT_RESTORE & ~Cap.SYS_ADMIN)
        assert init.call(errno_of, set_last_pid, 100) == EPERM
        assert init.call(last_pid) == 1
        init.call(set_effective_caps, caps)
        init.call(set_last_pid, 50)
        init.call(set_last_pid, 1)


@pytest.mark.behaviour("PNS-43")
def test_anybody_may_read_and_with_capabilities_write() -> None:
    with Task(NS.PID, uid=SOMEBODY, caps=Cap.CHECKPOINT_RESTORE) as init:
        init.call(set_last_pid, 50)
        init.call(set_effective_caps, Cap.NONE)
        assert init.call(errno_of, set_last_pid, 100) == EPERM
        assert init.call(last_pid) == 50


@pytest.mark.behaviour("PNS-43")
@pytest.mark.needs("user_ns")
def test_it_is_capabilities_over_the_owner_that_count(init: Task) -> None:
    with init.spawn(NS.USER) as member:
        assert member.call(errno_of, set_last_pid, 100) == EPERM
        assert member.call(last_pid) == 2
    with Task(NS.USER | NS.PID) as root:
        root.call(set_last_pid, 100)
        assert next_pids(root, 1) == [101]


@pytest.mark.behaviour("PNS-44")
def test_pids_wrap_around_to_300(init: Task) -> None:
    limit = init.call(get_sysctl, "kernel/pid_max")
    init.call(set_last_pid, limit - 3)
    assert next_pids(init, 4) == [limit - 2, limit - 1, RESERVED_PIDS, RESERVED_PIDS + 1]
    init.call(set_last_pid, limit - 1)
    assert next_pids(init, 1) == [RESERVED_PIDS + 2]
    assert init.call(last_pid) == RESERVED_PIDS + 2
