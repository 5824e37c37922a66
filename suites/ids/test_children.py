# SPDX-License-Identifier: GPL-2.0-only
"""The ids of the pid and time namespace that the children of a task will be in."""

import pytest
from nslib import (
    NS,
    PidfdGet,
    Task,
    id_behind,
    ns_id,
    open_ns,
    open_of_pidfd,
    owned,
    setns,
    unshare,
)

pytestmark = pytest.mark.needs("nsid", "pidfd_ioctls")


def id_for_children(task: Task, kind: NS) -> int:
    """Id of the namespace of the task's children, which the link in /proc may not give yet: a pid
    namespace without init does not open there before Linux 7.1 (commit a3bdc23ba8ea)."""
    return id_behind(open_of_pidfd(task.pidfd, PidfdGet[kind.child_link.upper()]))


def rejoin(kind: NS) -> None:
    """Have the children in the caller's own namespace again."""
    with owned(open_ns(kind)) as fd:
        setns(fd, kind)


@pytest.mark.behaviour("NSID-18")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(NS.PID, marks=pytest.mark.needs("pid_ns")),
        pytest.param(NS.TIME, marks=pytest.mark.needs("time_ns")),
    ],
)
def test_children_share_the_id_until_their_namespace_is_changed(kind: NS) -> None:
    with Task() as task:
        own = ns_id(kind, task.pid)
        assert ns_id(kind.child_link, task.pid) == id_for_children(task, kind) == own
        task.call(unshare, kind)
        assert ns_id(kind, task.pid) == own
        assert id_for_children(task, kind) not in (0, own)
        task.call(rejoin, kind)
        assert ns_id(kind.child_link, task.pid) == id_for_children(task, kind) == own
