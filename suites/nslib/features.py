# SPDX-License-Identifier: GPL-2.0-only
"""What the running kernel can do, found out by trying and never from its version.

The probes make no namespace and no process, and leave nothing open.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from pathlib import Path

from .forking import CLONE_AUTOREAP, CLONE_INTO_CGROUP, CloneArgs
from .handles import NsHandle, encode_handle, open_handle
from .ids import opened, owned
from .ioctls import NS_GET_ID, NS_GET_MNTNS_ID, NS_GET_PID_IN_PIDNS, NS_MNT_GET_INFO, PidfdGet
from .namespaces import NS, ns_link
from .syscalls import (
    AT_EMPTY_PATH,
    OPEN_TREE_CLONE,
    OPEN_TREE_NAMESPACE,
    SYS_FSCONFIG,
    SYS_FSOPEN,
    clone3,
    detached_mount,
    errno_of,
    ioctl,
    listns_raw,
    move_mount,
    open_tree,
    syscall,
)


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that a kernel has or lacks: how to find out, and where it comes from."""

    probe: Callable[[], bool]
    since: str


def _has_listns() -> bool:
    # Flags are looked at first, and refused; a kernel that does otherwise has listns all the same.
    return errno_of(listns_raw, 0, 0, 0, 1) != errno.ENOSYS


def _has_ioctl(kind: NS, request: int) -> bool:
    """Whether nsfs knows an ioctl: with a null pointer it fails, but not with ENOTTY."""
    with opened(ns_link(kind)) as fd:
        return errno_of(ioctl, fd, request) != errno.ENOTTY


def _has_pid_translation() -> bool:
    # With a pid that exists: for others old kernels answered ENOTTY too (until 7.1, 6.12.92).
    with opened(ns_link(NS.PID)) as fd:
        return errno_of(ioctl, fd, NS_GET_PID_IN_PIDNS, os.getpid()) == 0


def _has_handles() -> bool:
    return _opens_own_handle(whole=True)


def _has_id_handles() -> bool:
    return _opens_own_handle(whole=False)


def _opens_own_handle(*, whole: bool) -> bool:
    try:
        with opened(ns_link(NS.UTS)) as fd:
            handle = encode_handle(fd).handle
        with owned(open_handle(handle if whole else NsHandle(handle.ns_id))):
            return True
    except OSError:  # EOPNOTSUPP, EBADF or ESTALE, depending on what is missing
        return False


def _has_proc_pidns() -> bool:
    # Only a kernel that knows the option finds out that there is no such file.
    texts = (b"proc", b"pidns", b"/proc/no-such-file")
    name, key, path = (ctypes.create_string_buffer(text) for text in texts)
    with owned(syscall(SYS_FSOPEN, ctypes.addressof(name), 0)) as context:
        set_string = 1  # FSCONFIG_SET_STRING, include/uapi/linux/mount.h
        arguments = context, set_string, ctypes.addressof(key), ctypes.addressof(path), 0
        return errno_of(syscall, SYS_FSCONFIG, *arguments) == errno.ENOENT


def _has_pidfd_ioctls() -> bool:
    with owned(os.pidfd_open(os.getpid())) as pidfd:
        try:
            os.close(ioctl(pidfd, PidfdGet.UTS))
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
            return False
        return True


def _has_open_tree_namespace() -> bool:
    # Unknown flags are refused before the fd is looked at.
    return errno_of(open_tree, -1, "nothing", OPEN_TREE_NAMESPACE) == errno.EBADF


def _has_autoreap() -> bool:
    # The cgroup is looked at after the flags, and before there is a child.
    no_cgroup = CloneArgs(flags=CLONE_AUTOREAP | CLONE_INTO_CGROUP, cgroup=2**31 - 1)
    return errno_of(clone3, ctypes.addressof(no_cgroup), ctypes.sizeof(no_cgroup)) == errno.EBADF


def _has_tun() -> bool:
    try:
        with opened("/dev/net/tun", os.O_RDWR):
            return True
    except OSError:  # ENOENT without the device file, ENODEV without the driver
        return False


def _has_detached_trees() -> bool:
    """Whether a mount can be attached to one that is attached nowhere itself."""
    try:
        with owned(detached_mount()) as tree:
            os.close(os.open("file", os.O_CREAT | os.O_RDONLY, dir_fd=tree))
            with (
                opened("/proc/version") as file,
                owned(open_tree(file, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)) as mounted,
            ):
                move_mount(mounted, tree, "file")
                return True
    except OSError:  # EINVAL, or EPERM for who is not root
        return False


