# SPDX-License-Identifier: GPL-2.0-only
"""The namespaces that the kernel starts with: ids and inode numbers known in advance."""

from collections.abc import Callable
from errno import EINVAL, ESTALE
from pathlib import Path

import pytest
from nslib import (
    FIRST_DYNAMIC_ID,
    INITIAL_IDS,
    INITIAL_INODES,
    NEVER_AN_ID,
    NS,
    ListRequest,
    configured_types,
    errno_of,
    holding,
    list_page,
    ns_id,
    ns_link,
    open_id,
)


@pytest.fixture
def kthreadd() -> int:
    """Pid of the kernel thread that, unlike process 1, never leaves the initial namespaces."""
    name = Path("/proc/2/comm")
    if not name.exists() or name.read_text() != "kthreadd\n":
        pytest.skip("no kernel threads in /proc, as in a container")
    return 2


@pytest.mark.needs("fixed_ids")
@pytest.mark.behaviour("NSID-01")
def test_initial_namespaces_have_fixed_ids(kthreadd: int) -> None:
    ids = {kind: ns_id(kind, kthreadd) for kind in configured_types()}
    assert ids == {kind: INITIAL_IDS[kind] for kind in ids}


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("NSID-02")
def test_initial_namespaces_have_fixed_inode_numbers(kthreadd: int) -> None:
    inodes = {kind: ns_link(kind, kthreadd).stat().st_ino for kind in configured_types()}
    assert inodes == {kind: INITIAL_INODES[kind] for kind in inodes}


@pytest.mark.needs("fixed_ids")
@pytest.mark.behaviour("NSID-03")
def test_other_ids_start_at_ten(observe: Callable[[str, object], None]) -> None:
    with holding(NS.UTS) as [newest]:
        others = [one for one in list_page(ListRequest()) if one not in INITIAL_IDS.values()]
    observe("smallest_other_id", others[0])
    assert newest.id in others
    assert min(others) >= FIRST_DYNAMIC_ID


@pytest.mark.needs("fixed_ids", "id_handles")
@pytest.mark.behaviour("NSID-03")
def test_nine_is_nobodys_id() -> None:
    assert errno_of(list_page, ListRequest(owner=NEVER_AN_ID)) == EINVAL
    assert errno_of(open_id, NEVER_AN_ID) == ESTALE
