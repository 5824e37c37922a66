# SPDX-License-Identifier: GPL-2.0-only
"""System calls that Python 3.11 does not offer, or not with every argument in the caller's hand.

All of them raise OSError with the kernel's errno. Addresses are plain integers, so that a test can
pass any value; 64-bit registers are passed as they are.
"""

import ctypes
import os
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

_libc = ctypes.CDLL(None, use_errno=True)
# A fork through ctypes must not release the interpreter lock around the call: the child has no
# other thread that could give it back.
_libc_locked = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc_locked.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p

SYS_OPEN_TREE = 428  # the same on every architecture but alpha (arch/*/syscall.tbl)
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_CLONE3 = 435
SYS_CLOSE_RANGE = 436
SYS_LISTMOUNT = 458
SYS_LISTNS = 470

AT_FDCWD = -100  # include/uapi/linux/fcntl.h, as all of this block
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000
FD_PIDFS_ROOT = -10002
FD_NSFS_ROOT = -10003

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h, as all of this block
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8

MS_BIND = 0x1000  # include/uapi/linux/mount.h, as all of this block
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
OPEN_TREE_NAMESPACE = 2
MOVE_MOUNT_F_EMPTY_PATH = 4
FSCONFIG_CMD_CREATE = 6


def _checked(result: int) -> int:
    if result != -1:
        return result
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def errno_of(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> int:
    """The errno with which a call fails, 0 if it succeeds; for calls that leave nothing behind."""
    try:
        call(*args, **kwargs)
    except OSError as error:
        return error.errno or 0
    return 0


def syscall(number: int, *args: int) -> int:
    """Make a system call with raw 64-bit arguments; returns its non-negative result."""
    return _checked(_libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, args)))


def listns_raw(request: int, ids: int, nr: int, flags: int) -> int:
    """listns(2) with every register given: two addresses, a count, flags; returns the number of
    ids written. Linux 6.19, commit 76b6f5dfb3fd."""
    return syscall(SYS_LISTNS, request, ids, nr, flags)


def close_range(first: int, last: int) -> None:
    """close_range(2): close every fd from `first` to `last` inclusive."""
    syscall(SYS_CLOSE_RANGE, first, last, 0)


def clone3(args: int, size: int) -> int:
    """clone3(2) on the clone_args at address `args`; 0 in the child, which must not share memory.
    The interpreter's own preparations for a fork are the caller's (see nslib.forking)."""
    return _checked(
        _libc_locked.syscall(ctypes.c_long(SYS_CLONE3), ctypes.c_ulong(args), ctypes.c_ulong(size))
    )


def unshare(flags: int) -> None:
    """unshare(2): leave the namespaces (NS) or other shared parts named by CLONE_* `flags`."""
    _checked(_libc.unshare(ctypes.c_int(ctypes.c_int(flags).value)))


def setns(fd: int, flags: int = 0) -> None:
    """setns(2): join the namespace of an nsfs fd, or those named by `flags` of a pidfd's task."""
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(ctypes.c_int(flags).value)))


def prctl(option: int, *args: int) -> int:
    """prctl(2) with a PR_* option and its integer arguments; returns the call's result."""
    return _checked(
        _libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, (*args, 0, 0, 0, 0)[:4]))
    )


def ioctl(fd: int, request: int, argument: int = 0) -> int:
    """ioctl(2) with a raw argument, a number or an address; returns the call's result."""
    result: int = _libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(request), ctypes.c_ulong(argument))
    return _checked(result)


def name_to_handle_at(dirfd: int, path: str, handle: int, mount_id: int, flags: int) -> None:
    """name_to_handle_at(2): fill the struct file_handle and the mount id at the two addresses."""
    _checked(
        _libc.name_to_handle_at(
            ctypes.c_int(dirfd),
            os.fsencode(path),
            ctypes.c_void_p(handle),
            ctypes.c_void_p(mount_id),
            ctypes.c_int(flags),
        )
    )


def open_by_handle_at(mount_fd: int, handle: int, flags: int) -> int:
    """open_by_handle_at(2) on the struct file_handle at address `handle`; returns the new fd."""
    return _checked(
        _libc.open_by_handle_at(
            ctypes.c_int(mount_fd), ctypes.c_void_p(handle), ctypes.c_int(flags)
        )
    )


def capget(header: int, data: int) -> None:
    """capget(2) on the structures at the two addresses (include/uapi/linux/capability.h)."""
    _checked(_libc.capget(ctypes.c_void_p(header), ctypes.c_void_p(data)))


