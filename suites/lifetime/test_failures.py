# SPDX-License-Identifier: GPL-2.0-only
"""Calls that fail after they have made or looked up namespaces: nothing of that stays."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EEXIST, EFAULT, EINVAL, ENOSPC, EPERM, EUSERS
from pathlib import Path

import pytest
from nslib import (
    CLONE_PIDFD,
    NS,
    UNMAPPED_ADDRESS,
    CloneArgs,
    Task,
    current_ids,
    errno_of,
    fork_with,
    ids_in,
    limit_namespaces,
    list_all,
    ns_id,
    opened,
    setns,
    unshare,
    visible,
    wait_until,
)

pytestmark = pytest.mark.needs("time_ns")

BY_CLONE = (NS.ALL, NS.ALL & ~NS.USER)


def clone_errno(args: CloneArgs) -> int:
    """The errno with which a clone fails; 0 if there was a child, which has ended since."""
    args.exit_signal = signal.SIGCHLD
    try:
        pid = fork_with(args)
    except OSError as error:
        return error.errno or 0
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return 0


def clone_without_time() -> set[int]:
    """Fail at the last type that is made, for want of room for it."""
    limit_namespaces(NS.TIME, 0)
    return {clone_errno(CloneArgs(flags=kinds)) for kinds in BY_CLONE}


def unshare_without_time() -> set[int]:
    """As clone_without_time()."""
    limit_namespaces(NS.TIME, 0)
    # With MNT the next clone would fail before commit 6c4b2243cb6c; that has a test of its own.
    return {errno_of(unshare, kinds & ~NS.MNT) for kinds in BY_CLONE}


def clone_at(tids: list[int]) -> set[int]:
    """Fail at the pids wanted for the child, the innermost first."""
    wanted = (ctypes.c_int * len(tids))(*tids)
    at = {"set_tid": ctypes.addressof(wanted), "set_tid_size": len(tids)}
    return {clone_errno(CloneArgs(flags=kinds, **at)) for kinds in BY_CLONE}


def clone_at_2() -> set[int]:
    """Ask for a pid that the first task in a pid namespace cannot have."""
    return clone_at([2])


def clone_at_own_pid() -> set[int]:
    """Ask for the caller's own pid."""
    return clone_at([1, 1])


def clone_at_pid_of_others() -> set[int]:
    """Ask for a pid in the initial pid namespace."""
    return clone_at([1, 2, 3])


def clone_without_room_for_pidfd() -> set[int]:
    """Fail at the address for the pidfd, when all else is there."""
    args = {"pidfd": UNMAPPED_ADDRESS}
    return {clone_errno(CloneArgs(flags=kinds | CLONE_PIDFD, **args)) for kinds in BY_CLONE}


FAILURES: dict[Callable[[], set[int]], int] = {
    clone_at_2: EINVAL,
    clone_at_own_pid: EEXIST,
    clone_at_pid_of_others: EPERM,
    clone_without_room_for_pidfd: EFAULT,
    clone_without_time: ENOSPC,
    unshare_without_time: ENOSPC,
}


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-58")
def test_failed_creation_leaves_nothing_visible() -> None:
    with Task(NS.USER | NS.PID) as task:
        user, pid = ns_id(NS.USER, task.pid), ns_id(NS.PID, task.pid)
        for fail, error in FAILURES.items():
            assert task.call(fail) == {error}, fail.__name__
            assert list_all(owner=user) == [pid], fail.__name__
            assert visible(user, pid) == {user, pid}, fail.__name__
        task.reap()
        assert not visible(user, pid)


def types_without_room() -> list[str]:
    """The types of which the caller's user namespace has no room for another one."""
    return [kind.link for kind in NS if clone_errno(CloneArgs(flags=kind)) == ENOSPC]


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-58")
def test_failed_creation_leaves_no_reference() -> None:
    with Task(NS.USER | NS.PID) as task:
        for fail in FAILURES:
            task.call(fail)
        for kind in NS:
            task.call(limit_namespaces, kind, 2 if kind == NS.PID else 1)
        room = CloneArgs(flags=NS.ALL)
        try:
            wait_until(lambda: task.call(clone_errno, room) == 0, "room for one of each type")
        except TimeoutError:
            pytest.fail(f"there is no room for another {task.call(types_without_room)}")


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-58")
def test_failed_unshare_of_a_second_pid_namespace_leaves_nothing() -> None:
    with Task(NS.USER) as task:
        owner = ns_id(NS.USER, task.pid)
        task.call(unshare, NS.PID)
        before = list_all(owner=owner)
        for kinds in BY_CLONE:
            assert errno_of(task.call, unshare, kinds) == EINVAL
        assert list_all(owner=owner) == before
        assert len(before) == 1
        task.reap()
        assert not visible(owner, *before)


def mount_at(path: str) -> int:
    """Id of the mount that `path` leads to."""
    with opened(path, os.O_PATH) as fd:
        fields = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
    return int(fields[fields.index("mnt_id:") + 1])


@pytest.mark.behaviour("ACT-58")
def test_failed_unshare_leaves_the_caller_where_it_was() -> None:
    with Task(NS.USER) as task:
        places = [f"/proc/{task.pid}/{link}" for link in ("root", "cwd")]
        before = [mount_at(place) for place in places]
        task.call(limit_namespaces, NS.TIME, 0)
        assert errno_of(task.call, unshare, NS.MNT | NS.TIME) == ENOSPC
        assert [mount_at(place) for place in places] == before


@contextmanager
def several_threads() -> Iterator[None]:
    """This process has another thread, so that it cannot join a time namespace."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-59")
def test_failed_setns_at_the_last_type_leaves_nothing_active() -> None:
    kinds = NS.UTS | NS.IPC | NS.PID | NS.CGROUP | NS.NET | NS.TIME
    with Task(kinds) as target:
        ids, before = ids_in(target.pid, kinds), current_ids()
        with several_threads():
            errors = {errno_of(setns, target.pidfd, kinds) for _ in range(10)}
        assert errors == {EUSERS}
        assert current_ids() == before
        assert visible(*ids.values()) == set(ids.values())
        target.zombie()
        assert visible(*ids.values()) == {ids[NS.PID]}
        target.reap()
        assert not visible(*ids.values())


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-59")
def test_failed_setns_at_the_pid_namespace_leaves_nothing_active() -> None:
    kinds = NS.MNT | NS.UTS | NS.IPC | NS.PID
    with Task(kinds) as target, Task(NS.PID) as caller:
        ids, before = ids_in(target.pid, kinds), caller.call(current_ids)
        pidfd = caller.give(target.pidfd)
        assert errno_of(caller.call, setns, pidfd, kinds) == EINVAL
        assert caller.call(current_ids) == before
        target.zombie()
        assert visible(*ids.values()) == {ids[NS.PID]}
        target.reap()
        assert not visible(*ids.values())


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-59")
def test_failed_setns_keeps_no_reference() -> None:
    with Task(NS.USER) as creator:
        creator.call(limit_namespaces, NS.NET, 1)
        with creator.spawn(NS.NET) as target, several_threads():
            assert errno_of(setns, target.pidfd, NS.NET | NS.TIME) == EUSERS
            assert errno_of(creator.call, unshare, NS.NET) == ENOSPC
        wait_until(lambda: errno_of(creator.call, unshare, NS.NET) == 0, "end of the namespace")
