# SPDX-License-Identifier: GPL-2.0-only
"""listns(2) and the making of namespaces leave no reference behind: the limits of a user namespace
(namespaces(7)) count each namespace until its memory is freed."""

from collections.abc import Callable, Iterator
from errno import EFAULT, EINVAL, ENOENT, ENOSPC

import pytest
from nslib import (
    BEYOND_ALL_IDS,
    NS,
    Held,
    Idle,
    ListRequest,
    Room,
    Task,
    errno_of,
    guarded_room,
    hold,
    id_of,
    limit_namespaces,
    list_all,
    list_into,
    list_page,
    ns_id,
    open_ns,
    release,
    visible,
    wait_until,
)

pytestmark = [
    pytest.mark.needs("listns", "id_handles"),
    pytest.mark.needs(*(f"{kind.link}_ns" for kind in NS if kind != NS.MNT)),
]

TOGETHER = NS.ALL & ~NS.TIME  # An Idle process has no time namespace of its own.
CALLS = 1000

Family = dict[NS, Held]


def limit_all(number: int) -> None:
    """Let a confined task have that many namespaces of each type, besides its own."""
    for kind in NS:
        limit_namespaces(kind, number + (kind == NS.TIME))


def make_family() -> Family:
    """One namespace of each type, held by fds: a user namespace with six, and a time namespace."""
    with Idle(TOGETHER) as child:
        fds = {kind: open_ns(kind, child.pid) for kind in TOGETHER}
    return {kind: Held(id_of(fd), fd) for kind, fd in fds.items()} | {NS.TIME: hold(NS.TIME)}


def has_room() -> bool:
    """Whether one more of each type can be made."""
    errno = errno_of(lambda: release(make_family().values()))
    assert errno in (0, ENOSPC)
    return not errno


@pytest.fixture
def confined() -> Iterator[Task]:
    """A task in a user namespace that may have one more namespace of each type."""
    with Task(NS.USER | NS.TIME) as task:  # One can only return to what one owns.
        task.call(limit_all, 1)
        yield task


@pytest.fixture
def family(confined: Task) -> Iterator[Family]:
    """Namespaces made by the confined task; once they have ended there must be room again."""
    held: Family = confined.call(make_family)
    assert not confined.call(has_room)
    yield held
    confined.call(release, list(held.values()))
    assert visible(*(one.id for one in held.values())) == set()
    wait_until(lambda: confined.call(has_room), "room for a namespace of each type")


@pytest.fixture
def room() -> Iterator[Room]:
    """Memory with an end that faults."""
    with guarded_room() as room:
        yield room


def requests_for(family: Family, task: Task) -> list[ListRequest]:
    """Lists that begin with the family: of all, of each type, and by owner."""
    cursor = min(one.id for one in family.values()) - 1
    owners = 0, ns_id(NS.USER, task.pid), family[NS.USER].id
    by_owner = [ListRequest(owner=owner, cursor=cursor) for owner in owners]
    return by_owner + [ListRequest(kind, cursor=cursor) for kind in NS]


@pytest.mark.behaviour("REG-03")
def test_faulting_calls_leave_no_reference(confined: Task, family: Family, room: Room) -> None:
    requests = requests_for(family, confined)
    lengths = [len(list_page(request)) for request in requests]
    done = 0
    while done < CALLS:
        for request, length in zip(requests, lengths, strict=True):
            for slots in range(min(length, len(NS))):
                address = room.end - 8 * slots
                assert errno_of(list_into, request, address, length) == EFAULT
                done += 1


@pytest.mark.behaviour("REG-04")
def test_pages_of_one_id_leave_no_reference(confined: Task, family: Family) -> None:
    for request in requests_for(family, confined) * 3:
        listed = list_all(request.types, request.owner, 1, request.cursor)
        assert {one.id for one in family.values()} & set(listed)


