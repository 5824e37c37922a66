# SPDX-License-Identifier: GPL-2.0-only
"""The command that starts a guest: virtme-run with all that shapes it."""

import os
import sysconfig
from dataclasses import dataclass, fields
from pathlib import Path

from vm.accel import Accel
from vm.cache import atomic_path, cache_dir

# QEMU's parent is virtme-run, so it is QEMU that must ask to die with its parent; virtme-run, a
# child of ours, does the same. Our own end, by SIGKILL too, thus ends both.
_LEASH = """#!/bin/sh
exec setpriv --pdeathsig KILL -- "$NSCONFORM_QEMU" "$@"
"""

# More than the suites will ever take, and a power of two, as the sizes of PCI regions are.
MAILBOX_SIZE = "16M"

# What costs under QEMU's translator (10.0). Fast string operations it runs byte by byte; without
# them Linux copies a page in half the time. Vector operations of AVX it calls out for, and the C
# library takes them where it sees them.
_SLOW = ("erms", "fsrm", "avx", "avx2", "f16c", "fma", "vaes", "vpclmulqdq")
_ACCEL_OPTIONS = {
    Accel.KVM: ["-machine", "accel=kvm"],
    Accel.TCG: ["-cpu", ",-".join(("max", *_SLOW))],
}


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


@dataclass(frozen=True)
class Descriptors:
    """What QEMU inherits besides its console: descriptors, so that nothing has a name in the
    file system that could be left there.

    `channel` is the socket behind the second serial port, `monitor` the one that QEMU obeys.
    `memory`, `state` and `mailbox` are files without a name: the guest's memory, what a snapshot
    needs besides that, and the memory that guest and harness share.
    """

    channel: int
    monitor: int
    memory: int
    state: int
    mailbox: int

    def all(self) -> list[int]:
        """Return them as a list."""
        return [getattr(self, field.name) for field in fields(self)]


def command(spec: MachineSpec, files: Descriptors, *, resume: bool = False) -> list[str]:
    """Return the argv of virtme-run; `resume` lets the guest wait for its state."""
    empty = str(cache_dir("empty"))
    # fmt: off
    return [
        virtme_run(),
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
        *_ACCEL_OPTIONS[spec.accel],
        "-no-reboot",
        "-initrd", str(spec.image),
        "-chardev", f"socket,id=results,fd={files.channel}",
        "-serial", "chardev:results",
        "-chardev", f"socket,id=monitor,fd={files.monitor}",
        "-mon", "chardev=monitor,mode=control",
        "-object", _memory("memory", spec.memory, files.memory) + ",share=on",
        "-machine", "memory-backend=memory",
        # Not shared, because QEMU does not restore a device with a shared file (10.0: "Mismatched
        # GPAs"). What we write is seen all the same, as the guest never does (mm/memory.c,
        # do_fault: a private page is the file's own until the first write).
        "-object", _memory("mailbox", MAILBOX_SIZE, files.mailbox) + ",share=off",
        "-device", "ivshmem-plain,memdev=mailbox,master=on",
        *(["-incoming", "defer"] if resume else []),
    ]
    # fmt: on


def virtme_run() -> str:
    """Return the path of virtme-run, which is installed with us."""
    return str(Path(sysconfig.get_path("scripts")) / "virtme-run")


def path_of(descriptor: int) -> str:
    """Return the name by which QEMU opens a descriptor that it has inherited."""
    return f"/proc/self/fd/{descriptor}"


def _memory(name: str, size: str, descriptor: int) -> str:
    # Not memory-backend-memfd: only memory in a file with a name is left out of the state.
    return f"memory-backend-file,id={name},size={size},mem-path={path_of(descriptor)}"


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


def environment(qemu: Path) -> dict[str, str]:
    """Return the environment of the command; `qemu` is what virtme-run is to start."""
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
