# SPDX-License-Identifier: GPL-2.0-only
import dataclasses
import marshal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.collect import collect
from vm import generated

# Defines a dataclass in a process that has what `recall` finds, and says whether it compiled.
DEFINE = """
import builtins, sys
from harness.guest import generated
generated._OF_IMAGE = sys.argv[1]
generated.recall()
compiled = []
real = generated.exec if hasattr(generated, "exec") else builtins.exec
def watch(code, *rest):
    compiled.append(isinstance(code, str))
    real(code, *rest)
generated.exec = watch
from dataclasses import dataclass
@dataclass(frozen=True)
class Point:
    x: int
    y: int = {y}
assert Point(1) == Point(1, {y}) and Point(1) != Point(2) and hash(Point(1)) == hash(Point(1))
assert repr(Point(3)) == "Point(x=3, y={y})"
print(any(compiled), len(compiled) > 3)
"""


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """What the definition of such a class compiles."""
    package = tmp_path / "points"
    package.mkdir()
    package.joinpath("__init__.py").touch()
    package.joinpath("point.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Point:\n    x: int\n    y: int = 7\n"
    )
    argv = [sys.executable, "-m", "vm.generated", "points"]
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, check=True, env={"PYTHONPATH": f"{tmp_path}"}
    )
    file = tmp_path / "known"
    file.write_bytes(done.stdout)
    return file


def define(known: Path, y: int) -> str:
    script = DEFINE.replace("{y}", str(y))
    argv = [sys.executable, "-c", script, str(known)]
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True).stdout


def test_what_is_known_is_not_compiled(known: Path) -> None:
    assert define(known, 7) == "False True\n"


def test_what_is_not_known_is_compiled(known: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.write_bytes(marshal.dumps({}))
    assert define(nothing, 7) == "True True\n"


def test_code_of_suites(
    cache_of_stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSCONFORM_CACHE", str(cache_of_stages))
    suite = tmp_path / "alpha"
    suite.mkdir()
    suite.joinpath("test_it.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    abscissa: int\n"
        "def test_one(): ...\n"
    )
    known = marshal.loads(collect(suites=tmp_path).generated)  # noqa: S302 - our own
    assert [text for text in known if "self.abscissa=abscissa" in text]


def test_nothing_is_recorded_where_nobody_asked() -> None:
    assert generated.guest_files([])["nsconform/generated"].data == marshal.dumps({})
    assert not hasattr(dataclasses, "exec")


def test_folder_of_the_user_has_no_part_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("vm").mkdir()
    tmp_path.joinpath("vm/__init__.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    assert generated.guest_files([])
