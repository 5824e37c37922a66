# SPDX-License-Identifier: GPL-2.0-only
"""What the agent in the guest says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.results import Outcome


@dataclass(frozen=True)
class Hello:
    """The agent is ready for the suites.

    `uptime` is the guest's, in seconds; `mailbox`: it can read the memory shared with us.
    """

    release: str
    arch: str = ""
    uptime: float = 0.0
    mailbox: bool = False


@dataclass(frozen=True)
class Ready:
    """The agent has the suites, and has found out what the kernel offers."""

    features: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """A test begins."""

    test: str


@dataclass(frozen=True)
class Finish:
    """A test has ended: the guest's word on one attempt at it.

    `duration` is in seconds, `splats` are the first lines of what the kernel complained of
    between start and finish, `taint` the bits of /proc/sys/kernel/tainted set meanwhile. `stuck`:
    SIGKILL does not end its process; `dirty`: the guest is not what it was before the test, so
    that no other should run in it.
    """

    test: str
    outcome: Outcome
    duration: float = 0.0
    reason: str = ""
    detail: str = ""
    observations: Mapping[str, object] = field(default_factory=dict)
    splats: tuple[str, ...] = ()
    taint: int = 0
    stuck: bool = False
    dirty: bool = False


@dataclass(frozen=True)
class Broken:
    """A test file that cannot be imported, or the agent itself."""

    what: str
    detail: str


@dataclass(frozen=True)
class Heartbeat:
    """The agent lives while a test takes its time."""


@dataclass(frozen=True)
class Done:
    """All tests of the last command have run."""


Event = Hello | Ready | Start | Finish | Broken | Heartbeat | Done

KINDS: Mapping[str, type[Event]] = {
    "hello": Hello,
    "ready": Ready,
    "start": Start,
    "finish": Finish,
    "broken": Broken,
    "heartbeat": Heartbeat,
    "done": Done,
}
