# SPDX-License-Identifier: GPL-2.0-only
"""Random sequences of operations, by kernel and reference model side by side (nslib.model).

hypothesis chooses them, and shrinks one after which the two disagree.
"""

import pytest
from nslib.model.campaigns import Campaign, Explore
from nslib.model.phrases import descend, leave_file, leave_socket, look_past, revive
from nslib.model.repertoire import (
    BecomeNobody,
    Bind,
    Clone,
    Close,
    Drop,
    Exit,
    Join,
    List,
    MakeSocket,
    Open,
    OpenHandle,
    Owner,
    Parent,
    Reap,
    Receive,
    Send,
    Setns,
    SocketNs,
    Unmount,
    Unshare,
)  # fmt: skip

pytestmark = [
    pytest.mark.needs("active_refs", "id_handles", "unprivileged_userns"),
    pytest.mark.needs(*"user_ns uts_ns ipc_ns net_ns pid_ns cgroup_ns time_ns".split()),
    pytest.mark.deadline(45),
]

LIFETIMES = Campaign(
    {
        Clone: 4, Unshare: 2, Exit: 4, Reap: 3, Open: 3, OpenHandle: 1, Close: 4, Send: 1,
        Receive: 1, Bind: 2, Unmount: 2, Setns: 3, Join: 2, MakeSocket: 1, SocketNs: 1, Owner: 1,
        Parent: 2, Drop: 1, leave_file: 2, revive: 2, descend: 2,
    }
)  # fmt: skip
CURSORS = Campaign(
    {
        Clone: 3, Unshare: 2, Exit: 3, Reap: 3, Close: 1, List: 12, leave_file: 2, leave_socket: 1,
        look_past: 2,
    }
)  # fmt: skip
CALLERS = Campaign(
    {
        Clone: 4, Unshare: 3, Drop: 2, BecomeNobody: 2, Setns: 1, Join: 2, Open: 1, List: 8,
        OpenHandle: 6, leave_file: 1, descend: 2,
    }
)  # fmt: skip
JOINING = Campaign(
    {
        Clone: 4, Unshare: 2, Exit: 2, Reap: 1, Drop: 2, BecomeNobody: 2, Open: 4, Setns: 6,
        Join: 8, Owner: 2, Parent: 2, SocketNs: 1, leave_file: 2, leave_socket: 1, descend: 3,
    }
)  # fmt: skip
REMOVALS = Campaign(
    {Clone: 3, Unshare: 2, Exit: 2, Reap: 2, Setns: 1, Join: 1, List: 8, revive: 1, descend: 1},
    length=10,
    with_removal=True,
)


@pytest.mark.behaviour("REG-12", "ACT-26", "ACT-27", "ACT-35")
@pytest.mark.budget("model", 0.35)
def test_what_is_active(explore: Explore) -> None:
    explore(LIFETIMES)


@pytest.mark.behaviour("LNS-PAG-13", "LNS-PAG-14", "LNS-ARG-33", "LNS-ARG-34", "LNS-FLT-11")
@pytest.mark.budget("model", 0.25)
def test_pages_of_any_filter_and_cursor(explore: Explore) -> None:
    explore(CURSORS)


@pytest.mark.behaviour("LNS-PRM-02", "LNS-PRM-03", "LNS-PRM-04", "NFH-33", "NFH-34")
@pytest.mark.budget("model", 0.15)
def test_what_any_caller_sees(explore: Explore) -> None:
    explore(CALLERS)


@pytest.mark.behaviour("SNS-16", "SNS-20", "SNS-24", "SNS-27", "SNS-32")
@pytest.mark.budget("model", 0.15)
def test_who_may_join_what(explore: Explore) -> None:
    explore(JOINING)


@pytest.mark.behaviour("REG-04", "REG-13")
@pytest.mark.budget("model", 0.1)
def test_nothing_stays_in_memory(explore: Explore) -> None:
    explore(REMOVALS)
