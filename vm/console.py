# SPDX-License-Identifier: GPL-2.0-only
"""The serial console of a guest: recorded to a file, searched for trouble, open to SysRq."""

import logging
import re
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pexpect
from pexpect.fdpexpect import fdspawn

from vm import kernel_log

logger = logging.getLogger(__name__)

# What one boot may write to its log; a guest that floods its console must not fill our disk.
LOG_LIMIT = 32 << 20
_FULL = b"\n[nsconform: the log is full, the rest of this console is not kept]\n"
_CHUNK = 1 << 16
_TAIL_LINES = 2000
_MAX_INCIDENTS = 1000
# QEMU's escape character on a multiplexed console (virtme-run passes -echr 1), then "send break".
_BREAK = b"\x01b"
_SYSRQ_SECONDS = 0.7
_MARK = re.compile(r"nsconform: (?P<what>start|finish) (?P<test>\S+)")


@dataclass(frozen=True)
class Incident:
    """A line in which the kernel says that something is wrong with it: `text` without its stamp,
    of a panic the reason alone."""

    line: int
    text: str
    panic: bool


class Console:
    """Follows one console until its end in a thread of its own.

    `descriptor` is the master side of the pty that QEMU's console is connected to; everything
    that arrives there goes to `log`, byte for byte up to LOG_LIMIT. Line numbers count from 1.
    Raises OSError when the log cannot be made.
    """

    def __init__(self, descriptor: int, log: Path) -> None:
        self._child = fdspawn(descriptor, timeout=None, maxread=_CHUNK)
        # Unbuffered: what has come is in the file, whatever happens to us.
        self._log = log.open("wb", buffering=0)
        self._lock = threading.Lock()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._incidents: list[Incident] = []
        self._marks: dict[str, list[int]] = {}
        self._line = 0
        self._partial = b""
        self._read_bytes = 0
        self._room = LOG_LIMIT
        self._booted = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="console", daemon=True)
        self._thread.start()

    def wait_for_kernel(self, seconds: float) -> bool:
        """Wait until the kernel has printed its first line; False if it has not by then."""
        return self._booted.wait(seconds)

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until QEMU has closed its side of the console and all of it is in the log."""
        return self._ended.wait(seconds)

    def tail(self, lines: int) -> list[str]:
        """Return the last lines, at most 2000."""
        with self._lock:
            return list(self._tail)[-lines:]

    def incidents(self) -> list[Incident]:
        """Return what the kernel has complained about so far: a thousand lines, and every panic."""
        with self._lock:
            return list(self._incidents)

    def panic_reason(self) -> str:
        """Return why the kernel panicked, or nothing."""
        return next((found.text for found in self.incidents() if found.panic), "")

    def lines_of(self, test: str) -> tuple[int, int] | None:
        """Return the first and last line between the marks that the agent printed for a test."""
        with self._lock:
            marks = self._marks.get(test)
            return (marks[0], marks[1] if len(marks) > 1 else self._line) if marks else None

    def sysrq(self, keys: str) -> None:
        """Send SysRq commands over the serial line (Documentation/admin-guide/sysrq.rst).

        They are handled in interrupt context, so that a guest whose processes are all stuck still
        answers; what it prints goes to the log.
        """
        for key in keys:
            self.send(_BREAK + key.encode())
            # A break that comes before the last command was read would swallow it.
            self._wait_for_silence(_SYSRQ_SECONDS)

    def _wait_for_silence(self, seconds: float) -> None:
        """Wait until nothing was printed for `seconds`, ten times that at most."""
        for _ in range(10):
            before = self._read_bytes
            if self._ended.wait(seconds) or self._read_bytes == before:
                return

    def send(self, data: bytes) -> None:
        """Type on the console; quietly nothing when QEMU has gone."""
        try:
            self._child.send(data)
        except OSError as error:
            logger.debug("console is gone: %s", error)

    def _follow(self) -> None:
        while chunk := self._read():
            self._keep(chunk)
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            self._partial = self._partial[-_CHUNK:]
            for line in lines:
                self._scan(line)
        self._log.close()
        if self._partial:
            self._scan(self._partial)
        self._booted.set()
        self._ended.set()

    def _read(self) -> bytes:
        try:
            return cast(bytes, self._child.read_nonblocking(_CHUNK, timeout=None))
        except (pexpect.EOF, OSError):
            # Linux reports the closing of a pty's other side as EIO.
            return b""

    def _keep(self, chunk: bytes) -> None:
        """Write what has come to the log, as far as there is room."""
        room = self._room
        self._read_bytes += len(chunk)
        self._room = max(room - len(chunk), 0)
        if not room:
            return
        try:
            self._log.write(chunk[:room])
            if room < len(chunk):
                self._log.write(_FULL)
        except OSError as error:
            # The guest goes on all the same: whoever stops reading its console stops the guest.
            logger.warning("%s is cut off: %s", self._log.name, error.strerror)
            self._room = 0

    def _scan(self, raw: bytes) -> None:
        line = raw.rstrip(b"\r").decode(errors="replace")
        with self._lock:
            self._line += 1
            self._tail.append(line)
            if not kernel_log.is_from_kernel(line):
                return
            if mark := _MARK.search(line):
                self._marks.setdefault(mark["test"], []).append(self._line)
            if why := kernel_log.panic_reason([line]):
                self._incidents.append(Incident(self._line, why, panic=True))
            elif kernel_log.splats([line]) and len(self._incidents) < _MAX_INCIDENTS:
                self._incidents.append(Incident(self._line, kernel_log.text_of(line), panic=False))
        self._booted.set()
