# SPDX-License-Identifier: GPL-2.0-only
"""One boot: a guest from its start to its end, and what became of each test that ran in it."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from harness.events import Broken, Done, Event, Finish, Hello, Ready, Start
from harness.exploration import Exploration
from harness.protocol import Channel
from harness.reports.text import number
from harness.results import Outcome
from harness.sleeper import Sleeper
from vm import kernel_log, machine
from vm.accel import Accel, Choice, trial
from vm.command import MachineSpec
from vm.errors import BootError
from vm.machine import Machine

logger = logging.getLogger(__name__)

Wanted = TypeVar("Wanted", Hello, Ready)

# Seconds until the agent must have said hello.
_BOOT_SECONDS = {Accel.KVM: 60.0, Accel.TCG: 150.0}
# Seconds in which the agent of a fast guest takes the suites in.
_LOAD_SECONDS = 10.0
# The agent says something every second; a guest that is silent for this long hangs.
_SILENCE_SECONDS = 20.0
# Uptime at the hello of a guest that is as fast as test deadlines assume.
_FAST_BOOT_SECONDS = 2.0
_TAIL = 30


@dataclass(frozen=True)
class Ending:
    """How a boot ended: `clean`, or why not; `victim` is the test that is to blame for it, during
    which, or behind which, it did."""

    text: str
    victim: str = ""
    outcome: Outcome = Outcome.PASS
    detail: str = ""


@dataclass
class Boot:
    """What is known of a boot while it lasts.

    `due` are the tests that the guest has yet to report on, `running` is the one that it is at, and
    `finished` the one that it reported on last; `strays` is the number of events that
    fit none of them, or not then, and `last_lines` is the end of the console when hope was lost.
    """

    machine: Machine
    channel: Channel
    restored: bool = False
    hello: Hello | None = None
    due: set[str] = field(default_factory=set)
    running: str = ""
    finished: str = ""
    strays: int = 0
    notes: list[str] = field(default_factory=list)
    last_lines: str = ""

    def lose_hope(self) -> None:
        """Keep the end of the console, before SysRq adds to it."""
        self.last_lines = "\n".join(self.machine.console.tail(_TAIL))


class Observer:
    """What the owner of a boot wants to hear of it."""

    def started(self, boot: Boot, test: str) -> None:
        """A test begins."""

    def finished(self, boot: Boot, event: Finish) -> None:
        """A test has a verdict."""


@contextmanager
def boot(
    spec: MachineSpec,
    console: Path,
    record: Callable[[bytes], None],
    asleep: Sleeper | None = None,
) -> Iterator[Boot]:
    """Start a guest, or let one go on that is `asleep`, and yield it as soon as QEMU runs; it is
    killed when the block is left."""
    with machine.running(spec, console, asleep) as guest:
        started = Boot(guest, Channel(guest.channel, record), restored=asleep is not None)
        if asleep is not None:
            started.hello = asleep.hello
            # The event stream tells the whole story, with what was said before.
            record(json.dumps({"event": "hello", **asdict(asleep.hello)}).encode())
        yield started


def wait_for_agent(guest: Boot, choice: Choice, scale: float) -> None:
    """Wait for the agent's hello.

    A provisional choice asks for early signs of life, because KVM itself is in doubt. Raises
    BootError with the reason when the guest panics, ends, or does not get there in time.
    """
    started = time.monotonic()
    seconds = _BOOT_SECONDS[choice.accel] * scale
    if choice.provisional:
        limits = trial()
        quick, seconds = limits.first_line * scale, limits.ready * scale
        if not guest.machine.console.wait_for_kernel(quick):
            guest.lose_hope()
            raise BootError(f"the kernel did not boot in {quick:.0f} s{_messages(guest.machine)}")
    guest.hello = _expect(Hello, guest, seconds, started)


def load(guest: Boot, archive: bytes, user_scale: float) -> tuple[str, ...]:
    """Give the suites to an agent that has said hello, and return the features of its kernel.

    Raises BootError when it does not answer in time.
    """
    assert guest.hello is not None
    fits = guest.hello.mailbox and len(archive) <= guest.machine.mailbox_size
    seconds = _LOAD_SECONDS * _scale(guest.hello, user_scale)
    guest.channel.load(archive, guest.machine.fill_mailbox if fits else None, seconds)
    features = _expect(Ready, guest, seconds, time.monotonic()).features
    if fits:
        # QEMU would restore what is there as a page of its own, and not show what we write later.
        guest.machine.fill_mailbox(bytes(len(archive)))
    return features


def _scale(hello: Hello, user_scale: float) -> float:
    return user_scale * max(1.0, hello.uptime / _FAST_BOOT_SECONDS)


def _expect(kind: type[Wanted], guest: Boot, seconds: float, since: float) -> Wanted:
    deadline = since + seconds
    while (left := deadline - time.monotonic()) > 0 and not guest.channel.ended:
        event = guest.channel.receive(left)
        if isinstance(event, kind):
            return event
        if isinstance(event, Broken):
            _note(guest, event)
    raise BootError(_why_not_ready(guest, seconds))


def run(
    guest: Boot,
    tests: Sequence[str],
    observer: Observer,
    user_scale: float,
    exploration: Exploration,
) -> Ending:
    """Run tests in a guest that is ready, until they are done or the guest is not fit any more."""
    assert guest.hello is not None
    scale = _scale(guest.hello, user_scale)
    guest.due = set(tests)
    guest.channel.run(tests, scale, kernel_log.SPLAT, exploration)
    while True:
        event = guest.channel.receive(_SILENCE_SECONDS * scale)
        if event is None:
            return _vanished(guest) if guest.channel.ended else _hung(guest, scale)
        ending = _take(guest, event, observer)
        if ending is not None:
            return ending


def _take(guest: Boot, event: Event, observer: Observer) -> Ending | None:
    match event:
        case Start() if event.test in guest.due:
            guest.running = event.test
            observer.started(guest, event.test)
        case Finish() if event.test in guest.due and event.test == guest.running:
            guest.running, guest.finished = "", event.test
            guest.due.remove(event.test)
            observer.finished(guest, event)
            if event.stuck:
                _show_blocked_tasks(guest.machine)
                return Ending(f"{event.test} hangs in the kernel")
            if event.dirty:
                return Ending(f"{event.test} left the guest unfit for another test")
        case Start() | Finish():
            # A test can write to the results channel too, even what looks like an event.
            guest.strays += 1
        case Broken(what="agent"):
            return Ending("the agent failed", guest.running, Outcome.ERROR, event.detail)
        case Broken():
            # A file that cannot be imported, which shows when its first test is due.
            _note(guest, event)
        case Done() if guest.due:
            return Ending(f"the guest is done, with no word on {number(len(guest.due), 'test')}")
        case Done():
            return Ending("clean")
    return None


def _note(guest: Boot, broken: Broken) -> None:
    guest.notes.append(f"{broken.what}: {_last_line(broken.detail)}")


def _vanished(guest: Boot) -> Ending:
    """Tell why the guest has gone in the middle of its work."""
    guest.machine.wait(10)
    guest.lose_hope()
    if panic := guest.machine.console.panic_reason():
        return _panicked(guest, panic)
    why = "the virtual machine vanished without a panic"
    why += _messages(guest.machine) + _complaint(guest)
    return Ending(why, guest.running, Outcome.CRASH, guest.last_lines)


def _panicked(guest: Boot, panic: str) -> Ending:
    """Blame the test that runs, or else the last one: much that it frees goes a moment later."""
    victim = guest.running or guest.finished
    after = f" (after {victim})" if victim and not guest.running else ""
    return Ending(f"kernel panic: {panic}{after}", victim, Outcome.CRASH, guest.last_lines)


def _hung(guest: Boot, scale: float) -> Ending:
    guest.lose_hope()
    why = f"the guest has been silent for {_SILENCE_SECONDS * scale:.0f} s{_complaint(guest)}"
    _show_blocked_tasks(guest.machine)
    if panic := guest.machine.console.panic_reason():
        return _panicked(guest, panic)
    return Ending(why, guest.running, Outcome.TIMEOUT, guest.last_lines)


def _complaint(guest: Boot) -> str:
    """Return what the kernel complained of first since the running test began."""
    place = guest.machine.console.lines_of(guest.running)
    if place is None:
        return ""
    said = (one.text for one in guest.machine.console.incidents() if one.line >= place[0])
    return "".join(f"; the kernel had said: {text}" for text in list(said)[:1])


def _show_blocked_tasks(guest: Machine) -> None:
    """Have blocked tasks (w), each CPU's stack (l) and all tasks (t) in the log.

    A task that waits for a reference or a reaper for ever need not be in uninterruptible sleep.
    """
    guest.console.sysrq("wlt")


def _why_not_ready(guest: Boot, seconds: float) -> str:
    if not guest.channel.ended:
        guest.lose_hope()
        _show_blocked_tasks(guest.machine)
        return f"no word from the guest in {seconds:.0f} s"
    guest.machine.wait(10)
    guest.lose_hope()
    if panic := guest.machine.console.panic_reason():
        return f"kernel panic: {panic}"
    return f"QEMU ended before the guest was ready{_messages(guest.machine)}"


def _messages(guest: Machine) -> str:
    """Return what QEMU said first: what follows, registers and code, is in its wake."""
    lines = guest.messages.lines()
    return f" ({lines[0]})" if lines else ""


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
