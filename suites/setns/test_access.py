# SPDX-License-Identifier: GPL-2.0-only
"""setns(2): which rights over the target and over its namespaces are needed."""

import os
from collections.abc import Callable
from errno import EPERM, ESRCH, errorcode

import pytest
from nslib import (
    NS,
    SOMEBODY,
    Cap,
    Idle,
    Task,
    configured_mask,
    configured_types,
    errno_of_joining,
    errno_of_joining_file,
    limit_caps,
    ns_names,
    open_ns,
    owned,
    prctl,
    set_effective_caps,
)
from nslib.syscalls import PR_SET_DUMPABLE

pytestmark = pytest.mark.needs("user_ns", "uts_ns")

SOMEBODY_ELSE = SOMEBODY + 1
ADMIN = Cap.SYS_ADMIN | Cap.SYS_CHROOT  # All that the joining itself needs.


def errnos_by_link(joiner: Task, target: Task | Idle, *without: NS) -> set[int]:
    """The errnos of setns() in the joiner on each namespace file of the target."""
    errnos = set()
    for kind in configured_types(*without):
        with owned(open_ns(kind, target.pid)) as fd:
            errnos.add(errno_of_joining_file(joiner, fd, kind))
    return errnos


@pytest.mark.behaviour("SNS-11")
def test_other_user_needs_access_to_the_target() -> None:
    with Task(uid=SOMEBODY, caps=ADMIN | Cap.SYS_PTRACE) as joiner, Idle(NS.UTS) as target:
        joiner.call(set_effective_caps, ADMIN)
        before = ns_names(joiner.pid)
        for kinds in (*configured_types(), configured_mask()):
            assert errno_of_joining(joiner, target, kinds) == EPERM, kinds
        assert ns_names(joiner.pid) == before
        joiner.call(set_effective_caps, Cap.ALL)
        assert errno_of_joining(joiner, target) == 0
        assert ns_names(joiner.pid) == ns_names(target.pid)


@pytest.mark.behaviour("SNS-11")
def test_other_user_is_refused_a_zombie_too() -> None:
    with Task(uid=SOMEBODY, caps=ADMIN | Cap.SYS_PTRACE) as joiner, Idle(NS.UTS) as target:
        target.zombie()
        assert errno_of_joining(joiner, target) == ESRCH
        joiner.call(set_effective_caps, ADMIN)
        assert errno_of_joining(joiner, target) == EPERM
        target.reap()
        assert errno_of_joining(joiner, target) == ESRCH


@pytest.mark.behaviour("SNS-11")
def test_real_ids_decide_on_access() -> None:
    ids = (SOMEBODY_ELSE, SOMEBODY, SOMEBODY), (SOMEBODY, SOMEBODY_ELSE, SOMEBODY_ELSE)
    with Task(NS.UTS, uid=SOMEBODY, caps=0) as target, Task() as joiner, Task() as other:
        joiner.call(_become_partly, ids[0])
        other.call(_become_partly, ids[1])
        assert errno_of_joining(joiner, target) == EPERM
        assert errno_of_joining(other, target) == 0


def _become_partly(ids: tuple[int, int, int]) -> None:
    """Take real, effective and saved ids, and keep what joining needs."""
    pr_set_securebits, no_setuid_fixup = 28, 1 << 2  # include/uapi/linux/securebits.h
    prctl(pr_set_securebits, no_setuid_fixup)
    os.setresgid(*ids)
    os.setresuid(*ids)
    limit_caps(ADMIN)


@pytest.mark.behaviour("SNS-11")
def test_target_with_more_capabilities_is_refused() -> None:
    with (
        Task(uid=SOMEBODY, caps=ADMIN) as joiner,
        Task(NS.UTS, uid=SOMEBODY, caps=ADMIN | Cap.NET_ADMIN) as target,
    ):
        assert errno_of_joining(joiner, target) == EPERM
        target.call(limit_caps, ADMIN)
        assert errno_of_joining(joiner, target) == 0


