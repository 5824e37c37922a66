# SPDX-License-Identifier: GPL-2.0-only
"""NS_MNT_GET_NEXT and NS_MNT_GET_PREV: from one mount namespace to the next, by their ids."""

import os
from collections.abc import Callable, Iterator
from errno import EFAULT, EINVAL, EMFILE, EPERM

import pytest
from nslib import (
    INITIAL_IDS,
    KERNEL_ADDRESS,
    NS,
    NS_MNT_GET_NEXT,
    NS_MNT_GET_PREV,
    SOMEBODY,
    UNMAPPED_ADDRESS,
    Cap,
    NsHandle,
    Task,
    configured_types,
    errno_of,
    guarded_room,
    has_feature,
    hold_fd,
    id_of,
    inode_behind,
    ioctl,
    list_all,
    mnt_ns_info,
    no_more_fds,
    ns_id,
    open_neighbour,
    open_ns,
    opening_errno,
    owned,
    pinned,
    set_effective_caps,
    undisturbed,
    walk_mnt_ns,
)

pytestmark = pytest.mark.needs("mnt_ns_info")

BOTH = (NS_MNT_GET_NEXT, NS_MNT_GET_PREV)


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Three new mount namespaces, in the order of their ids."""
    made = [hold_fd(NS.MNT) for _ in range(3)]
    # Up to Linux 6.18 ids need not be in the order of creation.
    yield sorted(made, key=lambda fd: mnt_ns_info(fd).mnt_ns_id)
    for fd in made:
        os.close(fd)


def ids_of(fds: list[int]) -> list[int]:
    """Ids of mount namespaces."""
    return [mnt_ns_info(fd).mnt_ns_id for fd in fds]


def errno_of_step(fd: int, request: int) -> int:
    """With which errno the step to a neighbour fails, 0 if it succeeds; nothing stays open."""
    return errno_of(lambda: os.close(open_neighbour(fd, request).fd))


@pytest.mark.behaviour("IOC-13")
def test_next_goes_up_to_the_end(fds: list[int]) -> None:
    first, *others = ids_of(fds)
    walked = list(walk_mnt_ns(fds[0], NS_MNT_GET_NEXT))
    assert [one for one in walked if one in others] == others
    assert [first, *walked] == sorted({first, *walked})


@pytest.mark.behaviour("IOC-13")
def test_previous_goes_down_to_the_initial_one(fds: list[int]) -> None:
    *others, last = ids_of(fds)
    walked = list(walk_mnt_ns(fds[-1], NS_MNT_GET_PREV))
    assert [one for one in walked if one in others] == others[::-1]
    assert [last, *walked] == sorted({last, *walked}, reverse=True)
    if has_feature("fixed_ids"):
        assert walked[-1] == INITIAL_IDS[NS.MNT]


@pytest.mark.behaviour("IOC-13")
def test_neighbour_is_described(fds: list[int]) -> None:
    for request, start in zip(BOTH, (fds[0], fds[-1]), strict=True):
        new, info = open_neighbour(start, request)
        with owned(new):
            assert info == mnt_ns_info(new)


@pytest.mark.behaviour("IOC-14")
def test_next_and_previous_are_inverse(fds: list[int]) -> None:
    for there, back in (BOTH, BOTH[::-1]):
        with owned(open_neighbour(fds[1], there).fd) as fd:
            assert inode_behind(open_neighbour(fd, back).fd) == os.fstat(fds[1]).st_ino


def whole_walk(fd: int) -> list[int]:
    """Ids of all mount namespaces, from the first to the last, by way of `fd`."""
    below, above = (list(walk_mnt_ns(fd, request)) for request in BOTH[::-1])
    return [*below[::-1], mnt_ns_info(fd).mnt_ns_id, *above]


@pytest.mark.needs("listns", "id_handles")
@pytest.mark.behaviour("IOC-14")
def test_walk_gives_the_listed_and_the_inactive(fds: list[int]) -> None:
    with Task(NS.MNT) as task, pinned(task, NS.MNT):
        ended = ns_id(NS.MNT, task.pid)
        task.reap()
        walked, listed = undisturbed(lambda: (whole_walk(fds[0]), list_all(NS.MNT)))
        assert not is_visible(ended)
        assert walked == sorted([*listed, ended])
    assert ended not in whole_walk(fds[0])


@pytest.mark.behaviour("IOC-15")
def test_who_cannot_see_all_namespaces_gets_no_neighbour(fds: list[int]) -> None:
    with Task(uid=SOMEBODY, caps=Cap.SYS_ADMIN) as task:
        there = task.give(fds[1])
        for request in BOTH:
            assert task.call(errno_of_step, there, request) == 0
        task.call(set_effective_caps, Cap.ALL & ~Cap.SYS_ADMIN)
        for request in BOTH:
            assert task.call(errno_of_step, there, request) == EPERM


@pytest.mark.needs("user_ns")
@pytest.mark.behaviour("IOC-15")
def test_root_of_a_user_namespace_gets_no_neighbour() -> None:
    with Task(NS.USER | NS.MNT) as task:
        own = task.call(open_ns, NS.MNT)
        task.call(hold_fd, NS.MNT)
        for request in BOTH:
            assert task.call(errno_of_step, own, request) == EPERM


@pytest.mark.needs("pid_ns")
@pytest.mark.behaviour("IOC-15")
def test_root_in_a_child_pid_namespace_gets_no_neighbour(fds: list[int]) -> None:
    with Task(NS.PID) as task:
        there = task.give(fds[1])
        for request in BOTH:
            assert errno_of_step(fds[1], request) == 0
            assert task.call(errno_of_step, there, request) == EPERM


@pytest.mark.behaviour("IOC-15")
def test_permission_is_checked_before_the_type() -> None:
    assert errnos_of_other_types() == {EINVAL}
    with Task(uid=SOMEBODY, caps=Cap.NONE) as task:
        assert task.call(errnos_of_other_types) == {EPERM}


def errnos_of_other_types() -> set[int]:
    """With which errnos the steps from the caller's other namespaces fail."""
    found = set()
    for kind in configured_types(NS.MNT):
        with owned(open_ns(kind)) as fd:
            found |= {errno_of_step(fd, request) for request in BOTH}
    return found


