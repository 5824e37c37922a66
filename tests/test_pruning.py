# SPDX-License-Identifier: GPL-2.0-only
"""The cache within its limit: what goes, what stays, and that no run is harmed."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from vm import pruning
from vm.cache import atomic_path, hold, made_once, mark_used
from vm.errors import ConfigError
from vm.pruning import Removal, entries, keep_within_limit, limit, prune

KIB, MIB = 1 << 10, 1 << 20
KINDS = {kind.name: kind for kind in pruning.KINDS}
# A process says that it is ready, and stays until it is told to end.
READY = "\nprint('ready', flush=True)\ninput()\n"
HOLDS = "import sys; from pathlib import Path; from vm.cache import hold; hold(Path(sys.argv[1]))"
WRITES = """
import sys
from pathlib import Path
from vm.cache import atomic_path
with atomic_path(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    print("ready", flush=True)
    input()
    unfinished.write_text("whole")
"""
PRUNES = """
import sys
from vm.pruning import prune
print("ready", flush=True)
input()
assert not prune(int(sys.argv[1])).problems
"""
# Each file and folder that is held must be there, whatever others prune.
MAKES = """
import random, time
from vm.cache import atomic_path, cache_dir, held_dir, made_once
for n in range(60):
    image = made_once(cache_dir("images") / f"{n}.cpio", lambda path: path.write_bytes(b"x" * 9999))
    folder = held_dir("suites", str(n))
    with atomic_path(folder / "tests.json") as unfinished:
        unfinished.write_text("[]")
    time.sleep(random.random() / 500)
    assert image.read_bytes() == b"x" * 9999
    assert (folder / "tests.json").read_text() == "[]"
"""
PRUNES_ON = """
import os
from vm.cache import cache_dir
from vm.pruning import prune
while not (cache_dir() / "stop").exists():
    assert not (problems := prune(0).problems), problems
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path))
    monkeypatch.delenv(pruning.LIMIT_VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python code that becomes ready and then waits for a line."""
    with ExitStack() as stack:

        def started(code: str, *argv: object, ready: bool = True) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *map(str, argv)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[1],
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            if ready:
                assert process.stdout.readline() == "ready\n"
            return process

        yield started


def told_to_end(process: subprocess.Popen[str]) -> int:
    process.communicate("\n", timeout=60)
    return process.returncode


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def entry(path: Path, *, age: float = 0, size: int = 8 * KIB) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def _write(content: str, path: Path) -> None:
    path.write_text(content)


def before_lock(
    monkeypatch: pytest.MonkeyPatch, operation: int, what: Callable[[], object]
) -> None:
    """Have `what` happen before the first lock of this kind is taken."""
    real, pending = fcntl.flock, [what]

    def flock(handle: int, wanted: int) -> None:
        if wanted == operation and pending:
            pending.pop()()
        real(handle, wanted)

    monkeypatch.setattr("fcntl.flock", flock)


def replaced(path: Path) -> None:
    path.with_suffix(".new").write_text("new")
    path.with_suffix(".new").replace(path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


class TestLimit:
    @pytest.mark.parametrize(
        ("text", "size"),
        [("", 4 << 30), ("20G", 20 << 30), ("1.5g", 3 << 29), ("500M", 500 * MIB), ("2k", 2048),
         ("1T", 1 << 40), ("12345", 12345), ("0", 0)],
    )  # fmt: skip
    def test_sizes(self, monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
        monkeypatch.setenv("NSCONFORM_CACHE_LIMIT", text)
        assert limit() == size

    def test_unset(self) -> None:
        assert limit() == 4 << 30

    @pytest.mark.parametrize("text", ["-1", "4X", "4 GB", "G", "1e9", "1.G", "much", "٤G", "4G\n"])
    def test_what_is_no_size(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("NSCONFORM_CACHE_LIMIT", text)
        with pytest.raises(ConfigError, match="is no size; give one such as 500M or 20G") as caught:
            limit()
        assert str(caught.value).startswith(f"NSCONFORM_CACHE_LIMIT={text}")


class TestWhatGoes:
    def test_oldest_use_first_across_kinds(self, cache: Path) -> None:
        entry(cache / "images/guest-old.cpio", age=40)
        entry(cache / "snapshots/older.snap", age=50)
        entry(cache / "snapshots/new.snap", age=10)
        entry(cache / "images/guest-new.cpio", age=20)
        removal = prune(16 * KIB)
        assert [one.path.name for one in removal.gone] == ["older.snap", "guest-old.cpio"]
        assert removal.freed == 16 * KIB
        assert names(cache / "images") == ["guest-new.cpio"]
        assert names(cache / "snapshots") == ["new.snap"]

    def test_nothing_below_the_limit(self, cache: Path) -> None:
        entry(cache / "images/guest.cpio")
        assert prune(8 * KIB) == Removal()
        assert names(cache / "images") == ["guest.cpio"]

    def test_use_counts_and_not_age(self, cache: Path) -> None:
        first = entry(cache / "snapshots/first.snap", age=30)
        entry(cache / "snapshots/second.snap", age=20)
        assert mark_used(first)
        prune(8 * KIB)
        assert names(cache / "snapshots") == ["first.snap"]

    def test_holes_in_a_file_take_no_room(self, cache: Path) -> None:
        sparse = entry(cache / "snapshots/sparse.snap", age=10)
        with sparse.open("r+b") as stream:
            stream.truncate(1 << 30)
        os.utime(sparse, (1, 1))
        assert [one.size for one in entries(KINDS["snapshots"])] == [8 * KIB]
        assert not prune(8 * KIB).gone

    def test_a_folder_counts_with_all_that_is_in_it(self, cache: Path) -> None:
        entry(cache / "suites/one/a/b/code.pyc", size=64 * KIB)
        (one,) = entries(KINDS["suites"])
        assert 64 * KIB < one.size <= 96 * KIB
        assert prune(one.size - 1).freed == one.size
        assert names(cache / "suites") == []

    def test_what_was_fetched_stays_and_does_not_count(self, cache: Path) -> None:
        fetched = [
            entry(cache / "kernels" / ("0a" * 16) / "vmlinuz", size=MIB),
            entry(cache / "packages/linux-image_7.3.4.deb", size=MIB),
            entry(cache / "apt/index.json", size=MIB),
            entry(cache / "accel.json"),
            entry(cache / "bin/qemu-leash"),
        ]
        image = entry(cache / "images/guest.cpio")
        assert not prune(8 * KIB).gone
        assert [one.path for one in prune(0).gone] == [image]
        assert all(path.exists() for path in fetched)

    def test_what_cannot_be_removed_hinders_nothing_else(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        stuck = entry(cache / "snapshots/stuck.snap", age=20)
        entry(cache / "snapshots/new.snap", age=10)
        real = Path.unlink

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if path == stuck:
                raise PermissionError(1, "Operation not permitted", str(path))
            real(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)
        monkeypatch.setenv("NSCONFORM_CACHE_LIMIT", "8K")
        keep_within_limit()
        assert names(cache / "snapshots") == ["stuck.snap"]
        assert caplog.messages == [
            f"the cache is not kept within its limit: {stuck}: Operation not permitted"
        ]

    def test_a_cache_that_cannot_be_locked_ends_no_run(
        self, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (cache / ".lock").mkdir()
        keep_within_limit()
        assert caplog.messages == [
            "the cache is not kept within its limit: "
            f"[Errno 21] Is a directory: '{cache / '.lock'}'"
        ]

    def test_a_limit_that_is_no_size_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NSCONFORM_CACHE_LIMIT", "lots")
        with pytest.raises(ConfigError):
            keep_within_limit()


class TestWhatIsInUse:
    @pytest.mark.parametrize("name", ["images/guest.cpio", "snapshots/key.snap", "suites/digest"])
    def test_stays_as_long_as_its_user_lives(self, cache: Path, start: Start, name: str) -> None:
        used = cache / name
        entry(used if used.suffix else used / "tests.json")
        user = start(HOLDS + READY, used)
        assert [one.path for one in prune(0).held] == [used]
        assert used.exists()
        killed(user)
        assert [one.path for one in prune(0).gone] == [used]
        assert not used.exists()

    def test_others_go_in_its_place(self, cache: Path, start: Start) -> None:
        used = entry(cache / "images/used.cpio")
        start(HOLDS + READY, used)
        os.utime(used, (1, 1))
        entry(cache / "images/idle.cpio")
        assert not prune(16 * KIB).gone
        prune(8 * KIB)
        assert names(cache / "images") == ["used.cpio"]

    def test_compiled_modules_go_only_with_all_collections(self, cache: Path, start: Start) -> None:
        collection = entry(cache / "suites/digest/tests.json").parent
        compiled = entry(cache / "suites/bytecode/module.pyc").parent
        os.utime(compiled, (1, 1))
        user = start(HOLDS + READY, collection)
        assert {one.path for one in prune(0).held} == {collection, compiled}
        assert (compiled / "module.pyc").exists()
        killed(user)
        prune(0)
        assert names(cache / "suites") == []

    def test_a_run_that_has_collected_keeps_what_it_needs(
        self, cache: Path, start: Start, suites_of_stages: Path
    ) -> None:
        collects = (
            "import sys; from pathlib import Path; from harness.collect import collect;"
            "collection = collect(suites=Path(sys.argv[1]))"
        )
        packs = "from harness.payload import with_suites; with_suites(collection)"
        run = start(collects + READY + packs, suites_of_stages)
        prune(0)
        assert len(names(cache / "suites")) == 2
        assert list((cache / "suites/bytecode").rglob("test_alpha.*.pyc"))
        assert told_to_end(run) == 0
        prune(0)
        assert names(cache / "suites") == []
        assert told_to_end(start(collects + READY, suites_of_stages)) == 0
        assert list((cache / "suites/bytecode").rglob("test_alpha.*.pyc"))

    def test_it_can_be_made_and_held_again(self, cache: Path) -> None:
        image = entry(cache / "images/guest.cpio")
        image.unlink()
        assert not hold(image)
        assert not mark_used(image)
        for content in ("one", "two"):
            made_once(image, partial(_write, content))
            assert image.read_text() == content
            made_once(image, lambda _: pytest.fail("it is there"))
            assert [one.path for one in prune(0).held] == [image]
            image.unlink()
            assert not hold(image)

    def test_one_that_was_made_anew_before_it_was_locked(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = entry(cache / "images/guest.cpio")
        before_lock(monkeypatch, fcntl.LOCK_SH, lambda: replaced(image))
        made_once(image, lambda _: pytest.fail("it is there"))
        assert [one.path for one in prune(0).held] == [image]

    def test_one_that_is_newer_than_what_was_to_be_dropped(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = entry(cache / "images/guest.cpio")
        before_lock(monkeypatch, fcntl.LOCK_EX | fcntl.LOCK_NB, lambda: replaced(image))
        assert not prune(0).gone
        assert image.read_text() == "new"


class TestTemporaryFiles:
    @pytest.mark.parametrize("name", ["accel.json", "snapshots/key.snap", "suites/one/tests.json"])
    def test_live_writers_keep_theirs_and_dead_ones_leave_none(
        self, cache: Path, start: Start, name: str
    ) -> None:
        final = cache / name
        final.parent.mkdir(parents=True, exist_ok=True)
        (final.parent / ".lock").touch()
        dead, live = start(WRITES, final), start(WRITES, final)
        killed(dead)
        assert len(list(final.parent.glob(f".{final.name}.*"))) == 2
        prune(MIB)
        assert len(list(final.parent.glob(f".{final.name}.*"))) == 1
        assert told_to_end(live) == 0
        assert final.read_text() == "whole"
        assert sorted(path.name for path in final.parent.glob(".*")) == [".lock"]

    def test_one_that_was_taken_before_it_was_locked(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: list[Path] = []

        def take() -> None:
            (file,) = cache.glob(".file.*")
            file.unlink()
            taken.append(file)

        before_lock(monkeypatch, fcntl.LOCK_SH, take)
        with atomic_path(cache / "file") as temporary:
            assert [temporary] != taken
            prune(0)
            assert temporary.exists()
            temporary.write_text("text")
        assert taken
        assert (cache / "file").read_text() == "text"


class TestAtOnce:
    def test_prunes_drop_together_what_one_would(self, cache: Path, start: Start) -> None:
        for age in range(40):
            entry(cache / f"snapshots/{age:02}.snap", age=age, size=MIB)
        pruners = [start(PRUNES, 25 * MIB) for _ in range(4)]
        for pruner in pruners:
            assert pruner.stdin is not None
            pruner.stdin.write("\n")
            pruner.stdin.flush()
        assert [pruner.wait(60) for pruner in pruners] == [0] * 4
        assert names(cache / "snapshots") == [f"{age:02}.snap" for age in range(25)]

    def test_runs_find_what_they_hold_while_others_prune(self, cache: Path, start: Start) -> None:
        pruners = [start(PRUNES_ON, ready=False) for _ in range(2)]
        for _ in range(3):
            runs = [start(MAKES, ready=False) for _ in range(4)]
            assert [run.wait(120) for run in runs] == [0] * 4
        (cache / "stop").touch()
        assert [pruner.wait(60) for pruner in pruners] == [0, 0]
        prune(0)
        assert names(cache / "images") == names(cache / "suites") == []

    def test_one_makes_what_many_want(self, cache: Path, start: Start) -> None:
        makes = (
            "import os, sys, time; from pathlib import Path; from vm.cache import made_once\n"
            "def make(path):\n"
            "    time.sleep(0.2); path.write_text(str(os.getpid()))\n"
            "    with open(sys.argv[1] + '.log', 'a') as log: log.write('made\\n')\n"
            "made_once(Path(sys.argv[1]), make)\n"
        )
        runs = [start(makes, cache / "image", ready=False) for _ in range(4)]
        assert [run.wait(60) for run in runs] == [0] * 4
        assert (cache / "image.log").read_text() == "made\n"
