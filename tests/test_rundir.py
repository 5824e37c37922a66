# SPDX-License-Identifier: GPL-2.0-only
import json
import logging
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.events import Finish
from harness.replay import attempt, replay
from harness.results import BootRecord, KernelResult, Outcome, RunResult, TestResult, exit_status
from harness.rundir import RunDirectory, kernel_directories, load_run
from vm.errors import ConfigError

EVENTS = Path(__file__).parent / "data" / "events"
SPEC = "debian:7.2.12"
WARNING = "WARNING: CPU: 1 PID: 97 at fs/nsfs.c:512 nsfs_evict+0x2c/0x40"


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """What a full disk is to the writer: write(2) fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def recorded(*names: str) -> KernelResult:
    kernel = KernelResult(SPEC)
    for boot, name in enumerate(names, start=1):
        kernel = replay(kernel, EVENTS / name, boot)
    return kernel


def outcomes(kernel: KernelResult) -> list[str]:
    return [f"{test.outcome}{' flaky' if test.flaky else ''}" for test in kernel.tests]


def planned() -> KernelResult:
    """The kernel of the recorded streams, before anything ran on it."""
    tests = (TestResult(t.id, t.suite, t.behaviours) for t in recorded("complete.jsonl").tests)
    return KernelResult(SPEC, tests=tuple(tests))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path, "0.1.0", [planned()])


class TestReplay:
    def test_complete_stream(self) -> None:
        kernel = recorded("complete.jsonl")
        assert outcomes(kernel) == ["pass", "fail", "splat", "skip", "timeout"]
        assert kernel.release == "7.2.12+deb13-cloud-amd64"
        assert kernel.features == ("listns", "ns_get_id", "pidfd_setns")
        assert kernel.boots == (BootRecord(1, "console-1.log", None, "clean"),)

    def test_everything_that_a_finish_says_is_kept(self) -> None:
        passed, failed, splat, skipped, timeout = recorded("complete.jsonl").tests
        assert passed.observations == {"errno_past_end": "ENOENT", "entries": 11}
        assert failed.behaviours == ("LNS-PAG-13", "LNS-PAG-14")
        assert (failed.boot, failed.attempts, failed.duration) == (1, 1, 0.112)
        assert failed.detail.splitlines()[7] == "E       assert 42 in [40, 41]"
        assert (splat.reason, splat.detail) == (WARNING, WARNING)
        assert skipped.reason == "needs unprivileged user namespaces: EPERM"
        assert timeout.suite == "ids"

    def test_retry_in_a_second_boot(self) -> None:
        kernel = recorded("complete.jsonl", "retry.jsonl")
        assert outcomes(kernel) == ["pass", "fail", "splat", "skip", "timeout flaky"]
        assert [test.attempts for test in kernel.tests] == [1, 2, 1, 1, 2]
        assert [boot.n for boot in kernel.boots] == [1, 2]

    def test_cut_off_stream(self) -> None:
        kernel = recorded("cut-off.jsonl")
        assert outcomes(kernel) == ["pass", "fail", "notrun", "notrun", "notrun"]
        assert [test.reason for test in kernel.tests[2:]] == ["cut off in this test", "", ""]
        assert kernel.boots[0].end == "cut off, unreadable events: 1"

    def test_cut_off_retry_leaves_the_first_verdict(self, tmp_path: Path) -> None:
        lines = (EVENTS / "retry.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "events-2.jsonl").write_text("".join(lines[:3]))
        kernel = replay(recorded("complete.jsonl"), tmp_path / "events-2.jsonl", 2)
        assert kernel.tests == recorded("complete.jsonl").tests

    def test_rubbish_is_counted_and_confirms_nothing(self) -> None:
        kernel = recorded("rubbish.jsonl")
        assert outcomes(kernel) == ["pass", "notrun", "notrun", "notrun", "notrun"]
        assert kernel.boots[0].end == "clean, unreadable events: 7"

    def test_stream_without_plan_adds_no_test(self, tmp_path: Path) -> None:
        lines = (EVENTS / "complete.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "events-1.jsonl").write_text("".join(lines[1:]))
        assert replay(KernelResult(SPEC), tmp_path / "events-1.jsonl", 1).tests == ()

    @pytest.mark.parametrize(
        ("said", "outcome"), [("pass", "splat"), ("skip", "splat"), ("fail", "fail")]
    )
    def test_kernel_complaint_spoils_only_what_was_well(self, said: str, outcome: str) -> None:
        finish = Finish("a", Outcome(said), reason="its own", splats=(WARNING,))
        made = attempt(TestResult("a", "s", ()), finish, 3)
        assert (made.outcome, made.detail, made.boot) == (outcome, WARNING, 3)
        assert made.reason == ("its own" if outcome == "fail" else WARNING)

    @pytest.mark.parametrize(
        ("taint", "outcome"),
        [(0x200, "splat"), (0x80, "splat"), (0x20, "splat"), (0x4000, "splat"),
         # A proprietary module, one out of the tree, a request of a user's.
         (0x1, "pass"), (0x1000, "pass"), (0x40, "pass"), (0, "pass")],
    )  # fmt: skip
    def test_complaint_whose_message_is_lost(self, taint: int, outcome: str) -> None:
        made = attempt(TestResult("a", "s", ()), Finish("a", Outcome.PASS, taint=taint), 3)
        assert made.outcome == outcome
        assert (f"({taint:#x}): see its console" in made.reason) == (outcome == "splat")


class TestRunDirectory:
    def test_before_anything_ran_every_test_stands_as_not_run(
        self, directory: RunDirectory
    ) -> None:
        run = load_run(directory.path)
        assert run.finished == ""
        assert outcomes(run.kernels[0]) == ["notrun"] * 5
        assert exit_status(run) == 3

    def test_complete_run(self, directory: RunDirectory, tmp_path: Path) -> None:
        kernel = recorded("complete.jsonl")
        directory.update(kernel)
        run = directory.complete()
        assert load_run(tmp_path / run.id) == run
        assert run.kernels == (kernel,)
        assert run.started <= run.finished
        assert sorted(path.name for path in directory.kernel(SPEC).iterdir()) == [
            "junit.xml",
            "ktap.txt",
        ]
        assert {path.name for path in tmp_path.iterdir()} == {run.id, "latest"}

    def test_latest_follows_the_newest_run(self, tmp_path: Path) -> None:
        for _ in range(2):
            run = RunDirectory(tmp_path, "0.1.0", [planned()]).complete()
            assert (tmp_path / "latest").readlink() == Path(run.id)
            assert load_run(tmp_path / "latest") == run

    def test_something_else_called_latest_is_left_alone(
        self, directory: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "latest").mkdir()
        with caplog.at_level(logging.WARNING):
            run = directory.complete()
        assert {path.name for path in tmp_path.iterdir()} == {run.id, "latest"}
        assert "`latest` does not point to it" in caplog.text

    def test_cut_off_run_is_read_up_to_the_last_event(self, directory: RunDirectory) -> None:
        (directory.kernel(SPEC) / "events-old.jsonl").write_text("not ours")
        shutil.copy(EVENTS / "cut-off.jsonl", directory.kernel(SPEC) / "events-1.jsonl")
        (kernel,) = load_run(directory.path).kernels
        assert outcomes(kernel) == ["pass", "fail", "notrun", "notrun", "notrun"]
        assert kernel.tests[2].reason == "cut off in this test"

    def test_only_boots_without_a_record_are_replayed(self, directory: RunDirectory) -> None:
        crashed = recorded("cut-off.jsonl")
        victim = replace(crashed.tests[2], outcome=Outcome.CRASH, attempts=1)
        tests = (*crashed.tests[:2], victim, *crashed.tests[3:])
        directory.update(replace(crashed, tests=tests, accel="tcg"))
        for boot, name in ((1, "cut-off.jsonl"), (2, "retry.jsonl")):
            shutil.copy(EVENTS / name, directory.kernel(SPEC) / f"events-{boot}.jsonl")
        (kernel,) = load_run(directory.path).kernels
        assert outcomes(kernel) == ["pass", "fail", "crash", "notrun", "pass"]
        assert [test.attempts for test in kernel.tests] == [1, 2, 1, 0, 1]
        assert ([boot.n for boot in kernel.boots], kernel.accel) == ([1, 2], "tcg")

    def test_run_without_run_json_is_read_from_the_events(self, directory: RunDirectory) -> None:
        shutil.copy(EVENTS / "complete.jsonl", directory.kernel(SPEC) / "events-1.jsonl")
        (directory.path / "run.json").unlink()
        run = load_run(directory.path)
        assert directory.path.name == f"{run.id}.partial"
        assert run.kernels == (recorded("complete.jsonl"),)

    def test_event_log_begins_with_the_plan(self, directory: RunDirectory) -> None:
        with directory.event_log(SPEC, 1, planned().tests[:2]) as log:
            log.write(b'{"event": "hello", "release": "7.2.12", "features": []}')
            lines = (directory.kernel(SPEC) / "events-1.jsonl").read_bytes().splitlines()
        plan = json.loads(lines[0])
        assert (plan["event"], plan["spec"]) == ("plan", SPEC)
        assert plan["tests"][1]["behaviours"] == ["LNS-PAG-13", "LNS-PAG-14"]
        assert json.loads(lines[1])["event"] == "hello"

    def test_kernels_may_be_updated_from_several_threads(self, tmp_path: Path) -> None:
        specs = [f"debian:7.{n}" for n in range(8)]
        directory = RunDirectory(tmp_path, "0.1.0", [KernelResult(spec) for spec in specs])
        results = [KernelResult(spec, release=spec) for spec in specs]
        threads = [threading.Thread(target=directory.update, args=(k,)) for k in results]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert load_run(directory.path).kernels == tuple(results)

    def test_results_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot be written: Not a directory; make room or"):
            RunDirectory(tmp_path / "file" / "results", "0.1.0", [])

    def test_full_disk_is_one_line(self, directory: RunDirectory) -> None:
        with (
            directory.event_log(SPEC, 1, ()) as log,
            file_size_limit(200),
            pytest.raises(ConfigError, match=r"events-1.jsonl: cannot be written: ") as caught,
        ):
            log.write(b'{"event": "heartbeat"}' * 10)
        assert "\n" not in str(caught.value)

    def test_full_disk_leaves_the_last_run_json(self, directory: RunDirectory) -> None:
        before = (directory.path / "run.json").read_bytes()
        with file_size_limit(200), pytest.raises(ConfigError, match="File too large"):
            directory.update(recorded("complete.jsonl"))
        assert (directory.path / "run.json").read_bytes() == before
        assert not list(directory.path.glob(".run.json*"))


class TestKernelDirectories:
    def test_names_are_safe_and_different(self) -> None:
        specs = ["debian:7.3~rc7", "/a/b.img", "a/b.img", "..", "run.json", "x" * 300, "git:t@v7"]
        names = kernel_directories(specs)
        assert list(names) == specs
        assert len(set(names.values()) - {"run.json"}) == len(specs)
        assert names["debian:7.3~rc7"] == "debian-7.3~rc7"
        assert names["a/b.img"] == "a-b.img-2"
        for name in names.values():
            assert Path(name).name == name
            assert not name.startswith((".", "-"))
            assert len(name) <= 64

    def test_names_depend_on_the_specs_alone(self) -> None:
        specs = ["a:b", "a/b", "a b"]
        assert kernel_directories(specs) == kernel_directories(iter(specs))


class TestLoadRun:
    @pytest.mark.parametrize(
        ("make", "complaint"),
        [
            (Path.exists, "no run in it"),
            (Path.mkdir, "no run in it"),
            (Path.touch, "no run in it"),
            (lambda path: (path / "run.json").mkdir(parents=True), "Is a directory"),
        ],
        ids=["nothing", "empty directory", "file", "directory called run.json"],
    )
    def test_what_is_no_run_directory(
        self, tmp_path: Path, make: Callable[[Path], object], complaint: str
    ) -> None:
        make(tmp_path / "run")
        with pytest.raises(ConfigError, match=complaint):
            load_run(tmp_path / "run")

    def test_damaged_run_json_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_bytes(b"\xff{")
        with pytest.raises(ConfigError, match=r"run.json: not a JSON file"):
            load_run(tmp_path)

    def test_run_that_was_never_finished_has_no_verdict(self) -> None:
        run = RunResult("id", "", "", "0", (planned(),))
        assert exit_status(run) == 3