@pytest.mark.behaviour("REG-04")
def test_early_ends_leave_no_reference(confined: Task, family: Family) -> None:
    user, uts = family[NS.USER].id, family[NS.UTS].id
    answers: list[tuple[ListRequest, int, int]] = [
        (ListRequest(owner=user), 0, 0),  # with no room at all
        (ListRequest(NS.TIME, owner=user), 10, 0),  # nothing of that type
        (ListRequest(NS.USER, owner=user), 10, 0),
        (ListRequest(owner=user, cursor=BEYOND_ALL_IDS), 10, ENOENT),
        (ListRequest(NS.UTS, cursor=BEYOND_ALL_IDS), 10, ENOENT),
        (ListRequest(cursor=BEYOND_ALL_IDS), 10, ENOENT),
        (ListRequest(owner=uts), 10, EINVAL),
        (ListRequest(owner=user, spare=1), 10, EINVAL),
    ]
    for request, nr, errno in answers * 20:
        assert errno_of(list_page, request, nr) == errno
    for request in requests_for(family, confined) * 5:
        for nr in (1, 2, 3):
            assert len(list_page(request, nr)) in range(1, nr + 1)


@pytest.mark.behaviour("REG-04")
def test_restricted_lists_leave_no_reference(confined: Task, family: Family) -> None:
    for request in requests_for(family, confined) * 5:
        confined.call(list_all, request.types, request.owner, 1, request.cursor)


def come_and_go(make: Callable[[], None], times: int) -> int:
    """Make and end namespaces that many times, waiting where the limit is reached; how often."""
    waits = 0
    for _ in range(times):
        if errno_of(make) == ENOSPC:
            waits += 1
            wait_until(lambda: errno_of(make) == 0, "room for another namespace")
    return waits


def end_at_once() -> None:
    """Make namespaces of all types but one, and end them."""
    with Idle(TOGETHER):
        pass


def hold_shortly() -> None:
    """Make and end a time namespace."""
    release([hold(NS.TIME)])


@pytest.mark.behaviour("REG-13")
@pytest.mark.parametrize("make", [end_at_once, hold_shortly], ids=["together", "time"])
def test_cycles_leave_no_reference(make: Callable[[], None], confined: Task) -> None:
    owner = ns_id(NS.USER, confined.pid)
    before = list_all(owner=owner)
    confined.call(limit_all, 8)
    confined.call(come_and_go, make, 60)
    assert list_all(owner=owner) == before == [ns_id(NS.TIME, confined.pid)]
    confined.call(limit_all, 1)
    wait_until(lambda: confined.call(has_room), "room for a namespace of each type")


@pytest.mark.behaviour("REG-02")
def test_mount_namespaces_that_end_during_a_faulting_list(
    confined: Task, room: Room, meanwhile: Callable[..., Iterator[None]]
) -> None:
    confined.call(limit_namespaces, NS.MNT, 4)
    kept: Held = confined.call(make_mnt_ns)
    request = ListRequest(NS.MNT, cursor=kept.id - 1)
    seen = set()
    for _ in meanwhile(confined, come_and_go, end_mnt_ns, 40):
        # The first id fits in; the second belongs to a namespace that may be ending.
        seen.add(errno_of(list_into, request, room.end - 8, 16))
        assert errno_of(list_into, request, room.end, 16) == EFAULT
    assert seen <= {0, EFAULT}
    confined.call(release, [kept])
    confined.call(limit_namespaces, NS.MNT, 1)
    wait_until(lambda: confined.call(errno_of, end_mnt_ns) == 0, "room for a mount namespace")


def make_mnt_ns() -> Held:
    """A mount namespace that is held by an fd."""
    with Idle(NS.MNT) as child:
        fd = open_ns(NS.MNT, child.pid)
    return Held(id_of(fd), fd)


def end_mnt_ns() -> None:
    """Make and end a mount namespace."""
    with Idle(NS.MNT):
        pass
