# SPDX-License-Identifier: GPL-2.0-only
"""The memory that harness and guest share, as sysfs shows it to the guest."""

from pathlib import Path

import pytest

from harness.guest import mailbox

PAGE = 4096


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("harness.guest.mailbox._DEVICES", str(tmp_path))
    return tmp_path


def add(devices: Path, name: str, ids: tuple[str, str], content: bytes | None) -> Path:
    folder = devices / name
    folder.mkdir()
    for file, number in zip(("vendor", "device"), ids, strict=True):
        (folder / file).write_text(f"{number}\n")
    (folder / "enable").write_text("0\n")
    if content is not None:
        (folder / "resource2").write_bytes(content.ljust(PAGE, b"\0"))
    return folder


def test_among_other_devices(devices: Path) -> None:
    add(devices, "00:01", ("0x8086", "0x1237"), b"not this")
    device = add(devices, "00:02", ("0x1af4", "0x1110"), b"suites")
    assert mailbox.is_readable()
    assert mailbox.read(6) == b"suites"
    assert (device / "enable").read_text() == "1"


def test_of_a_kernel_without_pci(devices: Path) -> None:
    assert not mailbox.is_readable()
    devices.rmdir()
    assert not mailbox.is_readable()


def test_of_a_kernel_without_files_for_regions(devices: Path) -> None:
    add(devices, "00:02", ("0x1af4", "0x1110"), None)
    assert not mailbox.is_readable()


def test_that_may_not_be_read(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(devices, "00:02", ("0x1af4", "0x1110"), b"suites")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("harness.guest.mailbox.mmap.mmap", refuse)
    assert not mailbox.is_readable()
