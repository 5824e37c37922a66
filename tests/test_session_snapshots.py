# SPDX-License-Identifier: GPL-2.0-only
"""Guests that are saved and go on later, from the command line to run.json, on a fake QEMU."""

import errno
import fcntl
import json
import struct
import subprocess
import zlib
from collections.abc import Sequence
from typing import Any

import pytest

from harness.results import BootRecord
from tests import fake_qemu
from tests.conftest import IMPATIENT, Stage, bzimage
from tests.fake_qemu import (
    PANIC,
    UP,
    WORKS,
    break_down,
    console,
    die,
    end,
    hang,
    interrupt,
    raw,
    refuse,
    serve,
    with_two,
)
from vm import machine

SILENT = (*UP, hang())
PASSES = {f"test_{name}": "pass" for name in ("one", "two", "three", "four")}


@pytest.fixture
def saving(stage: Stage) -> Stage:
    stage.saves()
    return stage


def boots(stage: Stage) -> tuple[BootRecord, ...]:
    return stage.kernel_result().boots


def starts(stage: Stage) -> list[str]:
    """How the boots of the last run began, by its own word, which is compared with QEMU's."""
    said = [boot.start for boot in boots(stage)]
    told = ["restored" if "-incoming" in argv else "cold" for argv in stage.boots()[-len(said) :]]
    assert said == told
    return said


class TestStart:
    def test_first_boot_is_cold_and_others_are_not(self, saving: Stage) -> None:
        for expected in ("cold", "restored", "restored"):
            assert saving.run().status == 0
            assert starts(saving) == [expected]
            assert saving.outcomes() == PASSES
            assert len(saving.snapshots()) == 1

    def test_run_json_says_it(self, saving: Stage) -> None:
        saving.run()
        saving.run()
        run = json.loads((saving.folder / "results/latest/run.json").read_text())
        assert [boot["start"] for boot in run["kernels"][0]["boots"]] == ["restored"]
        assert run["kernels"][0]["release"] == "7.3.4-fake"
        assert run["kernels"][0]["features"] == ["listns"]

    def test_events_tell_the_whole_story(self, saving: Stage) -> None:
        saving.run()
        saving.run()
        (folder,) = (saving.folder / "results/latest").glob("*bzImage")
        events = [json.loads(line) for line in (folder / "events-1.jsonl").open()]
        kinds = [event["event"] for event in events]
        assert kinds == ["plan", "hello", "ready", *["start", "finish"] * 4, "done"]

    def test_boot_after_a_crash(self, saving: Stage) -> None:
        saving.plays(with_two(console(PANIC), end()), WORKS)
        assert saving.run().status == 1
        assert saving.outcomes() == PASSES | {"test_two": "crash"}
        assert starts(saving) == ["cold", "restored"]

    @pytest.mark.parametrize("retries", [1, 3])
    def test_last_retry_is_cold(self, saving: Stage, retries: int) -> None:
        saving.plays(with_two("fail"))
        assert saving.run("--retries", str(retries)).status == 1
        assert starts(saving) == ["cold", *["restored"] * (retries - 1), "cold"]

    def test_last_retry_is_cold_even_if_it_takes_two_boots(self, saving: Stage) -> None:
        saving.plays((*UP, serve(test_two="fail", test_three="fail")), with_two(die()), WORKS)
        assert saving.run("--retries", "1").status == 1
        assert starts(saving) == ["cold"] * 3

    def test_repetitions(self, saving: Stage) -> None:
        assert saving.run("--repeat", "3").status == 0
        assert starts(saving) == ["cold", "restored", "restored"]

    def test_no_snapshot(self, saving: Stage) -> None:
        saving.run("--no-snapshot")
        assert not saving.snapshots()
        saving.run()
        saving.run("--no-snapshot")
        assert starts(saving) == ["cold"]

    @pytest.mark.parametrize("option", [("--cpus", "1"), ("--memory", "2G"), ("--append", "x")])
    def test_another_guest(self, saving: Stage, option: Sequence[str]) -> None:
        saving.run()
        saving.run(*option)
        assert starts(saving) == ["cold"]
        assert len(saving.snapshots()) == 2

    def test_provisional_kvm(self, saving: Stage) -> None:
        saving.has_kvm()
        for expected in ("cold", "restored"):
            assert saving.run().status == 0
            assert (saving.kernel_result().accel, starts(saving)) == ("kvm", [expected])
        # Whether KVM works has been forgotten, so that only a boot can tell.
        (saving.cache / "accel.json").unlink()
        assert saving.run().status == 0
        assert starts(saving) == ["cold"]
        assert saving.run("--accel", "kvm", "--repeat", "2").status == 0
        assert starts(saving) == ["cold", "restored"]


