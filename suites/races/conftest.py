# SPDX-License-Identifier: GPL-2.0-only
"""What every campaign has: a stage, and the rule that it must reach its window."""

import os
from collections.abc import Callable, Collection, Iterator

import pytest
from nslib.races import Campaign, Explore, Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Where actors meet; they end after the test."""
    if os.uname().machine != "x86_64" or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs, of x86-64")
    with Stage() as made:
        yield made


@pytest.fixture
def explore(stage: Stage, seconds: float, observe: Callable[[str, object], None]) -> Explore:
    """Make attempts at a race, whose outcome they return, as long as the budget allows.

    A campaign that saw one side of its window only is skipped: it has tested nothing.
    """

    def run(attempt: Callable[[], str], *, early: Collection[str]) -> None:
        campaign = Campaign(stage, early)
        try:
            campaign.run(attempt, seconds)
        finally:
            observe("race", campaign.report().observation())
        if missing := campaign.report().missing:
            pytest.skip(f"window not reached: {missing}")

    return run
