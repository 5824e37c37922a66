# SPDX-License-Identifier: GPL-2.0-only
"""Guests that are ready, saved in the cache: starting from one takes less than a tenth of a boot.

A snapshot is one file: a header, those parts of the guest's memory that it has ever touched, the
state of its CPUs and devices, and a checksum of all that.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from vm.accel import Accel
from vm.cache import atomic_path, cache_dir, mark_used
from vm.command import Descriptors, MachineSpec, command
from vm.errors import SnapshotError
from vm.machine import Machine

_MAGIC = b"nsconform snapshot 1\n"
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_CHUNK = 1 << 20
_LONGEST = 1 << 26
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Content:
    """What a snapshot holds: sizes and places in bytes, and what its maker wants to know again.

    `memory` is the guest's size, of which only `extents` (place, length) are in the file.
    """

    about: Mapping[str, object]
    memory: int
    extents: tuple[tuple[int, int], ...]
    state: int


def key(spec: MachineSpec, kernel: str, image: str, qemu: str) -> str:
    """Name everything that shapes a guest until its agent is ready.

    `kernel` and `image` name the content of those files, `qemu` the version.
    """
    argv = command(spec, Descriptors(0, 1, 2, 3, 4))
    files = {str(spec.kernel): kernel, str(spec.image): image}
    parts = [files.get(word, word) for word in argv] + [qemu, str(spec.qemu)]
    # Under TCG the CPU is QEMU's own; with KVM the guest sees that of the host.
    if spec.accel is Accel.KVM:
        parts += sorted({line for line in _CPUINFO.read_text().splitlines() if _is_model(line)})
    return hashlib.sha256("\0".join([_MAGIC.decode(), *parts]).encode()).hexdigest()[:24]


def _is_model(line: str) -> bool:
    return line.startswith(("model", "flags", "microcode", "stepping"))


def path(key: str) -> Path:
    """Return where the snapshot with this key is, if there is one."""
    return cache_dir("snapshots") / f"{key}.snap"


@dataclass(frozen=True)
class Thawed:
    """The files of a guest that can go on, as descriptors, and what was said `about` it."""

    about: Mapping[str, object]
    memory: int
    state: int


@contextlib.contextmanager
def thawed(snapshot: Path) -> Iterator[Thawed]:
    """Yield the content of a snapshot, copied out of the file, which may vanish from then on.

    Raises SnapshotError if it is not what was saved, FileNotFoundError if there is none.
    """
    with snapshot.open("rb") as stream, contextlib.ExitStack() as files:
        mark_used(snapshot)
        reader = _Reader(stream)
        memory, state = (_nameless(name, files) for name in ("memory", "state"))
        try:
            content = reader.header()
            os.ftruncate(memory, content.memory)
            for place, length in content.extents:
                reader.copy(memory, place, length)
            reader.copy(state, 0, content.state)
            reader.check()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SnapshotError(f"the snapshot {snapshot.name} is of no use: {error}") from None
        stream.close()
        yield Thawed(content.about, memory, state)


def _nameless(purpose: str, files: contextlib.ExitStack) -> int:
    descriptor = os.memfd_create(f"nsconform-{purpose}")
    files.callback(os.close, descriptor)
    return descriptor


class _Reader:
    """Reads a snapshot from its beginning to its end. Raises ValueError if it is damaged."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._checksum = 0

    def header(self) -> Content:
        """Return what stands before the memory."""
        if self._next(len(_MAGIC)) != _MAGIC:
            raise ValueError("it is none")
        header = json.loads(self._next(_LENGTH.unpack(self._next(_LENGTH.size))[0]))
        extents = tuple((int(place), int(length)) for place, length in header["extents"])
        return Content(header["about"], int(header["memory"]), extents, int(header["state"]))

    def copy(self, target: int, place: int, length: int) -> None:
        """Copy the next `length` bytes to a place in a file."""
        for start in range(0, length, _CHUNK):
            os.pwrite(target, self._next(min(_CHUNK, length - start)), place + start)

    def check(self) -> None:
        """Compare the checksum of what was read with what follows."""
        expected = _CHECKSUM.pack(self._checksum)
        if self._next(_CHECKSUM.size) != expected or self._stream.read(1):
            raise ValueError("its checksum is wrong")

    def _next(self, length: int) -> bytes:
        # A damaged length can be any number.
        if length > _LONGEST or len(data := self._stream.read(length)) < length:
            raise ValueError("it is cut short")
        self._checksum = zlib.crc32(data, self._checksum)
        return data


class Writer:
    """A snapshot in the making: take() while the guest stands still, finish() beside its work."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def take(self, machine: Machine, about: Mapping[str, object]) -> None:
        """Stop the guest for as long as it takes to copy it. `about` comes back with the snapshot.

        Raises SnapshotError where QEMU does not let itself be saved, OSError for a full disk.
        """
        with machine.frozen() as (memory, state):
            content = Content(
                about, os.fstat(memory).st_size, tuple(_extents(memory)), os.fstat(state).st_size
            )
            text = json.dumps(asdict(content)).encode()
            self._stream.write(_MAGIC + _LENGTH.pack(len(text)) + text)
            self._stream.flush()
            for place, length in content.extents:
                self._copy(memory, place, length)
            self._copy(state, 0, content.state)

    def finish(self) -> None:
        """Add the checksum of what was taken."""
        self._stream.seek(0)
        checksum = 0
        while chunk := self._stream.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
        self._stream.write(_CHECKSUM.pack(checksum))

    def _copy(self, source: int, place: int, length: int) -> None:
        end = place + length
        while place < end:
            place += os.sendfile(self._stream.fileno(), source, place, end - place)


@contextlib.contextmanager
def writer(key: str) -> Iterator[Writer | None]:
    """Yield a writer of the snapshot with this key, which is there when the block ends well.

    None if it is there already, or another run is about to make it.
    """
    final = path(key)
    with final.with_name(f".{key}.lock").open("wb") as lock:
        if not _is_ours(lock) or final.exists():
            yield None
            return
        with atomic_path(final) as unfinished, unfinished.open("r+b") as stream:
            yield Writer(stream)


def _is_ours(lock: BinaryIO) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield place and length of what a sparse file holds (lseek(2), SEEK_DATA)."""
    end = 0
    size = os.fstat(descriptor).st_size
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:
            # ENXIO: nothing but a hole is left.
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end - start
