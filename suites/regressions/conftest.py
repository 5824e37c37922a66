# SPDX-License-Identifier: GPL-2.0-only
"""Scenery for regressions: what goes on while the test looks."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from nslib import Task


@pytest.fixture
def meanwhile() -> Callable[..., Iterator[None]]:
    """A function that has a task make a call, and gives turns until that has returned."""
    return _turns_during


def _turns_during(task: Task, function: Callable[..., object], *args: object) -> Iterator[None]:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(task.call, function, *args)
        done = False
        while not done:
            done = running.done()
            yield
        running.result()
