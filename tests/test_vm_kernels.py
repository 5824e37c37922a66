# SPDX-License-Identifier: GPL-2.0-only
"""Real kernels that do not come up, or lack what is to be tested, and a prompt in one that does."""

import os
import re
import sys
import time
from pathlib import Path

import pexpect
import pytest

from tests.realruns import MUTANTS, ROOT, WITH_LISTNS, WITHOUT_LISTNS, Run, completed
from vm import kernels

pytestmark = pytest.mark.vm

SECONDS = 120


def check_no_verdict(run: Run, reason: str) -> None:
    """Every test has the reason why there was no verdict, and the status says that too."""
    assert run.process.returncode == 3
    assert {test.outcome for test in run.tests().values()} == {"notrun"}
    assert {test.reason for test in run.tests().values()} == {reason}
    assert [boot.end for boot in run.kernel().boots] == [reason] * 2
    assert f"no verdict: {reason}\n" in run.err
    assert "Traceback" not in run.err
    assert run.leftovers() == []


def test_initrd_that_is_not_started(tmp_path: Path) -> None:
    run = completed(tmp_path / "run", WITH_LISTNS, "-k", "before", "--append", "rdinit=/nowhere")
    reason = run.kernel().boots[0].end
    assert reason.startswith("kernel panic: VFS: Unable to mount root fs")
    check_no_verdict(run, reason)
    shown = run.err.partition("the end of its console:\n")[2].split("\n")[:30]
    assert [line for line in shown if f"Kernel panic - not syncing: {reason[14:]}" in line]
    assert len([line for line in shown if re.match(r"\[ *\d+\.\d+\]", line)]) == 30


def test_guest_that_never_speaks(tmp_path: Path) -> None:
    # It waits for a disk.
    options = ["-k", "before", "--timeout-scale", "0.05"]
    for word in ("rdinit=/nowhere", "root=/dev/nowhere", "rootwait"):
        options += ["--append", word]
    run = completed(tmp_path / "run", WITH_LISTNS, *options)
    check_no_verdict(run, "no word from the guest in 8 s")
    assert "[    0.000000] Linux version " in (run.files / "console-1.log").read_text()


def test_kernel_without_listns(tmp_path: Path) -> None:
    options = ["-k", "before or leaves_a_process or after"]
    run = completed(tmp_path / "run", WITHOUT_LISTNS, *options)
    assert run.process.returncode == 1
    assert run.outcomes() == {
        "before": "pass",
        "leaves_a_process_and_its_namespace_behind": "fail",
        "after": "pass",
    }
    assert "listns" not in run.kernel().features
    assert len(run.kernel().boots) == 1
    assert run.kernel().release == kernels.newest_without_listns().release


def test_demanded_kvm_works_or_is_refused(tmp_path: Path) -> None:
    # A small kernel where there is one: it prints its first line sooner.
    image = MUTANTS / "bzImage-release"
    kernel = str(image) if image.exists() else WITH_LISTNS
    started = time.monotonic()
    run = completed(tmp_path / "run", kernel, "-k", "before", "--accel", "kvm")
    if run.process.returncode == 0:
        assert run.kernel().accel == "kvm"
        return
    assert run.process.returncode == 3
    assert re.search(r"--accel kvm: .+; use --accel auto or tcg$", run.err, re.MULTILINE)
    assert "Traceback" not in run.err
    assert run.leftovers() == []
    # Thirty where nothing else runs.
    assert time.monotonic() - started < SECONDS


def test_shell(tmp_path: Path) -> None:
    argv = ["-m", "harness", "shell", "--accel", "tcg", WITH_LISTNS]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    shell = pexpect.spawn(
        sys.executable, argv, cwd=str(ROOT), env=environment, timeout=SECONDS, encoding="utf-8"
    )
    try:
        shell.expect(r"Booting \S+ \(tcg\); Ctrl-A X ends the guest\.")
        shell.expect(r"Linux \S+: Python prompt, nslib is imported; exit\(\) ends the guest")
        shell.expect(">>> ")
        shell.sendline("sorted(list_all()) == sorted(active_ids())")
        shell.expect_exact("True")
        shell.expect(">>> ")
        shell.sendline("exit()")
        shell.expect(pexpect.EOF)
    finally:
        shell.close(force=True)
    assert shell.exitstatus == 0
    assert not list(tmp_path.iterdir())
