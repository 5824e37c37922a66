# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of a real run when QEMU, or the harness itself, is ended from outside."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.realruns import WITH_LISTNS, Run, completed, running, wait_until

pytestmark = pytest.mark.vm

SELECTED = ("-k", "before or takes_its_time or after")
LONG = "takes_its_time"
# "Gone within seconds": of the death of the harness, on a machine with other things to do.
SECONDS = 10


class TestHarness:
    """Three runs at once, each ended by another signal in the middle of a test."""

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Run]]:
        with ExitStack() as stack:
            runs: dict[int, Run] = {
                number: stack.enter_context(
                    running(tmp_path_factory.mktemp(number.name), WITH_LISTNS, *SELECTED)
                )
                for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
            }
            for number, run in runs.items():
                run.wait_for_start(LONG)
                assert run.guests()
                # As a terminal does on Ctrl-C, and a supervisor of a whole job.
                os.killpg(run.process.pid, number)
            for run in runs.values():
                run.wait()
            yield runs

    def test_guest_ends_with_it(self, runs: dict[int, Run]) -> None:
        for run in runs.values():
            deadline = time.monotonic() + SECONDS
            while run.guests() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert run.leftovers() == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_run_directory_is_complete(self, runs: dict[int, Run], number: int) -> None:
        run = runs[number]
        assert run.process.returncode == 130
        assert run.result().finished
        assert run.directory.name == run.result().id
        assert run.outcomes() == {"before": "pass", LONG: "notrun", "after": "notrun"}
        assert [boot.end for boot in run.kernel().boots] == ["interrupted"]
        assert (run.files / "junit.xml").exists()
        assert "interrupted" in run.err
        assert "Traceback" not in run.err

    def test_what_was_killed_can_be_read_up_to_the_last_event(self, runs: dict[int, Run]) -> None:
        run = runs[signal.SIGKILL]
        assert run.process.returncode == -signal.SIGKILL
        assert run.directory.name.endswith(".partial")
        assert not run.result().finished
        assert run.outcomes() == {"before": "pass", LONG: "notrun", "after": "notrun"}
        assert run.tests()[LONG].reason == "cut off in this test"


def test_qemu_killed_in_the_middle_of_a_test(tmp_path: Path) -> None:
    with running(tmp_path / "run", WITH_LISTNS, *SELECTED) as run:
        run.wait_for_start(LONG)
        for guest in run.guests():
            if "qemu" in guest.name():
                guest.kill()
        assert run.wait() == 1
    assert run.outcomes() == {"before": "pass", LONG: "crash", "after": "pass"}
    victim, next_one = run.tests()[LONG], run.tests()["after"]
    assert victim.reason == "the virtual machine vanished without a panic"
    assert (victim.boot, next_one.boot) == (1, 2)
    assert [boot.end for boot in run.kernel().boots] == [victim.reason, "clean"]
    assert run.leftovers() == []


def test_qemu_killed_before_the_kernel_is_up(tmp_path: Path) -> None:
    with running(tmp_path / "run", WITH_LISTNS, "-k", "before") as run:
        wait_until(lambda: [guest for guest in run.guests() if "qemu" in guest.name()])
        for guest in run.guests():
            guest.kill()
        assert run.wait() == 0
    first, second = run.kernel().boots
    assert first.end.startswith("QEMU ended before the guest was ready")
    assert second.end == "clean"
    assert run.leftovers() == []


def test_two_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    with running(tmp_path / "one", WITH_LISTNS, "-k", "before") as one:
        two = completed(tmp_path / "two", WITH_LISTNS, "-k", "after")
        assert one.wait() == 0
    assert (one.outcomes(), two.outcomes()) == ({"before": "pass"}, {"after": "pass"})
