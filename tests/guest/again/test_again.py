# SPDX-License-Identifier: GPL-2.0-only
"""A test that would notice what is left of itself in its process."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture
def reader() -> Iterator[int]:
    ends = os.pipe()
    yield ends[0]
    for end in ends:
        os.close(end)


def test_uses_its_fixture(reader: int, request: pytest.FixtureRequest) -> None:
    request.node.user_properties.append((f"pid {os.getpid()}", os.fstat(reader).st_mode))
    assert len(request.node.user_properties) == 1
