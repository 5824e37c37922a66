# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) with a pidfd whose task switches namespaces meanwhile: they are all of one moment."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from nslib import NS, Task, configured_mask, configured_types, ns_name, setns

pytestmark = pytest.mark.needs("uts_ns", "ipc_ns")

SWITCHES, LOOKS = 1500, 150


@pytest.mark.behaviour("SNS-45")
def test_joined_namespaces_are_of_one_moment(joiner: Task) -> None:
    kinds = configured_mask(NS.USER, NS.PID)
    with Task(kinds) as one, Task(kinds) as other, Task() as target:
        places = [{kind: ns_name(kind, task.pid) for kind in kinds} for task in (one, other)]
        pidfds = [target.give(task.pidfd) for task in (one, other)]
        target.call(setns, pidfds[0], kinds)
        with ThreadPoolExecutor(1) as pool:
            switching = pool.submit(target.call, switch, pidfds, kinds)
            seen = joiner.call(join_again, joiner.give(target.pidfd), kinds)
            switching.result()
    assert [names for names in seen if names not in places] == []


def switch(pidfds: list[int], kinds: NS) -> None:
    """Move to and fro between the namespaces of two tasks."""
    for turn in range(SWITCHES):
        setns(pidfds[turn % 2], kinds)


def join_again(pidfd: int, kinds: NS) -> list[dict[NS, str]]:
    """The different sets of namespaces that one gets by joining the same task many times."""
    found: list[dict[NS, str]] = []
    types = [kind for kind in configured_types() if kind & kinds]
    for _ in range(LOOKS):
        setns(pidfd, kinds)
        names = {kind: ns_name(kind) for kind in types}
        if names not in found:
            found.append(names)
    return found
