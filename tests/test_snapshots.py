# SPDX-License-Identifier: GPL-2.0-only
"""Snapshot files: what is saved comes back as it was, and nothing else comes back at all."""

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from vm import snapshots
from vm.accel import Accel
from vm.command import MachineSpec
from vm.errors import SnapshotError
from vm.machine import Machine

PAGE = 4096
MB = 1 << 20
ABOUT: Mapping[str, object] = {"release": "7.3.4", "uptime": 2.5}
# Offset → content; sizes that are no whole pages, holes, zeros that were written, a long stretch.
MEMORY = {
    0: b"first",
    3 * PAGE: bytes(2 * PAGE),
    MB - PAGE: b"\xff" * (2 * PAGE),
    3 * MB + 17: os.urandom(2 * MB + 5),
    9 * MB: bytes(range(256)) * 16,
}
SIZE = 10 * MB
STATE = b"\0" * 5000 + b"state of the devices" + b"\0" * 100 + b"!"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Guest:
    """A guest with this memory and state, which counts how often it was stopped."""

    def __init__(self, memory: Mapping[int, bytes], size: int, state: bytes) -> None:
        self.stops = 0
        self._memory = os.memfd_create("memory")
        os.ftruncate(self._memory, size)
        for place, data in memory.items():
            os.pwrite(self._memory, data, place)
        self._state = os.memfd_create("state")
        os.write(self._state, state)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[tuple[int, int]]:
        self.stops += 1
        yield self._memory, self._state

    def close(self) -> None:
        os.close(self._memory)
        os.close(self._state)


Make = Callable[..., Path]


@pytest.fixture
def save() -> Make:
    """Saves a guest under the key "a"."""

    def made(memory: Mapping[int, bytes] = MEMORY, size: int = SIZE, state: bytes = STATE) -> Path:
        guest = Guest(memory, size, state)
        with contextlib.closing(guest), snapshots.writer("a") as writer:
            assert writer is not None
            writer.take(cast(Machine, guest), ABOUT)
        assert guest.stops == 1
        return snapshots.path("a")

    return made


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def everything(file: Path) -> tuple[Mapping[str, object], bytes, bytes]:
    with snapshots.thawed(file) as thawed:
        return thawed.about, content(thawed.memory), content(thawed.state)


def refused(file: Path) -> str:
    with pytest.raises(SnapshotError) as caught, snapshots.thawed(file):
        pass
    return str(caught.value)


class TestRoundTrip:
    def test_of_everything(self, save: Make) -> None:
        about, memory, state = everything(save())
        whole = bytearray(SIZE)
        for place, data in MEMORY.items():
            whole[place : place + len(data)] = data
        assert about == ABOUT
        assert memory == whole
        assert state == STATE

    @pytest.mark.parametrize("state", [b"", b"x", bytes(PAGE), b"y" * PAGE, b"z" * (MB + 1)])
    def test_of_odd_sizes(self, save: Make, state: bytes) -> None:
        _, memory, found = everything(save({}, PAGE, state))
        assert memory == bytes(PAGE)
        # What is missing at the end was zeros, which QEMU's stream does not end with.
        assert found.ljust(len(state), b"\0") == state

    def test_zeros_take_no_room(self, save: Make) -> None:
        memory = {0: bytes(MB), 2 * MB: b"x" * PAGE}
        file = save(memory, 1 << 30, b"state")
        assert file.stat().st_size < 2 * PAGE
        with snapshots.thawed(file) as thawed:
            assert os.fstat(thawed.memory).st_size == 1 << 30
            assert os.fstat(thawed.memory).st_blocks * 512 <= 2 * PAGE

    def test_pages_that_are_alike_take_room_once(self, save: Make) -> None:
        one, other = os.urandom(PAGE), os.urandom(PAGE)
        memory = {0: one, PAGE: other + one, 2 * MB: one * 300, 5 * MB: one[1:] + other[:1]}
        file = save(memory, SIZE, one + other[:5])
        whole = bytearray(SIZE)
        for place, data in memory.items():
            whole[place : place + len(data)] = data
        assert everything(file) == (ABOUT, bytes(whole), one + other[:5])
        assert file.stat().st_size < 8 * PAGE

    def test_of_a_file_that_vanishes(self, save: Make) -> None:
        file = save()
        with snapshots.thawed(file) as thawed:
            file.unlink()
            assert content(thawed.state) == STATE

    def test_of_what_is_not_there(self) -> None:
        with pytest.raises(FileNotFoundError), snapshots.thawed(snapshots.path("a")):
            pass

    def test_descriptors_are_given_back(self, save: Make) -> None:
        file = save()
        before = descriptors()
        with snapshots.thawed(file):
            pass
        file.write_bytes(b"rubbish")
        refused(file)
        assert descriptors() == before


