# SPDX-License-Identifier: GPL-2.0-only
"""Saving beside a run: what the run waits for, and what it is told."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from harness.saving import saving
from vm import snapshots
from vm.cache import atomic_path
from vm.errors import SnapshotError
from vm.machine import Machine

SECONDS = 20


class Guest:
    """A guest that is still being copied until `copied` is set."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.copied = threading.Event()
        self.goes_on = threading.Event()
        self._problem = problem

    @contextlib.contextmanager
    def frozen(self) -> Iterator[tuple[int, int]]:
        with contextlib.ExitStack() as files:
            memory, state = (os.memfd_create(name) for name in ("memory", "state"))
            for file in (memory, state):
                files.callback(os.close, file)
            os.write(state, b"state")
            assert self.copied.wait(SECONDS)
            if self._problem:
                raise self._problem
            yield memory, state
        self.goes_on.set()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "cache"))


def as_machine(guest: Guest) -> Machine:
    return cast(Machine, guest)


def test_guest_works_as_soon_as_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk = threading.Event()

    @contextlib.contextmanager
    def slow_disk(final: Path) -> Iterator[Path]:
        with atomic_path(final) as unfinished:
            yield unfinished
            assert on_disk.wait(SECONDS)

    monkeypatch.setattr("vm.snapshots.atomic_path", slow_disk)
    guest, failures = Guest(), list[str]()
    threading.Timer(0.1, guest.copied.set).start()
    with saving(as_machine(guest), "a", {}, failures.append):
        assert guest.goes_on.is_set()
        assert not snapshots.path("a").exists()
        on_disk.set()
    assert snapshots.path("a").exists()
    assert failures == []


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), SnapshotError("no")])
def test_failure_is_told_and_ends_nothing(problem: Exception) -> None:
    guest, failures = Guest(problem), list[str]()
    guest.copied.set()
    with saving(as_machine(guest), "a", {}, failures.append):
        pass
    assert failures == [f"no snapshot is kept: {problem}"]
    assert not snapshots.path("a").exists()


def test_failure_is_told_even_if_the_run_fails_too() -> None:
    guest, failures = Guest(SnapshotError("QEMU has gone")), list[str]()
    guest.copied.set()
    with (
        pytest.raises(KeyboardInterrupt),
        saving(as_machine(guest), "a", {}, failures.append),
    ):
        raise KeyboardInterrupt
    assert failures == ["no snapshot is kept: QEMU has gone"]


def test_interrupted_run_leaves_a_whole_snapshot_or_none() -> None:
    guest = Guest()
    guest.copied.set()
    with (
        pytest.raises(KeyboardInterrupt),
        saving(as_machine(guest), "a", {"release": "7.3.4"}, pytest.fail),
    ):
        raise KeyboardInterrupt
    with snapshots.thawed(snapshots.path("a")) as thawed:
        assert thawed.about == {"release": "7.3.4"}


def test_descriptors_of_a_guest_that_is_saved_outlive_it() -> None:
    """After a second interrupt the guest's own are closed, and the numbers go to other files."""
    machine = Machine.__new__(Machine)
    memory, state = (os.memfd_create(name) for name in ("memory", "state"))
    os.write(memory, b"memory")

    class Monitor:
        def write_state(self, path: str, seconds: float) -> None:
            assert seconds > 0
            Path(path).write_bytes(b"state")

        @contextlib.contextmanager
        def paused(self) -> Iterator[None]:
            yield

    class Files:
        pass

    files = Files()
    vars(files).update(memory=memory, state=state)
    vars(machine).update(_monitor=Monitor(), _files=files)
    with machine.frozen() as (own_memory, own_state):
        os.close(memory)
        os.close(state)
        assert os.pread(own_memory, 100, 0) == b"memory"
        assert os.pread(own_state, 100, 0) == b"state"
