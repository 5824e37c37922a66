# SPDX-License-Identifier: GPL-2.0-only
"""What a task still uses between its exit and the wait for it: its user and its pid namespace."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOENT, ESRCH

import pytest
from nslib import (
    LINKS,
    NS,
    PidfdGet,
    Task,
    configured_types,
    errno_of,
    ids_in,
    ns_id,
    ns_link,
    open_ns,
    open_of_pidfd,
    owned,
    trace,
    visible,
)

IN_NSPROXY = NS.ALL & ~(NS.USER | NS.PID)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-04")
def test_zombie_uses_none_but_its_user_and_pid_namespace() -> None:
    with Task(NS.ALL) as task:
        ids = ids_in(task.pid)
        assert visible(*ids.values()) == set(ids.values())
        task.zombie()
        assert visible(*ids.values()) == {ids[NS.USER], ids[NS.PID]}
        task.reap()
        assert not visible(*ids.values())


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-05", "ACT-06")
@pytest.mark.parametrize("kind", [NS.USER, NS.PID], ids=["user", "pid"])
def test_zombie_uses_its_namespace_until_it_is_reaped(kind: NS) -> None:
    with Task(kind) as task:
        used = ns_id(kind, task.pid)
        task.zombie()
        assert visible(used)
        task.reap()
        assert not visible(used)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-07")
def test_zombie_uses_the_owner_but_not_what_it_owns() -> None:
    with Task(NS.USER | NS.NET) as task:
        user, net = ns_id(NS.USER, task.pid), ns_id(NS.NET, task.pid)
        task.zombie()
        assert visible(user, net) == {user}
        task.reap()
        assert not visible(user, net)


@pytest.mark.behaviour("ACT-08")
@pytest.mark.parametrize("kinds", [NS.NONE, NS.USER | NS.PID], ids=["inherited", "new"])
def test_links_of_a_zombie_lead_to_its_user_and_pid_namespace_only(kinds: NS) -> None:
    with Task(kinds) as task:
        links = [link for link in LINKS if ns_link(link).is_symlink()]
        before = {kind: ns_link(kind, task.pid).readlink() for kind in (NS.USER, NS.PID)}
        task.zombie()
        wanted = {link: 0 if link in ("user", "pid") else ENOENT for link in links}
        assert {link: errno_of(os.readlink, ns_link(link, task.pid)) for link in links} == wanted
        assert {link: _opening_errno(link, task.pid) for link in links} == wanted
        assert {kind: ns_link(kind, task.pid).readlink() for kind in before} == before


def _opening_errno(link: str, pid: int) -> int:
    return errno_of(lambda: os.close(open_ns(link, pid)))


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-09")
@pytest.mark.parametrize("kind", [NS.USER, NS.PID], ids=["user", "pid"])
def test_fd_from_a_zombie_keeps_its_namespace(kind: NS) -> None:
    with Task(kind) as task:
        used = ns_id(kind, task.pid)
        task.zombie()
        with owned(open_ns(kind, task.pid)):
            task.reap()
            assert visible(used)
        assert not visible(used)


@contextmanager
def traced_zombie(task: Task) -> Iterator[None]:
    """The task as a zombie that is traced; its tracer waits for it at the end of the block."""
    trace(task.pid)
    task.kill()
    try:
        os.waitid(os.P_PIDFD, task.pidfd, os.WEXITED | os.WNOWAIT)
        yield
    finally:
        os.waitid(os.P_PIDFD, task.pidfd, os.WEXITED)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-51")
def test_traced_zombie_uses_its_namespaces_until_tracer_and_parent_have_waited() -> None:
    with Task() as parent, parent.spawn(NS.USER | NS.PID | NS.NET) as task:
        ids = ids_in(task.pid, NS.USER | NS.PID | NS.NET)
        with traced_zombie(task):
            assert visible(*ids.values()) == {ids[NS.USER], ids[NS.PID]}
        assert visible(*ids.values()) == {ids[NS.USER], ids[NS.PID]}
        assert task.reap().status == signal.SIGKILL
        assert not visible(*ids.values())


@pytest.mark.needs("pidfd_ioctls")
@pytest.mark.behaviour("ACT-61")
def test_pidfd_of_a_zombie_leads_to_none_of_its_namespaces() -> None:
    with Task() as task:
        task.zombie()
        for kind in configured_types():
            for name in {kind.link, kind.child_link}:
                which = PidfdGet[name.upper()]
                assert errno_of(open_of_pidfd, task.pidfd, which) == ESRCH, name
        for kind in (NS.USER, NS.PID):
            assert _opening_errno(kind.link, task.pid) == 0
