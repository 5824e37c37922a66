# SPDX-License-Identifier: GPL-2.0-only
"""What the cache holds, and how it stays within its limit: what was used longest ago goes first.

Only what can be made again goes by itself. What came from a mirror stays, since mirrors drop
versions, until it is cleared by name.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vm.cache import cache_dir, locked, locked_alone
from vm.errors import ConfigError

logger = logging.getLogger(__name__)

LIMIT_VARIABLE = "NSCONFORM_CACHE_LIMIT"
_DEFAULT_LIMIT = "4G"
_UNITS = " KMGT"
# stat(2): st_blocks counts these, whatever the file system's own blocks are.
_BLOCK = 512
_BYTECODE = "bytecode"


@dataclass(frozen=True)
class Kind:
    """A kind of things in the cache.

    `patterns` find its entries in the cache folder. Those of a `limited` kind count towards the
    limit and are dropped to keep it; the others go only when they are cleared by name.
    """

    name: str
    patterns: tuple[str, ...]
    limited: bool = False


@dataclass(frozen=True)
class Entry:
    """A file or folder of the cache: bytes allocated on the disk, last use in seconds since 1970.

    Of a thing that is not limited the last use can be the time when it was fetched.
    """

    path: Path
    size: int
    used: float


# What is unfinished has a name that begins with a dot, or is called `partial`.
KINDS = (
    Kind("snapshots", ("snapshots/[!.]*",), limited=True),
    Kind("images", ("images/[!.]*",), limited=True),
    Kind("suites", ("suites/[!.]*",), limited=True),
    Kind("kernels", ("kernels/" + "[0-9a-f]" * 32,)),
    Kind("packages", ("packages/*.deb",)),
    Kind("apt", ("apt/[!.]*", "apt-install/[!.]*")),
    Kind("accel", ("accel.json",)),
)
# Where writers that died can have left temporary files; the other folders clean up after them.
_WRITTEN = ("bin", "images", "snapshots", "suites/*")


@dataclass
class Removal:
    """What a removal came to so far: what has `gone`, what a process `held`, and one line for
    each of the `problems`."""

    gone: list[Entry] = field(default_factory=list)
    held: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """Bytes on the disk."""
        return sum(entry.size for entry in self.gone)

    def remove(self, entry: Entry) -> None:
        """Remove an entry unless a process holds it."""
        try:
            (self.gone if _remove(entry.path) else self.held).append(entry)
        except OSError as error:
            self.problems.append(f"{error.filename or entry.path}: {error.strerror}")


def limit() -> int:
    """Return how many bytes on the disk the limited kinds may take.

    `$NSCONFORM_CACHE_LIMIT` says it in the notation of QEMU's -m ("500M"); the default is 4 GiB.
    Raises ConfigError when it is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE) or _DEFAULT_LIMIT
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text, re.ASCII | re.IGNORECASE)
    if not size:
        raise ConfigError(f"{LIMIT_VARIABLE}={text} is no size; give one such as 500M or 20G")
    return int(float(size[1]) * 1024 ** _UNITS.index(size[2].upper() or " "))


def entries(kind: Kind) -> list[Entry]:
    """Return what there is of a kind, that used longest ago first."""
    cache = cache_dir()
    paths = (path for pattern in kind.patterns for path in cache.glob(pattern))
    return sorted(_entries(paths), key=lambda entry: (entry.used, entry.path))


def keep_within_limit() -> None:
    """Prune the cache to its limit; what stands in the way is logged, and ends no run.

    Raises ConfigError only, for a limit that is no size.
    """
    allowed = limit()
    try:
        problems = prune(allowed).problems
    except (OSError, ConfigError) as error:
        problems = [str(error)]
    for problem in problems:
        logger.warning("the cache is not kept within its limit: %s", problem)


def prune(limit_bytes: int) -> Removal:
    """Remove the limited entries used longest ago until the others take at most `limit_bytes`.

    What a process holds stays, even beyond the limit. Temporary files of dead writers go, too.
    Any number of processes may prune and use the cache meanwhile. Raises OSError when the cache
    folder cannot be read or locked.
    """
    # One at a time: each of two would drop as much as the two together should.
    with locked(cache_dir()):
        found = [entry for kind in KINDS if kind.limited for entry in entries(kind)]
        removal = _sweep()
        swept = removal.freed
        allocated = sum(entry.size for entry in found)
        for entry in sorted(found, key=lambda entry: entry.used):
            if allocated - (removal.freed - swept) <= limit_bytes:
                break
            removal.remove(entry)
    return removal


def clear(kind: Kind) -> Removal:
    """Remove everything of a kind that no process holds, and temporary files of dead writers.

    Waits for those who fetch or make something of that kind. Raises OSError as `prune` does.
    """
    cache = cache_dir()
    folders = {entry.path.parent for entry in entries(kind)} - {cache}
    with contextlib.ExitStack() as locks:
        for folder in sorted(folders):
            locks.enter_context(locked(folder))
        locks.enter_context(locked(cache))
        removal = _sweep()
        for entry in entries(kind):
            removal.remove(entry)
    return removal


def _sweep() -> Removal:
    """Remove temporary files that nobody writes any more: `atomic_path` holds its own."""
    removal = Removal()
    cache = cache_dir()
    folders = [cache, *(folder for pattern in _WRITTEN for folder in cache.glob(pattern))]
    files = (file for folder in folders for file in folder.glob(".*.*") if file.is_file())
    for entry in _entries(files):
        removal.remove(entry)
    return removal


def _entries(paths: Iterable[Path]) -> Iterator[Entry]:
    for path in paths:
        # It may go meanwhile.
        with contextlib.suppress(FileNotFoundError):
            yield Entry(path, used=path.stat().st_mtime, size=_allocated(path))


def _allocated(path: Path | os.DirEntry[str]) -> int:
    """Return the bytes on the disk, without what goes meanwhile or is not ours to read."""
    size = 0
    with contextlib.suppress(OSError):
        size = path.stat(follow_symlinks=False).st_blocks * _BLOCK
        if path.is_dir() and not path.is_symlink():
            with os.scandir(path) as children:
                size += sum(map(_allocated, children))
    return size


def _remove(path: Path) -> bool:
    """Remove a file or folder unless a process holds it; True if it has gone, by whomever."""
    try:
        with _alone(path) as alone:
            if alone and path.is_dir():
                # A collection without its compiled modules would have every guest compile them.
                siblings = path.parent.glob("[!.]*") if path.name == _BYTECODE else ()
                alone = all(_remove(sibling) for sibling in siblings if sibling != path)
                if alone:
                    shutil.rmtree(path)
            elif alone:
                path.unlink()
    except FileNotFoundError:
        return True
    return alone


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Lock what is at `path` against its use, and tell whether that was possible."""
    # An exclusive lock on NFS takes a descriptor that can write, which a folder does not have.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        yield locked_alone(handle) and os.path.samestat(os.fstat(handle), path.stat())
    finally:
        os.close(handle)