class TestUseless:
    """Snapshots that bring nothing: a cold boot takes their place."""

    def check(self, stage: Stage, note: str, expected: Sequence[str], *options: str) -> None:
        finished = stage.run(*options)
        assert finished.status == 0
        assert stage.outcomes() == PASSES
        assert starts(stage) == expected
        assert finished.err.count("snapshot dropped: ") == 1
        assert f"snapshot dropped: {note}" in finished.err

    def test_damaged(self, saving: Stage) -> None:
        saving.run()
        (file,) = saving.snapshots()
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        note = f"the snapshot {file.name} is of no use: its checksum is wrong"
        self.check(saving, note, ["cold"])
        assert file.read_bytes() == good

    def test_that_cannot_be_removed(self, saving: Stage) -> None:
        saving.run()
        (file,) = saving.snapshots()
        file.unlink()
        file.mkdir()
        note = f"Is a directory: '{file}'; but {file} cannot be removed: Is a directory\n"
        self.check(saving, "the snapshot", ["cold"])
        assert note in saving.run().err

    def test_of_another_qemu(self, saving: Stage) -> None:
        saving.run()
        # Whole, and yet not what this QEMU can go on from.
        (file,) = saving.snapshots()
        other = fake_qemu.STATE[::-1]
        data = file.read_bytes()[:-4].replace(fake_qemu.STATE, other)
        file.write_bytes(data + struct.pack("<I", zlib.crc32(data)))
        said = "QEMU ended before the guest was ready (qemu: not a state of mine)"
        self.check(saving, said, ["restored", "cold"])

    def test_does_not_answer(self, saving: Stage) -> None:
        saving.plays(WORKS, SILENT, WORKS)
        saving.run()
        self.check(saving, "no word from the guest in 0 s", ["restored", "cold"], *IMPATIENT)
        # The cold boot has saved its guest anew.
        saving.run()
        assert starts(saving) == ["restored"]

    def test_cannot_be_loaded(self, saving: Stage) -> None:
        saving.plays(WORKS, (refuse("migrate-incoming"), *WORKS), WORKS)
        saving.run()
        self.check(saving, "no word from the guest in 0 s", ["restored", "cold"], *IMPATIENT)

    def test_ends_when_it_is_loaded(self, saving: Stage) -> None:
        saving.plays(WORKS, (break_down("migrate-incoming"), *WORKS), WORKS)
        saving.run()
        self.check(saving, "QEMU ended before the guest was ready", ["restored", "cold"])

    def test_panics_at_once(self, saving: Stage) -> None:
        saving.plays(WORKS, (*UP, console(PANIC), end()), WORKS)
        saving.run()
        self.check(saving, "kernel panic: Attempted to kill init!", ["restored", "cold"])

    def test_is_no_fruitless_boot(self, saving: Stage) -> None:
        """Two of those in a row are the end; with this one there are three."""
        saving.plays(WORKS, (*UP, end()), [end()], WORKS)
        saving.run()
        self.check(saving, "QEMU ended before the guest was ready", ["restored", "cold", "cold"])

    def test_brings_no_verdict_again_and_again(self, saving: Stage) -> None:
        lost = {test: [raw(b"{}")] for test in PASSES}
        saving.plays(WORKS, (*UP, serve(**lost)))
        saving.run()
        finished = saving.run()
        assert finished.status == 3
        assert set(saving.outcomes().values()) == {"notrun"}
        assert starts(saving) == ["restored", "cold", "cold"]


class TestSaving:
    """What goes wrong while a guest is saved concerns no test."""

    def check(self, stage: Stage, note: str) -> None:
        finished = stage.run()
        assert finished.status == 0
        assert stage.outcomes() == PASSES
        assert starts(stage) == ["cold"]
        assert f"no snapshot is kept: {note}" in finished.err
        assert not stage.snapshots()
        left = [file.name for file in (stage.cache / "snapshots").iterdir()]
        assert [name for name in left if not name.endswith(".lock")] == []

    @pytest.mark.parametrize("now", [bzimage("6.6.6-rebuilt"), None], ids=["rebuilt", "gone"])
    def test_kernel_that_changes_meanwhile(self, saving: Stage, now: bytes | None) -> None:
        """Neither a verdict nor a snapshot goes by the name of the one that was there before."""

        start = machine._start

        def rebuild_and_start(*guest: Any) -> subprocess.Popen[bytes]:
            saving.kernel.unlink()
            if now is not None:
                saving.kernel.write_bytes(now)
            return start(*guest)

        saving.monkeypatch.setattr(machine, "_start", rebuild_and_start)
        finished = saving.run("--retries", "1")
        assert finished.status == 3
        assert f"no verdict: {saving.kernel} has changed since the run began" in finished.err
        assert set(saving.outcomes().values()) == {"notrun"}
        assert starts(saving) == ["cold"]
        assert not saving.snapshots()

    @pytest.mark.parametrize("command", ["stop", "migrate-set-capabilities", "migrate"])
    def test_qemu_refuses(self, saving: Stage, command: str) -> None:
        saving.plays((refuse(command), *WORKS))
        self.check(saving, f"QEMU refuses `{command}`: not today\n")

    def test_disk_is_full(self, saving: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("vm.snapshots.Writer._add", full)
        self.check(saving, "[Errno 28] No space left on device\n")

    def test_qemu_vanishes(self, saving: Stage) -> None:
        """It would in every boot, so that no other guest is saved."""
        saving.plays((break_down("migrate"), *WORKS))
        finished = saving.run()
        assert finished.status == 0
        assert saving.outcomes() == PASSES
        assert starts(saving) == ["cold", "cold"]
        assert finished.err.count("no snapshot is kept: QEMU's monitor does not answer `") == 1
        assert not saving.snapshots()

    def test_another_run_saves_the_same(self, saving: Stage) -> None:
        saving.run()
        (file,) = saving.snapshots()
        file.unlink()
        with file.with_name(f".{file.stem}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            finished = saving.run()
        assert finished.status == 0
        assert "snapshot" not in finished.err
        assert starts(saving) == ["cold"]
        assert not saving.snapshots()

    def test_interrupted_run(self, saving: Stage) -> None:
        saving.plays(with_two(interrupt(), hang()), WORKS)
        assert saving.run().status == 130
        assert starts(saving) == ["cold"]
        # The guest was saved before that, and is as good as any.
        saving.run()
        assert starts(saving) == ["restored"]
        assert saving.outcomes() == PASSES
