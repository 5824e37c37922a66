# SPDX-License-Identifier: GPL-2.0-only
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.machinery import SourcelessFileLoader
from pathlib import Path

import libarchive
import pytest

from harness.collect import collect
from harness.payload import agent_files, suite_files, with_suites
from vm import cpio, image, interpreter
from vm.cpio import Entry
from vm.elf import shared_libraries
from vm.errors import ConfigError

MAGIC = b"070701"  # Documentation/driver-api/early-userspace/buffer-format.rst


def listing(archive: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode with file type, time of modification and content of each member."""
    with libarchive.file_reader(str(archive)) as members:
        return {m.pathname: (m.mode, m.mtime, b"".join(m.get_blocks())) for m in members}


class TestCpio:
    def test_members(self, tmp_path: Path) -> None:
        files = {"init": Entry(b"#!x", 0o755), "a/b/c": Entry(b"data", mtime=1_700_000_000)}
        cpio.write(tmp_path / "archive", files)
        assert listing(tmp_path / "archive") == {
            "a": (0o040755, 0, b""),
            "a/b": (0o040755, 0, b""),
            "a/b/c": (0o100644, 1_700_000_000, b"data"),
            "init": (0o100755, 0, b"#!x"),
        }

    def test_folders_come_before_what_is_in_them(self, tmp_path: Path) -> None:
        cpio.write(tmp_path / "archive", {"z/y/x": Entry(b""), "a": Entry(b"")})
        names = list(listing(tmp_path / "archive"))
        assert names.index("z") < names.index("z/y") < names.index("z/y/x")

    def test_form_is_newc_and_archives_can_follow_one_another(self, tmp_path: Path) -> None:
        cpio.write(tmp_path / "archive", {"odd": Entry(b"12345")})
        data = (tmp_path / "archive").read_bytes()
        assert data.startswith(MAGIC)
        assert len(data) % 4 == 0

    def test_same_files_make_the_same_archive(self, tmp_path: Path) -> None:
        files = {"a": Entry(b"1"), "b/c": Entry(b"2")}
        for name, content in (("one", files), ("two", dict(reversed(files.items())))):
            cpio.write(tmp_path / name, content)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


class TestBuild:
    @pytest.fixture(autouse=True)
    def bases(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[None]:
        """One more entry for each time that the interpreter was packed."""
        packed: list[None] = []

        def guest_files() -> dict[str, Entry]:
            packed.append(None)
            return {"bin/python": Entry(b"python", 0o755)}

        monkeypatch.setattr("vm.interpreter.guest_files", guest_files)
        monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "cache"))
        return packed

    def test_payload_lies_behind_the_interpreter(self) -> None:
        data = image.build({"init": Entry(b"#!init", 0o755)}).path.read_bytes()
        first, second = data.index(b"bin/python\0"), data.index(b"init\0")
        between = data.index(b"TRAILER!!!", first)
        assert first < between < second
        start = data.index(MAGIC, between)
        assert start % 4 == 0
        assert not data[between + len("TRAILER!!!") : start].strip(b"\0")

    def test_is_built_once(self, bases: list[None]) -> None:
        built = image.build({"init": Entry(b"1")})
        before = built.path.stat()
        assert image.build({"init": Entry(b"1")}) == built
        assert built.path.stat().st_ino == before.st_ino
        assert len(bases) == 1

    @pytest.mark.parametrize(
        "other",
        [
            {"init": Entry(b"2")},
            {"init": Entry(b"1", 0o755)},
            {"init": Entry(b"1", mtime=1)},
            {"tini": Entry(b"1")},
            {"init": Entry(b"1"), "more": Entry(b"")},
        ],
        ids=["data", "mode", "time", "name", "more"],
    )
    def test_other_content_is_another_image(
        self, other: Mapping[str, Entry], bases: list[None]
    ) -> None:
        assert image.build({"init": Entry(b"1")}).key != image.build(other).key
        assert len(bases) == 1

    def test_other_interpreter_is_another_image(
        self, bases: list[None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = image.build({"init": Entry(b"1")})
        monkeypatch.setattr("vm.interpreter.fingerprint", lambda: "another Python")
        assert image.build({"init": Entry(b"1")}).key != before.key
        assert len(bases) == 2

    def test_nothing_else_is_left_in_the_cache(self, tmp_path: Path) -> None:
        built = image.build({"init": Entry(b"1")})
        names = {path.name for path in (tmp_path / "cache/images").iterdir()}
        base = next(name for name in names if name.startswith("base-"))
        assert names == {".lock", base, built.path.name}


class TestInterpreter:
    @pytest.fixture(scope="class")
    @classmethod
    def files(cls) -> dict[str, Entry]:
        return interpreter.guest_files()

    def test_program_and_its_libraries_are_where_they_are_here(
        self, files: dict[str, Entry]
    ) -> None:
        program = str(interpreter.executable()).lstrip("/")
        assert files[program].data.startswith(b"\x7fELF")
        assert files[program].mode == 0o755
        libraries = {str(path).lstrip("/") for path in shared_libraries([interpreter.executable()])}
        assert libraries <= files.keys()

    @pytest.mark.parametrize(
        "module", ["socket", "json", "ctypes", "encodings.utf_8", "unittest.mock"]
    )
    def test_standard_library(self, files: dict[str, Entry], module: str) -> None:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        assert f"{spec.origin.lstrip('/')}c" in files

    def test_what_pytest_imports(self, files: dict[str, Entry]) -> None:
        top = interpreter.GUEST_PACKAGES
        for module in ("pytest/__init__", "_pytest/main", "pluggy/__init__", "iniconfig/__init__"):
            assert f"{top}/{module}.pyc" in files

    def test_hypothesis(self, files: dict[str, Entry]) -> None:
        top = interpreter.GUEST_PACKAGES
        for module in ("hypothesis/__init__", "hypothesis/core", "sortedcontainers/__init__"):
            assert f"{top}/{module}.pyc" in files
        native = [name for name in files if name.startswith(f"{top}/hypothesis/_native.")]
        assert [files[name].data[:4] for name in native] == [b"\x7fELF"]
        for module in ("hypothesis/extra", "_hypothesis_pytestplugin"):
            assert not [name for name in files if name.startswith(f"{top}/{module}")]

    def test_hypothesis_finds_what_it_imports(
        self, files: dict[str, Entry], tmp_path: Path
    ) -> None:
        """By an interpreter that has nothing but the image's modules."""
        for name, entry in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.data)
        stdlib = str(Path(os.__file__).parent).lstrip("/")
        folders = (stdlib, f"{stdlib}/lib-dynload", interpreter.GUEST_PACKAGES)
        program = "from hypothesis import find, strategies as s; print(find(s.integers(5), bool))"
        code = f"import sys; sys.path[:] = {[str(tmp_path / one) for one in folders]}; {program}"
        done = subprocess.run(
            [sys.executable, "-SEs", "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.returncode) == ("5\n", 0), done.stderr

    def test_trimmed(self, files: dict[str, Entry]) -> None:
        assert sum(len(entry.data) for entry in files.values()) < 40 << 20
        assert not [name for name in files if name.endswith(".py")]
        assert not [
            name for name in files if {"tkinter", "idlelib", "ensurepip"} & {*Path(name).parts}
        ]

    def test_compiled_module_needs_no_source(self, tmp_path: Path) -> None:
        source = tmp_path / "source.py"
        source.write_text("ANSWER = 6 * 7\n")
        code = interpreter.compiled(source, "nsconform/lib/answer.py", optimize=0)
        source.unlink()
        (tmp_path / "answer.pyc").write_bytes(code)
        loader = SourcelessFileLoader("answer", str(tmp_path / "answer.pyc"))
        spec = importlib.util.spec_from_loader("answer", loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        assert module.ANSWER == 42


class TestSharedLibraries:
    def test_of_the_interpreter(self) -> None:
        names = {path.name for path in shared_libraries([Path(sys.executable).resolve()])}
        assert "libc.so.6" in names
        assert [name for name in names if name.startswith("ld-linux")]

    def test_one_that_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ldd").write_text("#!/bin/sh\necho '	libgone.so.1 => not found'\nexit 1\n")
        (tmp_path / "ldd").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(ConfigError, match=r"^libgone.so.1 is missing on this machine: install"):
            shared_libraries([Path("x")])


class TestPayload:
    @pytest.fixture
    def files(
        self, cache_of_stages: Path, suites_of_stages: Path, monkeypatch: pytest.MonkeyPatch
    ) -> dict[str, Entry]:
        monkeypatch.setenv("NSCONFORM_CACHE", str(cache_of_stages))
        return with_suites(collect(suites=suites_of_stages))

    def test_init_is_a_script_of_the_interpreter(self, files: dict[str, Entry]) -> None:
        assert files["init"].mode == 0o755
        assert files["init"].data.startswith(f"#!{interpreter.executable()} -".encode())
        # fs/binfmt_script.c takes one argument and BINPRM_BUF_SIZE (256) bytes.
        first, _, rest = files["init"].data.partition(b"\n")
        assert len(first.split()) == 2
        assert len(first) < 256
        compile(rest, "init", "exec")

    def test_agent(self, files: dict[str, Entry]) -> None:
        for module in ("__init__", "guest/__init__", "guest/agent", "guest/boot", "guest/wire"):
            assert f"{interpreter.GUEST_PACKAGES}/harness/{module}.pyc" in files

    def test_suites_with_their_code(self, files: dict[str, Entry], suites_of_stages: Path) -> None:
        name = "nsconform/suites/alpha/test_alpha.py"
        source = suites_of_stages / "alpha/test_alpha.py"
        assert files[name] == Entry(source.read_bytes(), mtime=int(source.stat().st_mtime))
        folder = "nsconform/suites/alpha/__pycache__/test_alpha."
        assert [path for path in files if path.startswith(folder) and "pytest" in path]

    def test_vocabulary_and_settings(self, files: dict[str, Entry]) -> None:
        assert {"nsconform/suites/pytest.ini", "nsconform/suites/catalogue.toml",
                "nsconform/suites/nslib/__init__.py"} <= files.keys()  # fmt: skip

    def test_agent_boots_without_suites(self, files: dict[str, Entry]) -> None:
        suites = {path for path in files if path.startswith("nsconform/suites/")}
        assert agent_files().keys() == files.keys() - suites | {"nsconform/suites/pytest.ini"}

    def test_suites_are_only_what_the_tests_need(
        self, files: dict[str, Entry], suites_of_stages: Path
    ) -> None:
        wanted = ["beta/test_beta.py::test_four"]
        found = suite_files(collect(suites=suites_of_stages), wanted)
        assert {path for path in found if "test_" in path and path.endswith(".py")} == {
            "beta/test_beta.py"
        }
        assert "nslib/__init__.py" in found
        assert (
            found.items()
            <= {
                path.removeprefix("nsconform/suites/"): entry for path, entry in files.items()
            }.items()
        )

    def test_nothing_of_this_machine_but_what_is_named(self, files: dict[str, Entry]) -> None:
        outside = {path for path in files if not path.startswith("nsconform/")}
        assert outside == {"init"}
