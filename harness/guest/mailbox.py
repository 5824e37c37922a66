# SPDX-License-Identifier: GPL-2.0-only
"""Memory that the harness writes and the guest reads.

A serial port takes 25 us a byte under emulation, an ivshmem device (QEMU's
docs/specs/ivshmem-spec.rst) costs nothing and needs no driver: its memory is the device's second
region, which sysfs shows as a file (Documentation/PCI/sysfs-pci.rst).
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

_DEVICES = "/sys/bus/pci/devices"
_IDS = ("0x1af4\n", "0x1110\n")


def is_readable() -> bool:
    """Whether this kernel shows the device: it may be built without PCI or without sysfs, or
    locked down (kernel_lockdown(7))."""
    try:
        return len(read(1)) == 1
    except (OSError, StopIteration):
        return False


def read(length: int) -> bytes:
    """Return the first `length` bytes. Raises OSError where the kernel refuses to show them,
    StopIteration where there is no device."""
    device = next(_devices())
    device.joinpath("enable").write_text("1")
    descriptor = os.open(device / "resource2", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            return memory[:length]
    finally:
        os.close(descriptor)


def _devices() -> Iterator[Path]:
    for device in Path(_DEVICES).glob("*"):
        ids = tuple(device.joinpath(name).read_text() for name in ("vendor", "device"))
        if ids == _IDS and device.joinpath("resource2").exists():
            yield device
