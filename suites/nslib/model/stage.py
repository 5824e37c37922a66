# SPDX-License-Identifier: GPL-2.0-only
"""A stage: the tasks of a world as puppets, which come and go with it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM
from tempfile import mkdtemp

from ..exits import has_ended
from ..forking import CLONE_PARENT, pids_by_level
from ..holding import hold_inactive
from ..ids import current_ids, id_behind, id_of, open_ns, owned
from ..ioctls import NS_GET_ID, PidfdGet, open_of_pidfd
from ..listing import ListRequest, list_all, list_page
from ..namespaces import LINKS, NS
from ..puppets import Puppet, first_puppet
from ..scripts import Sys
from ..syscalls import AT_FDCWD, MNT_DETACH, MS_PRIVATE, errno_of, mount, prctl, umount
from .worlds import Home, Task, World

_PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
_END_SECONDS = 5.0
_READ = os.O_RDONLY | os.O_CLOEXEC


class Stage:
    """Where a world is played: an observer, who is a real root and in no world, and the puppets."""

    def __init__(self, observer: Puppet, folder: str, home: Home) -> None:
        """`folder` has a file for each place of a bind mount."""
        self.observer, self.folder, self.home = observer, folder, home
        self.newest = max((*home.ids.values(), *home.others))
        """The largest id that any world has had."""
        self._puppets: dict[int, Puppet] = {}

    def puppet(self, task: Task) -> Puppet:
        """The puppet of a task that has not been reaped."""
        return self._puppets[task.number]

    def pid(self, task: Task) -> int:
        """The pid in /proc of a task that has not been reaped."""
        return self._puppets[task.number].pid

    @contextmanager
    def world(self) -> Iterator[World]:
        """A new world for the block, with its first task."""
        world = World(self.home)
        first = _forked(self.observer, NS.NONE)
        self._puppets = {0: first}
        try:
            script = first.script()
            script.call(Sys.SOCKETPAIR, AF_UNIX, SOCK_DGRAM, 0, script.data(bytes(8)))
            script.perform()
            yield world
        finally:
            self._clear()

    def fork(self, parent: Task, number: int, kinds: NS) -> int:
        """A task gets a child, the task `number`; returns the errno."""
        child = self.puppet(parent).fork(kinds)
        if isinstance(child, int):
            return child
        self._puppets[number] = child
        return 0

    def end(self, world: World, task: Task) -> None:
        """Kill a task, and see to it that nothing holds up its end: an init waits until those who
        are in its pid namespace, but have their parent elsewhere, have been reaped."""
        self.puppet(task).kill()
        victims = world.victims(task)
        for one in victims:
            if one.parent is not task and one.parent not in victims:
                self._await_end(one)
                self._collect(one)
        self._await_end(task)
        for one in victims:
            self._puppets.pop(one.number).release()

    def reap(self, task: Task) -> None:
        """Have a zombie reaped by its parent."""
        self._collect(task)
        self._puppets.pop(task.number).release()

    def _collect(self, task: Task) -> None:
        puppet = self.puppet(task)
        if task.parent is None:
            os.waitid(os.P_PIDFD, puppet.pidfd, os.WEXITED)
            return
        parent = self.puppet(task.parent)
        level = len([*task.parent.pid.upwards()]) - 1
        pid = pids_by_level(puppet.pid)[level] if level else puppet.pid
        script = parent.script()
        script.call(Sys.WAITID, os.P_PID, pid, 0, os.WEXITED, 0)
        if (result := script.perform()[0]) < 0:
            raise OSError(-result, f"waitid({pid}) by {task.parent.name}")

    def _await_end(self, task: Task) -> None:
        if not has_ended(self.puppet(task).pidfd, _END_SECONDS):
            raise TimeoutError(f"{task.name} does not end")

    def map_root(self, task: Task) -> None:
        """A task in a new user namespace maps its user to root there."""
        above = task.user.owner
        outside = task.uid if above and above.is_permanent else 0
        script = self.puppet(task).script()
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {outside} 1"),
            ("gid_map", f"0 {outside} 1"),
        ):
            path = script.text(f"/proc/self/{name}")
            fd = script.call(Sys.OPENAT, AT_FDCWD, path, os.O_WRONLY)
            script.call(Sys.WRITE, fd, script.data(text.encode()), len(text))
            script.call(Sys.CLOSE, fd)
        if worst := min(script.perform()):
            raise OSError(-worst, f"{task.name} cannot map its user {outside}")

    def ids_of(self, task: Task) -> dict[str, int]:
        """Ids of a task's namespaces by link, as the observer finds them in /proc."""
        puppet, script = self.puppet(task), self.observer.script()
        rooms = {}
        for link in LINKS:
            path = script.text(f"/proc/{puppet.pid}/ns/{link}")
            rooms[link] = script.data(bytes(8))
            fd = script.call(Sys.OPENAT, AT_FDCWD, path, _READ)
            script.call(Sys.IOCTL, fd, NS_GET_ID, rooms[link])
            script.call(Sys.CLOSE, fd)
        opened = dict(zip(LINKS, script.perform()[::3], strict=True))
        ids = {
            link: int.from_bytes(script.peek(room, 8), "little")
            for link, room in rooms.items()
            if opened[link] >= 0
        }
        if opened["pid_for_children"] == -ENOENT and task.is_alive:
            unborn = open_of_pidfd(puppet.pidfd, PidfdGet.PID_FOR_CHILDREN)
            ids["pid_for_children"] = id_behind(unborn)
        return ids

    def fresh_id(self) -> int:
        """An id above all that have been given out, also to what nobody got to see."""
        puppet = _forked(self.observer, NS.UTS)
        with owned(open_ns(NS.UTS, puppet.pid)) as fd:
            self.newest = id_of(fd)
        _end(puppet)
        return self.newest

    def _clear(self) -> None:
        """End all tasks, in whatever state they are, and remove all mounts."""
        left = {puppet.pid: puppet for puppet in self._puppets.values()}
        for puppet in left.values():
            puppet.kill()
        while left:
            for pid, puppet in [*left.items()]:
                if _is_gone(puppet):
                    left.pop(pid).release()
            if left and not has_ended(next(reversed(left.values())).pidfd, _END_SECONDS):
                raise TimeoutError(f"tasks {sorted(left)} do not end")
        self._puppets = {}
        for place in range(len(os.listdir(self.folder))):
            with suppress(OSError):  # EINVAL where nothing is mounted
                umount(f"{self.folder}/{place}", MNT_DETACH)


