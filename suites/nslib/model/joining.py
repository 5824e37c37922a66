# SPDX-License-Identifier: GPL-2.0-only
"""setns(2), unshare(2), clone3(2): the errno, in the order in which the kernel looks, or 0."""

from collections.abc import Mapping
from errno import EINVAL, ENOMEM, EPERM, ESRCH

from ..namespaces import NS
from .powers import is_capable, may_access
from .rules import Rule
from .worlds import File, Namespace, Task, World

SETNS = Rule(
    "setns",
    "setns(2) asks for the right type, for CAP_SYS_ADMIN over the namespace and over the one the "
    "task's credentials are in, and for what each type asks for besides; in that order.",
    "kernel/nsproxy.c, validate_ns, validate_nsset and the install functions of the types",
    ("SNS-06", "SNS-20", "SNS-24", "SNS-27", "SNS-32"),
)
JOIN = Rule(
    "setns by pidfd",
    "setns(2) with a pidfd asks for flags, for access to the task, and that it has not exited; "
    "then for each type in turn as with a file of it. It joins all or nothing.",
    "kernel/nsproxy.c, check_setns_flags and validate_nsset",
    ("SNS-03", "SNS-07", "SNS-08", "SNS-09", "SNS-16"),
)
CREATION = Rule(
    "creation",
    "New namespaces other than a user namespace need CAP_SYS_ADMIN in the user namespace that is "
    "to own them; a pid namespace besides that the creator's children are born in its own, and "
    "that its owner is that of its parent or below; no task is born where the init has exited.",
    "kernel/nsproxy.c, copy_namespaces; kernel/pid_namespace.c, create_pid_namespace",
    ("PNS-49",),
)

# In this order a setns(2) of several types installs them (kernel/nsproxy.c, validate_nsset).
INSTALL_ORDER = (NS.USER, NS.MNT, NS.UTS, NS.IPC, NS.PID, NS.CGROUP, NS.NET, NS.TIME)


def setns_errno(task: Task, file: File, flags: int) -> int:
    """setns(2) with a file; `flags` 0 takes any type (kernel/nsproxy.c, setns)."""
    if file.is_socket or flags not in (0, file.of.kind):
        return EINVAL
    return _install_errno(task, {file.of.kind: file.of})


def join_errno(world: World, task: Task, target: Task, kinds: NS) -> int:
    """setns(2) with a pidfd of `target`."""
    if not kinds:
        return EINVAL
    if target.is_reaped:
        return ESRCH
    if not may_access(world, task, target):
        return EPERM
    if not target.is_alive:
        return ESRCH
    return _install_errno(task, joined(target, kinds))


def joined(target: Task, kinds: NS) -> dict[NS, Namespace]:
    """What setns(2) with a pidfd joins: the namespaces that the target is in, of which the pid
    namespace is its active one."""
    return {kind: one for kind, one in target.current().items() if kind & kinds}


def links_of(joined: Mapping[NS, Namespace]) -> dict[str, Namespace]:
    """Namespaces by the links that change when a task joins them: the pid namespace is that of its
    children only, the time namespace both (pidns_install, timens_install)."""
    links = {kind.link: one for kind, one in joined.items() if kind != NS.PID}
    if NS.PID in joined:
        links["pid_for_children"] = joined[NS.PID]
    if NS.TIME in joined:
        links["time_for_children"] = joined[NS.TIME]
    return links


def _install_errno(task: Task, joined: Mapping[NS, Namespace]) -> int:
    into = joined.get(NS.USER, task.user)
    for kind in INSTALL_ORDER:
        if kind in joined and (errno := _errno_of_type(task, joined[kind], into)):
            return errno
    return 0


def _errno_of_type(task: Task, one: Namespace, into: Namespace) -> int:
    """What the install function of a type says; `into` is the user namespace to be in."""
    if one.kind == NS.USER:
        # userns_install: the own one would give all capabilities back.
        if one is task.user:
            return EINVAL
        return 0 if is_capable(task, one) else EPERM
    if not (is_capable(task, one.owner) and is_capable(task, into)):
        return EPERM
    # pidns_install: the active one or one below it, so that a tree of processes stays one.
    if one.kind == NS.PID and task.pid not in one.upwards():
        return EINVAL
    return 0


def creation_errno(task: Task, kinds: NS) -> int:
    """unshare(2) of namespaces, or what clone3(2) does alike."""
    if kinds & NS.USER and not _is_known_in(task.user, task):
        return EPERM
    others = kinds & ~NS.USER
    if not others:
        return 0
    if not kinds & NS.USER and not task.has_caps:
        return EPERM
    if kinds & NS.PID:
        parent = task.proxy["pid_for_children"]
        # copy_pid_ns; create_pid_namespace, in_userns (a new user namespace is below the task's).
        if parent is not task.pid or parent.owner not in [*task.user.upwards()]:
            return EINVAL
    return 0


def _is_known_in(user_ns: Namespace, task: Task) -> bool:
    """create_user_ns: the user must have a mapping in the namespace that it leaves."""
    return user_ns.is_permanent or (user_ns.is_mapped and user_ns.uid == task.uid)


def fork_errno(world: World, task: Task, kinds: NS) -> int:
    """clone3(2): as unshare(2), and alloc_pid (kernel/pid.c) asks for a living init."""
    if errno := creation_errno(task, kinds):
        return errno
    is_dead = not kinds & NS.PID and task.proxy["pid_for_children"] in world.dead
    return ENOMEM if is_dead else 0
