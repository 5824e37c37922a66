# SPDX-License-Identifier: GPL-2.0-only
"""Guests that are ready, saved in the cache: starting from one takes less than a tenth of a boot.

A snapshot is one file: a header, the parts of the guest's memory that are not all zeros, each
behind its place and length, where pages are that it holds twice, the state of its CPUs and devices
in the same form, and a checksum of all that.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vm.accel import Accel
from vm.cache import atomic_path, cache_dir, locked_alone, mark_used
from vm.command import Descriptors, MachineSpec, command
from vm.errors import SnapshotError
from vm.machine import Machine, nameless

_MAGIC = b"nsconform snapshot 2\n"
_NUMBERS = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<I")
_CHUNK = 1 << 20
_PAGE = 1 << 12
_ZEROS = bytes(_PAGE)
_CPUINFO = Path("/proc/cpuinfo")


def key(spec: MachineSpec, kernel: str, image: str, qemu: str) -> str:
    """Name everything that shapes a guest until its agent is ready.

    `kernel` and `image` name the content of those files, `qemu` the version.
    """
    argv = command(spec, Descriptors(0, 1, 2, 3, 4))[1:]
    # Where the cache is shapes nothing.
    files = {word: "" for word in argv if word.startswith(f"{cache_dir()}/")}
    files |= {str(spec.kernel): kernel, str(spec.image): image}
    # What virtme-run adds to its command line depends on its version alone.
    parts = [files.get(word, word) for word in argv]
    parts += [qemu, str(spec.qemu), importlib.metadata.version("virtme-ng")]
    # Under TCG the CPU is QEMU's own; with KVM the guest sees that of the host and of its kernel.
    if spec.accel is Accel.KVM:
        parts.append(platform.release())
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
    with contextlib.ExitStack() as files:
        try:
            content = _content(snapshot, files)
        except FileNotFoundError:
            raise
        # What is damaged can hold any number.
        except (OSError, ValueError, OverflowError) as error:
            raise SnapshotError(f"the snapshot {snapshot.name} is of no use: {error}") from None
        yield content


def _content(snapshot: Path, files: contextlib.ExitStack) -> Thawed:
    with snapshot.open("rb") as stream:
        mark_used(snapshot)
        memory, state = (nameless(name, files) for name in ("memory", "state"))
        return Thawed(_read(_Reader(stream), memory, state), memory, state)


def _read(reader: "_Reader", memory: int, state: int) -> Mapping[str, object]:
    if reader.next(len(_MAGIC)) != _MAGIC:
        raise ValueError("it is none")
    size, length = reader.numbers()
    about: Mapping[str, object] = json.loads(reader.next(length))
    os.ftruncate(memory, size)
    for file in (memory, state):
        place, length = reader.numbers()
        while length:
            os.pwrite(file, reader.next(length), place)
            place, length = reader.numbers()
        place, earlier = reader.numbers()
        while place:
            os.pwrite(file, os.pread(file, _PAGE, earlier), place)
            place, earlier = reader.numbers()
    reader.check()
    return about


class _Reader:
    """Reads a snapshot from its beginning to its end. Raises ValueError if it is damaged."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._checksum = 0

    def next(self, length: int) -> bytes:
        """Return the next bytes."""
        # A damaged length can be any number.
        if length > _CHUNK or len(data := self._stream.read(length)) < length:
            raise ValueError("it is damaged")
        self._checksum = zlib.crc32(data, self._checksum)
        return data

    def numbers(self) -> tuple[int, int]:
        """Return the next two numbers."""
        first, second = _NUMBERS.unpack(self.next(_NUMBERS.size))
        return first, second

    def check(self) -> None:
        """Compare the checksum of what was read with what follows."""
        expected = self._checksum
        if _CHECKSUM.unpack(self.next(_CHECKSUM.size))[0] != expected or self._stream.read(1):
            raise ValueError("its checksum is wrong")


class Writer:
    """A snapshot in the making."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._checksum = 0

    def take(self, machine: Machine, about: Mapping[str, object]) -> None:
        """Stop the guest for as long as it takes to copy it. `about` comes back with the snapshot.

        Raises SnapshotError where QEMU does not let itself be saved, OSError for a full disk.
        """
        text = json.dumps(dict(about)).encode()
        with machine.frozen() as (memory, state):
            self._add(_MAGIC, _NUMBERS.pack(os.fstat(memory).st_size, len(text)), text)
            for file in (memory, state):
                pages = _Pages(file)
                for place, data in pages.parts():
                    self._add(_NUMBERS.pack(place, len(data)), data)
                self._add(_NUMBERS.pack(0, 0))
                for place, earlier in pages.copies:
                    self._add(_NUMBERS.pack(place, earlier))
                self._add(_NUMBERS.pack(0, 0))
            self._stream.write(_CHECKSUM.pack(self._checksum))
            self._stream.flush()

    def _add(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._checksum = zlib.crc32(piece, self._checksum)
            self._stream.write(piece)


@contextlib.contextmanager
def writer(key: str) -> Iterator[Writer | None]:
    """Yield a writer of the snapshot with this key, which is there when the block ends well.

    None if it is there already, or another run is about to make it.
    """
    final = path(key)
    with final.with_name(f".{key}.lock").open("wb") as lock:
        if not locked_alone(lock) or final.exists():
            yield None
            return
        with atomic_path(final) as unfinished, unfinished.open("r+b") as stream:
            yield Writer(stream)


class _Pages:
    """The pages of a file: an unpacked image, for one, lies in the guest's memory twice."""

    def __init__(self, descriptor: int) -> None:
        self.copies: list[tuple[int, int]] = []
        self._descriptor = descriptor
        self._earlier: dict[int, int] = {}

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """Yield place and content of each run of pages that are neither zeros nor copies.

        `copies` has the places of a copy and of what it is a copy of, at the end.
        """
        for start, end in _extents(self._descriptor):
            for place in range(start, end, _CHUNK):
                data = os.pread(self._descriptor, min(_CHUNK, end - place), place)
                for first, last in self._runs(place, data):
                    yield place + first, data[first:last]

    def _runs(self, place: int, data: bytes) -> Iterator[tuple[int, int]]:
        begin = None
        for offset in range(0, len(data), _PAGE):
            new = self._is_new(place + offset, data[offset : offset + _PAGE])
            if begin is None and new:
                begin = offset
            elif begin is not None and not new:
                yield begin, offset
                begin = None
        if begin is not None:
            yield begin, len(data)

    def _is_new(self, place: int, page: bytes) -> bool:
        if page == _ZEROS:
            return False
        earlier = self._earlier.setdefault(hash(page), place)
        if earlier == place or os.pread(self._descriptor, len(page), earlier) != page:
            return True
        self.copies.append((place, earlier))
        return False


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield beginning and end of what a sparse file holds (lseek(2), SEEK_DATA)."""
    end = 0
    size = os.fstat(descriptor).st_size
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            # Nothing but a hole is left.
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
