# SPDX-License-Identifier: GPL-2.0-only
"""What depends on the type of a namespace: NS_GET_NSTYPE, NS_GET_PARENT."""

from errno import EINVAL

import pytest
from nslib import (
    NS,
    NS_GET_NSTYPE,
    NS_GET_PARENT,
    Task,
    configured_types,
    errno_of,
    ioctl,
    ns_link,
    opened,
)


@pytest.mark.behaviour("IOC-01")
def test_type_is_the_bit_of_clone(stranger: Task) -> None:
    for kind in configured_types():
        for pid in ("self", stranger.pid):
            with opened(ns_link(kind, pid)) as fd:
                assert ioctl(fd, NS_GET_NSTYPE) == kind


@pytest.mark.behaviour("IOC-01")
def test_namespace_of_children_has_the_type_of_the_others() -> None:
    for kind in {NS.PID, NS.TIME} & set(configured_types()):
        with opened(ns_link(kind.child_link)) as fd:
            assert ioctl(fd, NS_GET_NSTYPE) == kind


@pytest.mark.behaviour("IOC-05")
def test_only_user_and_pid_namespaces_have_parents(stranger: Task) -> None:
    for kind in configured_types(NS.USER, NS.PID):
        for pid in ("self", stranger.pid):
            with opened(ns_link(kind, pid)) as fd:
                assert errno_of(ioctl, fd, NS_GET_PARENT) == EINVAL, kind.name
