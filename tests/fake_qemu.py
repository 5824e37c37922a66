# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU that plays a script instead of running a kernel, for what a real one does too rarely.

`install` puts a program in a folder that virtme-run, or the harness, starts as QEMU. Boot after
boot it performs the next list of steps of that folder's script, the last one again and again. Its
console is its standard input and output; results channel and monitor are the inherited sockets
that the harness names on the command line. A step is what the functions below return.
"""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Step = list[Any]
_PROGRAM = """#!/bin/sh
[ "$1" != --version ] || exec echo "QEMU emulator version 10.0.2 (a fake)"
exec "{python}" -S "{player}" "{folder}" "$@"
"""
RELEASE = "7.3.4-fake"
FIRST_LINE = f"[    0.000000] Linux version {RELEASE} (builder@host)\n"
PANIC = "[    1.500000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\n"


def console(text: str) -> Step:
    """Print on the console."""
    return ["console", text]


def error(text: str) -> Step:
    """Say something on standard error, as QEMU does of itself."""
    return ["error", text]


def raw(data: bytes) -> Step:
    """Write to the results channel, whatever it is."""
    return ["raw", data.decode("latin-1")]


def event(kind: str, **fields: object) -> Step:
    """Send an event over the results channel."""
    return raw(b"\n" + json.dumps({"event": kind, **fields}).encode() + b"\n")


def hello(**fields: object) -> Step:
    """Say hello as the agent of a fast guest; one that was saved goes on behind that."""
    return ["hello", {"release": RELEASE, "uptime": 1.0, **fields}]


def serve(**special: Sequence[Step] | str) -> Step:
    """Take the suites in, wait for the tests to run, and report on each: it passes, unless there
    is another outcome for it, or steps to take instead of its finish, under the name of its
    function."""
    return ["serve", special]


def finish(outcome: str, **fields: object) -> Step:
    """Finish the test that `serve` is at."""
    return ["finish", {"outcome": outcome, **fields}]


def pause(seconds: float) -> Step:
    """Do nothing for a while."""
    return ["pause", seconds]


def hang() -> Step:
    """Do nothing any more."""
    return pause(1000)


def die() -> Step:
    """Be gone from one moment to the other."""
    return ["die"]


def interrupt() -> Step:
    """Send SIGTERM to the process that started QEMU."""
    return ["interrupt"]


def refuse(*commands: str) -> Step:
    """As the first step: have the monitor refuse these commands."""
    return ["refuse", commands]


def break_down(command: str) -> Step:
    """As the first step: have QEMU be gone when the monitor gets this command."""
    return ["break_down", command]


def end(status: int = 0) -> Step:
    """Exit."""
    return ["end", status]


def by_accel(**steps: Sequence[Step]) -> Step:
    """Take the steps of `kvm` or of `tcg`."""
    return ["by_accel", steps]


UP = (console(FIRST_LINE), hello())
WORKS = (*UP, serve())


def with_two(*steps: Step | str) -> Sequence[Step]:
    """A boot in which something happens in test_two: steps to take, or just another outcome."""
    special = steps[0] if isinstance(steps[0], str) else steps
    return (*UP, serve(test_two=special))  # type: ignore[arg-type]


def install(folder: Path, *boots: Sequence[Step]) -> Path:
    """Make the program in `folder`, with a script for each boot; returns its path."""
    program = folder / "qemu-system-x86_64"
    program.write_text(_PROGRAM.format(python=sys.executable, player=__file__, folder=folder))
    program.chmod(0o755)
    (folder / "script.json").write_text(json.dumps(boots))
    return program


def boots(folder: Path) -> list[list[str]]:
    """Return the arguments of every boot so far."""
    log = folder / "boots.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


class _Player:
    """Performs one boot."""

    def __init__(self, argv: Sequence[str]) -> None:
        if os.isatty(0):
            tty.setraw(0)  # as QEMU does; the terminal would change our line feeds
        self._accel = "kvm" if "accel=kvm" in argv else "tcg"
        option = next(word for word in argv if word.startswith("socket,id=results,"))
        self._channel = socket.socket(fileno=int(option.rpartition("=")[2]))
        self._monitor = _Monitor(argv)
        self._resumed = "-incoming" in argv
        self._test = ""

    def perform(self, steps: Sequence[Step]) -> None:
        """Play a whole boot, or what is left of it for a guest that was saved."""
        kinds = [step[0] for step in steps]
        first = next((n for n, kind in enumerate(kinds) if kind not in _OF_THE_MONITOR), 0)
        self.play(steps[:first])
        self._monitor.start()
        if self._resumed:
            self._monitor.going_on.wait()
            first = max(first, kinds.index("hello") + 1)
        self.play(steps[first:])

    def play(self, steps: Sequence[Step]) -> None:
        for kind, *arguments in steps:
            getattr(self, f"_{kind}")(*arguments)

    def _console(self, text: str) -> None:
        os.write(1, text.replace("\n", "\r\n").encode())

    def _error(self, text: str) -> None:
        os.write(2, text.encode())

    def _raw(self, text: str) -> None:
        self._channel.sendall(text.encode("latin-1"))

    def _hello(self, fields: Mapping[str, object]) -> None:
        self.play([event("hello", **fields)])

    def _refuse(self, commands: Sequence[str]) -> None:
        self._monitor.refused = commands

    def _break_down(self, command: str) -> None:
        self._monitor.last = command

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _interrupt(self) -> None:
        os.kill(os.getppid(), signal.SIGTERM)

    def _end(self, status: int) -> None:
        sys.exit(status)

    def _by_accel(self, steps: Mapping[str, Sequence[Step]]) -> None:
        self.play(steps[self._accel])

    def _serve(self, special: Mapping[str, Sequence[Step] | str]) -> None:
        for command in self._commands():
            if command["command"] == "load":
                self.play([event("ready", features=["listns"])])
            elif command["command"] == "run":
                self._run(command["tests"], special)

    def _run(self, tests: Sequence[str], special: Mapping[str, Sequence[Step] | str]) -> None:
        for self._test in tests:
            self.play([event("start", test=self._test)])
            steps = special.get(re.sub(r".*::", "", self._test), "pass")
            self.play([finish(steps)] if isinstance(steps, str) else steps)
        self.play([event("done")])

    def _finish(self, fields: Mapping[str, object]) -> None:
        self.play([event("finish", test=self._test, duration=0.01, **fields)])

    def _commands(self) -> Iterator[dict[str, Any]]:
        """Yield what the harness says until it wants no more; in the end nothing is left to do."""
        for line in self._channel.makefile():
            if line.strip():
                yield json.loads(line)


_OF_THE_MONITOR = ("refuse", "break_down")
STATE = b"a fake state"


class _Monitor(threading.Thread):
    """Obeys the harness: `going_on` is set when a guest that was asleep may go on."""

    def __init__(self, argv: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.refused: Sequence[str] = ()
        self.last = ""
        self.going_on = threading.Event()
        option = next(word for word in argv if word.startswith("socket,id=monitor,"))
        self._connection = socket.socket(fileno=int(option.rpartition("=")[2]))

    def run(self) -> None:
        self._say({"QMP": {}})
        # The harness sends one command, without a line feed, and waits for its answer.
        while data := self._connection.recv(1 << 16):
            command = json.loads(data)
            if command["execute"] == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            if command["execute"] in self.refused:
                self._say({"error": {"desc": "not today"}})
            else:
                self._say({"return": self._obey(command["execute"], command["arguments"])})

    def _obey(self, command: str, arguments: Mapping[str, Any]) -> Mapping[str, object]:
        if command == "migrate":
            self._file(arguments).write_bytes(STATE)
        elif command == "migrate-incoming":
            if self._file(arguments).read_bytes() != STATE:
                os.write(2, b"qemu: not a state of mine\n")
                os._exit(1)
        elif command == "cont":
            self.going_on.set()
        return {"status": "completed"} if command == "query-migrate" else {}

    def _file(self, arguments: Mapping[str, Any]) -> Path:
        return Path(arguments["uri"].removeprefix("file:"))

    def _say(self, message: object) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\r\n")


def _main(folder: Path, argv: Sequence[str]) -> None:
    number = len(boots(folder))
    with (folder / "boots.jsonl").open("a") as log:
        log.write(json.dumps(argv) + "\n")
    script = json.loads((folder / "script.json").read_text())
    _Player(argv).perform(script[min(number, len(script) - 1)])


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
