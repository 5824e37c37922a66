# SPDX-License-Identifier: GPL-2.0-only
import functools
import io
import json
import os
import shutil
import signal
import struct
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness import catalogue
from harness.cli import main
from harness.results import KernelResult, RunResult, TestResult
from harness.rundir import load_run
from tests import fake_qemu
from vm.accel import Trial
from vm.command import Descriptors, MachineSpec, command
from vm.cpio import Entry

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


@dataclass(frozen=True)
class Finished:
    """What a command came to."""

    status: int
    out: str
    err: str


# For `Stage.run`: 0.6 s of silence are enough then, 4.5 s for a boot, 0.3 s for taking suites in.
IMPATIENT = ("--timeout-scale", "0.03")


@dataclass(frozen=True)
class Stage:
    """A machine with a fake QEMU, one kernel, and four tests that never really run."""

    folder: Path
    cache: Path
    suites: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    @property
    def kernel(self) -> Path:
        return self.folder / "bzImage"

    def plays(self, *boots: Sequence[fake_qemu.Step]) -> None:
        """Have QEMU play these boots, the last again and again."""
        fake_qemu.install(self.folder, *boots)

    def boots(self) -> list[list[str]]:
        """QEMU's arguments in every boot so far."""
        return fake_qemu.boots(self.folder)

    def saves(self) -> None:
        """Have guests saved when they have said hello."""
        self.monkeypatch.setattr("harness.session.can_save", lambda _: True)

    def snapshots(self) -> list[Path]:
        """What there is in the cache."""
        return [*(self.cache / "snapshots").glob("[!.]*")]

    def has_kvm(self, first_line_seconds: float = 5) -> None:
        """Have a /dev/kvm that opens."""
        (self.folder / "kvm").touch()
        limits = Trial(first_line_seconds, 2 * first_line_seconds)
        self.monkeypatch.setattr("harness.boot.trial", lambda: limits)

    def run(self, *options: str) -> Finished:
        """Run `nsconform run` on the kernel, with no retries unless `options` say otherwise."""
        given = ["--results", str(self.folder / "results"), "--tests", str(self.suites)]
        status = main(["run", *given, "--retries", "0", *options, str(self.kernel)])
        return Finished(status, *self.capsys.readouterr())

    def result(self) -> RunResult:
        """What the last complete run left on disk."""
        return load_run(self.folder / "results/latest")

    def kernel_result(self) -> KernelResult:
        (kernel,) = self.result().kernels
        return kernel

    def second_test(self) -> TestResult:
        return self.kernel_result().tests[1]

    def outcomes(self) -> dict[str, str]:
        """The outcome of each test of the last run, by the name of its function."""
        return {
            test.id.rpartition("::")[2]: test.outcome + (" flaky" if test.flaky else "")
            for test in self.kernel_result().tests
        }


# Reading it takes as long as a boot of the fake.
_catalogue = functools.cache(catalogue.load)


@pytest.fixture(scope="session")
def cache_of_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def suites_of_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    suites = tmp_path_factory.mktemp("suites")
    for suite, tests in {"alpha": ("one", "two", "three"), "beta": ("four",)}.items():
        (suites / suite).mkdir()
        functions = (f"def test_{test}():\n    pass\n" for test in tests)
        (suites / suite / f"test_{suite}.py").write_text("".join(functions))
    return suites


def _without_virtme(spec: MachineSpec, files: Descriptors, *, resume: bool = False) -> list[str]:
    return [str(spec.qemu), *command(spec, files, resume=resume)]


@pytest.fixture
def stage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache_of_stages: Path,
    suites_of_stages: Path,
) -> Iterator[Stage]:
    """A machine whose QEMU is a fake, without KVM, and with a guest image that holds nothing."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("NSCONFORM_CACHE", str(cache_of_stages))
    (cache_of_stages / "accel.json").unlink(missing_ok=True)
    shutil.rmtree(cache_of_stages / "snapshots", ignore_errors=True)
    monkeypatch.setattr("vm.accel._KVM", tmp_path / "kvm")
    monkeypatch.setattr("vm.console._SYSRQ_SECONDS", 0.01)
    monkeypatch.setattr("vm.interpreter.guest_files", lambda: {"nothing": Entry(b"")})
    monkeypatch.setattr("harness.catalogue.load", _catalogue)
    # Without virtme-run, which takes a quarter of a second to start QEMU.
    monkeypatch.setattr("vm.machine.command", _without_virtme)
    # The fake's guests are not worth it; see Stage.saves for the tests that are about that.
    monkeypatch.setattr("harness.session.can_save", lambda _: False)
    made = Stage(tmp_path, cache_of_stages, suites_of_stages, monkeypatch, capsys)
    made.kernel.write_bytes(bzimage(fake_qemu.RELEASE))
    made.plays(fake_qemu.WORKS)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield made
    for number, handler in handlers.items():
        signal.signal(number, handler)
