# SPDX-License-Identifier: GPL-2.0-only
"""The folder that keeps what is dear to make twice: kernels, package lists, guest images."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vm.errors import ConfigError


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


@contextlib.contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary name beside `final`; the file written there becomes `final` on success.

    Readers see the old file or the whole new one; of several writers the last one wins. On an
    exception the temporary file is removed and `final` stays as it was.
    """
    handle, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
    # mkstemp(3) lets only the owner read; what is finished follows the umask as any file does.
    os.fchmod(handle, 0o666 & ~_umask())
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


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
