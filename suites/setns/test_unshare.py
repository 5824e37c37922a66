# SPDX-License-Identifier: GPL-2.0-only
"""unshare(2) and clone(2): flags and rights that new namespaces need."""

import os
import threading
from collections.abc import Callable
from errno import EINVAL, ENOSPC, EPERM
from pathlib import Path

import pytest
from nslib import (
    CLONE_FS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VM,
    NS,
    SOMEBODY,
    Cap,
    CloneArgs,
    Idle,
    Task,
    configured_mask,
    configured_types,
    errno_of,
    fork_with,
    map_ids,
    ns_name,
    ns_names,
    set_effective_caps,
    unshare,
)

pytestmark = pytest.mark.needs("user_ns", "uts_ns")

# What unshare() takes besides the types: CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD, _SYSVSEM, and
# UNSHARE_EMPTY_MNTNS of Linux 7.1 (check_unshare_flags() in kernel/fork.c).
OTHER_FLAGS = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x100000
UNKNOWN_FLAGS = [1 << bit for bit in range(32) if not 1 << bit & (NS.ALL | OTHER_FLAGS)]
USER_NS_LEVELS = 33
"""How deep user namespaces nest below the initial one (create_user_ns())."""


@pytest.mark.behaviour("SNS-46")
def test_unknown_flags_are_refused() -> None:
    before = ns_names()
    wrong = [-1, *UNKNOWN_FLAGS, *(NS.UTS | flag for flag in UNKNOWN_FLAGS)]
    assert {flags: errno_of(unshare, flags) for flags in wrong} == dict.fromkeys(wrong, EINVAL)
    assert errno_of(unshare, 0) == 0
    assert ns_names() == before


@pytest.mark.behaviour("SNS-46")
def test_process_with_threads_gets_no_user_namespace(joiner: Task) -> None:
    before = ns_names(joiner.pid)
    assert joiner.call(_errnos_in_thread, [NS.USER, NS.USER | NS.UTS]) == [EINVAL, EINVAL]
    assert ns_names(joiner.pid) == before
    assert joiner.call(_errnos_in_thread, [NS.UTS, NS.MNT]) == [0, 0]


def _errnos_in_thread(flags: list[int]) -> list[int]:
    """The errnos of unshare() in a second thread."""
    errnos: list[int] = []
    thread = threading.Thread(target=lambda: errnos.extend(errno_of(unshare, one) for one in flags))
    thread.start()
    thread.join()
    return errnos


@pytest.mark.behaviour("SNS-46")
def test_user_namespace_is_refused_in_a_chroot(joiner: Task) -> None:
    joiner.call(os.chroot, "/dev")
    assert joiner.call(errno_of, unshare, NS.USER) == EPERM
    assert joiner.call(errno_of, unshare, NS.USER | NS.UTS) == EPERM
    assert ns_names(joiner.pid) == ns_names()


@pytest.mark.behaviour("SNS-46")
def test_user_namespace_is_refused_to_who_is_not_mapped(joiner: Task) -> None:
    joiner.call(unshare, NS.USER)
    before = ns_names(joiner.pid)
    assert joiner.call(errno_of, unshare, NS.USER) == EPERM
    assert ns_names(joiner.pid) == before
    map_ids(joiner.pid)
    assert joiner.call(errno_of, unshare, NS.USER) == 0
    assert ns_name(NS.USER, joiner.pid) != before["user"]


@pytest.mark.behaviour("SNS-46")
def test_other_types_need_sys_admin() -> None:
    with Task() as task:
        task.call(set_effective_caps, Cap.ALL & ~Cap.SYS_ADMIN)
        kinds = configured_types(NS.USER)
        refused = {kind: task.call(errno_of, unshare, kind) for kind in kinds}
        assert refused == dict.fromkeys(kinds, EPERM)
        assert ns_names(task.pid) == ns_names()
        task.call(set_effective_caps, Cap.SYS_ADMIN)
        assert task.call(errno_of, unshare, configured_mask(NS.USER)) == 0


@pytest.mark.needs("unprivileged_userns")
@pytest.mark.behaviour("SNS-46")
def test_new_user_namespace_gives_the_right_to_others() -> None:
    with Task(uid=SOMEBODY, caps=0) as task:
        before = ns_names(task.pid)
        task.call(unshare, configured_mask(NS.PID, NS.TIME))
        after = ns_names(task.pid)
        kept = {link for link in before if before[link] == after[link]}
        assert kept == {"pid", "pid_for_children", "time", "time_for_children"} & before.keys()


@pytest.mark.behaviour("SNS-47")
def test_user_namespaces_nest_so_many_levels(joiner: Task) -> None:
    levels, errno = joiner.call(_descend)
    assert (levels, errno) == (USER_NS_LEVELS, ENOSPC)


def _descend() -> tuple[int, int]:
    """Make a user namespace in the other until that fails; gives how many, and the errno."""
    levels, uid, gid = 0, os.geteuid(), os.getegid()
    while levels <= USER_NS_LEVELS and not (errno := errno_of(unshare, NS.USER)):
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        levels += 1
    return levels, errno


@pytest.mark.behaviour("SNS-48")
def test_clone_refuses_to_share_with_another_namespace() -> None:
    refused = [
        NS.MNT | CLONE_FS,
        NS.USER | CLONE_FS,
        NS.USER | NS.MNT | CLONE_FS,
        NS.IPC | CLONE_SYSVSEM,
        NS.IPC | NS.UTS | CLONE_SYSVSEM,
    ]
    assert {flags: errno_of(_end_at_once, flags) for flags in refused} == dict.fromkeys(
        refused, EINVAL
    )
    for kind, shared in (
        (NS.UTS, CLONE_FS | CLONE_SYSVSEM),
        (NS.MNT, CLONE_SYSVSEM),
        (NS.IPC, CLONE_FS),
    ):
        with Idle(kind | shared) as child:
            assert ns_name(kind, child.pid) != ns_name(kind)


def _end_at_once(flags: int) -> None:
    with Idle(flags):
        pass


@pytest.mark.needs("pid_ns")
@pytest.mark.behaviour("SNS-48")
def test_clone_refuses_a_thread_in_another_namespace() -> None:
    thread = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD
    for kind in (NS.USER, NS.PID):
        assert errno_of(fork_with, CloneArgs(flags=kind | thread)) == EINVAL, kind


@pytest.mark.needs("time_ns")
@pytest.mark.behaviour("SNS-49")
def test_old_clone_knows_no_time_namespace(observe: Callable[[str, object], None]) -> None:
    # The bit of the type lies within the exit signal there. Some kernels refuse such a signal.
    try:
        with Idle(NS.TIME) as child:
            names = ns_names(child.pid)
            errno = 0
    except OSError as error:
        errno = error.errno or 0
    observe("errno", errno)
    if errno:
        assert errno == EINVAL
    else:
        assert names == ns_names()


@pytest.mark.needs("time_ns")
@pytest.mark.behaviour("SNS-49")
def test_clone3_makes_a_time_namespace() -> None:
    with Task(NS.TIME) as child:
        inside = ns_name(NS.TIME, child.pid)
        assert inside == ns_name("time_for_children", child.pid)
        assert inside != ns_name(NS.TIME)
    assert ns_name(NS.TIME) == ns_name("time_for_children")
