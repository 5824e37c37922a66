# SPDX-License-Identifier: GPL-2.0-only
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.results import (
    BootRecord,
    KernelResult,
    Outcome,
    RunResult,
    TestResult,
    exit_status,
    from_json,
    merge,
    to_json,
)
from vm.errors import ConfigError

RUN = Path(__file__).parent / "data" / "run.json"

# The example of the design, which other tools rely on, with what has been added since.
DESIGN: dict[str, Any] = {
    "schema": "nsconform.run/1",
    "id": "20261121T201500Z-3f2a",
    "started": "2026-11-21T20:15:00Z",
    "finished": "2026-11-21T20:21:42Z",
    "version": "0.1.0",
    "kernels": [
        {
            "spec": "debian:7.3.4",
            "release": "7.3.4+deb13-cloud-amd64",
            "arch": "x86_64",
            "sha256": "beef",
            "accel": "tcg",
            "accel_reason": "KVM opened but the kernel did not boot in 10 s",
            "qemu": "10.0.2",
            "cpus": 2,
            "features": ["listns"],
            "boots": [
                {
                    "n": 1,
                    "console": "console-1.log",
                    "seconds_to_first_test": 4.1,
                    "end": "clean",
                    "start": "cold",
                }
            ],
            "tests": [
                {
                    "id": "listns/test_pagination.py::test_cursor_of_dead_namespace",
                    "suite": "listns",
                    "behaviours": ["LNS-PAG-06"],
                    "outcome": "pass",
                    "flaky": False,
                    "attempts": 1,
                    "boot": 1,
                    "duration": 0.031,
                    "reason": "",
                    "detail": "",
                    "observations": {"errno_past_end": "ENOENT"},
                    "known_issue": None,
                    "console": [120, 124],
                }
            ],
        }
    ],
    "seed": 7,
}


def result(outcome: Outcome, **more: Any) -> TestResult:
    return TestResult("s/test_a.py::test_b", "s", ("B-1",), outcome, attempts=1, **more)


def run_of(*kernels: tuple[TestResult, ...]) -> RunResult:
    return RunResult(
        "id", "", "", "0", tuple(KernelResult(f"k{n}", tests=t) for n, t in enumerate(kernels))
    )


class TestOutcome:
    def test_severity_ranks_what_the_reader_must_see_first(self) -> None:
        ranked = sorted(Outcome, key=lambda outcome: outcome.severity)
        assert ranked[0] is Outcome.PASS
        assert ranked[-1] is Outcome.CRASH

    def test_only_evidence_against_the_kernel_or_the_test_is_bad(self) -> None:
        good = {outcome for outcome in Outcome if not outcome.bad}
        assert good == {Outcome.PASS, Outcome.SKIP, Outcome.NOTRUN}


class TestMerge:
    def test_first_attempt_replaces_the_plan(self) -> None:
        planned = TestResult("s/test_a.py::test_b", "s", ("B-1",))
        assert planned.outcome is Outcome.NOTRUN
        assert merge(planned, result(Outcome.PASS)) == result(Outcome.PASS)

    def test_good_and_bad_is_flaky_and_shows_the_bad(self) -> None:
        merged = merge(result(Outcome.FAIL, reason="why", boot=1), result(Outcome.PASS, boot=2))
        expected = result(Outcome.FAIL, reason="why", boot=1, flaky=True)
        assert merged == replace(expected, attempts=2)

    @pytest.mark.parametrize(
        ("first", "second", "shown"),
        [
            (Outcome.FAIL, Outcome.FAIL, Outcome.FAIL),
            (Outcome.FAIL, Outcome.TIMEOUT, Outcome.TIMEOUT),
            (Outcome.CRASH, Outcome.FAIL, Outcome.CRASH),
            (Outcome.PASS, Outcome.SKIP, Outcome.SKIP),
        ],
    )
    def test_attempts_that_agree_on_good_or_bad_are_not_flaky(
        self, first: Outcome, second: Outcome, shown: Outcome
    ) -> None:
        merged = merge(result(first), result(second))
        assert (merged.outcome, merged.flaky, merged.attempts) == (shown, False, 2)

    def test_an_attempt_that_came_to_nothing_changes_nothing(self) -> None:
        failed = result(Outcome.FAIL, reason="why")
        assert merge(failed, result(Outcome.NOTRUN, reason="cut off")) == failed

    def test_once_flaky_always_flaky(self) -> None:
        flaky = merge(result(Outcome.FAIL), result(Outcome.PASS))
        assert merge(flaky, result(Outcome.FAIL)).flaky


