# SPDX-License-Identifier: GPL-2.0-only
"""What listns(2) returns for any request and caller, and which handle opens. Linux 6.19.

The permission model is that of Linux 7.0 and 6.19.9 (commits 8d76afe84fa2, d2324a9317f0).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from errno import EINVAL, ENOENT, ESTALE

from ..namespaces import NS
from .lifetimes import active, existing
from .powers import is_current, sees_all
from .rules import Rule
from .worlds import Namespace, Task, World

LISTED = Rule(
    "listed",
    "A list has the active namespaces of the types asked for that the owner asked for owns, above "
    "the cursor, in ascending order, for who may see all.",
    "kernel/nstree.c, do_listns and do_listns_userns",
    ("LNS-PAG-01", "LNS-FLT-03", "LNS-FLT-05"),
)
VIEW = Rule(
    "view",
    "Who has not CAP_SYS_ADMIN in the initial user namespace, or is not in the initial pid "
    "namespace, sees of the namespaces asked for those that it is in.",
    "kernel/nscommon.c, may_see_all_namespaces and is_current_namespace; commit 8d76afe84fa2",
    ("LNS-PRM-02", "LNS-PRM-03", "LNS-PRM-04"),
)
NOT_THE_END = Rule(
    "an inactive namespace is not the end",
    "A list goes on behind a namespace that is inactive, wherever the cursor is.",
    'kernel/nstree.c, lookup_ns_id_after; "nstree: don\'t end listns() at an inactive namespace"',
    ("LNS-PAG-13", "LNS-PAG-14"),
)
NO_WRAP = Rule(
    "no wrap around",
    "There is nothing above the cursor 2^64-1: ENOENT.",
    'kernel/nstree.c, lookup_ns_id_after; "listns: don\'t wrap around with a U64_MAX cursor"',
    ("LNS-ARG-33", "LNS-ARG-34"),
)
END = Rule(
    "end of a list",
    "With a cursor above every namespace on the tree that is walked, in memory and not only active "
    "ones, the answer is ENOENT, else an empty list is 0. One type has a tree, several types are "
    "looked for in the tree of all, an owner has one of what it owns. (Before 7.3.4 ENOENT if the "
    "next one is inactive.)",
    "kernel/nstree.c, lookup_ns_id_after and lookup_ns_owner_after",
    ("LNS-ARG-32", "LNS-PAG-11", "LNS-PAG-12"),
)
OWNER = Rule(
    "owner",
    "The owner asked for is an active user namespace, else EINVAL.",
    "kernel/nstree.c, lookup_ns_id",
    ("LNS-ARG-28", "LNS-ARG-29", "LNS-ARG-30"),
)
HANDLE = Rule(
    "handle",
    "The handle of a namespace opens if it is active and the caller is in it, or may see all; "
    "else ESTALE.",
    "fs/nsfs.c, nsfs_fh_to_dentry",
    ("NFH-11", "NFH-17", "NFH-33", "NFH-34"),
)

WRAPPING_CURSOR = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Request:
    """What to list: `types` NONE for all, `owner` None for any; `nr` ids above `cursor`."""

    types: NS = NS.NONE
    owner: Namespace | None = None
    cursor: int = 0
    nr: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    """What listns(2) gives: ids, or one of the errnos that the rules allow (0: no error)."""

    ids: tuple[int, ...] = ()
    errnos: frozenset[int] = frozenset((0,))

    def permits(self, answer: "Page") -> bool:
        """Whether a rule that demands this page is kept by an answer."""
        return answer.ids == self.ids and answer.errnos <= self.errnos

    def __str__(self) -> str:
        """Return it as a list, or as errnos; an empty list is what 0 means."""
        names = {0: "[]", EINVAL: "EINVAL", ENOENT: "ENOENT"}
        if self.ids:
            return str([*self.ids])
        return " or ".join(names.get(one, str(one)) for one in sorted(self.errnos))


def page(world: World, caller: Task, request: Request) -> tuple[Page, Rule]:
    """What listns(2) returns to a caller, and the rule that says so if it returns otherwise."""
    there = active(world)
    if request.owner and (request.owner.kind != NS.USER or request.owner not in there):
        return Page(errnos=frozenset((EINVAL,))), OWNER
    is_restricted = not sees_all(world, caller)
    shown = set(caller.current().values()) if is_restricted else there
    above = [one for one in shown if one.id > request.cursor]
    ids = sorted(one.id for one in above if _is_requested(one, request))[: request.nr]
    if request.cursor == WRAPPING_CURSOR:
        return Page(errnos=frozenset((ENOENT,))), NO_WRAP
    if ids:
        return Page(tuple(ids)), VIEW if is_restricted else LISTED
    return Page(errnos=_ends(world, request)), VIEW if is_restricted else END


def _is_requested(one: Namespace, request: Request) -> bool:
    """kernel/nstree.c, ns_requested and ns_owner_root."""
    is_of_type = not request.types or one.kind in request.types
    return is_of_type and (request.owner is None or one.owner is request.owner)


def _ends(world: World, request: Request) -> frozenset[int]:
    """The errnos of an empty list: what has died may still be on a tree, or not."""
    if not request.cursor:
        return frozenset((0,))
    above = [one for one in _walked(existing(world), request) if one.id > request.cursor]
    known = _walked([*world.namespaces, *world.others], request)
    may_be_more = world.has_burnt or any(one.id > request.cursor for one in known)
    if above and not (world.home.ends_at_inactive and (may_be_more or {*above} - active(world))):
        return frozenset((0,))
    return frozenset((0, ENOENT)) if may_be_more else frozenset((ENOENT,))


def _walked(some: Iterable[Namespace], request: Request) -> list[Namespace]:
    """Those on the tree that is walked: by owner, of one type, or of all."""
    if request.owner:
        return [one for one in some if one.owner is request.owner]
    is_one_type = request.types and not request.types & (request.types - 1)
    return [one for one in some if not is_one_type or one.kind == request.types]


def broken_rule(answer: Page, demanded: Page, rule: Rule) -> Rule | None:
    """The rule that an answer breaks, if it does."""
    if demanded.permits(answer):
        return None
    return NOT_THE_END if demanded.ids and answer.errnos == {ENOENT} else rule


def handle_errno(world: World, caller: Task, one: Namespace) -> int:
    """open_by_handle_at(2) of a handle that has the id of a namespace and nothing else."""
    if one not in active(world):
        return ESTALE
    return 0 if is_current(caller, one) or sees_all(world, caller) else ESTALE