@pytest.mark.behaviour("IOC-16")
def test_neighbour_needs_a_place_to_go(fds: list[int]) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with guarded_room() as room:
        for request in BOTH:
            for address in (UNMAPPED_ADDRESS, KERNEL_ADDRESS, room.end - 8):
                assert errno_of(ioctl, fds[1], request, address) == EFAULT
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.behaviour("IOC-16")
def test_nowhere_is_no_place_for_the_neighbour(
    fds: list[int], observe: Callable[[str, object], None]
) -> None:
    """Up to Linux 6.18 a null pointer meant that the caller wants the fd alone."""
    before = sorted(os.listdir("/proc/self/fd"))
    null_is_refused = has_feature("active_refs")
    observe("null_pointer_refused", null_is_refused)
    for request in BOTH:
        if null_is_refused:
            assert errno_of(ioctl, fds[1], request, 0) == EFAULT
        else:
            neighbour = open_neighbour(fds[1], request)
            with owned(neighbour.fd), owned(ioctl(fds[1], request, 0)) as fd:
                assert os.path.samestat(os.fstat(fd), os.fstat(neighbour.fd))
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.behaviour("IOC-17")
def test_step_without_a_free_fd_does_not_keep_the_neighbour(fds: list[int]) -> None:
    neighbour = hold_fd(NS.MNT)
    ended = mnt_ns_info(neighbour).mnt_ns_id
    with no_more_fds():
        assert [errno_of_step(fds[1], request) for request in BOTH] == [EMFILE, EMFILE]
        assert errno_of_step(fds[2], NS_MNT_GET_PREV) == EMFILE
        assert errno_of_step(neighbour, NS_MNT_GET_PREV) == EMFILE
    assert ended in whole_walk(fds[1])
    os.close(neighbour)
    assert ended not in whole_walk(fds[1])


@pytest.mark.needs("listns", "id_handles")
@pytest.mark.behaviour("IOC-17")
def test_step_without_a_free_fd_does_not_revive_the_neighbour() -> None:
    with Task(NS.MNT) as task, pinned(task, NS.MNT):
        with owned(open_ns(NS.MNT, task.pid)) as fd:
            ended, start = id_of(fd), open_neighbour(fd, NS_MNT_GET_PREV).fd
        with owned(start):
            task.reap()
            with no_more_fds():
                assert errno_of_step(start, NS_MNT_GET_NEXT) == EMFILE
            assert not is_visible(ended)
            with owned(open_neighbour(start, NS_MNT_GET_NEXT).fd) as revived:
                assert id_of(revived) == ended
                assert is_visible(ended)
            assert not is_visible(ended)


def is_visible(one: int) -> bool:
    """Whether a mount namespace is listed and opens by its id; if only one of both, it fails."""
    opens = opening_errno(NsHandle(one)) == 0
    assert (one in list_all(NS.MNT)) == opens
    return opens
