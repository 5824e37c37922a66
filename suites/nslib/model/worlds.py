# SPDX-License-Identifier: GPL-2.0-only
"""A world: namespaces, tasks, descriptors, bind mounts and what lies in a queue, without a kernel.

It is what the rules (lifetimes, powers, listings, joining) are about and what the operations
change. Tasks and namespaces are numbered in the order of their creation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..namespaces import INITIAL_IDS, NS

ROOT_UID = 0
NOBODY_UID = 54321

FIRST_FREE_FD = 2
"""The two ends of the queue are the first fds of every task."""

PROXY = ("mnt", "uts", "ipc", "pid_for_children", "cgroup", "net", "time", "time_for_children")
"""What a task holds by its nsproxy (include/linux/nsproxy.h), by the names in /proc/PID/ns."""


@dataclass(eq=False)
class Namespace:
    """A namespace of type `kind`, `owner` is its user namespace: the parent of a user namespace.

    `uid` is who made a user namespace, and with `is_mapped` the only user that it knows. `id` is
    what the kernel calls it, 0 as long as nobody knows.
    """

    number: int
    kind: NS
    owner: "Namespace | None" = None
    parent: "Namespace | None" = None
    uid: int = ROOT_UID
    is_mapped: bool = False
    is_permanent: bool = False
    id: int = 0

    @property
    def name(self) -> str:
        """As in "net9"."""
        return f"{self.kind.link}{self.number}"

    def upwards(self) -> Iterator["Namespace"]:
        """It and its ancestors: parents of a pid namespace, owners of a user namespace."""
        one: Namespace | None = self
        while one is not None:
            yield one
            one = one.owner if one.kind == NS.USER else one.parent


@dataclass(frozen=True, slots=True)
class File:
    """An open file: of a namespace (nsfs), or a socket that was made in a net namespace."""

    of: Namespace
    is_socket: bool = False


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount of a namespace; one that came from a more privileged mount namespace is
    locked."""

    of: Namespace
    is_locked: bool = False


