# SPDX-License-Identifier: GPL-2.0-only
"""An initramfs archive, in the newc format that the kernel unpacks.

Documentation/driver-api/early-userspace/buffer-format.rst: archives may follow one another in
one file, so that what never changes need not be packed again.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import libarchive


@dataclass(frozen=True)
class Entry:
    """One file of the archive: bytes, permissions, seconds since the epoch."""

    data: bytes
    mode: int = 0o644
    mtime: int = 0


def write(archive: Path, files: Mapping[str, Entry]) -> None:
    """Write `files` (guest path without the leading slash → entry) and the folders they need."""
    with libarchive.file_writer(str(archive), "cpio_newc") as writer:
        for folder in sorted(_folders(files)):
            writer.add_file_from_memory(
                folder, 0, b"", filetype=stat.S_IFDIR, permission=0o755, mtime=0
            )
        for path, entry in sorted(files.items()):
            writer.add_file_from_memory(
                path, len(entry.data), entry.data, permission=entry.mode, mtime=entry.mtime
            )


def _folders(files: Mapping[str, Entry]) -> set[str]:
    return {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
