# SPDX-License-Identifier: GPL-2.0-only
"""Phrases: operations that belong together, which chance alone would seldom put in a row.

Among their operands -1 is the newest task or descriptor there is.
"""

from collections.abc import Callable

from ..namespaces import LINKS, NS
from .descriptors import MakeSocket, Open, Receive, Send, SocketNs
from .operations import Clone, Exit, Operation, Reap
from .queries import List

Phrase = Callable[[NS, int], list[Operation]]
_NEWEST = -1


def leave_socket(kinds: NS, maker: int) -> list[Operation]:
    """A child in a new net namespace leaves nothing behind but a socket."""
    return [
        Clone(maker, kinds | NS.NET),
        MakeSocket(_NEWEST),
        Send(_NEWEST, _NEWEST),
        Receive(0),
        Exit(_NEWEST),
        Reap(_NEWEST),
    ]


def look_past(kinds: NS, maker: int) -> list[Operation]:
    """A list begins right in front of such a namespace, which is inactive; three behind it are
    not. -4 is the fourth namespace from the end, as it is none of the special cursors."""
    return [
        *leave_socket(kinds & ~NS.TIME, maker),
        Clone(0, NS.USER | NS.UTS | NS.IPC),
        List(0, cursor=-4, lower=1),
    ]


def revive(kinds: NS, maker: int) -> list[Operation]:
    """The net namespace of such a socket is opened again."""
    return [*leave_socket(kinds, maker), SocketNs(0, _NEWEST)]


def leave_file(kinds: NS, maker: int) -> list[Operation]:
    """A child leaves an nsfs file behind of one of its namespaces."""
    link = next((one for one in NS if one & kinds), NS.UTS).link
    return [
        Clone(maker, kinds),
        Open(0, _NEWEST, LINKS.index(link)),
        Exit(_NEWEST),
        Reap(_NEWEST),
    ]


def descend(kinds: NS, maker: int) -> list[Operation]:
    """A child in a new user namespace has one in another."""
    return [Clone(maker, NS.USER), Clone(_NEWEST, kinds | NS.USER)]
