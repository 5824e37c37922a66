# SPDX-License-Identifier: GPL-2.0-only
"""The kernel inside a bzImage, for QEMU to start without the bzImage's decompressor.

Under TCG that decompressor, with the choice of a random place for the kernel, takes a third of a
boot. QEMU starts an ELF kernel by its PVH entry (include/xen/interface/elfnote.h, since Linux 5.0
for other hypervisors than Xen, CONFIG_PVH), and such a kernel lies where it was linked for.
"""

import hashlib
import io
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vm.accel import Accel
from vm.archives import libarchive
from vm.bzimage import setup_size
from vm.cache import cache_dir, made_once
from vm.errors import ConfigError
from vm.kernels import Kernel

logger = logging.getLogger(__name__)

# Documentation/arch/x86/boot.rst: place of the compressed kernel, counted from the end of the
# setup sectors, and its length, both since protocol 2.08.
_PAYLOAD = 0x248
_LIMIT = 1 << 30
_GZIP = b"\x1f\x8b"
# elf(5), for the 64-bit header, program headers and notes.
_PROGRAM_HEADERS, _PROGRAM_HEADER, _PT_NOTE = 0x20, struct.Struct("<IIQQQQQQ"), 4
_NOTE = struct.Struct("<III")
_PVH_NOTE = (b"Xen\0", 18)  # XEN_ELFNOTE_PHYS32_ENTRY


def boot_image(kernel: Kernel, accel: Accel) -> Path:
    """Return the file to boot a kernel from: under TCG its ELF form, from the cache, if QEMU can
    start that; else the image itself."""
    if accel is not Accel.TCG:
        return kernel.image
    elf = cache_dir("images") / f"vmlinux-{kernel.sha256[:32]}"
    try:
        made_once(elf, lambda unfinished: unfinished.write_bytes(_elf_or_nothing(kernel)))
        return elf if elf.stat().st_size else kernel.image
    except (OSError, ConfigError) as error:
        logger.debug("%s boots as it is: %s", kernel.image, error)
        return kernel.image


def _elf_or_nothing(kernel: Kernel) -> bytes:
    """Return what is to be kept: nothing says that the kernel cannot be started in this way."""
    data = kernel.image.read_bytes()
    if hashlib.sha256(data).hexdigest() != kernel.sha256:
        raise ConfigError("it has changed since the run began")
    try:
        return elf_of(data)
    except ConfigError as error:
        logger.debug("%s boots as it is: %s", kernel.image, error)
        return b""


def elf_of(image: bytes) -> bytes:
    """Return the ELF file that a bzImage holds.

    Raises ConfigError if it is compressed in a way that is not known here, damaged, or without an
    entry for QEMU.
    """
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = setup_size(image) + offset
    elf = _inflated(image[start : start + length])
    if not has_pvh_entry(elf):
        raise ConfigError("it has no PVH entry (CONFIG_PVH)")
    return elf


def _inflated(payload: bytes) -> bytes:
    if len(payload) < _NOTE.size:
        raise ConfigError("it holds nothing")
    # scripts/Makefile.lib appends the size to what does not end with it by itself.
    (size,) = struct.unpack("<I", payload[-4:])
    packed = payload if payload.startswith(_GZIP) else payload[:-4]
    library = libarchive()
    data = io.BytesIO()
    try:
        with library.memory_reader(packed, format_name="raw", filter_name="all") as entries:
            for entry in entries:
                _collect(entry, data)
    except library.ArchiveError as error:
        raise ConfigError(f"it cannot be decompressed: {error}") from error
    if data.tell() != size:
        raise ConfigError(f"it has {data.tell()} bytes instead of {size}")
    return data.getvalue()


def _collect(entry: Any, data: io.BytesIO) -> None:
    for block in entry.get_blocks():
        data.write(block)
        if data.tell() > _LIMIT:
            raise ConfigError(f"it has more than {_LIMIT >> 20} MB")


def has_pvh_entry(elf: bytes) -> bool:
    """Whether QEMU can start an ELF file: it has the note that tells where."""
    try:
        return elf.startswith(b"\x7fELF\x02\x01") and _PVH_NOTE in _notes(elf)
    except struct.error:  # it is cut off
        return False


def _notes(elf: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield name and type of each note."""
    (table,) = struct.unpack_from("<Q", elf, _PROGRAM_HEADERS)
    size, number = struct.unpack_from("<HH", elf, 0x36)
    for index in range(number):
        kind, _, start, _, _, length, _, _ = _PROGRAM_HEADER.unpack_from(elf, table + index * size)
        place, end = start, start + length
        while kind == _PT_NOTE and place < end:
            name, content, note = _NOTE.unpack_from(elf, place)
            place += _NOTE.size
            yield elf[place : place + name], note
            place += _aligned(name) + _aligned(content)


def _aligned(length: int) -> int:
    return length + 3 & ~3