@dataclass(eq=False)
class Task:
    """A process with one thread. `proxy` has its namespaces by link but for `user` and `pid`, the
    active ones; it is empty in a zombie.

    `has_caps`: all capabilities in its user namespace, or none.
    """

    number: int
    user: Namespace
    pid: Namespace
    proxy: dict[str, Namespace]
    parent: "Task | None" = None
    uid: int = ROOT_UID
    has_caps: bool = True
    is_dumpable: bool = True
    is_reaped: bool = False
    files: dict[int, File] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in "t3"."""
        return f"t{self.number}"

    @property
    def is_alive(self) -> bool:
        """Whether it has not exited."""
        return bool(self.proxy)

    @property
    def is_zombie(self) -> bool:
        """Whether it has exited, and nobody has waited for it."""
        return not self.proxy and not self.is_reaped

    def link(self, name: str) -> Namespace | None:
        """What /proc/PID/ns/`name` is of."""
        return {"user": self.user, "pid": self.pid}.get(name) or self.proxy.get(name)

    def current(self) -> dict[NS, Namespace]:
        """The eight namespaces that it is in; those for children do not count."""
        links = {kind: self.link(kind.link) for kind in NS}
        return {kind: one for kind, one in links.items() if one is not None}

    def free_fd(self) -> int:
        """The number of the next file that it opens (open(2))."""
        fd = FIRST_FREE_FD
        while fd in self.files:
            fd += 1
        return fd


@dataclass(frozen=True, slots=True)
class Home:
    """What is there before anything happens: the namespaces of the first task, a real root, by
    their ids; `others`, which nobody ends; the initial user namespace owns them all.

    What differs between releases: `opens_unborn`, whether pid_for_children opens before there is an
    init (Linux 7.1, commit a3bdc23ba8ea); `ends_at_inactive`, whether listns(2) fails with ENOENT
    where nothing but inactive namespaces are left (before 7.3.4).
    """

    ids: Mapping[NS, int] = field(default_factory=lambda: INITIAL_IDS)
    others: Mapping[int, NS] = field(default_factory=dict)
    opens_unborn: bool = True
    ends_at_inactive: bool = False


class World:
    """Everything there is. It begins with the initial namespaces and task 0, the real root."""

    def __init__(self, home: Home | None = None) -> None:
        """The first task, where nothing has happened yet."""
        home = home or Home()
        self.home = home
        self.namespaces: list[Namespace] = []
        self.tasks: list[Task] = []
        self.queue: list[File] = []
        self.mounts: dict[Namespace, dict[int, Mount]] = {}
        self.inits: dict[Namespace, Task] = {}
        self.dead: set[Namespace] = set()
        """Pid namespaces whose init has exited."""
        self.has_burnt = False
        """Whether a failed creation may have left something that is about to be freed."""
        self.initial_user = Namespace(0, NS.USER, is_permanent=True, id=home.ids[NS.USER])
        first = {NS.USER: self.initial_user}
        first |= {kind: self._permanent(kind, home.ids[kind]) for kind in NS if kind != NS.USER}
        self.namespaces.extend(first.values())
        self.others = [self._permanent(kind, ns_id) for ns_id, kind in home.others.items()]
        self.initial_pid = first[NS.PID]
        links = {link: first[NS[link.split("_")[0].upper()]] for link in PROXY}
        self.mounts[first[NS.MNT]] = {}
        self.tasks.append(Task(0, self.initial_user, self.initial_pid, links))

    def _permanent(self, kind: NS, ns_id: int) -> Namespace:
        number = [NS.USER, *(one for one in NS if one != NS.USER)].index(kind)
        return Namespace(number, kind, self.initial_user, is_permanent=True, id=ns_id)

    def living(self) -> list[Task]:
        """Tasks that have not exited."""
        return [task for task in self.tasks if task.is_alive]

    def unreaped(self) -> list[Task]:
        """Tasks that are there, zombies as well."""
        return [task for task in self.tasks if not task.is_reaped]

    def add_namespace(
        self, kind: NS, creator: Task, owner: Namespace, parent: Namespace | None = None
    ) -> Namespace:
        """A new namespace, owned by the user namespace that its creator is in then."""
        # A map of root needs a creator with CAP_SETFCAP (kernel/user_namespace.c, verify_root_map).
        is_mapped = creator.has_caps or (owner.is_permanent and creator.uid != ROOT_UID)
        one = Namespace(len(self.namespaces), kind, owner, parent, creator.uid, is_mapped)
        self.namespaces.append(one)
        return one

    def create(self, creator: Task, kinds: NS) -> dict[str, Namespace]:
        """New namespaces, by the link by which a task that unshares them holds them.

        The user namespace comes first and owns the others (kernel/fork.c, ksys_unshare and
        copy_process; kernel/nsproxy.c, create_new_namespaces).
        """
        new: dict[str, Namespace] = {}
        owner = creator.user
        if kinds & NS.USER:
            new["user"] = owner = self.add_namespace(NS.USER, creator, creator.user)
        for kind in (NS.MNT, NS.UTS, NS.IPC, NS.PID, NS.CGROUP, NS.NET, NS.TIME):
            if kinds & kind:
                parent = creator.proxy["pid_for_children"] if kind == NS.PID else None
                new[kind.child_link] = self.add_namespace(kind, creator, owner, parent)
        if kinds & NS.MNT:
            self._copy_mounts(creator.proxy["mnt"], new["mnt"])
        return new

    def _copy_mounts(self, source: Namespace, copy: Namespace) -> None:
        """fs/namespace.c, copy_mnt_ns: files of mount namespaces are not copied; what comes from
        another owner's mount namespace is locked."""
        is_locked = source.owner is not copy.owner
        self.mounts[copy] = {
            place: Mount(mount.of, mount.is_locked or is_locked)
            for place, mount in self.mounts.get(source, {}).items()
            if mount.of.kind != NS.MNT
        }

    def enter(self, task: Task, new: dict[str, Namespace]) -> None:
        """Put a task into namespaces; in a user namespace it has all capabilities then."""
        for link, one in new.items():
            if link == "user":
                task.is_dumpable = task.is_dumpable and is_below(one, task)
                task.user, task.has_caps = one, True
            else:
                task.proxy[link] = one

    def fork(self, parent: Task, new: dict[str, Namespace]) -> Task:
        """A child of a task in new namespaces; it has copies of its parent's descriptors."""
        child = Task(
            len(self.tasks),
            parent.user,
            parent.pid,
            dict(parent.proxy),
            parent,
            parent.uid,
            parent.has_caps,
            parent.is_dumpable,
            files=dict(parent.files),
        )
        self.tasks.append(child)
        self.enter(child, new)
        # Time and pid namespace for children are those of a child (timens_on_fork, alloc_pid).
        child.proxy["time"] = child.proxy["time_for_children"]
        child.pid = child.proxy["pid_for_children"]
        if child.pid is not self.initial_pid:
            self.inits.setdefault(child.pid, child)
        return child

    def opens_children_of(self, pid_ns: Namespace) -> bool:
        """Whether a pid_for_children link to a pid namespace opens."""
        return self.home.opens_unborn or pid_ns.is_permanent or pid_ns in self.inits

    def victims(self, task: Task) -> list[Task]:
        """Whom a task takes with it when it exits, if it is an init: all others that are there in
        its pid namespace and below, the deepest first."""
        if self.inits.get(task.pid) is not task:
            return []
        inside = [one for one in self.unreaped() if task.pid in one.pid.upwards()]
        inside.remove(task)
        return sorted(inside, key=lambda one: -len([*one.pid.upwards()]))

    def end(self, task: Task) -> list[Task]:
        """A task exits. With an init exit all members of its pid namespace, which are given back;
        they are reaped (kernel/pid_namespace.c, zap_pid_ns_processes)."""
        victims = self.victims(task)
        for one in (task, *victims):
            if self.inits.get(one.pid) is one:
                self.dead.add(one.pid)
        for one in victims:
            self._exit(one)
            one.is_reaped = True
        self._exit(task)
        return victims

    def _exit(self, task: Task) -> None:
        task.proxy, task.files = {}, {}
        init = self.inits.get(task.pid)
        heir = init if init is not task and init is not None and init.is_alive else None
        for child in self.unreaped():
            if child.parent is task:
                child.parent = heir


def is_below(user_ns: Namespace, task: Task) -> bool:
    """Whether a user namespace is the task's own or below one that the task's user made in it
    (kernel/cred.c, cred_cap_issubset); else the task that enters it is dumpable no more."""
    if user_ns is task.user:
        return True
    return any(one.owner is task.user and one.uid == task.uid for one in user_ns.upwards())
