# SPDX-License-Identifier: GPL-2.0-only
"""Tests that do something to the process which waits for the next one; that one must not notice."""

import contextlib
import os
import random
import signal
import time

import pytest

MARK = "original"


def is_well() -> None:
    """The process is one that a test can have for itself."""
    assert os.getsid(0) == os.getpid()
    assert not signal.sigpending()


def reach_all(number: signal.Signals) -> None:
    """Send a signal to all processes; one that is made ready meanwhile gets the time to be."""
    time.sleep(0.2)
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def test_sees_time_and_randomness(request: pytest.FixtureRequest) -> None:
    request.node.user_properties.extend(
        [
            ("time", time.time()),
            ("urandom", os.urandom(16).hex()),
            ("random", random.getrandbits(64)),
            ("mark", MARK),
        ]
    )


def test_murders() -> None:
    reach_all(signal.SIGKILL)


def test_gets_over_murder() -> None:
    is_well()


def test_halts() -> None:
    reach_all(signal.SIGSTOP)


def test_gets_over_halt() -> None:
    is_well()


def test_interrupts() -> None:
    reach_all(signal.SIGINT)


def test_gets_over_interrupt() -> None:
    is_well()


def test_tells_tales() -> None:
    print("tales of the first")
    pytest.fail("first")


def test_tells_other_tales() -> None:
    print("tales of the second")
    pytest.fail("second")


def test_abandons_a_child() -> None:
    if os.fork() == 0:
        time.sleep(1000)


def test_gets_over_abandon() -> None:
    is_well()


@pytest.mark.deadline(1)
def test_loses_time() -> None:
    time.sleep(1000)


def test_gets_over_loss() -> None:
    is_well()
