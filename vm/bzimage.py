# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel image says of itself: its architecture and its release.

Offsets and magic numbers: Documentation/arch/x86/boot.rst, Documentation/arch/arm64/booting.rst,
Documentation/arch/riscv/boot-image-header.rst, elf(5).
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from vm.errors import ConfigError

_HEAD_BYTES = 0x10000  # kernel_version points into the setup sectors, at most 64 of 512 bytes
_SECTOR = 512
_SETUP_SECTS, _SYSSIZE = 0x1F1, 0x1F4
_HDRS, _KERNEL_VERSION, _XLOADFLAGS = 0x202, 0x20E, 0x236
_XLF_KERNEL_64 = 1
_ELF_MACHINES = {3: "i386", 22: "s390x", 21: "ppc64", 40: "arm", 62: "x86_64", 183: "arm64",
                 243: "riscv", 258: "loongarch"}  # fmt: skip
_FOREIGN = {
    (0x38, b"ARM\x64"): "arm64",
    (0x38, b"RSC\x05"): "riscv",
    (0x38, b"\xcd\x23\x82\x81"): "loongarch",
}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}


@dataclass(frozen=True)
class BzImage:
    """The identity of an x86-64 boot image: `release` is what `uname -r` prints in it."""

    release: str
    arch: str


def read(image: Path) -> BzImage:
    """Return what the boot header of `image` says.

    Raises ConfigError for a file that is missing, cut off, of another architecture, or no kernel.
    """
    try:
        with image.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        size = image.stat().st_size
    except OSError as error:
        raise ConfigError(f"cannot read the kernel image {image} ({error.strerror})") from error
    if head[_HDRS : _HDRS + 4] != b"HdrS" or len(head) < _XLOADFLAGS + 2:
        raise ConfigError(f"{image} is {_other_kind(head)}; a bzImage for x86_64 is wanted")
    return _parse(image, head, size)


def _parse(image: Path, head: bytes, size: int) -> BzImage:
    (paragraphs,) = struct.unpack_from("<I", head, _SYSSIZE)
    if size < (whole := setup_size(head) + paragraphs * 16):
        raise ConfigError(f"{image} is cut off: {size} bytes of {whole}; fetch or build it again")
    (flags,) = struct.unpack_from("<H", head, _XLOADFLAGS)
    if not flags & _XLF_KERNEL_64:
        raise ConfigError(f"{image} is a 32-bit x86 kernel; a bzImage for x86_64 is wanted")
    (offset,) = struct.unpack_from("<H", head, _KERNEL_VERSION)
    banner = head[offset + _SECTOR :].split(b"\0", 1)[0] if offset else b""
    words = banner.decode("ascii", "replace").split()
    if not words:
        raise ConfigError(f"{image} does not tell its release; it is not an intact bzImage")
    return BzImage(words[0], "x86_64")


def setup_size(head: bytes) -> int:
    """Return how many bytes there are in front of the part that runs in protected mode."""
    sectors = head[_SETUP_SECTS] or 4  # boot.rst: 0 means 4
    return (sectors + 1) * _SECTOR


def _other_kind(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.startswith(b"\x7fELF") and len(head) > 0x14:
        machine = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 0x12)[0]
        name = _ELF_MACHINES.get(machine, f"ELF machine {machine}")
        if name == "x86_64":
            return "an ELF file, not a boot image (beside a vmlinux there is arch/x86/boot/bzImage)"
        return f"a kernel or program for {name}"
    for (offset, magic), name in _FOREIGN.items():
        if head[offset : offset + len(magic)] == magic:
            return f"a kernel for {name}"
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return f"a {name} file (perhaps a kernel for another architecture)"
    return "not a kernel image"
