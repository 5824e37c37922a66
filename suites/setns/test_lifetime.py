# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) with a pidfd: who joins keeps what it joined, and its owners, active."""

import os
import socket
from collections.abc import Iterator
from errno import EINVAL, ESRCH

import pytest
from nslib import (
    NS,
    Idle,
    Task,
    configured_mask,
    errno_of_joining,
    ids_in,
    ns_id,
    open_of_socket,
    owned,
    setns,
    visible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles", "user_ns")


@pytest.mark.behaviour("SNS-40")
@pytest.mark.parametrize("without", [NS.USER, NS.NONE], ids=["all_but_user", "all"])
def test_joined_namespaces_and_owners_outlive_the_target(without: NS, joiner: Task) -> None:
    with Task(NS.USER) as outer, outer.spawn(configured_mask()) as target:
        ids = {ns_id(NS.USER, outer.pid), *ids_in(target.pid, configured_mask()).values()}
        assert errno_of_joining(joiner, target, configured_mask(without)) == 0
        outer.reap()
        assert visible(*ids) == ids
        joiner.reap()
        assert visible(*ids) == set()


@pytest.mark.behaviour("SNS-40")
def test_each_joined_type_keeps_itself_and_its_owner(joiner: Task, home: int) -> None:
    for kind in configured_mask(NS.USER, NS.TIME):
        with Idle(NS.USER | kind) as target:
            ids = set(ids_in(target.pid, NS.USER | kind).values())
            assert errno_of_joining(joiner, target, kind) == 0
            target.reap()
            assert visible(*ids) == ids, kind
            joiner.call(setns, home, kind)
            assert visible(*ids) == set(), kind


@pytest.fixture
def home(joiner: Task) -> Iterator[int]:
    """Number in the joiner of a pidfd of the test's process."""
    with owned(os.pidfd_open(os.getpid())) as pidfd:
        yield joiner.give(pidfd)


@pytest.mark.needs("net_ns")
@pytest.mark.behaviour("SNS-40", "SNS-43")
def test_counts_are_in_balance_after_joining_and_leaving(joiner: Task, home: int) -> None:
    with Idle(NS.USER | NS.NET) as target:
        ids = set(ids_in(target.pid, NS.USER | NS.NET).values())
        assert errno_of_joining(joiner, target, NS.NET) == 0
        with owned(joiner.fetch(_new_socket)) as sock:
            target.reap()
            joiner.call(setns, home, NS.NET)
            assert visible(*ids) == set()
            # A count that is too low by now would not rise above 0.
            with owned(open_of_socket(sock)):
                assert visible(*ids) == ids
            assert visible(*ids) == set()


def _new_socket() -> int:
    return socket.socket().detach()


@pytest.mark.behaviour("SNS-07", "SNS-16")
def test_failed_call_keeps_nothing_of_the_target() -> None:
    kinds = configured_mask(NS.TIME)
    with Task(NS.PID) as below, Idle(kinds & ~NS.PID) as target:
        ids = set(ids_in(target.pid, kinds & ~NS.PID).values())
        # The pid namespace is above, and comes after user, mnt, uts and ipc.
        assert errno_of_joining(below, target, kinds) == EINVAL
        target.zombie()
        assert errno_of_joining(below, target, kinds) == ESRCH
        target.reap()
        assert visible(*ids) == set()
