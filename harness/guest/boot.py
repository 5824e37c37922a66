# SPDX-License-Identifier: GPL-2.0-only
"""What process 1 of the guest does from its first instruction to the last."""

import contextlib
import ctypes
import gc
import os
import sys
import termios
import traceback

from harness.guest import colours, generated, mounts, unused

SUITES = "/nsconform/suites"
_CHANNEL = "/dev/ttyS1"
_LIBC = ctypes.CDLL(None)
# include/uapi/linux/reboot.h
_RB_POWER_OFF = 0x4321FEDC


def main() -> None:
    """Serve the harness over the second serial port, then power off, whatever happened."""
    # What is imported stays; looking for garbage among it is a twentieth of the way to pytest.
    gc.disable()
    try:
        lacking = mounts.mount_all()
        _adopt_console()
        if "nsconform.shell" in _command_line():
            _shell()
        else:
            _serve(lacking)
    except BaseException:
        # Nobody is left to catch it, and an end of process 1 would look like a kernel panic.
        traceback.print_exc()
    finally:
        _LIBC.sync()
        _LIBC.reboot(_RB_POWER_OFF)


def _serve(lacking: list[str]) -> None:
    _keep_forks_cheap()
    # No plugin is installed in the guest; pytest looks through all of sys.path for some.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    colours.do_without()
    unused.put_off()
    generated.recall()
    from harness.guest import agent

    agent.serve(_open_channel(), lacking, SUITES)


def _keep_forks_cheap() -> None:
    """Let no module have something done in every child.

    What threading, logging and random do there serves threads, of which there are none when we
    fork, and fresh random numbers. It costs a tenth of the pages that an empty test touches, each
    of which the kernel has to copy.
    """
    os.register_at_fork = lambda **_hooks: None


def _shell() -> None:
    """Give whoever sits at the console a Python prompt with the vocabulary of the suites."""
    import code

    sys.path.insert(0, SUITES)
    import nslib

    names = {name: getattr(nslib, name) for name in dir(nslib) if not name.startswith("_")}
    # Python's own exit() comes with the site module, which the guest does without.
    names |= {"os": os, "nslib": nslib, "exit": sys.exit}
    banner = f"Linux {os.uname().release}: Python prompt, nslib is imported; exit() ends the guest"
    with contextlib.suppress(SystemExit):
        code.interact(banner, local=names, exitmsg="")


def _command_line() -> list[str]:
    with open("/proc/cmdline") as file:
        return file.read().split()


def _adopt_console() -> None:
    """Make the console standard input and outputs: a kernel may start process 1 with none."""
    console = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    for descriptor in (0, 1, 2):
        os.dup2(console, descriptor)
    if console > 2:
        os.close(console)
    sys.stdin, sys.stdout, sys.stderr = (
        open(0, closefd=False),
        open(1, "w", buffering=1, closefd=False),
        open(2, "w", buffering=1, closefd=False),
    )


def _open_channel() -> int:
    """Open the results channel raw: bytes pass as they are, in both directions."""
    channel = os.open(_CHANNEL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    attributes = termios.tcgetattr(channel)
    attributes[0] = attributes[1] = attributes[3] = 0
    attributes[2] = termios.CS8 | termios.CREAD | termios.CLOCAL | termios.B115200
    attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0
    termios.tcsetattr(channel, termios.TCSANOW, attributes)
    return channel
