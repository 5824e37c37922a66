# SPDX-License-Identifier: GPL-2.0-only
"""A virtual machine: QEMU as virtme-run assembles it, and nothing that outlives us."""

import contextlib
import logging
import os
import pty
import signal
import socket
import subprocess
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vm.command import Descriptors, MachineSpec, command, environment, path_of
from vm.console import Console
from vm.errors import BootError, SnapshotError
from vm.monitor import Monitor

logger = logging.getLogger(__name__)

_QEMU_MESSAGES = 1 << 16
_LAST_WORDS_SECONDS = 10

# In what is said of a machine that starts all the same: by virtme-run of the socket that is its
# standard error, by QEMU of a feature that the host's CPU lacks.
_WARNING = "warning: "
_STATE_SECONDS = 30


class Asleep(Protocol):
    """A guest that can go on: the descriptors of its memory and of its state."""

    @property
    def memory(self) -> int: ...
    @property
    def state(self) -> int: ...


class Messages:
    """What QEMU and virtme-run say about themselves, collected by a thread until they end."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._said = bytearray()
        self._thread = threading.Thread(target=self._collect, name="messages", daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """Return what was said so far, but for warnings."""
        lines = bytes(self._said).decode(errors="replace").splitlines()
        return [line for line in lines if line.strip() and _WARNING not in line.lower()]

    def wait_for_end(self, seconds: float) -> None:
        """Wait until there is nobody who could say more."""
        self._thread.join(seconds)

    def _collect(self) -> None:
        while chunk := self._source.recv(4096):
            # What comes first tells the cause; what follows, such as registers, can be long.
            self._said += chunk[: _QEMU_MESSAGES - len(self._said)]


@dataclass(frozen=True)
class _OurEnds:
    """Our ends of what QEMU inherits; `files` has the numbers, which are the same for both."""

    channel: socket.socket
    monitor: socket.socket
    files: Descriptors


class Machine:
    """A running guest: its console and the channel that its second serial port is connected to."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        console: Console,
        ends: _OurEnds,
        messages: Messages,
    ) -> None:
        self.console = console
        self.channel = ends.channel
        self.messages = messages
        self._process = process
        self._files = ends.files
        self._monitor = Monitor(ends.monitor)

    @property
    def mailbox_size(self) -> int:
        """How many bytes of memory the guest shares with us."""
        return os.fstat(self._files.mailbox).st_size

    def fill_mailbox(self, content: bytes) -> None:
        """Put `content` at the beginning of the memory that the guest shares with us."""
        os.pwrite(self._files.mailbox, content, 0)

    def wake(self) -> None:
        """Let a guest that was asleep go on; that QEMU cannot shows by its end."""
        with contextlib.suppress(SnapshotError):
            self._monitor.read_state(path_of(self._files.state), _STATE_SECONDS)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[tuple[int, int]]:
        """Stop the guest and yield descriptors of its memory and its state; then it goes on.

        Raises SnapshotError where QEMU cannot do that.
        """
        with self._monitor.paused(), contextlib.ExitStack() as copies:
            self._monitor.write_state(path_of(self._files.state), _STATE_SECONDS)
            # The caller is another thread, which goes on for a moment when the guest is ended.
            memory, state = (
                _copy(file, copies) for file in (self._files.memory, self._files.state)
            )
            yield memory, state

    def end(self) -> None:
        """End the guest at once, and wait until all that it said is in the log."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.messages.wait_for_end(_LAST_WORDS_SECONDS)
        self.console.wait_for_end(_LAST_WORDS_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Wait until QEMU has ended and all that it said is here; False if it has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            self.messages.wait_for_end(seconds)
            return self.console.wait_for_end(seconds)
        return False


@contextlib.contextmanager
def running(spec: MachineSpec, log: Path, asleep: Asleep | None = None) -> Iterator[Machine]:
    """Start a guest, recording its console to `log`; it has ended when the block is left.

    With `asleep` it does not boot, but goes on from there.
    The channels are socket pairs whose other ends QEMU inherits, and the console a pty: nothing
    of a guest has a name in the file system, so nothing can be left there.
    Raises BootError when it cannot be started.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as guests:
        ends = _ends(ours, guests, asleep)
        messages, guest_messages = _socket_pair(ours, guests)
        master, slave = _terminal(ours, guests)
        argv = command(spec, ends.files, resume=asleep is not None)
        with _boot_errors():
            console = Console(master, log)
            ours.callback(console.wait_for_end, _LAST_WORDS_SECONDS)
            process = _start(argv, spec, slave, guest_messages, ends.files)
        machine = Machine(process, console, ends, Messages(messages))
        ours.callback(machine.end)
        # Else console and channels would not end with QEMU.
        guests.close()
        if asleep is not None:
            machine.wake()
        yield machine


