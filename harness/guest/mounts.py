# SPDX-License-Identifier: GPL-2.0-only
"""The file systems of the guest."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

# include/uapi/linux/mount.h
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_BIND, _MS_MOVE, _MS_REC = 4096, 8192, 16384

_FILESYSTEMS = (
    ("proc", "/proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC),
    ("sysfs", "/sys", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC),
    ("devtmpfs", "/dev", _MS_NOSUID),
    ("cgroup2", "/sys/fs/cgroup", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC),
    ("tmpfs", "/tmp", _MS_NOSUID | _MS_NODEV),  # noqa: S108 - the guest has no other users
)


def mount_all() -> list[str]:
    """Leave the bare rootfs and mount what tests may expect; return what the kernel lacks.

    On the rootfs itself pivot_root(2) fails and setns(2) to a mount namespace finds an odd root,
    so a recursive bind of `/` is moved over it first.
    """
    os.makedirs("/newroot", exist_ok=True)
    _mount("/", "/newroot", "", _MS_BIND | _MS_REC)
    os.chdir("/newroot")
    _mount(".", "/", "", _MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    return [name for name, target, flags in _FILESYSTEMS if not _try(name, target, flags)]


def _try(filesystem: str, target: str, flags: int) -> bool:
    try:
        os.makedirs(target, exist_ok=True)
        _mount(filesystem, target, filesystem, flags)
    except OSError:
        return False
    return True


def _mount(source: str, target: str, filesystem: str, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), filesystem.encode(), flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)
