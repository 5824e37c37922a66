# SPDX-License-Identifier: GPL-2.0-only
"""Fifty tests that do nothing, and one in the middle that panics the kernel."""

from pathlib import Path

import pytest


@pytest.mark.parametrize("number", range(25))
def test_quick_one_of_many(number: int) -> None:
    assert number >= 0


def test_dies_among_many() -> None:
    Path("/proc/sysrq-trigger").write_text("c")


@pytest.mark.parametrize("number", range(25, 50))
def test_other_one_of_many(number: int) -> None:
    assert number >= 0
