# SPDX-License-Identifier: GPL-2.0-only
"""How guests are accelerated, from the command line to run.json, on a fake QEMU."""

from collections.abc import Sequence
from pathlib import Path

import pytest

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
    hang,
    with_two,
)


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
