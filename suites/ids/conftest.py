# SPDX-License-Identifier: GPL-2.0-only
"""Scenery for ids."""

from collections.abc import Iterator
from functools import reduce
from operator import or_

import pytest
from nslib import NS, Task, configured_types


@pytest.fixture
def every_type() -> NS:
    """The types that the kernel has, in one mask."""
    return reduce(or_, configured_types())


@pytest.fixture
def stranger(every_type: NS) -> Iterator[Task]:
    """A task with namespaces of its own of every type."""
    with Task(every_type) as task:
        yield task
