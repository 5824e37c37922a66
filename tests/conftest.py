# SPDX-License-Identifier: GPL-2.0-only
import io
import json
import os
import struct
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


def bzimage(release: str, *, flags: int = 1, payload: bytes = b"kernel code ") -> bytes:
    """A boot image as Documentation/arch/x86/boot.rst has it, with nothing to execute in it."""
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    struct.pack_into("<I", setup, 0x1F4, -(-len(payload) // 16))
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x20E, 0x300 - 0x200)
    struct.pack_into("<H", setup, 0x236, flags)
    banner = f"{release} (builder@host) #1 SMP\0".encode()
    setup[0x300 : 0x300 + len(banner)] = banner
    return bytes(setup) + payload.ljust(-(-len(payload) // 16) * 16, b"\0")


def deb(files: dict[str, bytes]) -> bytes:
    """A Debian package (deb(5)): an ar archive with a compressed tar archive in it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"", "data.tar.xz": data.getvalue()}
    archive = b"!<arch>\n"
    for name, content in members.items():
        archive += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    return archive


@pytest.fixture
def make_bzimage() -> Callable[..., bytes]:
    return bzimage


@pytest.fixture
def make_deb() -> Callable[..., bytes]:
    return deb


@dataclass
class Mirror:
    """A package mirror and the apt that reads it, both made up; `save` after each change."""

    folder: Path
    online: bool = True
    qemu: str = "1:7.2+dfsg-7"
    rehearsal: str = "Inst qemu-system-x86 (1:10.0 Debian Backports:12/backports [amd64])"
    install_status: int = 0
    suites: dict[str, str] = field(default_factory=dict)
    packages: list[tuple[str, str, str]] = field(default_factory=list)
    targets: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def add(self, suite: str, package: str, version: str, release: str = "") -> None:
        self.suites.setdefault(suite, suite)
        self.packages.append((package, version, suite))
        content = {"./boot/vmlinuz-x": bzimage(release or version)}
        (self.folder / "pool" / f"{package}_{version}.deb").write_bytes(deb(content))
        self.save()

    def drop(self, package: str, version: str) -> None:
        (self.folder / "pool" / f"{package}_{version}.deb").unlink()
        self.packages = [row for row in self.packages if row[:2] != (package, version)]
        self.save()

    def save(self) -> None:
        world = {name: value for name, value in vars(self).items() if name != "folder"}
        (self.folder / "mirror.json").write_text(json.dumps(world))

    def calls(self, word: str) -> list[str]:
        """The lines of the apt commands with this word in them."""
        log = self.folder / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if word in line.split()]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A Debian 12 with an empty mirror instead of the machine's own, and an empty cache."""
    world = tmp_path / "world"
    for folder in ("bin", "pool"):
        (world / folder).mkdir(parents=True)
    for program in ("apt-get", "apt-cache"):
        script = world / "bin" / program
        fake = f'exec "{sys.executable}" -I -S "{DATA / "fake_apt.py"}" "{world}" {program} "$@"'
        script.write_text(f"#!/bin/sh\n{fake}\n")
        script.chmod(0o755)
    (world / "os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    (world / "debian.sources").write_text(
        "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm\nComponents: main\n"
    )
    place = f"{world / 'debian.sources'}:1"
    made = Mirror(world, targets=[(place, "bookworm", "bookworm", "Debian", "main")])
    made.save()
    monkeypatch.setenv("PATH", f"{world / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("vm.apt._OS_RELEASE", world / "os-release")
    monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "cache"))
    return made