class TestExitStatus:
    PASS, FAIL, NOTRUN = result(Outcome.PASS), result(Outcome.FAIL), result(Outcome.NOTRUN)

    def test_all_well(self) -> None:
        assert exit_status(run_of((self.PASS, result(Outcome.SKIP)))) == 0

    @pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.bad])
    def test_every_bad_outcome_is_a_failure(self, outcome: Outcome) -> None:
        assert exit_status(run_of((self.PASS, result(outcome)))) == 1

    def test_a_failure_outweighs_a_missing_verdict(self) -> None:
        assert exit_status(run_of((self.FAIL,), (self.NOTRUN,))) == 1

    @pytest.mark.parametrize(
        "kernels",
        [((PASS,), (NOTRUN,)), ((PASS, NOTRUN),), ((PASS,), ()), ()],
        ids=["kernel without verdict", "test not run", "kernel without tests", "no kernel"],
    )
    def test_what_was_not_run_is_no_verdict(self, kernels: tuple[tuple[TestResult, ...]]) -> None:
        assert exit_status(run_of(*kernels)) == 3

    def test_flaky_and_known_are_no_failures(self) -> None:
        flaky = replace(self.FAIL, flaky=True)
        known = replace(self.FAIL, known_issue="reported")
        assert exit_status(run_of((flaky, known))) == 0


class TestJson:
    def test_form_is_the_one_of_the_design(self) -> None:
        assert json.loads(to_json(from_json(json.dumps(DESIGN)))) == DESIGN

    def test_keys_keep_the_order_of_the_design(self) -> None:
        assert json.dumps(json.loads(to_json(from_json(json.dumps(DESIGN))))) == json.dumps(DESIGN)

    def test_recorded_run_survives_the_round_trip(self) -> None:
        run = from_json(RUN.read_text())
        assert from_json(to_json(run)) == run
        assert {test.outcome for _, test in run.tests()} == set(Outcome)

    def test_a_kernel_that_did_not_boot_is_representable(self) -> None:
        boot = BootRecord(1, "console-1.log", None, "kernel panic: no init")
        kernel = KernelResult("debian:6.1", boots=(boot,), tests=(TestResult("a", "s", ()),))
        run = RunResult("id", "", "", "0", (kernel,))
        assert from_json(to_json(run)) == run
        assert not kernel.has_verdict
        assert kernel.ending == "kernel panic: no init"

    def test_unknown_keys_are_ignored(self) -> None:
        newer = {**DESIGN, "host": "ci-3", "kernels": [{**DESIGN["kernels"][0], "uuid": 7}]}
        assert from_json(json.dumps(newer)) == from_json(json.dumps(DESIGN))

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("", "not a JSON file"),
            ("[]", "schema is None"),
            ('{"schema": "nsconform.run/2"}', "reads only 'nsconform.run/1'"),
            ('{"schema": "nsconform.run/1"}', "id is missing"),
            (json.dumps({**DESIGN, "kernels": 3}), "kernels: expected list, found 3"),
            (json.dumps({**DESIGN, "kernels": [{"spec": 3}]}), r"kernels\[0\]: spec: expected str"),
            (to_json(from_json(json.dumps(DESIGN))).replace("pass", "fine"), "expected one of"),
            (to_json(from_json(json.dumps(DESIGN))).replace("124", ""), "not a JSON file"),
            (json.dumps(DESIGN).replace("[120, 124]", "[120]"), "console: expected 2 values"),
            (json.dumps(DESIGN).replace('"cpus": 2', '"cpus": true'), "cpus: expected int"),
        ],
    )
    def test_anything_else_is_refused_in_one_line(self, text: str, complaint: str) -> None:
        with pytest.raises(ConfigError, match=complaint) as caught:
            from_json(text, "results/x/run.json")
        assert str(caught.value).startswith("results/x/run.json: ")
        assert "\n" not in str(caught.value)