def capset(header: int, data: int) -> None:
    """capset(2) on the structures at the two addresses (include/uapi/linux/capability.h)."""
    _checked(_libc.capset(ctypes.c_void_p(header), ctypes.c_void_p(data)))


def mount(
    source: str, target: str, filesystem: str = "", flags: int = 0, options: str = ""
) -> None:
    """mount(2): a new mount of `filesystem` with its `options`, or a change by MS_* flags."""
    _checked(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            os.fsencode(filesystem),
            ctypes.c_ulong(flags),
            os.fsencode(options) or None,
        )
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2): remove the topmost mount on `target`."""
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)))


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """open_tree(2): an fd of a mount, with OPEN_TREE_CLONE of a detached copy of it."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return syscall(SYS_OPEN_TREE, dirfd, ctypes.addressof(name), flags)


def move_mount(detached: int, dirfd: int, path: str) -> None:
    """move_mount(2): attach the detached mount `detached` at a path relative to `dirfd`."""
    source = ctypes.create_string_buffer(b"")
    target = ctypes.create_string_buffer(os.fsencode(path))
    addresses = ctypes.addressof(source), ctypes.addressof(target)
    syscall(SYS_MOVE_MOUNT, detached, addresses[0], dirfd, addresses[1], MOVE_MOUNT_F_EMPTY_PATH)


def listmount(request: int, ids: int, nr: int) -> int:
    """listmount(2): write ids of mounts to the address `ids`, up to `nr` of them, as the struct
    mnt_id_req at address `request` asks; returns how many."""
    return syscall(SYS_LISTMOUNT, request, ids, nr, 0)


def detached_mount(filesystem: str = "tmpfs") -> int:
    """fsopen(2), fsconfig(2), fsmount(2): an fd of a new mount that is attached nowhere."""
    name = ctypes.create_string_buffer(os.fsencode(filesystem))
    context = syscall(SYS_FSOPEN, ctypes.addressof(name), 0)
    try:
        syscall(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, 0, 0, 0)
        return syscall(SYS_FSMOUNT, context, 0, 0)
    finally:
        os.close(context)


def watch_file(path: str) -> int:
    """inotify_init1(2), inotify_add_watch(2): an inotify fd that watches a file for changes of its
    attributes."""
    in_attrib = 0x4  # include/uapi/linux/inotify.h
    fd = _checked(_libc.inotify_init1(ctypes.c_int(os.O_CLOEXEC)))
    try:
        _checked(_libc.inotify_add_watch(ctypes.c_int(fd), os.fsencode(path), in_attrib))
    except OSError:
        os.close(fd)
        raise
    return fd


def trace(pid: int) -> None:
    """ptrace(2) with PTRACE_SEIZE: become the tracer of a task without stopping it."""
    seize = 0x4206  # include/uapi/linux/ptrace.h
    _checked(_libc.ptrace(ctypes.c_int(seize), ctypes.c_int(pid), None, None))


def mmap_anonymous(length: int) -> int:
    """mmap(2) of private anonymous memory, readable and writable; returns its address."""
    read_write, private_anonymous = 0x3, 0x22  # include/uapi/asm-generic/mman-common.h
    address: int = _libc.mmap(
        None, ctypes.c_size_t(length), read_write, private_anonymous, -1, ctypes.c_long(0)
    )
    return _checked(-1 if address == ctypes.c_void_p(-1).value else address)


def mmap_file(fd: int, length: int) -> int:
    """mmap(2) of the start of a file, private and readable; returns its address."""
    read, private = 0x1, 0x2  # include/uapi/asm-generic/mman-common.h
    address: int = _libc.mmap(None, ctypes.c_size_t(length), read, private, fd, ctypes.c_long(0))
    return _checked(-1 if address == ctypes.c_void_p(-1).value else address)


def file_system_of(fd: int) -> int:
    """fstatfs(2): the magic number of the file system (f_type, include/uapi/linux/magic.h)."""
    statfs = (ctypes.c_ulong * 32)()  # f_type is its first word
    _checked(_libc.fstatfs(ctypes.c_int(fd), statfs))
    return statfs[0]


def mprotect(address: int, length: int, protection: int) -> None:
    """mprotect(2): 0 forbids any access, 1 leaves reading (PROT_NONE, PROT_READ)."""
    _checked(_libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(length), protection))


def munmap(address: int, length: int) -> None:
    """munmap(2)."""
    _checked(_libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length)))
