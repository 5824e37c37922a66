# SPDX-License-Identifier: GPL-2.0-only
"""Starting and ending QEMU through virtme-run, with a QEMU that plays a script."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from tests import fake_qemu
from tests.conftest import bzimage
from tests.fake_qemu import FIRST_LINE, Step, console, die, end, error, hang, raw
from vm import machine
from vm.accel import Accel
from vm.command import MachineSpec
from vm.errors import BootError
from vm.machine import Machine

SECONDS = 30


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MachineSpec:
    monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "cache"))
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(bzimage("7.3.4-fake"))
    return MachineSpec(kernel, tmp_path / "image", tmp_path / "qemu-system-x86_64", Accel.TCG)


def plays(spec: MachineSpec, *steps: Step) -> None:
    fake_qemu.install(spec.qemu.parent, steps)


def processes_of(spec: MachineSpec) -> list[str]:
    """The processes that have the folder of this test in their command lines, but for ours."""
    lines = {process.pid: " ".join(process.info["cmdline"] or []) for process in all_processes()}
    folder = str(spec.qemu.parent)
    return [line for pid, line in lines.items() if folder in line and pid != os.getpid()]


def all_processes() -> Iterable[psutil.Process]:
    return psutil.process_iter(["cmdline"])


def wait_until_gone(spec: MachineSpec) -> bool:
    deadline = time.monotonic() + SECONDS
    while processes_of(spec) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not processes_of(spec)


def wait_for_environments(spec: MachineSpec) -> list[dict[str, str]]:
    """The environment of QEMU, and of nothing else, once it runs."""
    deadline = time.monotonic() + SECONDS
    while not fake_qemu.boots(spec.qemu.parent) and time.monotonic() < deadline:
        time.sleep(0.02)
    programs = (p for p in all_processes() if fake_qemu.__file__ in (p.info["cmdline"] or []))
    return [qemu.environ() for qemu in programs if str(spec.qemu.parent) in qemu.info["cmdline"]]


class TestArguments:
    def boot(self, spec: MachineSpec) -> list[str]:
        plays(spec, end())
        with machine.running(spec, spec.qemu.parent / "log") as guest:
            assert guest.wait(SECONDS)
        (argv,) = fake_qemu.boots(spec.qemu.parent)
        return argv

    def kernel_options(self, argv: Sequence[str]) -> str:
        return argv[argv.index("-append") + 1]

    def test_what_qemu_is_started_with(self, spec: MachineSpec) -> None:
        argv = self.boot(spec)
        given = dict(pairwise(argv))
        assert (given["-kernel"], given["-initrd"]) == (str(spec.kernel), str(spec.image))
        assert (given["-m"], given["-smp"]) == ("1G", "2")
        assert given["-net"] == "none"
        assert "-no-reboot" in argv
        assert not [word for word in argv if "accel=kvm" in word or word == "-enable-kvm"]
        # The console is the first serial port, the results channel the second.
        ports = [argv[n + 1] for n, word in enumerate(argv) if word == "-serial"]
        assert ports == ["chardev:console", "chardev:results"]

    def test_what_the_kernel_is_told(self, spec: MachineSpec) -> None:
        options = self.kernel_options(self.boot(spec)).split()
        assert {"rdinit=/init", "console=ttyS0", "panic=-1", "printk.time=1"} <= {*options}
        # The last word on it, and before the console that is to print what came earlier.
        assert options.index("loglevel=7") > options.index("quiet")
        assert options.index("loglevel=7") < options.index("console=ttyS0")

    def test_of_the_user(self, spec: MachineSpec) -> None:
        mine = MachineSpec(
            spec.kernel, spec.image, spec.qemu, Accel.KVM, 1, "512M", ("--debug", "a=b c")
        )
        argv = self.boot(mine)
        given = dict(pairwise(argv))
        assert (given["-m"], given["-smp"]) == ("512M", "1")
        assert "accel=kvm" in argv
        assert ' --debug "a=b c" ' in self.kernel_options(argv)

    def test_guest_knows_neither_home_nor_variables_of_the_user(
        self, spec: MachineSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VIRTME_NG_SECRET", "x")
        plays(spec, hang())
        with machine.running(spec, spec.qemu.parent / "log"):
            (environment,) = wait_for_environments(spec)
        assert environment["HOME"] == str(spec.qemu.parent / "cache/empty")
        assert not list(Path(environment["HOME"]).iterdir())
        assert "VIRTME_NG_SECRET" not in environment


class TestLife:
    def test_console_and_channel(self, spec: MachineSpec) -> None:
        plays(spec, console(FIRST_LINE), raw(b"hello\n"), end())
        with machine.running(spec, spec.qemu.parent / "log") as guest:
            assert guest.wait(SECONDS)
            assert guest.channel.recv(100) == b"hello\n"
            assert guest.channel.recv(100) == b""
        assert (spec.qemu.parent / "log").read_bytes() == FIRST_LINE.encode()[:-1] + b"\r\n"

    def test_wait_tells_that_it_lives(self, spec: MachineSpec) -> None:
        plays(spec, hang())
        with machine.running(spec, spec.qemu.parent / "log") as guest:
            assert not guest.wait(0.1)

    def test_end_of_the_block_ends_all_processes(self, spec: MachineSpec) -> None:
        plays(spec, console(FIRST_LINE), hang())
        with machine.running(spec, spec.qemu.parent / "log") as guest:
            assert guest.console.wait_for_kernel(SECONDS)
            assert processes_of(spec)
        assert not processes_of(spec)

    def test_exception_in_the_block_ends_them_too(self, spec: MachineSpec) -> None:
        plays(spec, hang())
        with (
            pytest.raises(KeyboardInterrupt),
            machine.running(spec, spec.qemu.parent / "log"),
        ):
            raise KeyboardInterrupt
        assert not processes_of(spec)

    def test_nothing_stays_open(self, spec: MachineSpec) -> None:
        before = set(Path("/proc/self/fd").iterdir())
        plays(spec, end())
        with machine.running(spec, spec.qemu.parent / "log") as guest:
            guest.wait(SECONDS)
        assert set(Path("/proc/self/fd").iterdir()) == before

    def test_no_file_is_left(self, spec: MachineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        scratch = spec.qemu.parent / "tmp"
        scratch.mkdir()
        monkeypatch.setenv("TMPDIR", str(scratch))
        plays(spec, die())
        with machine.running(spec, spec.qemu.parent / "log") as guest:
            guest.wait(SECONDS)
        assert not list(scratch.iterdir())

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_no_guest_outlives_the_harness(self, spec: MachineSpec, number: int) -> None:
        plays(spec, console(FIRST_LINE), hang())
        program = f"""
