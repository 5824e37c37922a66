# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) with a pidfd while its task exits: some attempts of what suites/races does at length."""

import pytest
from nslib import NS
from nslib.exiting import Joining
from nslib.exits import autoreaping
from nslib.races import Campaign
from nslib.shots import SOCKET
from nslib.stage import Stage

pytestmark = pytest.mark.needs("user_ns", "uts_ns", "ipc_ns")

SECONDS = 0.4


@pytest.mark.behaviour("SNS-41", "SNS-42", "SNS-43", "REG-05")
@pytest.mark.parametrize(
    "kinds", [NS.UTS, NS.UTS | NS.IPC | NS.MNT, NS.PID | NS.UTS], ids=["one", "three", "pid"]
)
def test_target_exits(kinds: NS) -> None:
    with Stage() as stage:
        joining = Joining(stage, kinds)
        Campaign(stage, ["gone"]).run(joining.attempt, SECONDS)


@pytest.mark.behaviour("SNS-43", "SNS-44", "REG-05")
@pytest.mark.parametrize("kinds", [NS.USER | NS.UTS, NS.PID | NS.UTS], ids=["user", "pid"])
def test_target_is_reaped_by_its_parent(kinds: NS) -> None:
    with Stage() as stage:
        joining = Joining(stage, kinds, waited=True)
        Campaign(stage, ["gone"]).run(joining.attempt_reaped_at_once, SECONDS)


@pytest.mark.behaviour("SNS-43", "SNS-44", "REG-05")
@pytest.mark.parametrize("kinds", [NS.USER | NS.UTS, NS.PID | NS.UTS], ids=["user", "pid"])
def test_target_is_reaped_by_the_kernel(kinds: NS) -> None:
    with Stage() as stage, autoreaping():
        joining = Joining(stage, kinds)
        Campaign(stage, ["gone"]).run(joining.attempt_reaped_at_once, SECONDS)


@pytest.mark.needs("net_ns", "active_refs")
@pytest.mark.behaviour("SNS-42", "SNS-43", "REG-05")
def test_counts_are_in_balance_afterwards() -> None:
    with Stage() as stage:
        joining = Joining(stage, NS.NET, last=[SOCKET])
        Campaign(stage, ["gone"]).run(joining.attempt_and_revive, SECONDS)
