# SPDX-License-Identifier: GPL-2.0-only
"""A virtual machine: QEMU as virtme-run assembles it, and nothing that outlives us."""

import contextlib
import logging
import os
import pty
import signal
import socket
import subprocess
import sysconfig
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vm.accel import Accel
from vm.cache import atomic_path, cache_dir
from vm.console import Console
from vm.errors import BootError

logger = logging.getLogger(__name__)

_QEMU_MESSAGES = 1 << 16
_LAST_WORDS_SECONDS = 10

# In what is said of a machine that starts all the same: by virtme-run of the socket that is its
# standard error, by QEMU of a feature that the host's CPU lacks.
_WARNING = "warning: "

# QEMU's parent is virtme-run, so it is QEMU that must ask to die with its parent; virtme-run, a
# child of ours, does the same. Our own end, by SIGKILL too, thus ends both.
_LEASH = """#!/bin/sh
exec setpriv --pdeathsig KILL -- "$NSCONFORM_QEMU" "$@"
"""


@dataclass(frozen=True)
class MachineSpec:
    """All that shapes a guest. `memory` is in the notation of QEMU's -m ("1G")."""

    kernel: Path
    image: Path
    qemu: Path
    accel: Accel
    cpus: int = 2
    memory: str = "1G"
    append: tuple[str, ...] = ()


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


class Machine:
    """A running guest: its console and the channel that its second serial port is connected to."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        console: Console,
        channel: socket.socket,
        messages: Messages,
    ) -> None:
        self.console = console
        self.channel = channel
        self.messages = messages
        self._process = process

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
def running(spec: MachineSpec, log: Path) -> Iterator[Machine]:
    """Start a guest, recording its console to `log`; it has ended when the block is left.

    The channel is a socket pair whose other end QEMU inherits, and the console a pty: nothing of
    a guest has a name in the file system, so nothing can be left there.
    Raises BootError when it cannot be started.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as guests:
        channel, guest_channel = _socket_pair(ours, guests)
        messages, guest_messages = _socket_pair(ours, guests)
        master, slave = _terminal(ours, guests)
        with _boot_errors():
            console = Console(master, log)
            ours.callback(console.wait_for_end, _LAST_WORDS_SECONDS)
            process = _start(spec, slave, guest_channel.fileno(), guest_messages)
        machine = Machine(process, console, channel, Messages(messages))
        ours.callback(machine.end)
        # Else console and channels would not end with QEMU.
        guests.close()
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
    spec: MachineSpec, terminal: int, channel: int, messages: socket.socket
) -> subprocess.Popen[bytes]:
    argv = _leashed(command(spec, channel))
    logger.debug("starting %s", argv)
    return subprocess.Popen(
        argv,
        stdin=terminal,
        stdout=terminal,
        # A socket, which cannot be opened again through /proc: virtme-run then adds no second
        # kernel console (hvc0) that would double every message.
        stderr=messages.fileno(),
        pass_fds=[channel],
        start_new_session=True,
        env=_environment(spec.qemu),
    )


def converse(spec: MachineSpec) -> list[str]:
    """Run a guest whose console is this process' terminal, and return what QEMU said of itself.

    Nothing else tells whether it could be started: virtme-run does not pass QEMU's status on.
    Raises BootError when not even that can be started.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as guests:
        _, guest_channel = _socket_pair(ours, guests)
        source, guest_messages = _socket_pair(ours, guests)
        with _boot_errors():
            process = subprocess.Popen(
                _leashed(command(spec, guest_channel.fileno())),
                stderr=guest_messages.fileno(),
                pass_fds=[guest_channel.fileno()],
                env=_environment(spec.qemu),
            )
        messages = Messages(source)
        guests.close()
        with process:
            process.wait()
        messages.wait_for_end(_LAST_WORDS_SECONDS)
        return messages.lines()


def command(spec: MachineSpec, channel: int) -> list[str]:
    """Return the argv of virtme-run; `channel` is the descriptor of the results channel."""
    empty = str(cache_dir("empty"))
    # fmt: off
    return [
        str(Path(sysconfig.get_path("scripts")) / "virtme-run"),
        "--kimg", str(spec.kernel),
        # Else virtme-run builds an initramfs of its own, which QEMU loads in vain.
        "--mods", "none",
        "--root", empty,
        "--disable-microvm",
        *(["--disable-kvm"] if spec.accel is Accel.TCG else []),
        "--qemu-bin", str(_leash()),
        "--memory", spec.memory,
        "--cpus", str(spec.cpus),
        # In one word, so that virtme-run takes no option of the kernel's for one of its own.
        *(f"--kopt={option}" for option in _kernel_options(spec)),
        "--qemu-opts",
        *(["-machine", "accel=kvm"] if spec.accel is Accel.KVM else []),
        "-no-reboot",
        "-initrd", str(spec.image),
        "-chardev", f"socket,id=results,fd={channel}",
        "-serial", "chardev:results",
    ]
    # fmt: on


def _kernel_options(spec: MachineSpec) -> list[str]:
    return [
        "rdinit=/init",
        # Before the console: what was logged earlier is printed as the level then says.
        "loglevel=7",
        "console=ttyS0",
        "earlyprintk=serial,ttyS0,115200",
        # By the stamp we tell the kernel's lines from others; a kernel may be built without.
        "printk.time=1",
        # A panic ends QEMU (with -no-reboot) instead of leaving a dead machine.
        "panic=-1",
        "sysrq_always_enabled",
        # The agent marks each test in the log; the default would drop marks that come fast.
        "printk.devkmsg=on",
        # Five-level page tables, which -cpu max offers, slow every TLB miss under TCG.
        "no5lvl",
        *spec.append,
    ]


def _environment(qemu: Path) -> dict[str, str]:
    # virtme-run obeys files in HOME and variables of its user's; a guest must depend on neither.
    place = os.environ.get("TMPDIR")
    return ({"TMPDIR": place} if place else {}) | {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(cache_dir("empty")),
        "TERM": "dumb",
        "NSCONFORM_QEMU": str(qemu),
    }


def _leash() -> Path:
    script = cache_dir("bin") / "qemu-leash"
    if not script.exists() or script.read_text() != _LEASH:
        with atomic_path(script) as unfinished:
            unfinished.write_text(_LEASH)
            unfinished.chmod(0o755)
    return script