def _has_thread_pidfds() -> bool:
    thread_pidfd = os.O_EXCL  # PIDFD_THREAD (include/uapi/linux/pidfd.h)
    try:
        os.close(os.pidfd_open(os.getpid(), thread_pidfd))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _has_cgroup2() -> bool:
    return any(" - cgroup2 " in line for line in Path("/proc/self/mountinfo").open())


def _allows_unprivileged_userns() -> bool:
    """The limit of the user namespace, Debian's switch, Ubuntu's AppArmor restriction."""
    return (
        _sysctl("user/max_user_namespaces", "0") != "0"
        and _sysctl("kernel/unprivileged_userns_clone", "1") != "0"
        and _sysctl("kernel/apparmor_restrict_unprivileged_userns", "0") == "0"
    )


def _sysctl(name: str, default: str) -> str:
    path = Path("/proc/sys", name)
    return path.read_text().strip() if path.exists() else default


_TYPES_SINCE = {
    NS.CGROUP: "4.6",
    NS.IPC: "2.6.19",
    NS.NET: "2.6.24",
    NS.PID: "2.6.24",
    NS.TIME: "5.6",
    NS.USER: "3.8",
    NS.UTS: "2.6.19",
}

FEATURES = {
    "listns": Feature(_has_listns, "6.19"),
    # One id counter with fixed ids for the initial namespaces came in the series of listns
    # (commit 3760342fd631); to look at an id would be to probe what the tests check.
    "fixed_ids": Feature(_has_listns, "6.19"),
    "active_refs": Feature(_has_listns, "6.19"),  # the same series, commit 3a18f809184b
    "id_handles": Feature(_has_id_handles, "6.19"),
    "clone_autoreap": Feature(_has_autoreap, "7.1"),
    "open_tree_namespace": Feature(_has_open_tree_namespace, "7.0"),
    "nsid": Feature(lambda: _has_ioctl(NS.UTS, NS_GET_ID), "6.18"),
    "nsfs_handles": Feature(_has_handles, "6.18"),
    "mnt_ns_info": Feature(lambda: _has_ioctl(NS.MNT, NS_MNT_GET_INFO), "6.12"),
    "mntns_id": Feature(lambda: _has_ioctl(NS.MNT, NS_GET_MNTNS_ID), "6.11"),
    "ns_last_pid": Feature(
        Path("/proc/sys/kernel/ns_last_pid").exists, "3.3, with CONFIG_CHECKPOINT_RESTORE"
    ),
    "pid_translation": Feature(_has_pid_translation, "6.11"),
    "pidfd_ioctls": Feature(_has_pidfd_ioctls, "6.11"),
    "detached_trees": Feature(_has_detached_trees, "6.15"),
    "proc_pidns": Feature(_has_proc_pidns, "6.18"),
    "tun": Feature(_has_tun, "2.4, if configured"),
    "thread_pidfds": Feature(_has_thread_pidfds, "6.9"),
    "cgroup2": Feature(_has_cgroup2, "4.5, if mounted"),
    "unprivileged_userns": Feature(_allows_unprivileged_userns, "3.8, unless switched off"),
    **{
        f"{kind.link}_ns": Feature(ns_link(kind, "self").exists, f"{since}, if configured")
        for kind, since in _TYPES_SINCE.items()
    },
}
"""Features by name, as the `needs` marker and the guest's first event call them."""


@cache
def has_feature(name: str) -> bool:
    """Whether the running kernel has a feature of FEATURES; probed once."""
    return FEATURES[name].probe()


def configured_types(*without: NS) -> list[NS]:
    """The namespace types that the running kernel has, `without` some of them."""
    kinds = [kind for kind in NS if kind not in without]
    # No kernel can be built without mount namespaces.
    return [kind for kind in kinds if kind == NS.MNT or has_feature(f"{kind.link}_ns")]


def configured_mask(*without: NS) -> NS:
    """The types of configured_types() in one mask."""
    return reduce(or_, configured_types(*without))


def probe_all() -> dict[str, bool]:
    """Every feature by name."""
    return {name: has_feature(name) for name in FEATURES}
