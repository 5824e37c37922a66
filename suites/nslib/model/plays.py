# SPDX-License-Identifier: GPL-2.0-only
"""A play: a sequence of operations by the kernel and in the model, compared after each of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from errno import ENOENT, errorcode
from typing import NoReturn

from ..puppets import PuppetEndedError
from ..waiting import wait_until
from .calls import Answer, list_by_observer, list_page, opens_for_observer, perform
from .lifetimes import ACTIVE, GONE, active
from .listings import broken_rule, page
from .operations import Clone, Operation, Unshare
from .places import Join, Setns
from .queries import CURRENT_OWNER, List
from .rules import Disagreement, Rule
from .stage import Stage
from .worlds import Namespace, World

IDENTITY = Rule(
    "identity",
    "A descriptor and a link in /proc are of the namespace that the task is in; ids ascend.",
    "fs/nsfs.c, fs/proc/namespaces.c; kernel/nstree.c, __ns_tree_gen_id",
    ("NSID-04", "NSID-12", "SNS-15", "SNS-16"),
)
PROGRESS = Rule(
    "progress",
    "What is killed ends and can be reaped; a call returns, and does not fail where nothing is "
    "wrong with it.",
    "kernel/exit.c, do_exit; kernel/pid_namespace.c, zap_pid_ns_processes",
    ("PNS-24", "REG-15"),
)
_REMOVAL_SECONDS = 2.0


@dataclass
class Play:
    """What was done: the operations as they were resolved, and a line on each."""

    operations: list[Operation] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


class SpoiltError(Exception):
    """A known breach of a rule, after which the model does not know what is there."""


class StuckError(Exception):
    """The rule PROGRESS is broken, and so is the stage: nothing more can be played on it."""


class Player:
    """Plays sequences of operations, each in a new world; breaches of `known` rules are passed
    over."""

    def __init__(
        self, stage: Stage, known: frozenset[str] = frozenset(), *, with_removal: bool = False
    ) -> None:
        """`known` are names of rules; `with_removal` waits after each sequence until the kernel has
        freed what it made."""
        self._stage, self._known, self._with_removal = stage, known, with_removal
        self._oldest = 0

    def play(self, operations: Iterable[Operation], done: Play) -> None:
        """Perform operations, as far as they are possible; `done` is filled meanwhile.

        Raises Disagreement where the kernel does not keep a rule, SpoiltError and StuckError.
        """
        try:
            self._play(operations, done)
        except Disagreement:
            # What is left of this shall not be taken for something of the next sequence.
            self._stage.fresh_id()
            raise
        except (OSError, PuppetEndedError) as error:
            raise StuckError(str(error)) from error

    def _play(self, operations: Iterable[Operation], done: Play) -> None:
        self._oldest = self._stage.fresh_id() if self._with_removal else self._stage.newest
        with self._stage.world() as world:
            for operation in operations:
                if (possible := operation.resolve(world)) is None:
                    continue
                done.operations.append(possible)
                done.lines.append(possible.describe(world))
                if isinstance(possible, List):
                    self._list(possible, world)
                else:
                    self._do(possible, world)
                    self._look(world, len(done.lines))
        self._compare_active(world, set())
        if self._with_removal:
            self._await_removal()

    def _await_removal(self) -> None:
        try:
            wait_until(self._is_all_gone, "removal of what is left", _REMOVAL_SECONDS)
        except TimeoutError:
            self._breach(GONE, "a list behind all that is active is empty", "ENOENT")

    def _is_all_gone(self) -> bool:
        # ENOENT: there is nothing above the cursor, not even what is inactive.
        return list_by_observer(self._stage, self._oldest).errnos == {ENOENT}

    def _do(self, operation: Operation, world: World) -> None:
        fd = world.tasks[operation.task].free_fd()
        answer = perform(operation, world, self._stage)
        errno = operation.apply(world)
        if answer.errno != errno:
            self._breach(operation.rule, _named(answer.errno), _named(errno))
        if answer.fd >= 0:
            self._check_fd(operation, world, answer, fd)
        self._learn(operation, world)

    def _breach(self, rule: Rule, answered: str, demanded: str) -> NoReturn:
        if rule.name in self._known:
            raise SpoiltError(rule.name)
        raise Disagreement(rule, answered, demanded)

    def _check_fd(self, operation: Operation, world: World, answer: Answer, fd: int) -> None:
        file = world.tasks[operation.task].files[fd]
        if (answer.fd, answer.id) != (fd, 0 if file.is_socket else file.of.id):
            got = f"fd {answer.fd} of {_name(world, answer.id)}"
            self._breach(IDENTITY, got, f"fd {fd} of {file.of.name}")

    def _learn(self, operation: Operation, world: World) -> None:
        """Find out the ids of new namespaces, and compare those that are known."""
        if isinstance(operation, Clone):
            task = world.tasks[-1]
        elif isinstance(operation, Unshare | Setns | Join):
            task = world.tasks[operation.task]
        else:
            return
        is_new = not task.user.id
        for link, ns_id in self._stage.ids_of(task).items():
            one = task.link(link)
            if one is None:
                raise TypeError(f"{link} of {task.name}, which has exited")
            if not one.id and ns_id > self._oldest and not _is_taken(world, ns_id):
                one.id = ns_id
            if one.id != ns_id:
                got = f"{link} of {task.name} is {_name(world, ns_id)}"
                self._breach(IDENTITY, got, one.name)
        self._stage.newest = max(self._stage.newest, *(one.id for one in world.namespaces))
        if is_new and task.user.is_mapped:
            self._stage.map_root(task)

    def _look(self, world: World, count: int) -> None:
        """Compare what the observer lists, and whether a handle opens; another one each time."""
        there = {one for one in active(world) if not one.is_permanent}
        self._compare_active(world, there)
        known = [one for one in world.namespaces if not one.is_permanent and one.id]
        if not known:
            return
        one = known[count % len(known)]
        demanded = one.id if one in there else 0
        if (opened := opens_for_observer(one.id, self._stage)) != demanded:
            says = f"opens {_name(world, opened)}" if opened else "does not open"
            wants = "opens" if demanded else "does not open"
            self._breach(ACTIVE, f"the handle of {one.name} {says}", f"that it {wants}")

    def _compare_active(self, world: World, there: set[Namespace]) -> None:
        # Not by the cursor: where that has a bug, it is to be found by a list of its own.
        listed = [one for one in list_by_observer(self._stage).ids if one > self._oldest]
        if listed != (ids := sorted(one.id for one in there)):
            self._breach(ACTIVE, f"active are {_names(world, listed)}", _names(world, ids))

    def _list(self, operation: List, world: World) -> None:
        caller = world.tasks[operation.task]
        request = operation.request(world)
        demanded, rule = page(world, caller, request)
        is_current = operation.owner == CURRENT_OWNER
        answer = list_page(caller, request, self._stage, is_current=is_current)
        broken = broken_rule(answer, demanded, rule)
        if broken is not None and broken.name not in self._known:
            shown = [_names(world, one.ids) if one.ids else str(one) for one in (answer, demanded)]
            raise Disagreement(broken, *shown)


def _named(errno: int) -> str:
    return errorcode[errno] if errno else "success"


def _is_taken(world: World, ns_id: int) -> bool:
    return any(one.id == ns_id for one in world.namespaces)


def _name(world: World, ns_id: int) -> str:
    known = {one.id: one.name for one in (*world.namespaces, *world.others)}
    return known.get(ns_id, f"namespace {ns_id} that nobody knows")


def _names(world: World, ids: Iterable[int]) -> str:
    return "{" + ", ".join(_name(world, one) for one in ids) + "}"
