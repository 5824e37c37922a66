# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) with a pidfd while its task ends: all or nothing, and counts that stay in balance.

The window: the target leaves its namespaces between the look at them and the switch. What was
inactive by then must become active again, owners included (commit f8d5a8970d2f).
"""

import pytest
from nslib import NS, configured_mask
from nslib.exiting import Joining
from nslib.exits import autoreaping
from nslib.races import Explore
from nslib.shots import SOCKET
from nslib.stage import Stage

pytestmark = pytest.mark.needs("user_ns", "uts_ns", "ipc_ns")


@pytest.mark.behaviour("SNS-41", "SNS-42", "SNS-43", "REG-05")
@pytest.mark.budget("race", 0.08)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_target_exits(depth: int, stage: Stage, explore: Explore) -> None:
    joining = Joining(stage, NS.UTS | NS.IPC, depth)
    explore(joining.attempt, early=["gone"])


@pytest.mark.behaviour("SNS-41", "SNS-42", "SNS-43", "REG-05")
@pytest.mark.budget("race", 0.03)
def test_target_of_every_type_exits(stage: Stage, explore: Explore) -> None:
    # Who shares memory cannot enter a time namespace.
    kinds = configured_mask(NS.TIME)
    joining = Joining(stage, kinds)
    explore(joining.attempt, early=["gone"])


@pytest.mark.behaviour("SNS-41", "SNS-43", "SNS-44", "REG-05")
@pytest.mark.budget("race", 0.015)
@pytest.mark.parametrize("kinds", [NS.USER | NS.UTS, NS.PID | NS.UTS], ids=["user", "pid"])
def test_target_is_reaped_by_its_parent(kinds: NS, stage: Stage, explore: Explore) -> None:
    joining = Joining(stage, kinds, waited=True)
    explore(joining.attempt_reaped_at_once, early=["gone"])


@pytest.mark.behaviour("SNS-41", "SNS-43", "SNS-44", "REG-05")
@pytest.mark.budget("race", 0.015)
@pytest.mark.parametrize("kinds", [NS.USER | NS.UTS, NS.PID | NS.UTS], ids=["user", "pid"])
def test_target_is_reaped_by_the_kernel(kinds: NS, stage: Stage, explore: Explore) -> None:
    joining = Joining(stage, kinds)
    with autoreaping():
        explore(joining.attempt_reaped_at_once, early=["gone"])


@pytest.mark.behaviour("SNS-41", "SNS-42", "SNS-43", "REG-05")
@pytest.mark.budget("race", 0.02)
def test_target_is_killed(stage: Stage, explore: Explore) -> None:
    joining = Joining(stage, NS.UTS | NS.IPC, 2, killed=True)
    explore(joining.attempt, early=["gone"])


@pytest.mark.needs("net_ns", "active_refs")
@pytest.mark.behaviour("SNS-42", "SNS-43", "REG-05")
@pytest.mark.budget("race", 0.03)
def test_socket_revives_what_was_joined(stage: Stage, explore: Explore) -> None:
    joining = Joining(stage, NS.NET, last=[SOCKET])
    explore(joining.attempt_and_revive, early=["gone"])
