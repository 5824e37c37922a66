# SPDX-License-Identifier: GPL-2.0-only
"""Scenery for ioctls."""

import os
from collections.abc import Iterator

import pytest
from nslib import NS, PidfdGet, Task, configured_types, owned


@pytest.fixture
def stranger() -> Iterator[Task]:
    """A task with a namespace of its own of every type."""
    with Task(NS(sum(configured_types()))) as task:
        yield task


@pytest.fixture
def pidfd() -> Iterator[int]:
    """A pidfd of this process."""
    with owned(os.pidfd_open(os.getpid())) as fd:
        yield fd


@pytest.fixture
def pidfd_requests() -> list[PidfdGet]:
    """PIDFD_GET_*_NAMESPACE of the types that the kernel has."""
    links = {name for kind in configured_types() for name in (kind.link, kind.child_link)}
    return [request for request in PidfdGet if request.name.lower() in links]
