# SPDX-License-Identifier: GPL-2.0-only
"""Scenery for setns: who joins, and whose namespaces are joined."""

from collections.abc import Iterator

import pytest
from nslib import NS, Idle, Task, configured_mask


@pytest.fixture
def joiner() -> Iterator[Task]:
    """A root that joins in place of the test's own process."""
    with Task() as task:
        yield task


@pytest.fixture
def target() -> Iterator[Idle]:
    """A process with namespaces of its own of every type but time."""
    with Idle(configured_mask(NS.TIME)) as process:
        yield process


@pytest.fixture
def whole_target() -> Iterator[Task]:
    """A task with namespaces of its own of every type."""
    with Task(configured_mask()) as task:
        yield task
