# SPDX-License-Identifier: GPL-2.0-only
"""Credentials: those of a task count for its user namespace, whatever else in them changes."""

import ctypes
import os
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path

import pytest
from nslib import (
    NS,
    PROGRAM,
    SOMEBODY,
    Cap,
    Task,
    descend,
    errno_of,
    execute,
    hold,
    id_of,
    ids_in,
    limit_caps,
    limit_namespaces,
    mount,
    ns_id,
    open_ns,
    owned,
    prctl,
    replace_by_program,
    set_effective_caps,
    setns,
    unshare,
    visible,
    wait_until,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")

PR_SET_SECUREBITS = 28  # include/uapi/linux/prctl.h
SECBIT_NOROOT = 1  # include/uapi/linux/securebits.h


def change_ids(times: int) -> None:
    """Change the user and group ids of the calling process by each call there is, and back."""
    libc = ctypes.CDLL(None)
    for _ in range(times):
        os.setresgid(SOMEBODY, SOMEBODY, 0)
        os.setegid(0)
        os.setgid(0)
        os.setregid(0, 0)
        os.setgroups([SOMEBODY])
        os.setresuid(0, SOMEBODY, 0)
        os.seteuid(0)
        os.setreuid(SOMEBODY, 0)
        os.setuid(0)
        libc.setfsuid(SOMEBODY)
        libc.setfsuid(0)
        libc.setfsgid(SOMEBODY)
        libc.setfsgid(0)


def change_caps(times: int) -> None:
    """Change the effective capabilities and the securebits of the calling process."""
    for _ in range(times):
        set_effective_caps(Cap.SYS_ADMIN)
        set_effective_caps(Cap.ALL)
        prctl(PR_SET_SECUREBITS, SECBIT_NOROOT)
        prctl(PR_SET_SECUREBITS, 0)


@pytest.mark.behaviour("ACT-43")
def test_changes_of_ids_leave_the_user_namespace_visible_and_no_count() -> None:
    with Task(NS.USER) as task:
        user = ns_id(NS.USER, task.pid)
        for times in (1, 1, 100):
            task.call(change_ids, times)
            assert visible(user)
        task.zombie()
        assert visible(user)
        task.reap()
        assert not visible(user)


@pytest.mark.behaviour("ACT-43")
def test_changes_of_ids_keep_no_reference() -> None:
    with Task(NS.USER) as outer:
        outer.call(limit_namespaces, NS.USER, 1)
        with outer.spawn(NS.USER) as inner:
            inner.call(change_ids, 100)
            assert errno_of(outer.call, unshare, NS.USER) == ENOSPC
        wait_until(lambda: errno_of(outer.call, unshare, NS.USER) == 0, "end of the namespace")


@pytest.mark.behaviour("ACT-44")
def test_changes_of_capabilities_leave_the_user_namespace_visible_and_no_count() -> None:
    with Task(NS.USER) as task:
        user = ns_id(NS.USER, task.pid)
        for times in (1, 100):
            task.call(change_caps, times)
            assert visible(user)
        task.reap()
        assert not visible(user)


def execute_without_caps(output: int) -> None:
    """As execute(), after having given up what exec would give to root."""
    prctl(PR_SET_SECUREBITS, SECBIT_NOROOT)
    limit_caps(Cap.NONE)
    execute(output)


def execute_set_uid(output: int) -> None:
    """As execute(), but of a set-uid file of SOMEBODY."""
    mount("tmpfs", "/tmp", "tmpfs")  # noqa: S108 - in a mount namespace of its own
    file = Path("/tmp/program")  # noqa: S108
    file.write_bytes(PROGRAM)
    os.chown(file, SOMEBODY, SOMEBODY)
    file.chmod(0o4755)
    os.dup2(output, 1)
    os.execve(file, ["program"], {})  # noqa: S606


def _effective_uid(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[2]) for line in lines if line.startswith("Uid:"))


@pytest.mark.behaviour("ACT-44")
@pytest.mark.parametrize(
    ("executing", "uid"),
    [(execute, 0), (execute_without_caps, 0), (execute_set_uid, SOMEBODY)],
    ids=["root", "without-capabilities", "set-uid"],
)
def test_exec_leaves_namespaces_visible(executing: Callable[[int], None], uid: int) -> None:
    kinds = NS.USER | NS.NET | NS.MNT
    with Task(kinds) as task:
        ids = ids_in(task.pid, kinds)
        replace_by_program(task, executing)
        assert _effective_uid(task.pid) == uid
        assert visible(*ids.values()) == set(ids.values())
        task.zombie()
        assert visible(*ids.values()) == {ids[NS.USER]}
        task.reap()
        assert not visible(*ids.values())


def hold_user_ns() -> int:
    """An fd of a new user namespace."""
    return hold(NS.USER).fd


@pytest.mark.behaviour("ACT-45")
def test_joining_a_user_namespace_moves_the_reference() -> None:
    with Task(NS.USER) as task:
        old, fd = ns_id(NS.USER, task.pid), task.call(hold_user_ns)
        new = task.call(id_of, fd)
        assert visible(old, new) == {old, new}
        task.call(setns, fd, NS.USER)
        task.call(os.close, fd)
        assert ns_id(NS.USER, task.pid) == new
        assert visible(old, new) == {old, new}  # the old one as the owner of the new one
        task.zombie()
        assert visible(old, new) == {old, new}
        task.reap()
        assert not visible(old, new)


@pytest.mark.behaviour("ACT-45")
def test_joiner_keeps_a_user_namespace_as_long_as_it_lives() -> None:
    with Task(NS.USER) as creator, Task() as joiner:
        user = ns_id(NS.USER, creator.pid)
        with owned(open_ns(NS.USER, creator.pid)) as fd:
            number = joiner.give(fd)
        joiner.call(setns, number, NS.USER)
        joiner.call(os.close, number)
        creator.reap()
        assert visible(user)
        joiner.reap()
        assert not visible(user)


@pytest.mark.behaviour("ACT-46")
def test_user_namespace_left_for_its_child_stays_visible_as_the_owner() -> None:
    with Task() as task:
        outer, inner = task.call(descend, 2)
        assert visible(outer, inner) == {outer, inner}
        with owned(open_ns(NS.USER, task.pid)):
            task.reap()
            assert visible(outer, inner) == {outer, inner}
        assert not visible(outer, inner)
