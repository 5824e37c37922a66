# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) with a pidfd and several types: all of them are joined, or none.

The kernel installs the types in the order user, mnt, uts, ipc, pid, cgroup, net, time, and makes
them take effect after the last (validate_nsset() and commit_nsset() in kernel/nsproxy.c).
"""

import os
from errno import EINVAL, EPERM
from pathlib import Path

import pytest
from nslib import (
    NS,
    Cap,
    Idle,
    Task,
    configured_mask,
    configured_types,
    errno_of_joining,
    limit_caps,
    ns_names,
    unshare,
)

pytestmark = pytest.mark.needs("user_ns", "pid_ns", "uts_ns")


@pytest.mark.behaviour("SNS-16")
def test_foreign_pid_namespace_leaves_the_others_unchanged() -> None:
    kinds = configured_mask(NS.USER, NS.TIME)
    with Task(NS.PID) as joiner, Idle(kinds) as sibling, Idle(kinds & ~NS.PID) as above:
        before = ns_names(joiner.pid)
        for target in (sibling, above):
            for some in (NS.UTS | NS.PID, kinds):
                assert errno_of_joining(joiner, target, some) == EINVAL
                assert ns_names(joiner.pid) == before
        assert errno_of_joining(joiner, above, kinds & ~NS.PID) == 0


@pytest.mark.behaviour("SNS-16")
def test_failure_at_a_type_leaves_those_before_it_unchanged() -> None:
    # The target gets, in the order of installation, namespaces over which the joiner has rights.
    kinds = configured_mask(NS.USER)
    ordered = [kind for kind in _INSTALLED if kind in configured_types()]
    with Task(NS.USER) as joiner, joiner.spawn(kinds & (NS.PID | NS.TIME)) as target:
        before = ns_names(joiner.pid)
        for kind in ordered:
            assert errno_of_joining(joiner, target, kinds) == EPERM, kind
            assert ns_names(joiner.pid) == before, kind
            target.call(unshare, kind)
        assert errno_of_joining(joiner, target, kinds) == 0
        assert ns_names(joiner.pid)["net"] == ns_names(target.pid)["net"]


_INSTALLED = (NS.MNT, NS.UTS, NS.IPC, NS.CGROUP, NS.NET)


@pytest.mark.needs("time_ns")
@pytest.mark.behaviour("SNS-16")
def test_failure_at_the_last_type_leaves_all_unchanged() -> None:
    kinds = configured_mask(NS.USER)
    with Task(NS.USER) as joiner, joiner.spawn(kinds & ~NS.TIME) as target:
        before = ns_names(joiner.pid)
        assert errno_of_joining(joiner, target, kinds) == EPERM
        assert ns_names(joiner.pid) == before


@pytest.mark.behaviour("SNS-17")
def test_failure_after_the_mount_namespace_leaves_root_and_directory_unchanged() -> None:
    with Task(NS.PID) as joiner, Idle(NS.MNT) as target:
        joiner.call(os.chdir, "/sys")
        joiner.call(os.chroot, "/dev")
        before = ns_names(joiner.pid)
        assert errno_of_joining(joiner, target, NS.MNT | NS.PID) == EINVAL
        assert ns_names(joiner.pid) == before
        assert (_directory(joiner, "root"), _directory(joiner, "cwd")) == ("/dev", "/sys")


def _directory(task: Task, link: str) -> str:
    return os.readlink(f"/proc/{task.pid}/{link}")


@pytest.mark.behaviour("SNS-18")
def test_failure_after_the_user_namespace_leaves_credentials_unchanged() -> None:
    with Task(NS.PID) as joiner, Idle(NS.USER | NS.UTS) as target:
        joiner.call(limit_caps, Cap.SYS_ADMIN | Cap.SYS_PTRACE)
        before = ns_names(joiner.pid), _credentials(joiner)
        for kinds in (NS.USER | NS.PID, NS.USER | NS.UTS | NS.PID):
            assert errno_of_joining(joiner, target, kinds) == EINVAL
            assert (ns_names(joiner.pid), _credentials(joiner)) == before
        assert joiner.call(os.getuid) == 0
        assert errno_of_joining(joiner, target, NS.USER) == 0
        assert _credentials(joiner) != before[1]


def _credentials(task: Task) -> list[str]:
    """The lines on user, group and capabilities of the task, as the test sees them."""
    lines = Path(f"/proc/{task.pid}/status").read_text().splitlines()
    return [line for line in lines if line.startswith(("Uid:", "Gid:", "Groups:", "Cap"))]
