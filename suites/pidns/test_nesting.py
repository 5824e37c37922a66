# SPDX-License-Identifier: GPL-2.0-only
"""Pid namespaces in pid namespaces: how deep, who may make them, and who is whose parent."""

import json
import os
from errno import EINVAL, ENOSPC, EPERM
from typing import BinaryIO, NoReturn

import pytest
from nslib import (
    INITIAL_INODES,
    NS,
    Sleeper,
    Task,
    children_in,
    detached_mount,
    end_child,
    errno_of,
    fork_into,
    open_ns,
    open_parent,
    opened,
    owned,
    pids_by_level,
    sleeper_errno,
    sleeper_in,
    unshare,
)

pytestmark = pytest.mark.needs("pid_ns")

MAX_LEVEL = 32  # include/linux/pid_namespace.h, MAX_PID_NS_LEVEL


@pytest.mark.behaviour("PNS-06", "PNS-07")
def test_32_levels_are_the_most() -> None:
    if os.stat("/proc/self/ns/pid").st_ino != INITIAL_INODES[NS.PID]:
        pytest.skip("needs the initial pid namespace: the depth of another cannot be seen")
    pids, errors = _dig()
    assert pids == list(range(MAX_LEVEL, 0, -1))
    # What fails changes nothing.
    assert errors == [ENOSPC, ENOSPC, ENOSPC, 0]


def _dig() -> tuple[list[int], list[int]]:
    """Fork an init in an init and so on, as deep as possible.

    Returns the pids of the last one on all levels below the first, and the errnos when it tries
    twice to go on by clone, once by unshare, and to have a child.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as results:
        with open(writer, "wb") as output:
            pid, pidfd = fork_into(NS.PID)
            if pid == 0:
                _dig_on(output)
        try:
            pids, errors = json.load(results)
        finally:
            end_child(pidfd)
        return pids, errors


def _dig_on(output: BinaryIO) -> NoReturn:
    """As a new init: go deeper in a child, or report from where that fails."""
    try:
        pid = fork_into(NS.PID)[0]
        if pid == 0:
            _dig_on(output)
        os.waitpid(pid, 0)
    except OSError as error:
        errors = [error.errno, sleeper_errno(NS.PID), errno_of(unshare, NS.PID), sleeper_errno()]
        output.write(json.dumps((pids_by_level()[1:], errors)).encode())
        output.flush()
    finally:
        os._exit(0)


@pytest.mark.behaviour("PNS-49")
@pytest.mark.needs("user_ns")
def test_creator_must_be_in_the_owner_of_the_parent_or_below() -> None:
    with Task(NS.USER | NS.PID) as root, root.spawn(NS.USER) as below:
        assert (root.call(sleeper_errno, NS.PID), below.call(sleeper_errno, NS.PID)) == (0, 0)
        with owned(open_ns(NS.PID, root.pid)) as fd, children_in(fd):
            injected = Task()
        with injected:
            assert injected.call(errno_of, unshare, NS.PID) == EINVAL
            assert injected.call(sleeper_errno, NS.PID) == EINVAL
            # With a user namespace of its own, which is below another than the owner.
            assert injected.call(sleeper_errno, NS.USER | NS.PID) == EINVAL
            assert injected.call(sleeper_errno) == 0


def inode(fd: int) -> int:
    """The inode number of the namespace of a new fd, which is closed."""
    with owned(fd):
        return os.fstat(fd).st_ino


def parent_of_ns(pid: int) -> int:
    """The inode number of the parent of a process' pid namespace; for Task.call()."""
    with owned(open_ns(NS.PID, pid)) as fd:
        return inode(open_parent(fd))


def parent_errno(pid: int) -> int:
    """The errno with which the parent of a process' pid namespace is refused."""
    return errno_of(parent_of_ns, pid)


@pytest.mark.behaviour("PNS-50")
def test_parent_is_the_namespace_of_the_creator() -> None:
    with Sleeper(NS.PID) as cloned, Task() as task:
        task.call(unshare, NS.PID)
        unshared = task.call(sleeper_in)
        own = inode(open_ns(NS.PID))
        assert parent_of_ns(cloned.pid) == parent_of_ns(unshared) == own
        assert inode(open_ns(NS.PID, unshared)) != own


@pytest.mark.behaviour("PNS-50")
def test_initial_namespace_has_no_parent() -> None:
    # Or it is outside, if the test runs in another one.
    assert parent_errno(os.getpid()) == EPERM


@pytest.mark.behaviour("PNS-51")
def test_parent_is_only_for_those_above() -> None:
    with Task(NS.PID) as first, first.spawn(NS.PID) as second:
        third = second.call(sleeper_in, NS.PID)
        pids = first.pid, second.pid, third
        inodes = [inode(open_ns(NS.PID, pid)) for pid in pids]
        assert [parent_of_ns(pid) for pid in pids] == [inode(open_ns(NS.PID)), *inodes[:2]]
        assert first.call(parent_errno, first.pid) == EPERM
        assert [first.call(parent_of_ns, pid) for pid in pids[1:]] == inodes[:2]
        assert [second.call(parent_errno, pid) for pid in pids[:2]] == [EPERM] * 2
        assert second.call(parent_of_ns, third) == inodes[1]


@pytest.mark.behaviour("PNS-51")
def test_parent_of_another_branch_is_refused() -> None:
    with Task(NS.PID) as task, Sleeper(NS.PID) as beside:
        assert task.call(parent_errno, beside.pid) == EPERM
        assert task.call(parent_errno, os.getpid()) == EPERM


@pytest.mark.behaviour("PNS-56")
def test_child_has_a_pid_on_each_level() -> None:
    with Task(NS.PID) as outer, outer.spawn(NS.PID) as inner:
        outer.call(sleeper_in)
        with owned(open_ns(NS.PID, inner.pid)) as fd, children_in(fd):
            injected = Sleeper()
        with injected:
            assert injected.pids == [injected.pid, 4, 2]
            assert nspid_in(outer, 4) == [4, 2]
            assert nspid_in(inner, 2) == [2]
            assert outer.call(os.kill, 4, 0) is None
            assert inner.call(os.kill, 2, 0) is None


def nspid_in(task: Task, pid: int) -> list[int]:
    """The pids of a process as /proc of the task's pid namespace shows them."""
    with (
        owned(task.fetch(detached_mount, "proc")) as proc,
        opened(f"/proc/self/fd/{proc}/{pid}/status") as status,
    ):
        [line] = [one for one in os.read(status, 4096).split(b"\n") if one.startswith(b"NSpid")]
    return [int(number) for number in line.split()[1:]]
