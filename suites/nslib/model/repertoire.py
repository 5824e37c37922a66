# SPDX-License-Identifier: GPL-2.0-only
"""All operations there are."""

from .descriptors import Close, MakeSocket, Open, OpenHandle, Owner, Parent, Receive, Send, SocketNs
from .operations import BecomeNobody, Clone, Drop, Exit, Operation, Reap, Unshare
from .places import Bind, Join, Setns, Unmount
from .queries import List

__all__ = [
    "OPERATIONS",
    "BecomeNobody",
    "Bind",
    "Clone",
    "Close",
    "Drop",
    "Exit",
    "Join",
    "List",
    "MakeSocket",
    "Open",
    "OpenHandle",
    "Owner",
    "Parent",
    "Reap",
    "Receive",
    "Send",
    "Setns",
    "SocketNs",
    "Unmount",
    "Unshare",
]

OPERATIONS: tuple[type[Operation], ...] = (
    Clone, Unshare, Exit, Reap, Open, OpenHandle, MakeSocket, Receive, Close, Send, Bind, Unmount,
    Setns, Join, SocketNs, Owner, Parent, Drop, BecomeNobody, List,
)  # fmt: skip
