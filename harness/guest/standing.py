# SPDX-License-Identifier: GPL-2.0-only
"""What a process is to the kernel, besides its memory: whether a test has left that as it was."""

import ctypes
import os
import signal

from harness.guest import census

# include/uapi/linux/prctl.h
_PR_GET_PDEATHSIG = 2
_PR_GET_DUMPABLE = 3
_PR_GET_KEEPCAPS = 7
_PR_GET_SECUREBITS = 27
_PR_GET_CHILD_SUBREAPER = 37
_RETURNED = (_PR_GET_DUMPABLE, _PR_GET_KEEPCAPS, _PR_GET_SECUREBITS)
_STORED = (_PR_GET_PDEATHSIG, _PR_GET_CHILD_SUBREAPER)
# Lines of /proc/PID/status on what no test has a hand in: memory, switches, what other processes
# of the user have queued.
_FLEETING = (b"State:", b"FDSize:", b"Vm", b"Rss", b"Hugetlb", b"SigQ:", b"voluntary", b"nonvol")
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

_libc = ctypes.CDLL(None)

Standing = tuple[object, ...]


def inherited() -> Standing:
    """Return what a child made now would have from this process, but for memory and descriptors; to
    be compared with what it was."""
    return (
        *_links("ns"),
        os.readlink("/proc/self/cwd"),
        os.readlink("/proc/self/root"),
        *_identity(),
        _content("oom_score_adj"),
        _content("limits"),
        _content("cgroup"),
        *(_libc.prctl(option, 0, 0, 0, 0) for option in _RETURNED),
        os.sched_getscheduler(0),
        os.getpriority(os.PRIO_PROCESS, 0),
    )


def take() -> Standing:
    """Return `inherited` and what else a test can leave to the next one in this process."""
    return (
        *inherited(),
        frozenset(census.children()),
        *_links("fd"),
        *(_stored(option) for option in _STORED),
        *map(signal.getitimer, _TIMERS),
        dict(os.environ),
    )


def _identity() -> list[bytes]:
    """Return ids, groups, signals and capabilities of /proc/PID/status
    (Documentation/filesystems/proc.rst)."""
    return [line for line in _content("status").splitlines() if not line.startswith(_FLEETING)]


def _links(folder: str) -> list[str]:
    path = f"/proc/self/{folder}"
    found = []
    for name in sorted(os.listdir(path)):
        try:
            found.append(f"{name} {os.readlink(f'{path}/{name}')}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def _content(name: str) -> bytes:
    try:
        with open(f"/proc/self/{name}", "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        return b""  # a kernel without cgroups


def _stored(option: int) -> int:
    value = ctypes.c_int()
    _libc.prctl(option, ctypes.byref(value), 0, 0, 0)
    return value.value
