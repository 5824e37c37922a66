# SPDX-License-Identifier: GPL-2.0-only
"""Guests that die, or never live, from the command line to run.json, on a fake QEMU."""

import pytest

from harness.results import TestResult
from tests.conftest import IMPATIENT, Stage, bzimage
from tests.fake_qemu import (
    FIRST_LINE,
    PANIC,
    UP,
    WORKS,
    Step,
    console,
    die,
    end,
    error,
    event,
    finish,
    hang,
    pause,
    raw,
    with_two,
)

# For a boot that never comes: 0.3 s.
HOPELESS = ("--timeout-scale", "0.002")


class TestDeath:
    """The guest ends during the second test; the others get their verdicts in another boot."""

    def check(self, stage: Stage, outcome: str, *options: str) -> TestResult:
        assert stage.run(*options).status == 1
        first, second, *others = stage.kernel_result().tests
        assert {test.outcome for test in (first, *others)} == {"pass"}
        assert (first.boot, second.boot, others[0].boot) == (1, 1, 2)
        assert second.outcome == outcome
        assert [boot.end for boot in stage.kernel_result().boots] == [second.reason, "clean"]
        return second

    def test_panic(self, stage: Stage) -> None:
        stage.plays(with_two(console("[    1.400000] is it\n" + PANIC), end()), WORKS)
        victim = self.check(stage, "crash")
        assert victim.reason == "kernel panic: Attempted to kill init! exitcode=0x0000000b"
        assert victim.detail.splitlines()[-2:] == ["[    1.400000] is it", PANIC.rstrip()]

    @pytest.mark.parametrize("last", [end(), hang()], ids=["ends", "hangs"])
    def test_panic_behind_a_verdict(self, stage: Stage, last: Step) -> None:
        """What a test frees may be gone only a moment later."""
        stage.plays(with_two(finish("pass"), console(PANIC), last), WORKS)
        victim = self.check(stage, "crash", *IMPATIENT)
        assert victim.reason.startswith("kernel panic: Attempted to kill init!")
        assert victim.reason.endswith(" (after alpha/test_alpha.py::test_two)")
        assert (victim.attempts, victim.flaky) == (1, False)

    def test_panic_behind_a_verdict_that_does_not_come_again(self, stage: Stage) -> None:
        stage.plays(with_two(finish("pass"), console(PANIC), end()), WORKS)
        assert stage.run("--retries", "1").status == 0
        assert stage.outcomes()["test_two"] == "crash flaky"
        assert stage.second_test().attempts == 2

    def test_panic_that_does_not_end_qemu(self, stage: Stage) -> None:
        stage.plays(with_two(console(PANIC), hang()), WORKS)
        victim = self.check(stage, "crash", *IMPATIENT)
        assert victim.reason.startswith("kernel panic: Attempted to kill")

    def test_panic_behind_a_line_of_a_program(self, stage: Stage) -> None:
        stage.plays(with_two(console("unfinished " + PANIC), end()), WORKS)
        assert self.check(stage, "crash").reason.startswith("kernel panic: Attempted to kill")

    def test_qemu_killed(self, stage: Stage) -> None:
        stage.plays(with_two(die()), WORKS)
        reason = "the virtual machine vanished without a panic"
        assert self.check(stage, "crash").reason == reason

    def test_qemu_gives_up(self, stage: Stage) -> None:
        stage.plays(with_two(error("qemu: a bug\nRAX=0\nRBX=0\n"), end(1)), WORKS)
        reason = "the virtual machine vanished without a panic (qemu: a bug)"
        assert self.check(stage, "crash").reason == reason

    def test_silence(self, stage: Stage) -> None:
        stage.plays(with_two(console("[    1.400000] last words\n"), hang()), WORKS)
        victim = self.check(stage, "timeout", *IMPATIENT)
        assert victim.reason == "the guest has been silent for 1 s"
        assert victim.detail.splitlines()[-1] == "[    1.400000] last words"

    def test_what_the_kernel_said_before(self, stage: Stage) -> None:
        lockup = "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [init:97]"
        marks = [console(f"[    1.000000] {text}\n") for text in (
            "WARNING: of an earlier test", "nsconform: start alpha/test_alpha.py::test_two", lockup,
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
        )]  # fmt: skip
        stage.plays(with_two(*marks, pause(0.3), die()), WORKS)
        assert self.check(stage, "crash").reason == (
            f"the virtual machine vanished without a panic; the kernel had said: {lockup}"
        )

    def test_heartbeats_are_no_silence(self, stage: Stage) -> None:
        beats = [pause(0.25), event("heartbeat")] * 4
        stage.plays(with_two(*beats, finish("pass")))
        assert stage.run(*IMPATIENT).status == 0

    def test_agent_fails(self, stage: Stage) -> None:
        stage.plays(with_two(event("broken", what="agent", detail="Traceback"), hang()), WORKS)
        victim = self.check(stage, "error")
        assert (victim.reason, victim.detail) == ("the agent failed", "Traceback")

    @pytest.mark.parametrize(
        ("mark", "end"),
        [
            ("dirty", "alpha/test_alpha.py::test_two left the guest unfit for another test"),
            ("stuck", "alpha/test_alpha.py::test_two hangs in the kernel"),
        ],
    )
    def test_guest_that_is_not_what_it_was(self, stage: Stage, mark: str, end: str) -> None:
        stage.plays(with_two(finish("timeout", reason="no end", **{mark: True}), hang()), WORKS)
        assert stage.run().status == 1
        assert stage.second_test().reason == "no end"
        assert [boot.end for boot in stage.kernel_result().boots] == [end, "clean"]
        assert len(stage.boots()) == 2


