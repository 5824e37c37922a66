# SPDX-License-Identifier: GPL-2.0-only
"""Process 1 of the guest that `tests.nested` boots: loads KVM, then runs what the host asks for.

It says READY over the second serial port as soon as it listens there. Then one JSON object a line
goes each way: a request (`argv`, `environment`, `seconds`, and whether to `forget` before what is
remembered of KVM), then what came of it: `status` (None when it was killed for taking too long),
`seconds`, `output`, `files` (the text of every file below RESULTS), `memory` (what is remembered of
KVM: text and time of modification in ns, or None) and `processes` (running afterwards).
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import termios
import time
import traceback
import tty
from pathlib import Path
from typing import Any

from harness.guest import mounts

RESULTS = Path("/nsconform/results")
READY = b"ready\n"
_MODULES = Path("/nsconform/modules")
_MEMORY = Path("/nsconform/cache/accel.json")
_OUTPUT = Path("/nsconform/output")
_LIBC = ctypes.CDLL(None, use_errno=True)
# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/linux/reboot.h
_FINIT_MODULE, _RB_POWER_OFF = 313, 0x4321FEDC


def main() -> None:
    """Serve until the guest is killed; whatever else ends it is told on the console."""
    try:
        mounts.mount_all()
        _adopt_console()
        _mount_terminals()
        for module in sorted(_MODULES.iterdir()):
            _load(module)
        _serve()
    except BaseException:
        # Nobody is left to catch it, and an end of process 1 would look like a kernel panic.
        traceback.print_exc()
    finally:
        _LIBC.reboot(_RB_POWER_OFF)


def _adopt_console() -> None:
    console = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    for descriptor in (0, 1, 2):
        os.dup2(console, descriptor)


def _mount_terminals() -> None:
    """Mount what gives pexpect its pseudoterminals."""
    target = "/dev/pts"
    Path(target).mkdir(exist_ok=True)
    _check(_LIBC.mount(b"devpts", target.encode(), b"devpts", 0, None), target)


def _load(module: Path) -> None:
    with module.open("rb") as file:
        _check(_LIBC.syscall(_FINIT_MODULE, file.fileno(), b"", 0), str(module))


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _serve() -> None:
    channel = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    tty.setraw(channel, termios.TCSANOW)
    with os.fdopen(channel, "rb", buffering=0) as requests:
        # Before it was raw, the terminal would have echoed a request.
        os.write(channel, READY)
        while line := requests.readline():
            answer = memoryview(json.dumps(_answer(**json.loads(line))).encode() + b"\n")
            while answer:
                answer = answer[os.write(channel, answer) :]


def _answer(
    argv: list[str], environment: dict[str, str], seconds: float, *, forget: bool
) -> dict[str, Any]:
    shutil.rmtree(RESULTS, ignore_errors=True)
    if forget:
        _MEMORY.unlink(missing_ok=True)
    start = time.monotonic()
    status = _run(argv, environment, seconds)
    return {
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "output": _OUTPUT.read_text(errors="replace"),
        "files": {
            str(file.relative_to(RESULTS)): file.read_text(errors="replace")
            for file in RESULTS.rglob("*")
            if file.is_file()
        },
        "memory": [_MEMORY.read_text(), _MEMORY.stat().st_mtime_ns] if _MEMORY.exists() else None,
        "processes": _processes(),
    }


def _run(argv: list[str], environment: dict[str, str], seconds: float) -> int | None:
    with _OUTPUT.open("wb") as output:
        try:
            return subprocess.run(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def _processes() -> list[str]:
    """Return the command lines of all processes but this one; threads of the kernel have none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end while we look at it.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if line and folder.name != "1":
                found.append(line)
    return found


if __name__ == "__main__":
    main()
