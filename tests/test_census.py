# SPDX-License-Identifier: GPL-2.0-only
"""What a test leaves behind in the guest, and how process 1 ends it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.guest import census
from harness.guest.census import Census

ROOT = Path(__file__).parents[1]


class TestCensus:
    BEFORE = Census(frozenset({1, 2}), frozenset({"a", "b"}))

    @pytest.mark.parametrize(
        ("after", "leaked"),
        [
            (BEFORE, ""),
            (Census(frozenset({1}), frozenset({"a", "b"})), ""),
            (Census(frozenset({1, 2, 9, 8}), frozenset({"a", "b"})), "namespaces [8, 9]"),
            (Census(frozenset({1, 2}), frozenset({"a", "b", "c"})), "mounts ['c']"),
            (Census(frozenset({1, 2}), frozenset({"a"})), "unmounted ['b']"),
            (Census(frozenset({3}), frozenset({"c"})),
             "namespaces [3], mounts ['c'], unmounted ['a', 'b']"),
            (Census(frozenset(range(20)), frozenset({"a", "b"})),
             "namespaces [0, 3, 4, 5, 6, 7, 8, 9, 10, 11] and 8 more"),
        ],
    )  # fmt: skip
    def test_leaks(self, after: Census, leaked: str) -> None:
        assert after.leaked_since(self.BEFORE) == leaked

    def test_mounts_of_this_process(self) -> None:
        mounts = census.take().mounts
        assert [mount for mount in mounts if " /proc " in mount]
        assert not census.take().leaked_since(census.take())

    def test_settle_waits_for_what_is_on_its_way_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        leaving = iter([{1, 2, 3}, {1, 2, 3}, {1, 2}])
        monkeypatch.setattr(
            "harness.guest.census.take",
            lambda: Census(frozenset(next(leaving)), self.BEFORE.mounts),
        )
        assert census.settle(self.BEFORE) == ""

    def test_settle_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.guest.census._GRACE_SECONDS", 0.02)
        monkeypatch.setattr(
            "harness.guest.census.take", lambda: Census(frozenset({3}), self.BEFORE.mounts)
        )
        assert census.settle(self.BEFORE) == "namespaces [3]"

    @pytest.mark.parametrize(
        ("pages", "found"),
        [
            ([[1, 2], [3], []], {1, 2, 3}),
            ([[]], set()),
            ([None], set()),
            # A broken kernel whose cursor includes the id that it names goes on for ever.
            ([[1, 2], [2, 3], [3, 4]], {1, 2}),
        ],
        ids=["pages", "none", "no listns", "endless"],
    )
    def test_namespaces(
        self, monkeypatch: pytest.MonkeyPatch, pages: list[list[int] | None], found: set[int]
    ) -> None:
        answers = iter(pages)

        class Libc:
            @staticmethod
            def syscall(_number: int, _request: bytes, buffer: Any, *_: Any) -> int:
                page = next(answers)
                if page is None:
                    return -1
                buffer[: len(page)] = page
                return len(page)

        monkeypatch.setattr("harness.guest.census._libc", Libc)
        assert census.take().namespaces == found

    def test_only_process_1_ends_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.guest.census.os", SimpleNamespace(getpid=lambda: 2))
        with pytest.raises(RuntimeError, match="only process 1"):
            census.kill_all()


LEFTOVERS = """
import json, os, signal, time
from harness.guest import census

started = time.monotonic()
assert census.end_leftovers() == census.Leftovers()
if os.fork() == 0:
    # A daemon that ignores what can be ignored, with a child that has a name of its own.
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if os.fork() == 0:
        open("/proc/self/comm", "w").write("odd) name (")
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    time.sleep(1000)
while "odd) name (" not in [census._name(pid) for pid in census._living_children(set())]:
    time.sleep(0.01)
    if time.monotonic() > started + 20:
        break
# One more process, which has no part in that.
if (spare := os.fork()) == 0:
    open("/proc/self/comm", "w").write("spare")
    os.fork()
    time.sleep(1000)
while not census.children(spare):
    time.sleep(0.01)
left = census.end_leftovers({spare})
print(json.dumps([sorted(left.names), left.immortal, sorted(census.children())]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
class TestLeftovers:
    def test_are_killed_and_named(self) -> None:
        unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        argv = [*unshare, sys.executable, "-c", LEFTOVERS]
        done = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        names, immortal, children = json.loads(done.stdout)
        assert not immortal
        assert children == []
        assert len(names) == 2
        assert not [name for name in names if "spare" in name]
