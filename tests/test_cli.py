# SPDX-License-Identifier: GPL-2.0-only
"""The command line without a virtual machine: what is refused, what is printed, exit statuses."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import pytest

from harness import listing
from harness.catalogue import Behaviour
from harness.cli import main
from harness.collect import collect
from harness.results import TestResult
from tests.conftest import Finished, Mirror, Stage, bzimage, deb
from tests.fake_qemu import FIRST_LINE, WORKS, console, end, error, finish, hello, serve
from vm.cache import hold

ROOT = Path(__file__).parents[1]
BEHAVIOUR = Behaviour("B-1", "Goes.", "kernel/nstree.c", "6.19")


def nsconform(capsys: pytest.CaptureFixture[str], *argv: str) -> Finished:
    try:
        status = main(argv)
    except SystemExit as end:
        status = int(end.code or 0)
    return Finished(status, *capsys.readouterr())


class TestUsage:
    @pytest.mark.parametrize(
        ("argv", "complaint"),
        [
            ([], "the following arguments are required: COMMAND"),
            (["walk"], "invalid choice: 'walk'"),
            (["run", "--cpus", "0"], "argument --cpus: 0 is not a whole number from 1 on"),
            (["run", "--cpus", "many"], "argument --cpus: many is not a whole number from 1 on"),
            (["run", "--retries", "-1"], "argument --retries: -1 is not a whole number from 0 on"),
            (["run", "--timeout-scale", "0"], "--timeout-scale: 0 is not a number above 0"),
            (["run", "--timeout-scale", "inf"], "--timeout-scale: inf is not a number above 0"),
            (["run", "--timeout-scale", "x"], "--timeout-scale: x is not a number above 0"),
            (["run", "--accel", "hvf"], "argument --accel: invalid choice: 'hvf'"),
            (["shell"], "the following arguments are required: KERNEL"),
            (["cache", "empty"], "invalid choice: 'empty' (choose from 'clear')"),
            (["cache", "clear", "bin"], "argument KIND: the cache holds no bin; it holds snapsh"),
        ],
    )
    def test_refused(
        self, capsys: pytest.CaptureFixture[str], argv: list[str], complaint: str
    ) -> None:
        finished = nsconform(capsys, *argv)
        assert finished.status == 2
        assert complaint in finished.err.splitlines()[-1]

    @pytest.mark.parametrize(
        "command", [[], ["run"], ["list"], ["kernels"], ["shell"], ["cache"], ["cache", "clear"]]
    )
    def test_help(self, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
        finished = nsconform(capsys, *command, "--help")
        assert finished.status == 0
        assert finished.out.startswith("usage: nsconform")

    def test_exit_statuses_are_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        told = " ".join(nsconform(capsys, "run", "--help").out.split())
        assert "0 all well; 1 a failure" in told
        assert "2 a usage error; 3 no verdict; 130 interrupted." in told


class TestKernelThatIsNone:
    """Exit status 2 and one line, before anything is booted or written."""

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"# a text file\n", "is not a kernel image; a bzImage for x86_64 is wanted"),
            (b"", "is an empty file; a bzImage for x86_64 is wanted"),
            (b"\0" * 0x38 + b"ARM\x64" + b"\0" * 4096, "is a kernel for arm64; a bzImage for"),
            (b"\0" * 0x38 + b"RSC\x05" + b"\0" * 4096, "is a kernel for riscv; a bzImage for"),
            (b"\x7fELF\2\1\1" + bytes(11) + b"\xb7\0" + bytes(99), "is a kernel or program for"),
            (b"\x1f\x8b" + bytes(99), "is a gzip file (perhaps a kernel for another architecture)"),
            (bzimage("7.3.4", flags=0), "is a 32-bit x86 kernel; a bzImage for x86_64 is wanted"),
            (bzimage("7.3.4", payload=bytes(9999))[:5000], "is cut off: 5000 bytes of"),
        ],
        ids=["text", "empty", "arm64", "riscv", "elf", "gzip", "32 bits", "cut off"],
    )  # fmt: skip
    def test_file(self, stage: Stage, content: bytes, complaint: str) -> None:
        stage.kernel.write_bytes(content)
        self.check(stage, stage.run(), complaint)

    def test_directory(self, stage: Stage) -> None:
        stage.kernel.unlink()
        stage.kernel.mkdir()
        self.check(stage, stage.run(), "is a directory without a kernel")

    def test_nothing(self, stage: Stage) -> None:
        stage.kernel.unlink()
        self.check(stage, stage.run(), "no such file; give a bzImage, a .deb, a kernel tree")

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (deb({"./usr/share/doc/copyright": b"text"}), "holds no kernel image"),
            (deb({"./boot/vmlinuz-7.3.4": b"text"}), "is not a kernel image"),
            (b"!<arch>\n", "is not a Debian package (no data.tar in it)"),
            (b"text", "cannot read the package"),
        ],
        ids=["no kernel", "text", "no data", "no package"],
    )
    def test_package(self, stage: Stage, content: bytes, complaint: str) -> None:
        package = stage.folder / "linux-image.deb"
        package.write_bytes(content)
        self.check(stage, stage.run(str(package)), complaint)

    def check(self, stage: Stage, finished: Finished, complaint: str) -> None:
        assert finished.status == 2
        assert finished.err.startswith("nsconform: ")
        assert finished.err.count("\n") == 1
        assert complaint in finished.err
        assert not finished.out
        assert not stage.boots()
        assert not (stage.folder / "results").exists()


class TestSelection:
    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (["--suite", "alpa"], "there is no suite alpa; near it: alpha"),
            (["-k", "nothing"], "no test is selected: `nsconform list` shows what there is"),
            (["--tests", "/nowhere"], "/nowhere: no folder of suites"),
            (["-k", "and and"], "the suites cannot be collected"),
        ],
    )
    def test_refused_in_one_line(self, stage: Stage, options: list[str], complaint: str) -> None:
        finished = stage.run(*options)
        assert finished.status == 2
        assert finished.err.startswith(f"nsconform: {complaint}")
        assert finished.err.count("\n") == 1

    def test_list(self, stage: Stage) -> None:
        finished = nsconform(
            stage.capsys, "list", "--tests", str(stage.suites), "-k", "two or four"
        )
        assert finished == Finished(
            0, "alpha/test_alpha.py::test_two\nbeta/test_beta.py::test_four\n", ""
        )

    def test_run(self, stage: Stage) -> None:
        assert stage.run("--suite", "alpha", "-k", "not two").status == 0
        assert list(stage.outcomes()) == ["test_one", "test_three"]


class TestListing:
    WAIVED = replace(BEHAVIOUR, id="B-3", sentence="Waits.", waived="nobody can see it")
    ROWS: ClassVar = {
        "B-1": BEHAVIOUR,
        "B-2": replace(BEHAVIOUR, id="B-2", sentence="Stops."),
        "B-3": WAIVED,
    }
    TESTS = (TestResult("a::test_x", "a", ("B-1", "B-3")), TestResult("a::test_y", "a", ("B-1",)))

    def test_behaviours_with_their_tests(self, capsys: pytest.CaptureFixture[str]) -> None:
        listing.print_behaviours(self.TESTS, self.ROWS, everything=False)
        assert capsys.readouterr().out == (
            "B-1  Goes.\n    a::test_x\n    a::test_y\n"
            "B-3  Waits.\n    a::test_x\n    waived: nobody can see it\n"
        )

    def test_behaviours_without_a_test(self, capsys: pytest.CaptureFixture[str]) -> None:
        listing.print_behaviours((), self.ROWS, everything=True)
        assert capsys.readouterr().out == (
            "B-1  Goes.\n    no test\nB-2  Stops.\n    no test\n"
            "B-3  Waits.\n    waived: nobody can see it\n"
        )

    def test_kernels(self, mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
        mirror.add("bookworm", "linux-image-6.12.95-cloud-amd64-unsigned", "6.12.95-1")
        finished = nsconform(capsys, "kernels")
        assert finished == Finished(0, "debian:6.12.95-1                bookworm\n", "")


class TestReports:
    def test_copies(self, stage: Stage) -> None:
        stage.plays((console(FIRST_LINE), hello(), serve(test_two=[finish("fail", reason="why")])))
        junit, ktap = stage.folder / "junit.xml", stage.folder / "ktap.txt"
        assert stage.run("--junit", str(junit), "--ktap", str(ktap)).status == 1
        # S314: it is our own.
        (failure,) = ET.parse(junit).iter("failure")  # noqa: S314
        assert failure.get("message") == "why"
        assert ktap.read_text().startswith("KTAP version 1\n")

    def test_copy_that_cannot_be_written_costs_no_result(self, stage: Stage) -> None:
        finished = stage.run("--junit", str(stage.folder / "nowhere/junit.xml"))
        assert finished.status == 2
        assert finished.err.splitlines()[-1].startswith("nsconform: --junit ")
        assert f"results: {stage.folder}/results/{stage.result().id}\n" in finished.out


class TestShell:
    @pytest.fixture(autouse=True)
    def suites(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.shell.collect", lambda: collect(suites=stage.suites))

    def test_what_the_guest_is_told(self, stage: Stage) -> None:
        stage.plays([end()])
        finished = nsconform(stage.capsys, "shell", "--append", "mine", str(stage.kernel))
        assert finished.status == 0
        assert finished.err == "Booting 7.3.4-fake (tcg); Ctrl-A X ends the guest.\n"
        (argv,) = stage.boots()
        options = [word.removeprefix("--kopt=") for word in argv]
        assert {"nsconform.shell", "mine"} < {*options}
        assert [option for option in options if "loglevel" in option][-1] == "loglevel=4"

    def test_kvm_that_was_never_tried_is_not_relied_on(self, stage: Stage) -> None:
        stage.has_kvm()
        stage.plays([end()], WORKS, [end()], [end()])
        shell = ("shell", str(stage.kernel))
        assert "(tcg)" in nsconform(stage.capsys, *shell).err
        assert stage.run().status == 0
        assert "(kvm)" in nsconform(stage.capsys, *shell).err
        assert "(kvm)" in nsconform(stage.capsys, *shell, "--accel", "kvm").err

    def test_guest_that_does_not_start(self, stage: Stage) -> None:
        stage.plays([error("qemu: warning: slow\nqemu: no such size\nsorry\n"), end(1)])
        finished = nsconform(stage.capsys, "shell", str(stage.kernel))
        assert finished.status == 3
        assert finished.err.splitlines()[1:] == ["nsconform: qemu: no such size"]


class TestCache:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("COLUMNS", "80")
        for name, kib in self.FILES.items():
            file = tmp_path / "cache" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x" * kib * 1024)
            os.utime(file, (1e9, 1e9))
        return tmp_path / "cache"

    FILES: ClassVar = {
        "snapshots/one.snap": 1024,
        "snapshots/two.snap": 2048,
        "images/guest-1.cpio": 512,
        "packages/linux-image_7.3.4-1.deb": 100,
        "kernels/" + "0f" * 16 + "/vmlinuz": 8,
        "accel.json": 4,
    }

    def test_listing(
        self, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NSCONFORM_CACHE_LIMIT", "1.5G")
        finished = nsconform(capsys, "cache")
        assert (finished.status, finished.err) == (0, "")
        first, *lines = (line.rstrip() for line in finished.out.splitlines())
        assert first == f"cache: {cache}"
        kernels = next(n for n, line in enumerate(lines) if line.startswith("kernels"))
        assert lines.pop(kernels).split()[:2] == ["kernels", "1"]
        assert all(len(line) <= 80 for line in lines)
        used = f"{datetime.fromtimestamp(1e9):%Y-%m-%d %H:%M}"
        assert lines[:10] == [
            "",
            "kind       entries     size  last use          path",
            "─────────────────────────────────────────────────────────────────",
            f"snapshots        2    3.0 M  {used}  snapshots/",
            f"images           1  512.0 K  {used}  images/",
            "suites           0      0 B  -                 suites/",
            f"packages         1  100.0 K  {used}  packages/",
            "apt              0      0 B  -                 apt/, apt-install/",
            f"accel            1    4.0 K  {used}  accel.json",
            "",
        ]
        assert " ".join(lines[10:]) == (
            "snapshots, images and suites take 3.5 M of at most 1.5 G (NSCONFORM_CACHE_LIMIT); "
            "what was used longest ago is dropped first. "
            "The others stay until they are cleared by name."
        )

    def test_clear_leaves_what_was_fetched(
        self, cache: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert nsconform(capsys, "cache", "clear") == Finished(
            0,
            "snapshots: 3.0 M freed, 2 entries removed\n"
            "images: 512.0 K freed, 1 entry removed\n"
            "suites: 0 B freed, 0 entries removed\n",
            "",
        )
        assert self.left(cache) == sorted(self.FILES)[:1] + sorted(self.FILES)[2:4]

    def test_clear_by_name(self, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        finished = nsconform(capsys, "cache", "clear", "packages", "accel", "packages")
        assert finished.out == (
            "packages: 100.0 K freed, 1 entry removed\naccel: 4.0 K freed, 1 entry removed\n"
        )
        assert nsconform(capsys, "cache", "clear", "kernels").status == 0
        assert self.left(cache) == [name for name in sorted(self.FILES) if name[0] in "si"]

    def test_clear_says_what_is_in_use(
        self, cache: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert hold(cache / "images/guest-1.cpio")
        finished = nsconform(capsys, "cache", "clear", "images")
        assert finished == Finished(
            0, "images: 0 B freed, 0 entries removed, 1 in use and kept\n", ""
        )
        assert (cache / "images/guest-1.cpio").exists()

    def test_clear_that_cannot_be(
        self, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path) -> None:
            raise PermissionError(1, "Operation not permitted", str(path))

        monkeypatch.setattr(Path, "unlink", refuse)
        finished = nsconform(capsys, "cache", "clear")
        assert finished.status == 2
        assert finished.out.count("\n") == 3
        assert finished.err == (
            "nsconform: the cache cannot be cleared: "
            f"{cache}/snapshots/one.snap: Operation not permitted (and 2 more)\n"
        )

    def test_wrong_limit(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NSCONFORM_CACHE_LIMIT", "lots")
        assert nsconform(capsys, "cache") == Finished(
            2,
            "",
            "nsconform: NSCONFORM_CACHE_LIMIT=lots is no size; give one such as 500M or 20G\n",
        )

    def left(self, cache: Path) -> list[str]:
        files = (file for file in cache.rglob("*") if file.is_file() and file.name != ".lock")
        return sorted(str(file.relative_to(cache)) for file in files)


class TestProcess:
    """What only a process of its own shows."""

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "harness", *argv],
            cwd=ROOT,
            # Whose output is written when it ends, as it is for most users.
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_reader_that_has_had_enough(self, stage: Stage) -> None:
        assert os.environ["NSCONFORM_CACHE"] == str(stage.cache)
        with self.start("list", "--tests", str(stage.suites)) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(60) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""

    def test_reader_that_leaves_changes_no_verdict(self, stage: Stage) -> None:
        stage.plays((console(FIRST_LINE), hello(), serve(test_two="fail")))
        options = ["--tests", str(stage.suites), "--results", str(stage.folder / "results")]
        machine = ["--accel", "tcg", "--no-snapshot"]
        with self.start("run", *machine, *options, str(stage.kernel)) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(60) == 1
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        assert stage.outcomes()["test_two"] == "fail"

    def test_error_is_one_line_on_standard_error(self, stage: Stage) -> None:
        with self.start("run", "/nowhere", "--tests", str(stage.suites)) as process:
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err.count("\n")) == (2, "", 1)
        assert "Traceback" not in err
