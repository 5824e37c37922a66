# SPDX-License-Identifier: GPL-2.0-only
"""Forged handles: every field must fit the namespace, or name it alone (nsfs_fh_to_dentry()).

The errors of nsfs itself all come out as ESTALE (do_handle_to_path() in fs/fhandle.c).
"""

import os
from collections.abc import Callable
from dataclasses import replace
from errno import EINVAL, ESTALE
from functools import partial
from itertools import pairwise

import pytest
from nslib import (
    BEYOND_ALL_IDS,
    FILEID_NSFS,
    NEVER_AN_ID,
    NS,
    Held,
    NsHandle,
    encode_handle,
    has_feature,
    hold,
    holding,
    id_behind,
    open_handle,
    open_id,
    opening_errno,
    release,
    type_of,
    wait_until,
)

pytestmark = pytest.mark.needs("nsfs_handles")

# Flags of open_by_handle_at(2) in handle_type (include/linux/exportfs.h).
FILEID_IS_CONNECTABLE = 0x10000
FILEID_IS_DIR = 0x20000
FILEID_UNKNOWN_FLAG = 0x40000


@pytest.mark.needs("id_handles")
@pytest.mark.behaviour("NFH-11")
def test_id_alone_opens(of_every_type: dict[NS, Held]) -> None:
    for kind, held in of_every_type.items():
        fd = open_id(held.id)
        assert type_of(fd) == kind
        assert os.fstat(fd).st_ino == os.fstat(held.fd).st_ino
        assert id_behind(fd) == held.id


@pytest.mark.behaviour("NFH-12")
def test_type_and_inode_number_come_together(own_handles: dict[NS, NsHandle]) -> None:
    for kind, handle in own_handles.items():
        assert opening_errno(handle) == 0, kind.name
        assert opening_errno(replace(handle, ns_inum=0)) == ESTALE, kind.name
        assert opening_errno(replace(handle, ns_type=0)) == ESTALE, kind.name


@pytest.mark.behaviour("NFH-13")
def test_other_type_does_not_fit(own_handles: dict[NS, NsHandle]) -> None:
    for kind, handle in own_handles.items():
        for other in set(NS) - {kind}:
            assert opening_errno(replace(handle, ns_type=other)) == ESTALE, (kind, other)


@pytest.mark.behaviour("NFH-13")
def test_type_is_one_and_known(handle: NsHandle) -> None:
    for extra in (1, 0x100, 0x80000000, NS.NET, NS.ALL & ~NS.UTS):
        assert opening_errno(replace(handle, ns_type=handle.ns_type | extra)) == ESTALE, hex(extra)
        assert opening_errno(replace(handle, ns_type=extra)) == ESTALE, hex(extra)


@pytest.mark.behaviour("NFH-14")
def test_inode_number_must_fit(own_handles: dict[NS, NsHandle]) -> None:
    numbers = [handle.ns_inum for handle in own_handles.values()]
    for kind, handle in own_handles.items():
        wrong = {1, 2**32 - 1, handle.ns_inum ^ 1, handle.ns_inum + 1, *numbers} - {handle.ns_inum}
        opens = [one for one in wrong if opening_errno(replace(handle, ns_inum=one)) != ESTALE]
        assert opens == [], kind.name


@pytest.mark.behaviour("NFH-15")
def test_number_that_is_no_id_does_not_open(handle: NsHandle) -> None:
    for wrong in (0, BEYOND_ALL_IDS, 2**64 - 1):
        assert opening_errno(replace(handle, ns_id=wrong)) == ESTALE, hex(wrong)
        assert opening_errno(NsHandle(wrong)) == ESTALE, hex(wrong)
    # Up to Linux 6.18 some namespace may have this id.
    assert opening_errno(replace(handle, ns_id=NEVER_AN_ID)) == ESTALE
    if has_feature("fixed_ids"):
        assert opening_errno(NsHandle(NEVER_AN_ID)) == ESTALE


@pytest.mark.behaviour("NFH-15")
def test_all_of_the_id_counts(handle: NsHandle) -> None:
    for other in (handle.ns_id | 1 << 32, handle.ns_id | 1 << 63):
        assert opening_errno(replace(handle, ns_id=other)) == ESTALE
        assert opening_errno(NsHandle(other)) == ESTALE


@pytest.mark.behaviour("NFH-16")
def test_handles_of_two_namespaces_do_not_mix(own_handles: dict[NS, NsHandle]) -> None:
    for one, other in pairwise(own_handles.values()):
        assert opening_errno(replace(other, ns_id=one.ns_id)) == ESTALE


@pytest.mark.behaviour("NFH-16")
def test_inode_number_used_again_does_not_revive_a_handle(
    observe: Callable[[str, object], None],
) -> None:
    with holding(NS.UTS) as [ended]:
        stale = encode_handle(ended.fd).handle
    successors: list[Held] = []
    try:
        while len(successors) < 30 and stale.ns_inum not in inode_numbers(successors):
            successors.append(hold(NS.UTS))
        observe("inode_number_used_again", stale.ns_inum in inode_numbers(successors))
        for successor in successors:
            forged = replace(stale, ns_inum=os.fstat(successor.fd).st_ino)
            assert opening_errno(forged) == ESTALE
        assert opening_errno(stale) == ESTALE
        assert opening_errno(NsHandle(stale.ns_id)) == ESTALE
    finally:
        release(successors)


def inode_numbers(held: list[Held]) -> set[int]:
    """The inode numbers of namespaces."""
    return {os.fstat(one.fd).st_ino for one in held}


def is_stale(handle: NsHandle) -> bool:
    """Whether a handle names nothing."""
    return opening_errno(handle) == ESTALE


@pytest.mark.behaviour("NFH-16")
def test_handle_of_an_ended_namespace_is_stale(own_handles: dict[NS, NsHandle]) -> None:
    with holding(*own_handles) as made:
        ended = [encode_handle(one.fd).handle for one in made]
        assert [opening_errno(one) for one in ended] == [0] * len(ended)
    for one in reversed(ended):
        # Without active references, in Linux 6.18, a namespace opens until its memory is freed.
        wait_until(partial(is_stale, one), f"end of {one}")
        assert opening_errno(NsHandle(one.ns_id)) == ESTALE


@pytest.mark.behaviour("NFH-18")
def test_other_handle_type_is_stale(handle: NsHandle) -> None:
    for wrong in (0, 1, FILEID_NSFS - 1, FILEID_NSFS + 1, 0xFF, 0x1F1):
        assert opening_errno(replace(handle, handle_type=wrong)) == ESTALE, hex(wrong)


@pytest.mark.behaviour("NFH-18")
def test_malformed_handle_type_is_refused(handle: NsHandle) -> None:
    for flag in (FILEID_UNKNOWN_FLAG, 0x80000, 0x1000000, 0x40000000, -(2**31)):
        assert opening_errno(replace(handle, handle_type=FILEID_NSFS | flag)) == EINVAL, hex(flag)
    assert opening_errno(replace(handle, handle_type=-1)) == EINVAL


@pytest.mark.behaviour("NFH-19")
def test_namespace_is_neither_connectable_nor_a_directory(handle: NsHandle) -> None:
    for flag in (FILEID_IS_CONNECTABLE, FILEID_IS_DIR):
        assert opening_errno(replace(handle, handle_type=FILEID_NSFS | flag)) == ESTALE, hex(flag)
    assert id_behind(open_handle(handle)) == handle.ns_id