@contextlib.contextmanager
def _boot_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BootError(f"no guest can be started: {error}; run `make setup`") from None


def _leashed(argv: list[str]) -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL", "--", *argv]


def _socket_pair(
    ours: contextlib.ExitStack, guests: contextlib.ExitStack
) -> tuple[socket.socket, socket.socket]:
    our_end, guest_end = socket.socketpair()
    return ours.enter_context(our_end), guests.enter_context(guest_end)


def _ends(
    ours: contextlib.ExitStack, guests: contextlib.ExitStack, asleep: Asleep | None
) -> _OurEnds:
    channel, guest_channel = _socket_pair(ours, guests)
    monitor, guest_monitor = _socket_pair(ours, guests)
    mailbox = nameless("mailbox", ours)
    memory = asleep.memory if asleep else nameless("memory", ours)
    state = asleep.state if asleep else nameless("state", ours)
    files = Descriptors(guest_channel.fileno(), guest_monitor.fileno(), memory, state, mailbox)
    return _OurEnds(channel, monitor, files)


def nameless(purpose: str, ours: contextlib.ExitStack) -> int:
    """Return a descriptor of a file in memory, which is closed with the stack."""
    descriptor = os.memfd_create(f"nsconform-{purpose}")
    ours.callback(os.close, descriptor)
    return descriptor


def _copy(descriptor: int, ours: contextlib.ExitStack) -> int:
    copy = os.dup(descriptor)
    ours.callback(os.close, copy)
    return copy


def _terminal(ours: contextlib.ExitStack, guests: contextlib.ExitStack) -> tuple[int, int]:
    master, slave = pty.openpty()
    ours.callback(os.close, master)
    guests.callback(os.close, slave)
    attributes = termios.tcgetattr(slave)
    # QEMU makes its terminal raw but for output: each CR LF of the kernel's would become CR CR LF.
    attributes[1] &= ~termios.ONLCR
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    return master, slave


def _start(
    argv: list[str],
    spec: MachineSpec,
    terminal: int,
    messages: socket.socket,
    files: Descriptors,
) -> subprocess.Popen[bytes]:
    logger.debug("starting %s", argv)
    return subprocess.Popen(
        _leashed(argv),
        stdin=terminal,
        stdout=terminal,
        # A socket, which cannot be opened again through /proc: virtme-run then adds no second
        # kernel console (hvc0) that would double every message.
        stderr=messages.fileno(),
        pass_fds=files.all(),
        start_new_session=True,
        env=environment(spec.qemu),
    )


def converse(spec: MachineSpec) -> list[str]:
    """Run a guest whose console is this process' terminal, and return what QEMU said of itself.

    Nothing else tells whether it could be started: virtme-run does not pass QEMU's status on.
    Raises BootError when not even that can be started.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as guests:
        ends = _ends(ours, guests, None)
        source, guest_messages = _socket_pair(ours, guests)
        with _boot_errors():
            process = subprocess.Popen(
                _leashed(command(spec, ends.files)),
                stderr=guest_messages.fileno(),
                pass_fds=ends.files.all(),
                env=environment(spec.qemu),
            )
        messages = Messages(source)
        guests.close()
        with process:
            process.wait()
        messages.wait_for_end(_LAST_WORDS_SECONDS)
        return messages.lines()
