# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) with a pidfd while its task exits: all or nothing, and counts that stay in balance.

The interesting moment is when the target has left its namespaces between the look at them and the
switch: what was inactive by then must become active again, owners included (commit f8d5a8970d2f).
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from errno import ESRCH
from pathlib import Path

import pytest
from nslib import (
    NS,
    Task,
    errno_of,
    has_feature,
    list_all,
    ns_id,
    ns_names,
    open_of_socket,
    owned,
    setns,
    wait_until,
)
from nslib.racing import Edge, Leaver

pytestmark = pytest.mark.needs("user_ns", "uts_ns", "ipc_ns")

TURNS = 60


@dataclass
class Result:
    """What came of the turns of a race, and how many joined the target in time."""

    joined: int = 0
    errnos: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def expect(self, right: bool, what: object) -> None:
        """Note what is not right."""
        if not right:
            self.wrong.append(str(what))


def race_with_exit(home: int, kinds: NS, turns: int) -> Result:
    """Join `kinds` of a task in a new user namespace as it exits, then return by the pidfd `home`;
    again and again."""
    result, edge, before = Result(), Edge(), ns_names()
    for _ in range(turns):
        with Leaver(NS.USER | kinds, delay=edge.delay) as target:
            of_target = ns_names(target.pid)
            ids = _ids_of(target.pid, NS.USER | kinds)
            errno = _race(target, edge, kinds)
        result.errnos.add(errno)
        if errno:
            result.expect(ns_names() == before, "changed by a failed call")
        else:
            result.joined += 1
            result.expect(ns_names() == before | _joined(of_target, kinds), "not all were joined")
            result.expect(_invisible(ids) == [], f"invisible: {_invisible(ids)} of {ids}")
            setns(home, kinds)
        result.expect(_all_ended(ids), f"still visible of {ids}: all but {_invisible(ids)}")
    return result


def _race(target: Leaver, edge: Edge, kinds: NS) -> int:
    """The errno of joining a task that is leaving, 0 for success; the task is reaped then."""
    target.leave()
    edge.wait()
    errno = errno_of(setns, target.pidfd, kinds)
    target.wait()
    edge.move(later=bool(errno))
    return errno


def race_and_revive(home: int, turns: int) -> Result:
    """As race_with_exit, for a network namespace that a socket brings back when all are gone."""
    result, edge = Result(), Edge()
    for _ in range(turns):
        with Leaver(NS.USER | NS.NET, delay=edge.delay) as target:
            ids = _ids_of(target.pid, NS.USER | NS.NET)
            setns(target.pidfd, NS.NET)
            sock = socket.socket()
            setns(home, NS.NET)
            errno = _race(target, edge, NS.NET)
        result.errnos.add(errno)
        if not errno:
            result.joined += 1
            setns(home, NS.NET)
        with sock:
            result.expect(_invisible(ids) == sorted(ids), f"left behind of {ids}")
            with owned(open_of_socket(sock.fileno())):
                result.expect(_invisible(ids) == [], f"not revived: {_invisible(ids)} of {ids}")
            result.expect(_invisible(ids) == sorted(ids), f"left behind of {ids} at last")
    return result


def race_for_user_namespaces(levels: int, turns: int) -> tuple[list[int], set[int]]:
    """Join user namespaces of exiting tasks, each below the last one joined; gives their ids, and
    the errnos."""
    edge, errnos = Edge(), set()
    ids: list[int] = []
    while len(ids) < levels and turns:
        with Leaver(NS.USER | NS.UTS, delay=edge.delay) as target:
            Path(f"/proc/{target.pid}/uid_map").write_text("0 0 1")
            Path(f"/proc/{target.pid}/gid_map").write_text("0 0 1")
            inside = ns_names(target.pid)
            user = ns_id(NS.USER, target.pid) if has_feature("nsid") else 0
            errno = _race(target, edge, NS.USER | NS.UTS)
        errnos.add(errno)
        if not errno:
            assert ns_names() == inside
            ids.append(user)
        turns -= 1
    return ids, errnos


def _joined(of_target: dict[str, str], kinds: NS) -> dict[str, str]:
    return {kind.child_link: of_target[kind.link] for kind in NS if kind & kinds}


def _ids_of(pid: int, kinds: NS) -> list[int]:
    if not has_feature("listns"):
        return []
    return [ns_id(kind, pid) for kind in NS if kind & kinds]


def _invisible(ids: list[int]) -> list[int]:
    """Those of the ids that the real root does not list, in order."""
    return sorted(set(ids) - set(list_all(cursor=min(ids) - 1))) if ids else []


def _all_ended(ids: list[int]) -> bool:
    """Whether the ids are no longer listed; soon, if the kernel reaps (exit_notify())."""
    if signal.getsignal(signal.SIGCHLD) != signal.SIG_IGN:
        return _invisible(ids) == sorted(ids)
    with suppress(TimeoutError):
        return wait_until(lambda: _invisible(ids) == sorted(ids), "end of the namespaces")
    return False


@pytest.fixture
def home() -> Iterator[int]:
    """A pidfd of the test's process."""
    with owned(os.pidfd_open(os.getpid())) as pidfd:
        yield pidfd


@pytest.mark.behaviour("SNS-41", "SNS-42", "SNS-43", "REG-05")
@pytest.mark.parametrize(
    "kinds", [NS.UTS, NS.UTS | NS.IPC | NS.MNT, NS.PID | NS.UTS], ids=["one", "three", "pid"]
)
def test_target_exits(kinds: NS, joiner: Task, home: int) -> None:
    result = joiner.call(race_with_exit, joiner.give(home), kinds, TURNS)
    assert result.wrong == []
    assert result.errnos <= {0, ESRCH}
    assert ns_names(joiner.pid) == ns_names()


@pytest.mark.behaviour("SNS-44", "SNS-43", "REG-05")
def test_target_is_reaped_at_once(joiner: Task, home: int) -> None:
    joiner.call(signal.signal, signal.SIGCHLD, signal.SIG_IGN)
    result = joiner.call(race_with_exit, joiner.give(home), NS.PID | NS.UTS, TURNS)
    assert result.wrong == []
    assert result.errnos <= {0, ESRCH}


@pytest.mark.behaviour("SNS-44")
@pytest.mark.parametrize("reaper", [signal.SIG_DFL, signal.SIG_IGN], ids=["reaped", "autoreaped"])
def test_target_of_a_user_namespace_exits(reaper: signal.Handlers, joiner: Task) -> None:
    joiner.call(signal.signal, signal.SIGCHLD, reaper)
    ids, errnos = joiner.call(race_for_user_namespaces, 20, TURNS)
    assert errnos <= {0, ESRCH}
    if has_feature("listns"):
        assert _invisible(ids) == []
        joiner.reap()
        assert _invisible(ids) == ids


@pytest.mark.needs("net_ns", "active_refs")
@pytest.mark.behaviour("SNS-42", "SNS-43", "REG-05")
def test_counts_are_in_balance_afterwards(joiner: Task, home: int) -> None:
    result = joiner.call(race_and_revive, joiner.give(home), 12)
    assert result.wrong == []
    assert result.errnos <= {0, ESRCH}