class TestNoBoot:
    """No test ever starts: two boots, no verdict, and the reason on every test."""

    def check(self, stage: Stage, reason: str, *options: str) -> str:
        finished = stage.run(*options)
        assert finished.status == 3
        kernel = stage.kernel_result()
        assert {(test.outcome, test.reason) for test in kernel.tests} == {("notrun", reason)}
        assert [boot.end for boot in kernel.boots] == [reason] * 2
        assert {boot.seconds_to_first_test for boot in kernel.boots} == {None}
        assert finished.err.count(f"no verdict: {reason}\n") == 1
        assert f"no verdict: {reason} in " in finished.err
        return finished.err

    def test_never_speaks(self, stage: Stage) -> None:
        stage.plays([hang()])
        shown = self.check(stage, "no word from the guest in 0 s", *HOPELESS)
        assert "no word from the guest in 0 s; its console is empty\n" in shown

    def test_only_the_last_lines_are_shown(self, stage: Stage) -> None:
        stage.plays([console("".join(f"line {n}\n" for n in range(100))), end()])
        shown = self.check(stage, "QEMU ended before the guest was ready")
        assert "was ready; the end of its console:\n" in shown
        assert "line 70\n" in shown
        assert "line 69\n" not in shown

    def test_panic(self, stage: Stage) -> None:
        stage.plays([console(FIRST_LINE + PANIC), end()])
        reason = "kernel panic: Attempted to kill init! exitcode=0x0000000b"
        shown = self.check(stage, reason)
        assert f"{reason}; the end of its console:\n{FIRST_LINE}{PANIC}" in shown

    def test_qemu_does_not_start(self, stage: Stage) -> None:
        stage.plays([error("qemu: -m 1Q: no such size\nqemu: sorry\n"), end(1)])
        reason = "QEMU ended before the guest was ready (qemu: -m 1Q: no such size)"
        self.check(stage, reason, "--memory", "1Q")
        assert "--memory" in stage.boots()[0]

    def test_qemu_killed(self, stage: Stage) -> None:
        stage.plays([console(FIRST_LINE), die()])
        self.check(stage, "QEMU ended before the guest was ready")

    def test_hello_and_then_silence(self, stage: Stage) -> None:
        stage.plays((*UP, hang()))
        self.check(stage, "no word from the guest in 0 s", *IMPATIENT)

    def test_hello_of_another_protocol(self, stage: Stage) -> None:
        stage.plays((console(FIRST_LINE), event("hello", protocol=7), end()))
        shown = self.check(stage, "QEMU ended before the guest was ready")
        assert "boot 1: 1 line of rubbish on the results channel" in shown

    def test_nothing_but_garbage(self, stage: Stage) -> None:
        stage.plays((console(FIRST_LINE), raw(b"\xff\n" * 1000), end()))
        shown = self.check(stage, "QEMU ended before the guest was ready")
        assert "boot 2: 1000 lines of rubbish on the results channel" in shown

    def test_agent_that_cannot_start_tells_why(self, stage: Stage) -> None:
        broken = event("broken", what="agent", detail="Traceback\nOSError: no ttyS1\n")
        stage.plays((console(FIRST_LINE), broken, end()))
        assert "agent: OSError: no ttyS1" in self.check(
            stage, "QEMU ended before the guest was ready"
        )

    def test_one_bad_boot_is_forgiven(self, stage: Stage) -> None:
        stage.plays([die()], WORKS)
        assert stage.run().status == 0
        assert [test.boot for test in stage.kernel_result().tests] == [2] * 4

    def test_other_kernels_are_tested_all_the_same(self, stage: Stage) -> None:
        other = stage.folder / "other"
        other.write_bytes(bzimage("6.12.1-other"))
        stage.plays([end()], [end()], WORKS)
        assert stage.run(str(other)).status == 3
        bad, good = stage.result().kernels
        assert (bad.has_verdict, good.has_verdict) == (False, True)