@pytest.mark.behaviour("SNS-12")
def test_target_that_is_not_dumpable_is_refused_to_its_own_user(
    observe: Callable[[str, object], None],
) -> None:
    with (
        Task(uid=SOMEBODY, caps=ADMIN | Cap.SYS_PTRACE) as joiner,
        Task(NS.UTS, uid=SOMEBODY, caps=0) as target,
    ):
        joiner.call(set_effective_caps, ADMIN)
        target.call(prctl, PR_SET_DUMPABLE, 0)
        assert errno_of_joining(joiner, target) == EPERM
        target.call(prctl, PR_SET_DUMPABLE, 1)
        assert errno_of_joining(joiner, target) == 0
        target.call(prctl, PR_SET_DUMPABLE, 0)
        joiner.call(set_effective_caps, Cap.ALL)
        assert errno_of_joining(joiner, target) == 0
        target.zombie()
        assert errno_of_joining(joiner, target) == ESRCH
        joiner.call(set_effective_caps, ADMIN)
        # A zombie has no memory that could be dumpable; kernels differ in what they remember.
        without_access = errno_of_joining(joiner, target)
        observe("zombie_not_dumpable", errorcode[without_access])
        assert without_access in (EPERM, ESRCH)


@pytest.mark.behaviour("SNS-24")
def test_parent_and_sibling_user_namespaces_are_refused() -> None:
    with Task(NS.USER) as joiner, Idle(NS.USER) as sibling, joiner.spawn(NS.USER) as child:
        by_file = {}
        for name, pid in (("parent", "self"), ("sibling", sibling.pid), ("child", child.pid)):
            with owned(open_ns(NS.USER, pid)) as fd:
                by_file[name] = errno_of_joining_file(joiner, fd)
            if name == "sibling":
                assert errno_of_joining(joiner, sibling, NS.USER) == EPERM
        assert by_file == {"parent": EPERM, "sibling": EPERM, "child": 0}


@pytest.mark.behaviour("SNS-26")
def test_nothing_of_a_sibling_can_be_joined(joiner: Task, target: Idle) -> None:
    kinds = configured_mask(NS.TIME)
    with Idle(kinds) as sibling:
        assert errno_of_joining(joiner, target, kinds) == 0
        before = ns_names(joiner.pid)
        for kinds in (*configured_types(), configured_mask()):
            assert errno_of_joining(joiner, sibling, kinds) == EPERM, kinds
        assert errnos_by_link(joiner, sibling) == {EPERM}
        assert ns_names(joiner.pid) == before


@pytest.mark.behaviour("SNS-27")
def test_rights_in_the_own_user_namespace_are_needed_too() -> None:
    # Distributions can refuse to make one without CAP_SYS_ADMIN, so it is dropped afterwards.
    with (
        Task(uid=SOMEBODY, caps=Cap.SYS_ADMIN) as joiner,
        joiner.spawn(configured_mask()) as target,
    ):
        joiner.call(limit_caps, Cap.NONE)
        before = ns_names(joiner.pid)
        assert errnos_by_link(joiner, target, NS.USER) == {EPERM}
        for kind in configured_types(NS.USER):
            assert errno_of_joining(joiner, target, kind) == EPERM, kind
        assert ns_names(joiner.pid) == before
        assert errno_of_joining(joiner, target, configured_mask()) == 0
        assert ns_names(joiner.pid)["uts"] == ns_names(target.pid)["uts"]


@pytest.mark.behaviour("SNS-27")
def test_rights_over_the_target_namespace_are_needed(target: Idle) -> None:
    with Task(NS.USER) as joiner:
        assert errnos_by_link(joiner, target, NS.USER) == {EPERM}


@pytest.mark.behaviour("SNS-27")
def test_root_without_sys_admin_joins_nothing(joiner: Task, target: Idle) -> None:
    joiner.call(set_effective_caps, Cap.ALL & ~Cap.SYS_ADMIN)
    # It created the user namespace, and so has all capabilities in there, but not in its own.
    assert errnos_by_link(joiner, target, NS.USER) == {EPERM}


@pytest.mark.behaviour("SNS-28")
def test_mount_namespace_needs_sys_chroot(joiner: Task, target: Idle) -> None:
    joiner.call(set_effective_caps, Cap.ALL & ~Cap.SYS_CHROOT)
    before = ns_names(joiner.pid)
    with owned(open_ns(NS.MNT, target.pid)) as fd:
        assert errno_of_joining_file(joiner, fd) == EPERM
    assert errno_of_joining(joiner, target, NS.MNT) == EPERM
    assert errno_of_joining(joiner, target, NS.MNT | NS.UTS) == EPERM
    assert ns_names(joiner.pid) == before
    assert errnos_by_link(joiner, target, NS.MNT, NS.USER) == {0}
