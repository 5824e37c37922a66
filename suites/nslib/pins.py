# SPDX-License-Identifier: GPL-2.0-only
"""Passive pins: what keeps a namespace in memory without keeping it active.

Once its tasks are gone, a pinned namespace is still on the kernel's trees, but listns and file
handles must not show it. No such pin is known for uts and time namespaces.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .ids import owned
from .namespaces import NS
from .tasks import Task


def _pin_user(task: Task) -> int:
    return _open(f"/proc/{task.pid}/uid_map")  # fs/proc/base.c, proc_id_map_open


def _pin_mnt(task: Task) -> int:
    return _open(f"/proc/{task.pid}/mountinfo")  # fs/proc_namespace.c, mounts_open_common


def _pin_net(task: Task) -> int:
    return task.fetch(_new_socket)


def _pin_pid(task: Task) -> int:
    return os.dup(task.pidfd)  # struct pid holds its pid namespace


def _pin_ipc(task: Task) -> int:
    # ipc/util.c, sysvipc_proc_open; it pins the task's pid namespace too.
    return task.fetch(_open, "/proc/sysvipc/msg")


def _pin_cgroup(task: Task) -> int:
    return task.fetch(_open_cgroup_file)  # kernel/cgroup/cgroup.c, cgroup_file_open


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _new_socket() -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()


def _open_cgroup_file() -> int:
    """Open a file of the first cgroup v2 mount, wherever it is."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return _open(f"{fields[4]}/cgroup.procs")
    raise FileNotFoundError("cgroup v2 is not mounted")


_PINS = {
    NS.USER: _pin_user,
    NS.MNT: _pin_mnt,
    NS.NET: _pin_net,
    NS.PID: _pin_pid,
    NS.IPC: _pin_ipc,
    NS.CGROUP: _pin_cgroup,
}
PINNABLE = tuple(_PINS)
"""The types for which a passive pin is known."""


@contextmanager
def pinned(task: Task, kind: NS) -> Iterator[int]:
    """Pin the task's namespace of type `kind` passively for the block; gives the pinning fd.

    The pin outlasts the task: end that within the block to have the namespace inactive.
    """
    with owned(_PINS[kind](task)) as fd:
        yield fd
