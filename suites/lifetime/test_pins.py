# SPDX-License-Identifier: GPL-2.0-only
"""What holds a namespace in memory, but does not make it visible."""

import os
from contextlib import ExitStack

import pytest
from nslib import (
    NS,
    Task,
    detached_mount,
    id_behind,
    ids_in,
    ns_id,
    open_of_socket,
    owned,
    pinned,
    visible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")


@pytest.mark.behaviour("ACT-22")
def test_credentials_of_an_open_file_do_not_keep_a_user_namespace() -> None:
    with Task(NS.USER) as task:
        user = ns_id(NS.USER, task.pid)
        with owned(task.fetch(os.open, "/dev/null", os.O_RDONLY)), pinned(task, NS.USER):
            assert visible(user)
            task.reap()
            assert not visible(user)


@pytest.mark.behaviour("ACT-22")
def test_mounted_file_system_does_not_keep_the_user_namespace_that_it_was_made_in() -> None:
    with Task(NS.USER | NS.MNT) as task:
        ids = ids_in(task.pid, NS.USER | NS.MNT)
        with owned(task.fetch(detached_mount, "tmpfs")):
            assert visible(*ids.values()) == set(ids.values())
            task.reap()
            assert not visible(*ids.values())


@pytest.mark.behaviour("ACT-23", "ACT-36")
def test_socket_does_not_keep_its_network_namespace_nor_the_owner() -> None:
    with Task(NS.USER | NS.NET) as task, pinned(task, NS.NET) as sock:
        user, net = ns_id(NS.USER, task.pid), ns_id(NS.NET, task.pid)
        task.zombie()
        assert visible(user, net) == {user}
        task.reap()
        assert not visible(user, net)
        assert id_behind(open_of_socket(sock)) == net


@pytest.mark.behaviour("ACT-24")
def test_pidfd_does_not_keep_the_pid_namespace_of_a_reaped_task() -> None:
    with Task(NS.USER | NS.PID) as task, pinned(task, NS.PID):
        ids = ids_in(task.pid, NS.USER | NS.PID)
        assert visible(*ids.values()) == set(ids.values())
        task.reap()
        assert not visible(*ids.values())


@pytest.mark.behaviour("ACT-24")
def test_procfs_mount_does_not_keep_its_pid_namespace() -> None:
    with Task(NS.PID) as task:
        pid = ns_id(NS.PID, task.pid)
        with owned(task.fetch(detached_mount, "proc")) as fd:
            procfs = f"/proc/self/fd/{fd}"
            assert "1" in os.listdir(procfs)
            assert visible(pid)
            task.reap()
            assert not visible(pid)
            assert not [name for name in os.listdir(procfs) if name.isdecimal()]


@pytest.mark.behaviour("ACT-25")
def test_open_mountinfo_sysvipc_and_cgroup_files_do_not_keep_namespaces() -> None:
    kinds = NS.MNT | NS.IPC | NS.CGROUP
    with Task(kinds) as task, ExitStack() as pins:
        for kind in kinds:
            pins.enter_context(pinned(task, kind))
        ids = ids_in(task.pid, kinds)
        assert visible(*ids.values()) == set(ids.values())
        task.zombie()
        assert not visible(*ids.values())
