# SPDX-License-Identifier: GPL-2.0-only
"""SIOCGSKNS while the last fd of the socket's network namespace is closed, or beside another one.

The call always succeeds, and cannot tell whether it has kept the namespace or brought it back to
life; but an nsfs inode that was made anew is younger than the one whose fd was closed.
"""

import os
import time

import pytest
from nslib import NS, SIOCGSKNS, id_of, open_of_socket, owned
from nslib.newcomers import Maker, left
from nslib.races import Explore
from nslib.shots import SOCKET, SYS_CLOSE, SYS_IOCTL, Call
from nslib.stage import Stage

pytestmark = pytest.mark.needs("active_refs", "id_handles", "user_ns", "net_ns")

DEPTH = 2
CLOCK_REALTIME_COARSE = 5  # include/uapi/linux/time.h


def date_of(fd: int) -> int:
    """When the inode behind an nsfs fd was made."""
    return os.fstat(fd).st_ctime_ns


def wait_for_tick(date: int) -> None:
    """Wait until inodes get a later date, which is that of the last clock tick (current_time())."""
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= date:
        os.sched_yield()


@pytest.mark.behaviour("REG-11", "ACT-35", "ACT-38")
@pytest.mark.budget("race", 0.03)
@pytest.mark.parametrize("revived", [False, True], ids=["first", "again"])
def test_last_fd_is_closed(revived: bool, stage: Stage, explore: Explore) -> None:
    maker = Maker(stage, NS.NET, DEPTH, SOCKET)
    closer = stage.actor([], Call(SYS_CLOSE), far=True)
    asker = stage.actor([], Call(SYS_IOCTL, (0, SIOCGSKNS)))

    def attempt() -> str:
        ids, fds, sock = maker.make(*[] if revived else [NS.NET])
        with owned(sock):
            kept = open_of_socket(sock) if revived else fds[0]
            date = date_of(kept)
            closer.aim(0, kept)
            asker.aim(0, sock)
            wait_for_tick(date)
            stage.race(closer, asker)
            assert asker.result >= 0
            with owned(asker.result) as fd:
                assert id_of(fd) == ids[-1]
                assert left(ids) == ids
                outcome = "kept" if date_of(fd) == date else "revived"
            assert left(ids) == []
        return outcome

    explore(attempt, early=["revived"])


@pytest.mark.behaviour("REG-10", "REG-11", "ACT-35")
@pytest.mark.budget("race", 0.03)
def test_two_revive_it_at_once(stage: Stage, explore: Explore) -> None:
    maker = Maker(stage, NS.NET, DEPTH, SOCKET)
    one = stage.actor([], Call(SYS_IOCTL, (0, SIOCGSKNS)), far=True)
    other = stage.actor([], Call(SYS_IOCTL, (0, SIOCGSKNS)))

    def attempt() -> str:
        ids, _, sock = maker.make()
        with owned(sock):
            assert left(ids) == []
            one.aim(0, sock)
            other.aim(0, sock)
            stage.race(one, other)
            with owned(one.result), owned(other.result):
                assert os.path.sameopenfile(one.result, other.result)
                assert left(ids) == ids
            assert left(ids) == []
        # They get the lowest free number in the order in which they ask for one.
        return "first" if one.result < other.result else "second"

    explore(attempt, early=["first"])
