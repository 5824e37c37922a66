# SPDX-License-Identifier: GPL-2.0-only
import gzip
import hashlib
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from vm.accel import Accel
from vm.errors import ConfigError
from vm.kernels import Kernel
from vm.uncompressed import boot_image, elf_of, has_pvh_entry

SECTORS = 3


def elf(*notes: tuple[bytes, int]) -> bytes:
    """An ELF file of one segment, which holds notes."""
    content = b"".join(
        struct.pack("<III", len(name), 4, kind) + name + bytes(-len(name) % 4) + b"addr"
        for name, kind in notes
    )
    place = 64 + 56
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 4, 4, place, 0, 0, len(content), len(content), 4)
    return head + segment + content


KERNEL = elf((b"Linux\0", 257), (b"Xen\0", 18)) + bytes(1000)


def image(payload: bytes) -> bytes:
    """A bzImage that holds a compressed kernel."""
    head = bytearray(0x400)
    head[0x1F1] = SECTORS
    offset = 77
    struct.pack_into("<II", head, 0x248, offset, len(payload))
    return bytes(head.ljust((SECTORS + 1) * 512 + offset, b"\xcc")) + payload + b"the rest"


def sized(payload: bytes, kernel: bytes = KERNEL) -> bytes:
    return payload + struct.pack("<I", len(kernel))


class TestElf:
    @pytest.mark.parametrize(
        "payload",
        [
            gzip.compress(KERNEL),
            sized(lzma.compress(KERNEL)),
            sized(lzma.compress(KERNEL, format=lzma.FORMAT_ALONE)),
        ],
        ids=["gzip", "xz", "lzma"],
    )
    def test_is_what_was_compressed(self, payload: bytes) -> None:
        assert elf_of(image(payload)) == KERNEL

    @pytest.mark.parametrize(
        ("payload", "complaint"),
        [
            (b"", "it holds nothing"),
            (sized(lzma.compress(KERNEL)[:-40]), "it cannot be decompressed|bytes instead of"),
            (sized(lzma.compress(KERNEL), b"longer" * 1000), "bytes instead of 6000"),
            (sized(b"neither of them" * 9), "bytes instead of|cannot be decompressed"),
            (gzip.compress(elf((b"Xen\0", 7))), "no PVH entry"),
            (gzip.compress(b"no ELF file"), "no PVH entry"),
        ],
    )
    def test_is_refused(self, payload: bytes, complaint: str) -> None:
        with pytest.raises(ConfigError, match=complaint):
            elf_of(image(payload))


class TestEntry:
    @pytest.mark.parametrize(
        ("notes", "found"),
        [
            ([], False),
            ([(b"Xen\0", 18)], True),
            ([(b"Xen\0", 17), (b"GNU\0", 18)], False),
            ([(b"odd", 3), (b"Xen\0", 18)], True),
        ],
    )
    def test_is_a_note(self, notes: list[tuple[bytes, int]], found: bool) -> None:
        assert has_pvh_entry(elf(*notes)) is found

    @pytest.mark.parametrize("length", [0, 4, 40, 64, 100, 125])
    def test_is_not_found_in_a_part(self, length: int) -> None:
        assert not has_pvh_entry(KERNEL[:length])


class TestBootImage:
    @pytest.fixture
    def kernel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Kernel]:
        monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "cache"))

        def make(content: bytes) -> Kernel:
            path = tmp_path / "bzImage"
            path.write_bytes(content)
            sha = hashlib.sha256(content).hexdigest()
            return Kernel("spec", path, "7.3", "x86_64", "here", sha, None)

        return make

    def test_is_the_elf_file(self, kernel: Callable[[bytes], Kernel]) -> None:
        given = kernel(image(gzip.compress(KERNEL)))
        found = boot_image(given, Accel.TCG)
        assert found.read_bytes() == KERNEL
        given.image.unlink()
        assert boot_image(given, Accel.TCG) == found

    def test_is_the_image_with_kvm(self, kernel: Callable[[bytes], Kernel]) -> None:
        given = kernel(image(gzip.compress(KERNEL)))
        assert boot_image(given, Accel.KVM) == given.image

    def test_is_the_image_without_an_entry(self, kernel: Callable[[bytes], Kernel]) -> None:
        given = kernel(image(gzip.compress(b"no ELF file")))
        assert boot_image(given, Accel.TCG) == given.image
        assert boot_image(given, Accel.TCG) == given.image

    def test_is_not_that_of_another_kernel(self, kernel: Callable[[bytes], Kernel]) -> None:
        given = kernel(image(gzip.compress(KERNEL)))
        built = image(gzip.compress(KERNEL + b"built again"))
        given.image.write_bytes(built)
        assert boot_image(given, Accel.TCG) == given.image
        given.image.write_bytes(image(gzip.compress(KERNEL)))
        assert boot_image(given, Accel.TCG).read_bytes() == KERNEL
