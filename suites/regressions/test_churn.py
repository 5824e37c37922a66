# SPDX-License-Identifier: GPL-2.0-only
"""Lists, handles and resurrection while namespaces come and go on another processor."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EINVAL, ESTALE
from threading import Barrier

import pytest
from nslib import (
    NS,
    Idle,
    ListRequest,
    PidfdGet,
    Task,
    configured_mask,
    encode_handle,
    hold,
    holding,
    id_behind,
    ids_in,
    ids_of,
    list_all,
    list_page,
    ns_id,
    open_handle,
    open_id,
    open_ns,
    open_of_pidfd,
    open_of_socket,
    owned,
    pinned,
    release,
    scaled,
    visible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles", "user_ns", "uts_ns", "ipc_ns", "net_ns")

Meanwhile = Callable[..., Iterator[None]]


def come_and_go(times: int) -> None:
    """Make and end namespaces of all types that many times."""
    kinds = configured_mask(NS.TIME)
    for turn in range(times):
        with Idle(kinds if turn % 4 == 0 else kinds & ~NS.NET):
            pass
        if turn % 2:
            release([hold(NS.TIME)])


@pytest.mark.behaviour("REG-08")
def test_lists_are_right_while_namespaces_of_all_types_end(meanwhile: Meanwhile) -> None:
    with holding(NS.UTS, NS.IPC, NS.CGROUP, NS.MNT) as held, Task() as task:
        lasting = ids_of(held)
        start = ListRequest(cursor=lasting[0] - 1)
        for _ in meanwhile(task, come_and_go, 60):
            for types in (0, NS.UTS | NS.IPC | NS.CGROUP | NS.MNT):
                listed = list_page(ListRequest(types, cursor=start.cursor))
                assert listed == sorted(set(listed))
                assert listed[: len(lasting)] == lasting
            for kind, one in zip((NS.UTS, NS.IPC, NS.CGROUP, NS.MNT), lasting, strict=True):
                assert list_page(ListRequest(kind, cursor=start.cursor))[0] == one
            for user in list_page(ListRequest(NS.USER)):
                _check_list_of(user)


def _check_list_of(owner: int) -> None:
    try:
        listed = list_page(ListRequest(owner=owner))
    except OSError as error:
        if error.errno != EINVAL:  # the answer when the owner has ended
            raise
    else:
        assert listed == sorted(set(listed))
        assert owner not in listed


@pytest.mark.behaviour("REG-09")
def test_handles_open_what_they_name_or_nothing(meanwhile: Meanwhile) -> None:
    opened = 0
    with Task() as task:
        for _ in meanwhile(task, come_and_go, 60):
            newest = max(list_all(cursor=0))
            for one in range(newest - 6, newest + 12):
                try:
                    fd = open_id(one)
                except OSError as error:
                    if error.errno != ESTALE:
                        raise
                else:
                    assert id_behind(fd) == one
                    opened += 1
    assert opened


@pytest.mark.needs("pidfd_ioctls")
@pytest.mark.behaviour("REG-10")
def test_routes_at_the_same_time_lead_to_one_inode() -> None:
    with Idle(NS.USER | NS.UTS) as target:
        ids = set(ids_in(target.pid, NS.USER | NS.UTS).values())
        with owned(open_ns(NS.UTS, target.pid)) as fd:
            inode, handle, uts = (
                os.fstat(fd).st_ino,
                encode_handle(fd).handle,
                id_behind(os.dup(fd)),
            )
        start = Barrier(4, timeout=scaled(5))

        def after_start(route: Callable[[], int]) -> int:
            start.wait()
            return route()

        routes = [
            lambda: open_ns(NS.UTS, target.pid),
            lambda: open_of_pidfd(target.pidfd, PidfdGet.UTS),
            lambda: open_handle(handle),
            lambda: open_id(uts),
        ]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(60):
                fds = list(pool.map(after_start, routes))
                assert {os.fstat(fd).st_ino for fd in fds} == {inode}
                for fd in fds:
                    os.close(fd)
        assert visible(*ids) == ids
        target.reap()
        assert visible(*ids) == set()


@pytest.mark.behaviour("REG-11")
def test_socket_revives_while_the_last_descriptor_is_closed() -> None:
    with (
        Task(NS.USER) as outer,
        outer.spawn(NS.USER | NS.NET) as task,
        pinned(task, NS.NET) as sock,
    ):
        ids = {ns_id(NS.USER, outer.pid), *ids_in(task.pid, NS.USER | NS.NET).values()}
        outer.reap()
        start = Barrier(2, timeout=scaled(5))

        def close(fd: int) -> None:
            start.wait()
            os.close(fd)

        with ThreadPoolExecutor(1) as pool:
            for turn in range(80):
                closing = pool.submit(close, open_of_socket(sock))
                start.wait()
                for _ in range(turn % 8 * 20):  # to meet at different moments
                    pass
                with owned(open_of_socket(sock)):
                    closing.result()
                    assert visible(*ids) == ids
                assert visible(*ids) == set()