def _is_gone(puppet: Puppet) -> bool:
    """Reap a puppet if this process is its parent and it has ended; whether it is no more."""
    with suppress(ChildProcessError):
        if os.waitid(os.P_PIDFD, puppet.pidfd, os.WEXITED | os.WNOHANG):
            return True
    try:
        signal.pidfd_send_signal(puppet.pidfd, 0)
    except ProcessLookupError:
        return True
    return False


@contextmanager
def stage(places: int) -> Iterator[Stage]:
    """A stage for the block, with some places for bind mounts; for a real root on a quiet
    system."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)  # Else orphans would go to whoever is up there.
    folder = mkdtemp()
    try:
        mount("none", folder, "tmpfs")
        mount("", folder, flags=MS_PRIVATE)
        for place in range(places):
            Path(folder, str(place)).touch()
        with first_puppet() as observer:
            yield Stage(observer, folder, find_home(observer))
    finally:
        with suppress(OSError):
            umount(folder, MNT_DETACH)
        os.rmdir(folder)
        prctl(_PR_SET_CHILD_SUBREAPER, 0)


def find_home(observer: Puppet) -> Home:
    """What is there before anything happens."""
    ids = current_ids()
    others = {one: kind for kind in NS for one in list_all(kind) if one not in ids.values()}
    return Home(ids, others, _opens_unborn(observer), _ends_at_inactive())


def _opens_unborn(observer: Puppet) -> bool:
    """Whether a link to a pid namespace without init opens, which a puppet tries for itself."""
    puppet = _forked(observer)
    script = puppet.script()
    script.call(Sys.UNSHARE, NS.PID)
    script.call(Sys.OPENAT, AT_FDCWD, script.text("/proc/self/ns/pid_for_children"), _READ)
    answers = script.perform()
    _end(puppet)
    return answers[1] >= 0


def _ends_at_inactive() -> bool:
    held = hold_inactive()
    with owned(held.fd):
        return errno_of(list_page, ListRequest(cursor=held.id - 1)) == ENOENT


def _forked(observer: Puppet, flags: int = NS.NONE) -> Puppet:
    """A child of this process, in new namespaces; OSError of clone3(2)."""
    puppet = observer.fork(flags | CLONE_PARENT)
    if isinstance(puppet, int):
        raise OSError(puppet, os.strerror(puppet))
    return puppet


def _end(puppet: Puppet) -> None:
    puppet.kill()
    os.waitid(os.P_PIDFD, puppet.pidfd, os.WEXITED)
    puppet.release()
