# SPDX-License-Identifier: GPL-2.0-only
"""What the agent says of a test that has ended, without running one."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.guest import runner
from harness.guest.census import Census, Leftovers
from harness.guest.child import End, Judge, Verdict
from harness.guest.runner import Runner, Settings

PASS = Verdict("pass")
NOTHING = Census(frozenset(), frozenset())


class TestReport:
    @pytest.fixture
    def report(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
        """Has the agent report on a test after which the kernel's log and taint are these."""

        def finish(
            logged: Sequence[str] = (),
            taint: int = 0,
            verdict: Verdict = PASS,
            **end: Any,
        ) -> dict[str, Any]:
            log, taints, sent = FakeLog(logged), iter([1, 1 | taint]), list[dict[str, Any]]()
            monkeypatch.setattr("harness.guest.kmsg.KernelLog", lambda: log)
            monkeypatch.setattr("harness.guest.kmsg.taint", lambda: next(taints))
            monkeypatch.setattr("harness.guest.runner._Children", object)
            monkeypatch.setattr("harness.guest.census.take", lambda: NOTHING)
            monkeypatch.setattr("harness.guest.census.end_leftovers", lambda _: Leftovers())
            ended = runner._Ended(End(verdict, 0.0), **end)
            monkeypatch.setattr("harness.guest.pool.Pool.item", lambda *_: object())
            monkeypatch.setattr("harness.guest.pool.Pool.take", lambda *_: object())
            monkeypatch.setattr("harness.guest.runner.Runner._outcome", lambda *_: ended)
            made = Runner(
                lambda event, **rest: sent.append({"event": event, **rest}),
                lambda _: None,
                Judge(),
            )
            goes_on = made.run(["a"], Settings(1.0, "WARNING: |BUG: "))
            assert [one["event"] for one in sent] == ["start", "finish"]
            assert log.marks == ["start a", "finish a"]
            assert goes_on is not sent[1]["dirty"]
            return sent[1]

        return finish

    def test_of_a_pass(self, report: Callable[..., dict[str, Any]]) -> None:
        said = report(["harmless"])
        assert (said["outcome"], said["splats"], said["taint"]) == ("pass", [], 0)
        assert not said["dirty"]

    def test_of_warnings(self, report: Callable[..., dict[str, Any]]) -> None:
        said = report(["harmless", "WARNING: a", "BUG: b"], taint=512)
        assert (said["outcome"], said["splats"]) == ("pass", ["WARNING: a", "BUG: b"])
        assert (said["taint"], said["dirty"]) == (512, False)

    def test_of_a_flood_of_warnings(self, report: Callable[..., dict[str, Any]]) -> None:
        assert len(report(["WARNING: again"] * 10_000)["splats"]) == 50

    def test_guest_in_which_the_kernel_has_oopsed_is_not_used_again(
        self, report: Callable[..., dict[str, Any]]
    ) -> None:
        # include/linux/panic.h, TAINT_DIE
        assert report(taint=1 << 7)["dirty"]

    def test_process_that_hangs_spoils_the_guest(
        self, report: Callable[..., dict[str, Any]]
    ) -> None:
        said = report(verdict=Verdict("timeout", "no end"), stuck=True)
        assert (said["outcome"], said["stuck"], said["dirty"]) == ("timeout", True, True)

    def test_oom_killer_is_named(self, report: Callable[..., dict[str, Any]]) -> None:
        killed = "Out of memory: Killed process 102 (init) total-vm:8kB"
        said = report(["x", killed], verdict=Verdict("fail", "killed by SIGKILL"))
        assert said["reason"] == f"killed by SIGKILL; {killed}"
        assert report([killed])["reason"] == killed


class FakeLog:
    """The kernel's log of one test: what was there before is read first."""

    def __init__(self, logged: Sequence[str]) -> None:
        self._parts = iter([["WARNING: of an earlier test"], list(logged)])
        self.marks: list[str] = []

    def mark(self, text: str) -> None:
        self.marks.append(text)

    def new_lines(self) -> list[str]:
        return next(self._parts)


class TestSettings:
    SETTINGS = Settings(2.0, "", {"race": 30.0}, 7)

    def test_reach_the_tests_by_the_environment(self) -> None:
        assert self.SETTINGS.environment() == {
            "NSCONFORM_TIMEOUT_SCALE": "2.0",
            "NSCONFORM_RACE_SECONDS": "30.0",
            "NSCONFORM_SEED": "7",
        }

    @pytest.mark.parametrize(
        ("markers", "seconds"),
        [
            ({}, 20.0),
            ({"deadline": (3,)}, 6.0),
            ({"budget": ("race", 0.5)}, 35.0),
            ({"budget": ("race", 0.5), "deadline": (3,)}, 21.0),
        ],
    )
    def test_deadline_of_a_test(self, markers: dict[str, tuple[Any, ...]], seconds: float) -> None:
        assert self.SETTINGS.deadline(Marked(markers)) == seconds  # type: ignore[arg-type]


class Marked:
    """A test with markers and nothing else."""

    def __init__(self, markers: dict[str, tuple[Any, ...]]) -> None:
        self._markers = markers

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        args = self._markers.get(name)
        return None if args is None else pytest.Mark(name, args, {}, _ispytest=True)
