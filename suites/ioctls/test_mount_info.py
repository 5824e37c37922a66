# SPDX-License-Identifier: GPL-2.0-only
"""NS_MNT_GET_INFO: what a mount namespace tells of itself."""

from collections.abc import Callable
from errno import EFAULT, EINVAL, ENOTTY, errorcode

import pytest
from nslib import (
    KERNEL_ADDRESS,
    MS_BIND,
    NS,
    NS_GET_MNTNS_ID,
    NS_MNT_GET_INFO,
    PAGE_SIZE,
    SOMEBODY,
    UNMAPPED_ADDRESS,
    Cap,
    MntNsInfo,
    Task,
    configured_types,
    errno_of,
    guarded_room,
    has_feature,
    ioctl,
    ioctl_u64,
    mnt_ns_info,
    mount,
    mount_ids,
    ns_link,
    open_ns,
    opened,
    owned,
    peek,
    poke,
    umount,
    unpack_mnt_ns_info,
)

pytestmark = pytest.mark.needs("mnt_ns_info")

SIZE = 16  # MNT_NS_INFO_SIZE_VER0 (include/uapi/linux/nsfs.h)


def request_of(size: int) -> int:
    """NS_MNT_GET_INFO for a structure of `size` bytes."""
    return NS_MNT_GET_INFO & ~(0x3FFF << 16) | size << 16


def own_info() -> MntNsInfo:
    """What the caller's mount namespace tells of itself."""
    with owned(open_ns(NS.MNT)) as fd:
        return mnt_ns_info(fd)


@pytest.mark.behaviour("IOC-10")
def test_structure_must_not_be_too_small(observe: Callable[[str, object], None]) -> None:
    with opened(ns_link(NS.MNT)) as fd, guarded_room() as room:
        sizes = (0, 1, 8, SIZE - 1)
        [found] = {errno_of(ioctl, fd, request_of(size), room.start) for size in sizes}
        observe("info_too_small", errorcode[found])
        # Linux 6.12 knows an ioctl by its number alone, and looks at the size later.
        assert found == ENOTTY or (found == EINVAL and not has_feature("nsid"))
        assert not any(peek(room.start, 64))


@pytest.mark.behaviour("IOC-10")
def test_structure_may_be_larger() -> None:
    with opened(ns_link(NS.MNT)) as fd, guarded_room() as room:
        for size in (SIZE, SIZE + 1, 24, 64, PAGE_SIZE):
            poke(room.start, b"\xee" * PAGE_SIZE)
            assert ioctl(fd, request_of(size), room.start) == 0
            written = peek(room.start, PAGE_SIZE)
            assert unpack_mnt_ns_info(written) == mnt_ns_info(fd)._replace(size=SIZE)
            assert written[SIZE:] == b"\xee" * (PAGE_SIZE - SIZE)


@pytest.mark.behaviour("IOC-10")
def test_nothing_beyond_the_known_part_is_touched() -> None:
    with opened(ns_link(NS.MNT)) as fd, guarded_room() as room:
        assert ioctl(fd, request_of(64), room.end - SIZE) == 0


@pytest.mark.behaviour("IOC-11")
def test_info_needs_a_place_to_go() -> None:
    with opened(ns_link(NS.MNT)) as fd, guarded_room() as room:
        assert errno_of(ioctl, fd, NS_MNT_GET_INFO, 0) == EINVAL
        for address in (UNMAPPED_ADDRESS, KERNEL_ADDRESS, room.end - SIZE + 1):
            assert errno_of(ioctl, fd, NS_MNT_GET_INFO, address) == EFAULT


@pytest.mark.behaviour("IOC-11")
def test_other_types_have_no_info() -> None:
    with guarded_room() as room:
        for kind in configured_types(NS.MNT):
            with opened(ns_link(kind)) as fd:
                for address in (room.start, 0, UNMAPPED_ADDRESS):
                    assert errno_of(ioctl, fd, NS_MNT_GET_INFO, address) == EINVAL, kind.name


@pytest.mark.behaviour("IOC-11")
def test_everybody_gets_the_info() -> None:
    with Task(uid=SOMEBODY, caps=Cap.NONE) as task, Task(NS.MNT) as stranger:
        with opened(ns_link(NS.MNT, stranger.pid)) as fd:
            info = mnt_ns_info(fd)
            assert info.mnt_ns_id == ioctl_u64(fd, NS_GET_MNTNS_ID)
            assert task.call(mnt_ns_info, task.give(fd)) == info
        assert task.call(own_info) == own_info()


def mounted_and_unmounted(times: int) -> list[int]:
    """nr_mounts of the caller's mount namespace: before, with 1, 2… more bind mounts, and with
    fewer and fewer of them again."""
    numbers = [own_info().nr_mounts]
    for _ in range(times):
        mount("/proc/version", "/proc/version", flags=MS_BIND)
        numbers.append(own_info().nr_mounts)
    for _ in range(times):
        umount("/proc/version")
        numbers.append(own_info().nr_mounts)
    return numbers


@pytest.mark.behaviour("IOC-12")
def test_every_bind_mount_counts() -> None:
    with Task(NS.MNT) as task:
        start, *others = task.call(mounted_and_unmounted, 3)
        assert [number - start for number in others] == [1, 2, 3, 2, 1, 0]


@pytest.mark.behaviour("IOC-12")
def test_all_mounts_but_the_root_count() -> None:
    with Task(NS.MNT) as task:
        info = task.call(own_info)
        assert info.nr_mounts == len(mount_ids(info.mnt_ns_id))