class TestDamage:
    @pytest.fixture
    def small(self, save: Make) -> Path:
        return save({0: b"a", PAGE * 5: b"b"}, 8 * PAGE, b"state")

    def test_any_flipped_bit(self, small: Path) -> None:
        good = small.read_bytes()
        # The pages are all alike inside, and there the checksum alone decides.
        headers = [n for n in range(len(good)) if good[n - 40 : n + 40].strip(b"\0")]
        assert 100 < len(headers) < 1000
        for place in headers:
            for bit in (0, 7):
                bad = bytearray(good)
                bad[place] ^= 1 << bit
                small.write_bytes(bad)
                assert "is of no use: " in refused(small)

    def test_cut_off_anywhere(self, small: Path) -> None:
        good = small.read_bytes()
        for length in [*range(0, len(good) - 1, 97), len(good) - 1]:
            small.write_bytes(good[:length])
            assert "is of no use: " in refused(small)

    def test_more_behind_it(self, small: Path) -> None:
        small.write_bytes(small.read_bytes() + b"x")
        assert "is of no use: its checksum is wrong" in refused(small)

    def test_another_format(self, small: Path) -> None:
        other = small.read_bytes().replace(b"nsconform snapshot ", b"nsconform sn-pshot ", 1)
        small.write_bytes(other)
        assert "is of no use: it is none" in refused(small)

    @pytest.mark.parametrize("number", [1 << 21, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
    @pytest.mark.parametrize("which", range(4))
    def test_numbers_that_are_none(self, small: Path, which: int, number: int) -> None:
        """Size of the memory, length of what is said, place and length of the first part."""
        good = small.read_bytes()
        first = len(b"nsconform snapshot 1\n")
        (length,) = struct.unpack_from("<Q", good, first + 8)
        place = [first, first + 8, first + 16 + length, first + 24 + length][which]
        bad = bytearray(good)
        struct.pack_into("<Q", bad, place, number)
        # Even with a checksum that is right for it nothing worse must happen.
        struct.pack_into("<I", bad, len(bad) - 4, zlib.crc32(bad[:-4]))
        small.write_bytes(bad)
        with contextlib.suppress(SnapshotError), snapshots.thawed(small):
            # A guest of another size: QEMU will refuse it.
            assert which in (0, 2)

    def test_what_cannot_be_read(self) -> None:
        file = snapshots.path("a")
        file.mkdir()
        assert "Is a directory" in refused(file)


class TestWriting:
    def test_nothing_is_kept_of_what_fails(self) -> None:
        with pytest.raises(OSError, match="full"), snapshots.writer("a"):
            raise OSError("full")
        assert not snapshots.path("a").exists()
        assert [file.name for file in snapshots.path("a").parent.iterdir()] == [".a.lock"]

    def test_what_is_there_is_not_made_again(self, save: Make) -> None:
        save()
        with snapshots.writer("a") as writer:
            assert writer is None

    def test_one_of_two_writes(self) -> None:
        with snapshots.writer("a") as first:
            assert first is not None
            with snapshots.writer("a") as second, snapshots.writer("b") as other:
                assert second is None
                assert other is not None
            first.take(cast(Machine, Guest(MEMORY, SIZE, STATE)), ABOUT)
        assert everything(snapshots.path("a"))[2] == STATE

    def test_lock_of_a_dead_writer_is_none(self, save: Make) -> None:
        lock = snapshots.path("a").with_name(".a.lock")
        with lock.open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
        save()


class TestKey:
    SPEC = MachineSpec(Path("/k/bzImage"), Path("/c/image"), Path("/usr/bin/qemu"), Accel.TCG)

    def key(self, spec: MachineSpec = SPEC, *names: str) -> str:
        return snapshots.key(spec, *(names or ("kernel", "image", "10.0.2")))

    @pytest.mark.parametrize(
        "change",
        [
            {"accel": Accel.KVM},
            {"cpus": 1},
            {"memory": "2G"},
            {"append": ("a",)},
            {"append": ("",)},
            {"qemu": Path("/opt/bin/qemu")},
        ],
    )
    def test_changes_with_what_shapes_the_guest(self, change: dict[str, Any]) -> None:
        assert self.key(replace(self.SPEC, **change)) != self.key()

    def test_words_are_kept_apart(self) -> None:
        apart, together = (
            self.key(replace(self.SPEC, append=words)) for words in (("a", "b"), ("a b",))
        )
        assert apart != together

    @pytest.mark.parametrize("names", [("x", "image", "10.0.2"), ("kernel", "x", "10.0.2"),
                                       ("kernel", "image", "10.0.3")])  # fmt: skip
    def test_changes_with_content_and_version(self, names: tuple[str, ...]) -> None:
        assert self.key(self.SPEC, *names) != self.key()

    def test_changes_with_virtme(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = self.key()
        monkeypatch.setattr("importlib.metadata.version", lambda _: "99")
        assert self.key() != before

    def test_cpu_of_the_host_matters_to_kvm_alone(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        kvm = replace(self.SPEC, accel=Accel.KVM)
        keys = []
        for text in ("flags : svm\ncpu MHz : 1\n", "flags : svm\ncpu MHz : 2\n", "flags : vmx\n"):
            (tmp_path / "cpuinfo").write_text(text)
            monkeypatch.setattr("vm.snapshots._CPUINFO", tmp_path / "cpuinfo")
            keys.append((self.key(), self.key(kvm)))
        assert keys[0] == keys[1]
        assert keys[1][0] == keys[2][0]
        assert keys[1][1] != keys[2][1]

    def test_places_of_files_do_not_matter(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        before = self.key()
        moved = replace(self.SPEC, kernel=tmp_path / "k", image=tmp_path / "other/image")
        assert self.key(moved) == before
        monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "other"))
        assert self.key(moved) == before

    def test_numbers_of_descriptors_do_not_matter(self) -> None:
        before = self.key()
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(Path("/dev/null").open())
            assert self.key() == before
