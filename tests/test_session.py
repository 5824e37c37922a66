# SPDX-License-Identifier: GPL-2.0-only
"""Boots that go wrong in ways of their own, from the command line to run.json, on a fake QEMU."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.results import TestResult
from tests.conftest import Stage, bzimage
from tests.fake_qemu import (
    FIRST_LINE,
    PANIC,
    WORKS,
    Step,
    by_accel,
    console,
    die,
    end,
    error,
    event,
    finish,
    hang,
    hello,
    interrupt,
    pause,
    raw,
    serve,
)

UP = (console(FIRST_LINE), hello())
FOUR = "beta/test_beta.py::test_four"
# 0.6 s of silence are enough then, and 4.5 s for a boot; or 0.3 s, for one that never comes.
IMPATIENT = ("--timeout-scale", "0.03")
HOPELESS = ("--timeout-scale", "0.002")


def with_two(*steps: Step | str) -> Sequence[Step]:
    """A boot in which something happens in the second test."""
    special = steps[0] if isinstance(steps[0], str) else steps
    return (*UP, serve(test_two=special))  # type: ignore[arg-type]


def second_test(stage: Stage) -> TestResult:
    return stage.kernel_result().tests[1]


class TestOneBoot:
    def test_all_well(self, stage: Stage) -> None:
        finished = stage.run()
        assert finished.status == 0
        kernel = stage.kernel_result()
        assert set(stage.outcomes().values()) == {"pass"}
        assert (kernel.release, kernel.features) == ("7.3.4-fake", ("listns",))
        assert (kernel.accel, kernel.qemu, kernel.cpus) == ("tcg", "10.0.2", 2)
        assert kernel.accel_reason == f"{stage.folder}/kvm does not exist"
        (boot,) = kernel.boots
        assert (boot.n, boot.console, boot.end) == (1, "console-1.log", "clean")
        assert boot.seconds_to_first_test is not None
        assert finished.out.endswith(f"results: {stage.folder}/results/{stage.result().id}\n")

    def test_console_and_events_are_kept(self, stage: Stage) -> None:
        stage.run()
        (folder,) = (stage.folder / "results/latest").glob("*bzImage")
        assert (folder / "console-1.log").read_bytes() == FIRST_LINE.encode().replace(
            b"\n", b"\r\n"
        )
        events = [json.loads(line) for line in (folder / "events-1.jsonl").open()]
        kinds = [event["event"] for event in events]
        assert kinds == ["plan", "hello", "ready", *["start", "finish"] * 4, "done"]

    def test_tests_run_in_their_order_and_console_lines_are_theirs(self, stage: Stage) -> None:
        marks = [console(f"[ 2.000000] nsconform: {what} {FOUR}\n") for what in ("start", "finish")]
        stage.plays((*UP, serve(test_four=[*marks, finish("fail", reason="no reason")])))
        assert stage.run("--suite", "beta").status == 1
        (test,) = stage.kernel_result().tests
        assert (test.id, test.reason, test.console) == (FOUR, "no reason", (2, 3))

    @pytest.mark.parametrize(
        ("said", "kept"),
        [
            (finish("fail", reason="no", detail="long"), ("fail", "no", "long")),
            (finish("skip", reason="needs listns"), ("skip", "needs listns", "")),
            (finish("error", reason="TypeError"), ("error", "TypeError", "")),
            (finish("pass", splats=["WARNING: a", "b"]), ("splat", "WARNING: a", "WARNING: a\nb")),
            (finish("timeout", reason="no end"), ("timeout", "no end", "")),
        ],
    )
    def test_what_the_guest_says_of_a_test(
        self, stage: Stage, said: Step, kept: tuple[str, str, str]
    ) -> None:
        stage.plays(with_two(said))
        assert stage.run().status == (0 if kept[0] == "skip" else 1)
        test = second_test(stage)
        assert (test.outcome, test.reason, test.detail) == kept
        assert len(stage.boots()) == 1

    def test_several_kernels_each_get_their_boot(self, stage: Stage) -> None:
        other = stage.folder / "other"
        other.write_bytes(bzimage("6.12.1-other"))
        stage.plays(WORKS, with_two("fail"))
        assert stage.run(str(other)).status == 1
        good, bad = stage.result().kernels
        assert [Path(kernel.spec).name for kernel in (good, bad)] == ["other", "bzImage"]
        assert [kernel.tests[1].outcome for kernel in (good, bad)] == ["pass", "fail"]


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
        assert second_test(stage).reason == "no end"
        assert [boot.end for boot in stage.kernel_result().boots] == [end, "clean"]
        assert len(stage.boots()) == 2


class TestResultsChannel:
    def test_garbage_harms_no_test(self, stage: Stage) -> None:
        garbage = bytes(range(256)) * 64 + b"\n[1, 2]\n{'event': 'finish'}\n" + b'{"event"'
        stage.plays(with_two(raw(garbage), finish("pass")))
        finished = stage.run()
        assert finished.status == 0
        assert "lines of rubbish on the results channel\n" in finished.err

    def test_flood_without_line_feeds_harms_no_test(self, stage: Stage) -> None:
        stage.plays(with_two(raw(b"x" * (5 << 20)), finish("pass")))
        assert stage.run().status == 0

    def test_file_that_cannot_be_imported_is_told(self, stage: Stage) -> None:
        why = "Traceback\nModuleNotFoundError: No module named 'x'\n"
        broken = event("broken", what="alpha/test_alpha.py", detail=why)
        stage.plays(with_two(broken, finish("error", reason="no such test")))
        finished = stage.run()
        assert finished.status == 1
        assert "alpha/test_alpha.py: ModuleNotFoundError: No module named 'x'\n" in finished.err

    def test_events_of_other_tests_are_not_believed(self, stage: Stage) -> None:
        forged = [
            event("start", test="nobody::asked"),
            event("finish", test="nobody::asked", outcome="pass"),
            event("finish", test=FOUR, outcome="pass"),
            event("finish", test="", outcome="pass"),
            event("finish", test="alpha/test_alpha.py::test_two", outcome="perfect"),
        ]
        stage.plays((*UP, serve(test_two=[*forged, finish("pass")], test_four="fail")))
        finished = stage.run()
        assert stage.outcomes() == {
            "test_one": "pass", "test_two": "pass", "test_three": "pass", "test_four": "fail"
        }  # fmt: skip
        assert "boot 1: 5 lines of rubbish on the results channel\n" in finished.err

    def test_guest_that_vanishes_in_a_test_that_nobody_asked_for(self, stage: Stage) -> None:
        stage.plays((*UP, serve(test_one=[event("start", test="nobody::asked"), die()])), WORKS)
        assert stage.run().status == 1
        assert stage.outcomes()["test_one"] == "crash"

    def test_lost_verdict_is_asked_for_again(self, stage: Stage) -> None:
        stage.plays(with_two(raw(b'{"event": "finish", "test": "al')), WORKS)
        assert stage.run().status == 0
        assert second_test(stage).boot == 2
        first, _ = stage.kernel_result().boots
        assert first.end == "the guest is done, with no word on 1 test"

    def test_verdict_that_never_comes_is_none(self, stage: Stage) -> None:
        stage.plays(with_two(raw(b"{}")))
        assert stage.run().status == 3
        assert stage.outcomes()["test_two"] == "notrun"
        assert second_test(stage).reason == "the guest is done, with no word on 1 test"
        # One more than the two that brought nothing, for the first brought the other tests.
        assert len(stage.boots()) == 3


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


class TestRounds:
    def test_failure_that_does_not_come_again_is_flaky(self, stage: Stage) -> None:
        stage.plays(with_two("fail"), WORKS)
        finished = stage.run("--retries", "2")
        assert finished.status == 0
        assert stage.outcomes()["test_two"] == "fail flaky"
        assert second_test(stage).attempts == 2
        # A flaky test is no failure, so the second retry has nothing to do.
        assert len(stage.boots()) == 2
        assert "boot 2 (tcg): retry of 1 failure\n" in finished.err

    def test_only_failures_are_run_again(self, stage: Stage) -> None:
        stage.plays(with_two("fail"))
        assert stage.run("--retries", "1").status == 1
        tests = stage.kernel_result().tests
        assert [test.attempts for test in tests] == [1, 2, 1, 1]
        assert second_test(stage).outcome == "fail"

    def test_crash_is_run_again(self, stage: Stage) -> None:
        stage.plays(with_two(die()), WORKS)
        assert stage.run("--retries", "1").status == 0
        assert stage.outcomes()["test_two"] == "crash flaky"
        assert [boot.end == "clean" for boot in stage.kernel_result().boots] == [False, True, True]

    def test_repetitions_have_boots_of_their_own(self, stage: Stage) -> None:
        stage.plays(WORKS, with_two("fail"), WORKS)
        assert stage.run("--repeat", "3").status == 0
        assert [test.attempts for test in stage.kernel_result().tests] == [3] * 4
        assert stage.outcomes()["test_two"] == "fail flaky"
        assert len(stage.boots()) == 3

    def test_retry_that_does_not_boot_leaves_the_verdicts(self, stage: Stage) -> None:
        stage.plays(with_two("fail"), [end()])
        assert stage.run("--retries", "3").status == 1
        assert stage.outcomes()["test_two"] == "fail"
        assert len(stage.boots()) == 3

    def test_kernel_that_was_given_up_is_not_booted_again(self, stage: Stage) -> None:
        stage.plays([end()])
        finished = stage.run("--retries", "3", "--repeat", "3")
        assert finished.status == 3
        assert len(stage.boots()) == 2


class TestKvm:
    REASON = "KVM works on this host"

    def test_works_and_is_remembered(self, stage: Stage) -> None:
        stage.has_kvm()
        assert stage.run().status == 0
        assert (stage.kernel_result().accel, stage.kernel_result().accel_reason) == (
            "kvm", self.REASON
        )  # fmt: skip
        # Not found out again: a boot that says nothing is the kernel's fault now.
        stage.has_kvm(first_line_seconds=0)
        assert stage.run().status == 0
        assert ["accel=kvm" in argv for argv in stage.boots()] == [True, True]

    @pytest.mark.parametrize(
        ("seconds", "fault", "why"),
        [
            (20, [hang()], "the kernel did not boot in 0 s"),
            (
                200,
                [error("KVM internal error. Suberror: 1\nRAX=0\n"), hang()],
                "the kernel did not boot in 2 s (KVM internal error. Suberror: 1)",
            ),
            (
                1000,
                [error("qemu: failed to initialize kvm\n"), end(1)],
                "QEMU ended before the guest was ready (qemu: failed to initialize kvm)",
            ),
            (100, [console(FIRST_LINE), hang()], "no word from the guest in 2 s"),
        ],
        ids=["hangs", "says why", "ends", "hangs later"],
    )
    def test_falls_back_and_remembers(
        self, stage: Stage, seconds: float, fault: Sequence[Step], why: str
    ) -> None:
        stage.has_kvm(first_line_seconds=seconds)
        stage.plays([by_accel(kvm=fault, tcg=WORKS)])
        assert stage.run("--timeout-scale", "0.01").status == 0
        kernel = stage.kernel_result()
        assert (kernel.accel, kernel.accel_reason) == ("tcg", f"KVM opened but {why}")
        assert [boot.end for boot in kernel.boots] == [why, "clean"]
        assert stage.run().status == 0
        assert stage.kernel_result().accel_reason == f"KVM opened but {why}"
        assert ["accel=kvm" in argv for argv in stage.boots()] == [True, False, False]

    def test_kernel_that_comes_up_on_neither_says_nothing_of_kvm(self, stage: Stage) -> None:
        other = stage.folder / "other"
        other.write_bytes(bzimage("6.12.1-other"))
        stage.has_kvm()
        dead = [console(FIRST_LINE + PANIC), end()]
        stage.plays(dead, dead, WORKS)
        assert stage.run(str(other)).status == 3
        bad, good = stage.result().kernels
        assert not bad.has_verdict
        assert (good.accel, good.accel_reason) == ("kvm", self.REASON)

    def test_demanded_but_not_there(self, stage: Stage) -> None:
        finished = stage.run("--accel", "kvm")
        assert finished.status == 3
        assert finished.err == (
            f"nsconform: --accel kvm: {stage.folder}/kvm does not exist; use --accel auto or tcg\n"
        )
        assert not (stage.folder / "results").exists()

    def test_demanded_but_not_working(self, stage: Stage) -> None:
        stage.has_kvm(first_line_seconds=0.2)
        stage.plays([hang()])
        finished = stage.run("--accel", "kvm")
        assert finished.status == 3
        why = "--accel kvm: the kernel did not boot in 0 s; use --accel auto or tcg"
        assert f"no verdict: {why}\n" in finished.err
        assert {test.reason for test in stage.kernel_result().tests} == {why}
        assert len(stage.boots()) == 1

    def test_demanded_and_working(self, stage: Stage) -> None:
        stage.has_kvm()
        stage.plays(with_two(die()), WORKS)
        assert stage.run("--accel", "kvm").status == 1
        assert stage.kernel_result().accel_reason == "asked for with --accel kvm"
        assert ["accel=kvm" in argv for argv in stage.boots()] == [True, True]
        # What was demanded tells nothing about what is best.
        assert not (Path(stage.cache) / "accel.json").exists()

    def test_not_wanted(self, stage: Stage) -> None:
        stage.has_kvm()
        assert stage.run("--accel", "tcg").status == 0
        assert stage.kernel_result().accel_reason == "asked for with --accel tcg"


class TestEnd:
    def test_interrupted_run_keeps_what_it_has(self, stage: Stage) -> None:
        # The pause is for what was said before to be heard.
        stage.plays(with_two(pause(0.3), interrupt(), hang()))
        finished = stage.run()
        assert finished.status == 130
        assert stage.outcomes() == {
            "test_one": "pass", "test_two": "notrun", "test_three": "notrun", "test_four": "notrun"
        }  # fmt: skip
        assert [boot.end for boot in stage.kernel_result().boots] == ["interrupted"]
        assert stage.result().finished
        assert not list((stage.folder / "results").glob("*.partial"))

    def test_disk_that_refuses(self, stage: Stage) -> None:
        (stage.folder / "results").touch()
        finished = stage.run()
        assert finished.status == 2
        assert finished.err.startswith(f"nsconform: {stage.folder}/results")
        assert finished.err.count("\n") == 1

    def test_console_that_floods_is_cut(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vm.console.LOG_LIMIT", 1 << 20)
        flood = [console("x" * 63 + "\n")] * 10
        stage.plays(with_two(*[console(("x" * 62 + "\n") * (1 << 14))] * 4, *flood, finish("pass")))
        assert stage.run().status == 0
        (log,) = (stage.folder / "results/latest").glob("*bzImage/console-1.log")
        assert log.stat().st_size < (1 << 20) + 100
        assert log.read_text().endswith("the rest of this console is not kept]\n")
