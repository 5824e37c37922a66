# SPDX-License-Identifier: GPL-2.0-only
"""What every campaign has: a stage, the rule that it must reach its window, and a look at what it
has left in the kernel."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from errno import ENOSPC

import pytest
from nslib import NS, errno_of, get_sysctl, open_sysctl, set_sysctl, sleeper_errno, wait_until
from nslib.races import Campaign, Explore
from nslib.stage import Stage

_LIMIT = "user/max_user_namespaces"


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Where actors meet; they end after the test."""
    with Stage() as made:
        yield made


@contextmanager
def _nothing_leaks() -> Iterator[None]:
    """A namespace that is not freed keeps its owner, which counts: afterwards there must be room
    for another user namespace within a limit that was wide enough before; soon, as those that have
    just ended count until a kernel worker has freed them.

    Not looked at by a root without CAP_SYS_RESOURCE, as of a container.
    """
    if errno_of(open_sysctl, _LIMIT):
        yield
        return
    before = get_sysctl(_LIMIT)
    try:
        enough = next(2**n for n in range(31) if _has_room(2**n))
        set_sysctl(_LIMIT, before)
        yield
        wait_until(lambda: _has_room(enough), "end of all user namespaces")
    finally:
        set_sysctl(_LIMIT, before)


def _has_room(limit: int) -> bool:
    set_sysctl(_LIMIT, limit)
    return sleeper_errno(NS.USER) != ENOSPC


@pytest.fixture
def explore(stage: Stage, seconds: float, observe: Callable[[str, object], None]) -> Explore:
    """Make attempts at a race, whose outcome they return, as long as the budget allows.

    A campaign that saw one side of its window only is skipped: it has tested nothing.
    """

    def run(attempt: Callable[[], str], *, early: Collection[str]) -> None:
        campaign = Campaign(stage, early)
        try:
            with _nothing_leaks():
                campaign.run(attempt, seconds)
        finally:
            report = campaign.report()
            observe("race", report.observation())
        if not report.reached:
            pytest.skip(f"window not reached: {dict(report.outcomes)}")

    return run
