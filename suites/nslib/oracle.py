# SPDX-License-Identifier: GPL-2.0-only
"""What listns must show to the real root: derived from /proc, without listns.

On a quiet system the active namespaces are those of the tasks, those with an nsfs fd or bind
mount, the owning user namespaces of all these, and the initial ones. Not covered: fds in flight in
sockets.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .ids import id_of, opened, owned
from .ioctls import open_owner
from .namespaces import INITIAL_IDS, NS

_NSFS_NAME = re.compile(rf"({'|'.join(kind.link for kind in NS)}):\[\d+\]")  # fs/nsfs.c, ns_dname


def active_ids() -> list[int]:
    """Ids of all active namespaces in ascending order, as a real root sees them in /proc."""
    ids = set(INITIAL_IDS.values())
    for path in _nsfs_paths().values():
        with suppress(FileNotFoundError, ProcessLookupError), opened(path) as fd:
            ids.update(_with_owners(fd))
    return sorted(ids)


def _with_owners(fd: int) -> Iterator[int]:
    """Ids of the namespace `fd` and of the user namespaces above it."""
    yield id_of(fd)
    with suppress(PermissionError), owned(open_owner(fd)) as owner:
        yield from _with_owners(owner)  # EPERM above the initial user namespace


def _nsfs_paths() -> dict[str, Path]:
    """One path for each namespace that appears in /proc, by its name such as "net:[4026531833]"."""
    found: dict[str, Path] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        for folder in (*process.glob("task/*/ns"), process / "fd"):
            found.update(_nsfs_links(folder))
        found.update(_nsfs_mounts(process))
    return found


def _nsfs_links(folder: Path) -> Iterator[tuple[str, Path]]:
    # Tasks end while /proc is read; kernel threads and zombies have no fds.
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for path in folder.iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                if _NSFS_NAME.fullmatch(target := str(path.readlink())):
                    yield target, path


def _nsfs_mounts(process: Path) -> Iterator[tuple[str, Path]]:
    with suppress(OSError):  # ENOENT, ESRCH, or EINVAL for a zombie
        for line in (process / "mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[fields.index("-") + 1] == "nsfs":
                yield fields[3], Path(f"{process}/root{fields[4]}")
