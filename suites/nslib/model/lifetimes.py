# SPDX-License-Identifier: GPL-2.0-only
"""The lifetime rules: which namespaces are active, and which are there at all. Linux 6.19.

Commit 3a18f809184b counts active references besides those that keep a namespace in memory. A
namespace with an active reference is listed (listns(2)) and opens by handle; without one it does
neither, though it may go on to exist, and can become active again: by SIOCGSKNS on a socket, or by
NS_GET_PARENT on a child pid namespace (fs/nsfs.c, nsfs_init_inode).
"""

from collections.abc import Iterable, Iterator

from .rules import Rule
from .worlds import File, Namespace, World

ACTIVE = Rule(
    "active",
    "A namespace is active as long as it is an initial one, a living task holds it by its nsproxy, "
    "a task that is not reaped has it as its user or pid namespace, an nsfs file of it is open, in "
    "flight or mounted in a mount namespace that exists, or it owns an active one.",
    "kernel/nscommon.c, __ns_ref_active_get and __ns_ref_active_put; commit 3a18f809184b",
    ("REG-12",),
)
GONE = Rule(
    "gone",
    "What nothing refers to any more is taken off the kernel's trees.",
    "kernel/nstree.c, __ns_tree_remove",
    ("REG-04",),
)


def active(world: World) -> set[Namespace]:
    """The namespaces that are active."""
    held = {one for one in world.namespaces if one.is_permanent} | {*world.others}
    held.update(_of_tasks(world), _of_files(_open_files(world)))
    held.update(_of_mounts(world, held))
    return held | owners(held)


def existing(world: World) -> set[Namespace]:
    """Namespaces that are certain to be in memory, and so on the kernel's trees.

    A socket keeps its net namespace (include/net/sock.h, sock_net), every namespace its owner, a
    pid namespace its parent. Others may be there a moment longer: their memory is freed by a worker
    of the kernel, after a grace period.
    """
    there = active(world)
    there.update(file.of for file in _open_files(world))
    for one in [*there]:
        there.update(one.upwards())
    return there | owners(there)


def owners(some: Iterable[Namespace]) -> set[Namespace]:
    """The user namespaces above `some` namespaces: an active one has an active reference to its
    owner, and so on up to the initial user namespace (__ns_ref_active_get)."""
    return {above for one in some if one.owner for above in one.owner.upwards()}


def _of_tasks(world: World) -> Iterator[Namespace]:
    """A living task has an nsproxy, which exit(2) drops before there is a zombie (kernel/exit.c,
    do_exit: exit_nsproxy_namespaces). Its credentials and its struct pid go when it is reaped
    (release_task: exit_cred_namespaces; kernel/pid.c, free_pid)."""
    for task in world.unreaped():
        yield task.user
        yield task.pid
        yield from task.proxy.values()


def _open_files(world: World) -> Iterator[File]:
    for task in world.living():
        yield from task.files.values()
    yield from world.queue


def _of_files(files: Iterable[File]) -> Iterator[Namespace]:
    """All files of a namespace share an inode, which is one active reference (fs/nsfs.c,
    nsfs_init_inode and nsfs_evict). A socket has none."""
    return (file.of for file in files if not file.is_socket)


def _of_mounts(world: World, held: set[Namespace]) -> set[Namespace]:
    """What is mounted in a mount namespace that exists: a mount pins the inode.

    A mount namespace that nothing holds has been freed, and its mounts with it (fs/namespace.c,
    put_mnt_ns); one can be held by a mount in an older one.
    """
    found: set[Namespace] = set()
    for mnt_ns in sorted(world.mounts, key=lambda one: one.number):
        if mnt_ns in held or mnt_ns in found:
            found.update(mount.of for mount in world.mounts[mnt_ns].values())
    return found
