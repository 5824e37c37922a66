# SPDX-License-Identifier: GPL-2.0-only
"""What tests of the reference model have in common."""

from collections.abc import Callable

import pytest
from nslib.budgets import seed
from nslib.model.campaigns import Campaign, Explore
from nslib.model.places import PLACES
from nslib.model.records import recorded
from nslib.model.stage import stage


@pytest.fixture
def explore(seconds: float, observe: Callable[[str, object], None]) -> Explore:
    """Play sequences for the test's share of the budget, and fail with the shortest that show where
    kernel and model disagree; the sequences are recorded (see nslib.model.records)."""

    # Only now: a slow guest takes seconds to load hypothesis, and its collection is everybody's.
    from nslib.model.search import search

    def run(campaign: Campaign) -> None:
        with stage(PLACES) as place:
            result = search(campaign, place, seconds, seed())
        observe("seed", seed())
        observe("plays", result.plays)
        observe("operations", result.operations)
        findings = list(result.findings.values())
        if findings:
            observe("rules", [one.rule.name for one in findings])
            observe("sequence", recorded(findings[0].play.operations))
            observe("sequences", [recorded(one.play.operations) for one in findings[1:]])
            pytest.fail("\n\n".join(map(str, findings)), pytrace=False)

    return run
