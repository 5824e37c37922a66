# SPDX-License-Identifier: GPL-2.0-only
"""A boot as anybody has it from virtme-run, to an init that powers off at once.

QEMU, CPUs, memory and a console with all messages are those of a run; what a run adds so that its
guests start sooner is part of what is measured, and is not here.
"""

import struct
import subprocess
import time
from pathlib import Path

from vm import cpio, qemu
from vm.command import environment, virtme_run
from vm.cpio import Entry

# reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF), system call 169
# of x86-64 (include/uapi/linux/reboot.h).
_CODE = (
    b"\xb8\xa9\x00\x00\x00"  # mov eax, 169
    b"\xbf\xad\xde\xe1\xfe"  # mov edi, 0xfee1dead
    b"\xbe\x69\x19\x12\x28"  # mov esi, 672274793
    b"\xba\xdc\xfe\x21\x43"  # mov edx, 0x4321fedc
    b"\x0f\x05"  # syscall
    b"\xeb\xfe"  # jmp to itself
)
_LOAD_ADDRESS = 0x400000


def seconds_to_boot(kernel: Path, folder: Path) -> float:
    """Boot a kernel in `folder`, which is made; return the seconds from start to end of QEMU."""
    root = folder / "root"
    root.mkdir(parents=True)
    image = folder / "bare.cpio"
    initramfs(image)
    program = qemu.find().path
    # fmt: off
    argv = [
        virtme_run(), "--kimg", str(kernel), "--mods", "none", "--root", str(root),
        "--disable-kvm", "--disable-microvm", "--qemu-bin", str(program),
        "--memory", "1G", "--cpus", "2", "--show-boot-console", "--kopt", "rdinit=/init",
        "--qemu-opts", "-initrd", str(image),
    ]
    # fmt: on
    started = time.monotonic()
    with folder.joinpath("console").open("wb") as console:
        subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env=environment(program),
            timeout=300,
            check=True,
        )
    return time.monotonic() - started


def initramfs(archive: Path) -> None:
    """Write the initramfs to `archive`."""
    cpio.write(archive, {"init": Entry(_elf(_CODE), 0o755)})


def _elf(code: bytes) -> bytes:
    """Return a static x86-64 program: one header, one segment, the code behind them (elf(5))."""
    entry = _LOAD_ADDRESS + 64 + 56
    size = 64 + 56 + len(code)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x1000)
    return identity + header + segment + code
