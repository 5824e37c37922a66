# SPDX-License-Identifier: GPL-2.0-only
"""Who may do what: capabilities over a namespace, the view of all, access to another task."""

from .worlds import Namespace, Task, World


def is_capable(task: Task, user_ns: Namespace | None) -> bool:
    """Whether a task has its capabilities in a user namespace: they count there and below, and who
    made a user namespace has all of them in it, seen from its parent (security/commoncap.c,
    cap_capable_helper)."""
    for one in user_ns.upwards() if user_ns else ():
        if one is task.user:
            return task.has_caps
        if one.owner is task.user and one.uid == task.uid:
            return True
    return False


def sees_all(world: World, task: Task) -> bool:
    """Whether a task may see namespaces that it is not in: it has CAP_SYS_ADMIN in the initial user
    namespace, and the initial pid namespace is its active one (kernel/nscommon.c,
    may_see_all_namespaces; commits 8d76afe84fa2 and d2324a9317f0, Linux 7.0, 6.19.9)."""
    return task.pid is world.initial_pid and is_capable(task, world.initial_user)


def is_current(task: Task, one: Namespace) -> bool:
    """Whether a task is in a namespace (kernel/nscommon.c, is_current_namespace); the pid and time
    namespace of its children do not count."""
    return task.current()[one.kind] is one


def may_access(world: World, task: Task, target: Task) -> bool:
    """PTRACE_MODE_READ access to another task (kernel/ptrace.c, __ptrace_may_access, and
    security/commoncap.c, cap_ptrace_access_check)."""
    if task is target:
        return True
    has_power = is_capable(task, target.user)
    if task.uid != target.uid and not has_power:
        return False
    # A zombie has no memory, and so nothing that could not be dumped.
    if target.is_alive and not target.is_dumpable and not is_capable(task, world.initial_user):
        return False
    is_subset = task.user is target.user and (task.has_caps or not target.has_caps)
    return is_subset or has_power
