# SPDX-License-Identifier: GPL-2.0-only
"""The system calls of each operation, and what the kernel answers."""

import os
import struct
from dataclasses import dataclass
from socket import AF_UNIX, SOCK_DGRAM

from ..handles import NsHandle
from ..ioctls import NS_GET_ID, NS_GET_PARENT, NS_GET_USERNS, SIOCGSKNS
from ..listing import LISTNS_CURRENT_USER, ListRequest
from ..namespaces import LINKS
from ..scripts import Script, Sys
from ..syscalls import AT_FDCWD, FD_NSFS_ROOT, MS_BIND, PR_SET_DUMPABLE
from . import descriptors, operations, places
from .listings import Page, Request
from .operations import Operation
from .stage import Stage
from .worlds import NOBODY_UID, Task, World

_READ = os.O_RDONLY | os.O_CLOEXEC
_CAPABILITIES = struct.pack("<II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
_QUEUE = struct.Struct("<QQQQQQQ")  # struct msghdr
_CONTROL = struct.Struct("<QIIiI")  # struct cmsghdr with an fd
_RIGHTS = (1, 1)  # SOL_SOCKET, SCM_RIGHTS
_IOCTLS = {
    descriptors.SocketNs: SIOCGSKNS,
    descriptors.Owner: NS_GET_USERNS,
    descriptors.Parent: NS_GET_PARENT,
}
LONGEST_LIST = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """What the kernel answered: an errno, or a new fd and the id of the namespace that it is of (0
    for a socket)."""

    errno: int = 0
    fd: int = -1
    id: int = 0


def perform(operation: Operation, world: World, stage: Stage) -> Answer:
    """Have the puppet of an operation's task make its calls; before it is applied to the world."""
    task = world.tasks[operation.task]
    match operation:
        case operations.Clone(kinds=kinds):
            return Answer(stage.fork(task, len(world.tasks), kinds))
        case operations.Exit():
            stage.end(world, task)
            return Answer()
        case operations.Reap():
            stage.reap(task)
            return Answer()
    script = stage.puppet(task).script()
    if isinstance(operation, descriptors.Opening):
        return _open(script, operation, world, stage)
    _call(script, operation, world, stage)
    return Answer(max(0, -min(script.perform())))


def _open(script: Script, operation: Operation, world: World, stage: Stage) -> Answer:
    task = world.tasks[operation.task]
    if isinstance(operation, descriptors.Receive):
        message, control = _message(script)
        script.call(Sys.RECVMSG, 1, message, 0)
    else:
        _call_for_fd(script, operation, world, stage)
    room = script.data(bytes(8))
    script.call(Sys.IOCTL, task.free_fd(), NS_GET_ID, room)
    result = script.perform()[-2]
    if result < 0:
        return Answer(-result)
    if isinstance(operation, descriptors.Receive):
        result = _CONTROL.unpack(script.peek(control, _CONTROL.size))[3]
    return Answer(0, result, int.from_bytes(script.peek(room, 8), "little"))


def _call_for_fd(script: Script, operation: Operation, world: World, stage: Stage) -> None:
    match operation:
        case descriptors.Open(target=target, link=link):
            pid = stage.pid(world.tasks[target])
            path = script.text(f"/proc/{pid}/ns/{LINKS[link]}")
            script.call(Sys.OPENAT, AT_FDCWD, path, _READ)
        case descriptors.OpenHandle(ns=number):
            handle = script.data(NsHandle(world.namespaces[number].id).pack())
            script.call(Sys.OPEN_BY_HANDLE_AT, FD_NSFS_ROOT, handle, _READ)
        case descriptors.MakeSocket():
            script.call(Sys.SOCKET, AF_UNIX, SOCK_DGRAM, 0)
        case descriptors.OpenRelated(fd=fd):
            script.call(Sys.IOCTL, fd, _IOCTLS[type(operation)], 0)


def _call(script: Script, operation: Operation, world: World, stage: Stage) -> None:
    match operation:
        case operations.Unshare(kinds=kinds):
            script.call(Sys.UNSHARE, kinds)
        case places.Setns(fd=fd, kinds=kinds):
            script.call(Sys.SETNS, fd, kinds)
        case places.Join(target=target, kinds=kinds):
            pidfd = script.call(Sys.PIDFD_OPEN, stage.pid(world.tasks[target]), 0)
            script.call(Sys.SETNS, pidfd, kinds)
            script.call(Sys.CLOSE, pidfd)
        case operations.Drop():
            script.call(Sys.CAPSET, script.data(_CAPABILITIES), script.data(bytes(24)))
        case operations.BecomeNobody():
            for number in (Sys.SETRESGID, Sys.SETRESUID):
                script.call(number, NOBODY_UID, NOBODY_UID, NOBODY_UID)
            script.call(Sys.PRCTL, PR_SET_DUMPABLE, 1)
        case _:
            _call_on_file(script, operation, stage)


def _call_on_file(script: Script, operation: Operation, stage: Stage) -> None:
    match operation:
        case descriptors.Close(fd=fd):
            script.call(Sys.CLOSE, fd)
        case descriptors.Send(fd=fd):
            message, _ = _message(script, fd)
            script.call(Sys.SENDMSG, 0, message, 0)
            script.call(Sys.CLOSE, fd)
        case places.Bind(fd=fd, place=place):
            source, target = f"/proc/self/fd/{fd}", f"{stage.folder}/{place}"
            script.call(Sys.MOUNT, script.text(source), script.text(target), 0, MS_BIND, 0)
        case places.Unmount(place=place):
            script.call(Sys.UMOUNT2, script.text(f"{stage.folder}/{place}"), 0)
        case _:
            raise TypeError(operation)


def _message(script: Script, fd: int = 0) -> tuple[int, int]:
    """struct msghdr with one byte and a descriptor: its address, and that of the descriptor's."""
    control = script.data(_CONTROL.pack(_CONTROL.size - 4, *_RIGHTS, fd, 0))
    part = script.data(struct.pack("<QQ", script.data(b"."), 1))
    return script.data(_QUEUE.pack(0, 0, part, 1, control, _CONTROL.size, 0)), control


def list_page(caller: Task, request: Request, stage: Stage, *, is_current: bool = False) -> Page:
    """What listns(2) gives a task; the owner asked for is its current one if that is wanted so."""
    return _list(stage.puppet(caller).script(), request, is_current=is_current)


def list_by_observer(stage: Stage, cursor: int = 0) -> Page:
    """Everything that the observer sees above a cursor."""
    return _list(stage.observer.script(), Request(cursor=cursor, nr=LONGEST_LIST))


def _list(script: Script, request: Request, *, is_current: bool = False) -> Page:
    owner = LISTNS_CURRENT_USER if is_current else request.owner.id if request.owner else 0
    packed = script.data(ListRequest(request.types, owner, request.cursor).pack())
    room = script.data(bytes(8 * request.nr))
    script.call(Sys.LISTNS, packed, room, request.nr, 0)
    count = script.perform()[0]
    if count < 0:
        return Page(errnos=frozenset((-count,)))
    return Page(struct.unpack(f"<{count}Q", script.peek(room, 8 * count)))


def opens_for_observer(ns_id: int, stage: Stage) -> int:
    """The id behind the handle of an id, or 0 if it does not open for the observer: ESTALE."""
    script = stage.observer.script()
    handle = script.data(NsHandle(ns_id).pack())
    room = script.data(bytes(8))
    fd = script.call(Sys.OPEN_BY_HANDLE_AT, FD_NSFS_ROOT, handle, _READ)
    script.call(Sys.IOCTL, fd, NS_GET_ID, room)
    script.call(Sys.CLOSE, fd)
    script.perform()
    return int.from_bytes(script.peek(room, 8), "little")
