# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for what happens asynchronously: a deadline, never a fixed sleep."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


def scaled(seconds: float) -> float:
    """A deadline that is `seconds` long on a fast machine; the harness knows how slow a guest is,
    but tells it only when it has imported this."""
    return seconds * float(os.environ.get("NSCONFORM_TIMEOUT_SCALE", "1"))


def wait_until(condition: Callable[[], T], what: str, seconds: float = 5.0) -> T:
    """Poll until `condition` returns something true, which is returned.

    Raises TimeoutError naming `what` after `seconds` (scaled).
    """
    deadline = time.monotonic() + scaled(seconds)
    pause = _FIRST_PAUSE
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {scaled(seconds):g} s")
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
    return value
