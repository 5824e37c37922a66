# SPDX-License-Identifier: GPL-2.0-only
"""Scenery for listings."""

from collections.abc import Iterator

import pytest
from nslib import Room, guarded_room


@pytest.fixture
def room() -> Iterator[Room]:
    """Memory with an end that faults."""
    with guarded_room() as room:
        yield room
