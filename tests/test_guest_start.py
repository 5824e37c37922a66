# SPDX-License-Identifier: GPL-2.0-only
"""What shortens the guest's way to a configured pytest, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.guest import agent
from vm import interpreter

ROOT = Path(__file__).parents[1]


def python(code: str, *arguments: object, path: Path = ROOT) -> str:
    """Run code as the guest runs Python; return what it prints."""
    argv = [sys.executable, "-SEs", "-c", f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"]
    done = subprocess.run(
        [*argv, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestVocabulary:
    """What a guest that was saved has of nslib, when it gets the suites again."""

    SETUP = """
import os, sys, tempfile
from harness.guest.archive import Vocabulary, pack, unpack
folder = tempfile.mkdtemp()
sys.path.insert(0, folder)
vocabulary = Vocabulary()

def load(number, **others):
    sources = {"nslib/__init__.py": f"NUMBER = {number}", **others}
    files = {path: (text.encode(), number) for path, text in sources.items()}
    vocabulary.renew(unpack(pack(files), folder))
    import nslib
    return nslib
"""

    def test_stays_while_its_sources_are_as_they_were(self) -> None:
        code = 'first = load(1); print(load(1, **{"a/test_a.py": ""}) is first, first.NUMBER)'
        assert python(self.SETUP + code) == "True 1\n"

    def test_is_imported_again_when_they_are_not(self) -> None:
        code = "first = load(1); print(load(2) is first, load(3).NUMBER)"
        assert python(self.SETUP + code) == "False 3\n"

    def test_files_of_before_are_gone(self) -> None:
        code = """
load(1, **{"a/conftest.py": "", "b/test_b.py": ""})
load(1, **{"a/test_a.py": ""})
print(sorted(os.listdir(folder)), os.listdir(f"{folder}/a"))
"""
        assert python(self.SETUP + code) == "['a', 'nslib'] ['test_a.py']\n"


class TestUnused:
    def test_module_is_loaded_when_it_is_used(self) -> None:
        code = """
from harness.guest import unused
unused.put_off()
import tempfile, importlib.metadata
before = "random" in sys.modules, "email" in sys.modules
assert tempfile.gettempdir() and importlib.metadata.PackageNotFoundError
print(before, "random" in sys.modules, "email" in sys.modules)
"""
        assert python(code) == "(False, False) True True\n"

    def test_names_of_it(self) -> None:
        code = "unused.put_off()\nfrom tempfile import mkdtemp\nprint(mkdtemp.__name__)"
        assert python(f"from harness.guest import unused\n{code}") == "mkdtemp\n"


JUDGE = """
import os
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
sys.path.insert(1, sys.argv[1])
from harness.guest import colours, unused
colours.do_without()
unused.put_off()
from harness.guest import child
import pytest

class Loop:
    def pytest_runtestloop(self, session):
        print(session.testsfailed, len(session.items), *sorted(sys.modules))
        for item in session.items:
            print(judge.verdict_on(item))
        return True

judge = child.Judge()
raise SystemExit(pytest.main(sys.argv[2:], plugins=[judge, Loop()]))
"""
TESTS = """
import pytest

def test_differs():
    assert {"a": [1, 2]} == {"a": [1, 3]}

def test_approximately():
    assert 1 == pytest.approx(1.0)

@pytest.mark.parametrize("number", [1])
def test_raises(number):
    with pytest.raises(ZeroDivisionError, match="division"):
        number / 0
"""


class TestPytestOfTheGuest:
    """Its pytest, from the files of the image, with the options of the agent."""

    @pytest.fixture(scope="class")
    @classmethod
    def packages(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        top = tmp_path_factory.mktemp("guest")
        for path, entry in interpreter.guest_files().items():
            if path.startswith(interpreter.GUEST_PACKAGES):
                (top / path).parent.mkdir(parents=True, exist_ok=True)
                (top / path).write_bytes(entry.data)
        return top / interpreter.GUEST_PACKAGES

    @pytest.fixture(scope="class")
    @classmethod
    def said(cls, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
        folder = tmp_path_factory.mktemp("suite")
        (folder / "test_it.py").write_text(TESTS)
        options = [*agent._PYTEST_OPTIONS, f"--rootdir={folder}", folder]
        return python(JUDGE, ROOT, *options, path=packages).splitlines()

    def test_failing_assert_says_how_the_sides_differ(self, said: list[str]) -> None:
        assert "outcome='fail'" in said[1]
        assert r"At index 1 diff: 2 != 3" in said[1] or "Differing items" in said[1]

    def test_passing_tests(self, said: list[str]) -> None:
        assert ["outcome='pass'" in line for line in said[2:]] == [True, True]

    def test_what_nobody_uses_is_not_loaded(self, said: list[str]) -> None:
        assert said[0].startswith("0 3 ")
        unwanted = {"_pytest.pytester", "_pytest.legacypath", "_pytest.logging", "email"}
        assert not unwanted.intersection(said[0].split())

    def test_any_name_can_be_the_first(self, packages: Path) -> None:
        """The modules of pytest import one another: not in every order, to all appearances."""
        code = """
import os
from harness.guest import colours
colours.do_without()
import pytest
for name in pytest.__all__:
    if not (pid := os.fork()):
        getattr(pytest, name)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        print(name)
"""
        code = f"sys.path.insert(1, {str(ROOT)!r})\n{code}"
        assert python(code, path=packages) == ""


class TestCompiled:
    SOURCE = '''"""What."""
from __future__ import annotations

class Empty:
    """Nothing else."""

def f(x):
    """Do."""
    assert x, "why"
    return """kept"""

async def g():
    """Wait."""
'''

    def test_docstrings_go_and_asserts_stay(self, tmp_path: Path) -> None:
        (tmp_path / "it.py").write_text(self.SOURCE)
        code = interpreter.compiled(tmp_path / "it.py", "it.py", optimize=0)
        (tmp_path / "it.py").unlink()
        (tmp_path / "it.pyc").write_bytes(code)
        check = """
import it
print([thing.__doc__ for thing in (it, it.Empty, it.f, it.g)], it.f(1))
try:
    it.f(0)
except AssertionError as error:
    print(error)
"""
        assert python(check, path=tmp_path) == "[None, None, None, None] kept\nwhy\n"
