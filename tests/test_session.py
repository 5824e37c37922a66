# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts, rounds and the end of a run, from the command line to run.json, on a fake QEMU."""

import json
from pathlib import Path

import pytest

from harness.rundir import EventLog, load_run
from tests.conftest import IMPATIENT, Stage, bzimage
from tests.fake_qemu import (
    FIRST_LINE,
    UP,
    WORKS,
    Step,
    console,
    die,
    end,
    event,
    finish,
    hang,
    interrupt,
    pause,
    raw,
    serve,
    with_two,
)
from vm.errors import ConfigError

FOUR = "beta/test_beta.py::test_four"


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
        test = stage.second_test()
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
        assert stage.second_test().boot == 2
        first, _ = stage.kernel_result().boots
        assert first.end == "the guest is done, with no word on 1 test"

    def test_verdict_that_never_comes_is_none(self, stage: Stage) -> None:
        stage.plays(with_two(raw(b"{}")))
        assert stage.run().status == 3
        assert stage.outcomes()["test_two"] == "notrun"
        assert stage.second_test().reason == "the guest is done, with no word on 1 test"
        # One more than the two that brought nothing, for the first brought the other tests.
        assert len(stage.boots()) == 3


class TestRounds:
    def test_failure_that_does_not_come_again_is_flaky(self, stage: Stage) -> None:
        stage.plays(with_two("fail"), WORKS)
        finished = stage.run("--retries", "2")
        assert finished.status == 0
        assert stage.outcomes()["test_two"] == "fail flaky"
        assert stage.second_test().attempts == 2
        # A flaky test is no failure, so the second retry has nothing to do.
        assert len(stage.boots()) == 2
        assert "boot 2 (tcg): retry of 1 failure\n" in finished.err

    def test_only_failures_are_run_again(self, stage: Stage) -> None:
        stage.plays(with_two("fail"))
        assert stage.run("--retries", "1").status == 1
        tests = stage.kernel_result().tests
        assert [test.attempts for test in tests] == [1, 2, 1, 1]
        assert stage.second_test().outcome == "fail"

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

    def test_disk_that_is_full_meanwhile(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not one test is taken for hanging because its verdict could not be written down."""
        write = EventLog.write

        def refuse(log: EventLog, line: bytes) -> None:
            if b'"finish"' in line:
                raise ConfigError("events-1.jsonl: cannot be written: No space left on device")
            write(log, line)

        monkeypatch.setattr(EventLog, "write", refuse)
        stage.plays(with_two(finish("pass"), hang()))
        finished = stage.run(*IMPATIENT)
        assert finished.status == 2
        assert finished.err.endswith("cannot be written: No space left on device\n")
        (directory,) = (stage.folder / "results").glob("*.partial")
        (kernel,) = load_run(directory).kernels
        assert {test.outcome for test in kernel.tests} == {"notrun"}

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
