# SPDX-License-Identifier: GPL-2.0-only
"""Namespaces that only files refer to: visible until the last one of them is closed."""

import os
import socket

import pytest
from nslib import (
    NS,
    PidfdGet,
    Task,
    configured_types,
    encode_handle,
    hold,
    hold_each,
    hold_together,
    id_of,
    ids_of,
    ns_id,
    open_handle,
    open_id,
    open_ns,
    open_of_pidfd,
    opened,
    owned,
    replace_by_program,
    visible,
    wait_until_invisible,
    watch_file,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")


@pytest.mark.behaviour("ACT-12")
def test_fd_keeps_a_namespace_of_any_type() -> None:
    held = hold_each(configured_types())
    ids = ids_of(held)
    while held:
        assert visible(*ids) == set(ids_of(held))
        os.close(held.pop().fd)
    assert not visible(*ids)


@pytest.mark.behaviour("ACT-12")
def test_fd_by_any_route_keeps_a_namespace() -> None:
    with Task(NS.NET | NS.UTS | NS.IPC | NS.CGROUP) as task:
        with owned(open_ns(NS.CGROUP, task.pid)) as fd:
            handle = encode_handle(fd).handle
        fds = [
            open_ns(NS.NET, task.pid),
            open_of_pidfd(task.pidfd, PidfdGet.UTS),
            open_id(ns_id(NS.IPC, task.pid)),
            open_handle(handle),
        ]
        task.reap()
    ids = [id_of(fd) for fd in fds]
    for number, fd in enumerate(fds):
        assert visible(*ids) == set(ids[number:])
        os.close(fd)
    assert not visible(*ids)


@pytest.mark.behaviour("ACT-13")
def test_copy_of_a_fd_keeps_a_namespace() -> None:
    uts, fd = hold(NS.UTS)
    with owned(os.dup(fd)):
        os.close(fd)
        assert visible(uts)
    assert not visible(uts)


@pytest.mark.behaviour("ACT-13")
def test_inherited_fd_keeps_a_namespace() -> None:
    uts, fd = hold(NS.UTS)
    with Task(keep_fds=[fd]) as heir:
        os.close(fd)
        assert visible(uts)
        heir.call(os.close, fd)
        assert not visible(uts)


@pytest.mark.behaviour("ACT-13")
@pytest.mark.parametrize("survives", [True, False], ids=["inheritable", "close-on-exec"])
def test_fd_that_survives_exec_keeps_a_namespace(survives: bool) -> None:
    uts, fd = hold(NS.UTS)
    with Task(keep_fds=[fd]) as heir:
        os.close(fd)
        heir.call(os.set_inheritable, fd, survives)
        assert visible(uts)
        replace_by_program(heir)
        assert visible(uts) == ({uts} if survives else set())
        heir.zombie()
        assert not visible(uts)


@pytest.mark.behaviour("ACT-14")
def test_fd_in_flight_keeps_a_namespace_until_it_is_received_and_closed() -> None:
    uts, fd = hold(NS.UTS)
    sender, receiver = socket.socketpair()
    with sender, receiver:
        socket.send_fds(sender, [b"."], [fd])
        os.close(fd)
        assert visible(uts)
        [received] = socket.recv_fds(receiver, 1, 1)[1]
        assert visible(uts)
        os.close(received)
        assert not visible(uts)


@pytest.mark.behaviour("ACT-14")
@pytest.mark.parametrize("first", ["sender", "receiver"])
def test_fd_in_flight_keeps_a_namespace_until_the_receiver_is_closed(first: str) -> None:
    uts, fd = hold(NS.UTS)
    sender, receiver = socket.socketpair()
    socket.send_fds(sender, [b"."], [fd])
    os.close(fd)
    if first == "sender":
        sender.close()
        assert visible(uts)
    receiver.close()
    assert not visible(uts)
    sender.close()


@pytest.mark.behaviour("ACT-14")
def test_fd_in_an_unreachable_cycle_of_sockets_is_collected() -> None:
    uts, fd = hold(NS.UTS)
    sender, receiver = socket.socketpair()
    with sender, receiver:
        socket.send_fds(sender, [b"."], [fd, receiver.fileno()])
        os.close(fd)
        assert visible(uts)
    wait_until_invisible(uts)


@pytest.mark.behaviour("ACT-15")
def test_path_fd_keeps_a_namespace() -> None:
    uts, fd = hold(NS.UTS)
    with opened(f"/proc/self/fd/{fd}", os.O_PATH):
        os.close(fd)
        assert visible(uts)
    assert not visible(uts)


@pytest.mark.behaviour("ACT-60")
def test_inotify_watch_keeps_a_namespace_and_its_owner() -> None:
    held = hold_together(NS.USER | NS.UTS)
    ids = {one.id for one in held.values()}
    with owned(watch_file(f"/proc/self/fd/{held[NS.UTS].fd}")):
        for one in held.values():
            os.close(one.fd)
        assert visible(*ids) == ids
    assert not visible(*ids)
