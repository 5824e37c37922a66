# SPDX-License-Identifier: GPL-2.0-only
"""The files of the suites, on their way into a guest that has started without them."""

import marshal
import os
import shutil
import sys
import zlib
from collections.abc import Mapping

# Path in the guest → content, seconds since the epoch. Compiled modules refer to the times.
Files = Mapping[str, tuple[bytes, int]]


def pack(files: Files) -> bytes:
    """Return what `unpack` takes; both ends run the same Python, so its own format will do."""
    return zlib.compress(marshal.dumps(dict(files)), level=1)


def unpack(archive: bytes, folder: str) -> Files:
    """Let an archive's files take the place of all that is in `folder`, and return them.

    Raises ValueError for less or more than one archive, zlib.error for a damaged one.
    """
    files: Files = marshal.loads(_inflated(archive))  # noqa: S302 - our own harness made it
    shutil.rmtree(folder, ignore_errors=True)
    made: set[str] = set()
    for path, (content, mtime) in files.items():
        target = os.path.join(folder, path)
        parent = os.path.dirname(target)
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        with open(target, "wb", buffering=0) as file:
            file.write(content)
        os.utime(target, (mtime, mtime))
    return files


def _inflated(archive: bytes) -> bytes:
    # zlib.decompress would be content with the first of two archives.
    stream = zlib.decompressobj()
    data = stream.decompress(archive)
    if not stream.eof or stream.unused_data:
        raise ValueError("the suites have not arrived as they were sent")
    return data


class Vocabulary:
    """The modules of nslib, which a guest that was saved has in memory already.

    With them come the features of the kernel that they have found.
    """

    def __init__(self) -> None:
        self._sources: dict[str, bytes] = {}

    def renew(self, files: Files) -> None:
        """Forget the modules unless their sources are among `files` as they were."""
        sources = {
            path: content
            for path, (content, _) in files.items()
            if path.startswith("nslib/") and path.endswith(".py")
        }
        if sources != self._sources:
            for name in [name for name in sys.modules if name.partition(".")[0] == "nslib"]:
                del sys.modules[name]
        self._sources = sources
        # What import knows of folders is older than their files.
        sys.path_importer_cache.clear()