import time
from pathlib import Path
from vm import machine
from vm.accel import Accel
from vm.command import MachineSpec
folder = Path({str(spec.qemu.parent)!r})
spec = MachineSpec(folder / "bzImage", folder / "image", folder / "qemu-system-x86_64", Accel.TCG)
with machine.running(spec, folder / "log") as guest:
    print(guest.console.wait_for_kernel({SECONDS}), flush=True)
    time.sleep(1000)
"""
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as harness:
            assert harness.stdout is not None
            assert harness.stdout.readline() == b"True\n"
            harness.send_signal(number)
        assert wait_until_gone(spec)


class TestMessages:
    def messages(self, spec: MachineSpec, *steps: Step) -> list[str]:
        plays(spec, *steps)
        with machine.running(spec, spec.qemu.parent / "log") as guest:
            assert guest.wait(SECONDS)
        return guest.messages.lines()

    def test_none(self, spec: MachineSpec) -> None:
        assert self.messages(spec, end()) == []

    def test_of_qemu(self, spec: MachineSpec) -> None:
        assert self.messages(spec, error("\nqemu: no\n\nhelp\n"), end(1)) == ["qemu: no", "help"]

    def test_first_words_survive_a_flood(self, spec: MachineSpec) -> None:
        messages = self.messages(spec, error("the cause\n"), error("RAX=0\n" * 50_000), end(1))
        assert messages[0] == "the cause"
        assert sum(map(len, messages)) < 1 << 17

    def test_of_virtme_run(self, spec: MachineSpec) -> None:
        spec.kernel.unlink()
        (message, *_) = self.messages(spec, end())
        assert "bzImage" in message


class TestFailure:
    def test_program_that_is_missing(
        self, spec: MachineSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = set(Path("/proc/self/fd").iterdir())
        monkeypatch.setenv("PATH", str(spec.qemu.parent))
        with (
            pytest.raises(BootError, match=r"^no guest can be started: .*setpriv.*; run `make"),
            machine.running(spec, spec.qemu.parent / "log"),
        ):
            pass
        assert set(Path("/proc/self/fd").iterdir()) == before

    def test_log_that_cannot_be_made(self, spec: MachineSpec) -> None:
        plays(spec, hang())
        with (
            pytest.raises(BootError, match=r"^no guest can be started: .*nowhere/log"),
            machine.running(spec, spec.qemu.parent / "nowhere" / "log"),
        ):
            pass
        assert not processes_of(spec)

    def test_qemu_that_is_no_program(self, spec: MachineSpec) -> None:
        with machine.running(spec, spec.qemu.parent / "log") as guest:
            assert guest.wait(SECONDS)
        assert str(spec.qemu) in guest.messages.lines()[0]


def test_end_can_be_called_again(spec: MachineSpec) -> None:
    plays(spec, end())
    with machine.running(spec, spec.qemu.parent / "log") as guest:
        assert guest.wait(SECONDS)
        guest.end()
        assert isinstance(guest, Machine)
