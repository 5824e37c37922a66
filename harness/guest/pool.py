# SPDX-License-Identifier: GPL-2.0-only
"""The processes that tests run in: one at work, one that gets ready for the next test."""

import contextlib
import os
from collections.abc import Callable, Iterable

import pytest

from harness.guest import child
from harness.guest.child import Cast, Judge, Rehearsal, TestProcess, file_of

Find = Callable[[str], pytest.Item | None]


class Pool:
    """Processes for the tests that `find` knows by their ids; it imports a test's file for that.

    Two take turns, so that one can do what a test is not to wait for while the other runs one, on
    another CPU if there is one. A process knows the files that were imported when it was made.
    """

    def __init__(self, find: Find, judge: Judge) -> None:
        self._find = find
        self._judge = judge
        self._rehearsal: Rehearsal | None = None
        self._files: set[str] = set()
        self._idle: list[TestProcess] = []

    def rehearse(self, rehearsal: Rehearsal) -> None:
        """Let processes that wait for their turn go through a rehearsal meanwhile.

        With one CPU they would only take time from the test that runs.
        """
        if (os.cpu_count() or 1) > 1:
            self._rehearsal = rehearsal

    def pids(self) -> set[int]:
        """Return the pids of those that wait."""
        return {process.pid for process in self._idle}

    def item(self, test: str) -> pytest.Item | None:
        """Return a test; None if there is none, or if its file cannot be imported."""
        item = self._find(test)
        self._files.add(file_of(test))
        return item

    def take(self, test: str) -> TestProcess:
        """Return a process that can run `test`: the one that has waited for longest, or a new one.

        Raises OSError where there is no room for a new one.
        """
        self._drop_useless(test)
        return self._idle.pop(0) if self._idle else self.fresh()

    def give_back(self, process: TestProcess) -> None:
        """Take a process back that is as it was."""
        self._idle.append(process)

    def fresh(self) -> TestProcess:
        """Return a new process, which begins the first test at once."""
        return self._prepared(hurried=True)

    def get_ready(self, tests: Iterable[str]) -> None:
        """Do something for the first of the `tests` that will run: call this while another runs."""
        if self._rehearsal is None:
            return
        waiting = iter(tests)
        if (following := next(waiting, None)) is None:
            return
        self._drop_useless(following)
        if self._idle:
            self._import_next(waiting)
            return
        self._import_next([following])
        # What runs meanwhile may have taken all processes, or all memory.
        with contextlib.suppress(OSError):
            self._idle.append(self._prepared(hurried=False))

    def _import_next(self, tests: Iterable[str]) -> None:
        """Import one more file of `tests`, so that the processes that are made next know it."""
        for test in tests:
            if file_of(test) not in self._files:
                # What is wrong with it is told when it is its turn.
                with contextlib.suppress(Exception):
                    self.item(test)
                return

    def _drop_useless(self, test: str) -> None:
        """End the processes that cannot run `test`, or that have been killed."""
        useful = [process for process in self._idle if process.knows(test) and process.is_there()]
        for process in self._idle:
            if process not in useful:
                process.end()
        self._idle = useful

    def _prepared(self, *, hurried: bool) -> TestProcess:
        files = frozenset(self._files)
        return child.prepare(Cast(self._find, files, self._judge, self._rehearsal, hurried))
