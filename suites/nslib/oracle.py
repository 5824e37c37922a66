# SPDX-License-Identifier: GPL-2.0-only
"""What listns must show to the real root: derived from /proc, without listns.

On a quiet system the active namespaces are those of the tasks, those with an nsfs fd or bind
mount, the owning user namespaces of all these, and the initial ones. Not covered: fds in flight in
sockets.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .ids import id_of, opened, owned
from .ioctls import open_owner
from .namespaces import INITIAL_IDS, NS

_NSFS_NAME = re.compile(rf"({'|'.join(kind.link for kind in NS)}):\[\d+\]")  # fs/nsfs.c, ns_dname
# Tasks end while /proc is read; kernel threads and zombies have no fds.
_UNREADABLE = (FileNotFoundError, ProcessLookupError, PermissionError)


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


def _nsfs_paths() -> dict[str, str]:
    """One path for each namespace that appears in /proc, by its name such as "net:[4026531833]"."""
    found: dict[str, str] = {}
    for process in filter(str.isdecimal, _names("/proc")):
        for thread in _names(f"/proc/{process}/task"):
            task = f"/proc/{process}/task/{thread}"
            links = dict(_nsfs_links(f"{task}/ns"))
            if any(name.startswith("mnt:") and name not in found for name in links):
                found.update(_nsfs_mounts(task))
            found.update(links)
        found.update(_nsfs_links(f"/proc/{process}/fd"))
    return found


# Plain strings from here on: with Path objects this takes three times as long.


def _names(folder: str) -> list[str]:
    with suppress(*_UNREADABLE):
        return os.listdir(folder)
    return []


def _nsfs_links(folder: str) -> Iterator[tuple[str, str]]:
    for name in _names(folder):
        path = f"{folder}/{name}"
        try:
            target = os.readlink(path)
        except _UNREADABLE:
            continue
        if _NSFS_NAME.fullmatch(target):
            yield target, path


def _nsfs_mounts(task: str) -> Iterator[tuple[str, str]]:
    with suppress(OSError):  # ENOENT, ESRCH, or EINVAL for a zombie
        for line in Path(task, "mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[fields.index("-") + 1] == "nsfs":
                yield fields[3], f"{task}/root{fields[4]}"
