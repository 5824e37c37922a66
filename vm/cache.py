# SPDX-License-Identifier: GPL-2.0-only
"""The folder that keeps what is dear to make twice: kernels, package lists, guest images.

Several runs share it. Who uses an entry, or writes a temporary file, has a shared flock(2) on it,
which ends with the process however that ends; `vm.pruning` removes only what it can lock alone.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vm.errors import ConfigError

logger = logging.getLogger(__name__)

# What this process holds, and the descriptors that have the locks; its end closes them.
_held: dict[Path, int] = {}


def cache_dir(*parts: str) -> Path:
    """Return the cache folder, or the folder `parts` in it; it exists afterwards.

    `$NSCONFORM_CACHE` names it, else it is `nsconform` in `$XDG_CACHE_HOME`, else in `~/.cache`
    (XDG Base Directory Specification). Raises ConfigError where no folder can be made.
    """
    folder = _root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the cache folder {folder} ({error.strerror}); "
            "set NSCONFORM_CACHE to a folder that can be written"
        ) from error
    return folder


def _root() -> Path:
    if own := os.environ.get("NSCONFORM_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a path that is not absolute is to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "nsconform"


def held_dir(*parts: str) -> Path:
    """Return the folder `parts` in the cache, held as `hold` does; errors as in `cache_dir`."""
    while not hold(folder := cache_dir(*parts)):
        pass
    return folder


def mark_used(entry: Path) -> bool:
    """Record that an entry of the cache is used now; False if it is not there.

    The time of modification keeps it: that of access is not kept up to date on most machines.
    """
    try:
        os.utime(entry)
    except FileNotFoundError:
        return False
    except OSError as error:  # a cache that somebody else owns, or that is mounted read-only
        logger.info("%s: its use is not recorded: %s", entry, error.strerror)
    return True


def hold(entry: Path) -> bool:
    """Keep an entry of the cache from being dropped until this process ends, and mark it used.

    False if it is not there, which can be so a moment after it was seen: make it, hold it again.
    """
    if entry not in _held or not _is_at(_held[entry], entry):
        if (handle := _share(entry)) is None:
            return False
        if entry in _held:
            os.close(_held[entry])
        _held[entry] = handle
    return mark_used(entry)


def made_once(entry: Path, make: Callable[[Path], object]) -> Path:
    """Return `entry`, held; if it is not there, `make` writes it to the path that it is given.

    Of several processes that want it, one makes it while the others wait.
    """
    while not hold(entry):
        with locked(entry.parent):
            # Nothing is replaced: who holds what was there holds a name, too.
            if not entry.exists():
                with atomic_path(entry) as unfinished:
                    make(unfinished)
    return entry


@contextlib.contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary name beside `final`; the file written there becomes `final` on success.

    Readers see the old file or the whole new one; of several writers the last one wins. On an
    exception the temporary file is removed and `final` stays as it was.
    """
    temporary, handle = _temporary(final)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _temporary(final: Path) -> tuple[Path, int]:
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
        # mkstemp(3) lets only the owner read; what is finished follows the umask as any file does.
        os.fchmod(handle, 0o666 & ~_umask())
        os.close(handle)
        # Before it was locked somebody may have taken it for a dead writer's.
        if (lock := _share(Path(name))) is not None:
            return Path(name), lock


def _share(path: Path) -> int | None:
    """Lock what is at `path` against its removal; None if nothing is there."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError as error:
        # A file system without locks. Nothing is ever removed there: that would take a lock, too.
        logger.info("%s cannot be locked: %s", path, error.strerror)
    if _is_at(handle, path):
        return handle
    os.close(handle)
    return None


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _umask() -> int:
    # umask(2) can be read only by setting it, which another thread may notice.
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))


def _sync(file: Path) -> None:
    # A rename can reach the disk before the data does: a power cut would leave an empty file.
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` alone: other processes that want it wait until the block ends."""
    with (folder / ".lock").open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # closing lets go, and so does a killed process
        yield


def locked_alone(file: int | BinaryIO) -> bool:
    """Lock what is open as `file` unless a process holds it; the lock ends when it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder in `folder`, which is locked meanwhile; remove it in the end.

    It always has the same name, so that what a killed process left goes with the next use.
    """
    with locked(folder):
        scratch = folder / "partial"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch)
