# SPDX-License-Identifier: GPL-2.0-only
"""The ioctls that give an id: NS_GET_ID, and NS_GET_MNTNS_ID for mount namespaces."""

from errno import EFAULT, EINVAL

import pytest
from nslib import (
    KERNEL_ADDRESS,
    NS,
    NS_GET_ID,
    NS_GET_MNTNS_ID,
    UNMAPPED_ADDRESS,
    Task,
    configured_types,
    errno_of,
    guarded_room,
    holding,
    holding_together,
    id_of,
    ioctl,
    ioctl_u64,
    ns_id,
    ns_link,
    opened,
)


def ids_of_types() -> dict[NS, int]:
    """The ids of the caller's namespaces."""
    return {kind: ns_id(kind) for kind in configured_types()}


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("NSID-10")
def test_every_namespace_has_an_id_that_stays(stranger: Task) -> None:
    ids = {kind: ns_id(kind, stranger.pid) for kind in configured_types()}
    assert 0 not in ids.values()
    assert stranger.call(ids_of_types) == ids


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("NSID-11")
def test_different_namespaces_have_different_ids(every_type: NS) -> None:
    with holding_together(every_type) as these, holding_together(every_type) as those:
        for kind, own in ids_of_types().items():
            assert len({own, these[kind].id, those[kind].id}) == 3, kind.name


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("NSID-13")
def test_mount_namespace_has_the_same_id_in_both_ioctls() -> None:
    with holding(NS.MNT) as [new], opened(ns_link(NS.MNT)) as own:
        for fd in (new.fd, own):
            assert ioctl_u64(fd, NS_GET_MNTNS_ID) == id_of(fd)


@pytest.mark.needs("mntns_id")
@pytest.mark.behaviour("NSID-14")
def test_other_types_have_no_mount_namespace_id() -> None:
    refused = {}
    for kind in set(configured_types()) - {NS.MNT}:
        with opened(ns_link(kind)) as fd:
            refused[kind] = errno_of(ioctl_u64, fd, NS_GET_MNTNS_ID)
    assert refused == dict.fromkeys(refused, EINVAL)


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("NSID-20")
def test_id_needs_a_place_to_go() -> None:
    with opened(ns_link(NS.MNT)) as fd, guarded_room() as room:
        for request in (NS_GET_ID, NS_GET_MNTNS_ID):
            for address in (0, UNMAPPED_ADDRESS, KERNEL_ADDRESS, room.end - 4):
                assert errno_of(ioctl, fd, request, address) == EFAULT
        room.make_read_only()
        for request in (NS_GET_ID, NS_GET_MNTNS_ID):
            assert errno_of(ioctl, fd, request, room.start) == EFAULT
