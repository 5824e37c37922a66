# SPDX-License-Identifier: GPL-2.0-only
"""What the harness has in a guest: the agent, which boots with it, and the suites, which follow."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from harness.collect import SUITES, Collection, compiled_forms
from vm.cpio import Entry
from vm.interpreter import GUEST_PACKAGES, compiled, executable

_AGENT = Path(__file__).parent / "guest"
_GUEST_SUITES = "nsconform/suites"
# -S -E -s: nothing but what the image holds; -u: what the agent prints is on the console at once.
_INIT = """#!{python} -SEsu
import sys
sys.path.insert(0, "/{packages}")
from harness.guest.boot import main
main()
"""


# Those of the guest, pytest's and the agent's, that define dataclasses.
PACKAGES = ("_pytest", "harness.guest")


def agent_files() -> dict[str, Entry]:
    """Return /init, the agent and pytest's settings as guest path → entry."""
    init = _INIT.format(python=executable(), packages=GUEST_PACKAGES)
    files = {"init": Entry(init.encode(), 0o755)}
    for source in (_AGENT.parent / "__init__.py", *_AGENT.glob("*.py")):
        target = f"{GUEST_PACKAGES}/harness/{source.relative_to(_AGENT.parent)}"
        files[target + "c"] = Entry(compiled(source, target, optimize=0))
    return files | {f"{_GUEST_SUITES}/pytest.ini": _file(SUITES / "pytest.ini")}


def suite_files(collection: Collection, tests: Iterable[str]) -> dict[str, Entry]:
    """Return what the tests with these ids need as path below the guest's suites → entry."""
    files = {
        "catalogue.toml": _file(SUITES / "catalogue.toml"),
        "generated": Entry(collection.generated),
    }
    wanted = {test.partition("::")[0] for test in tests}
    for relative, source in collection.modules().items():
        if relative in wanted or not source.name.startswith("test_"):
            files |= _module(PurePosixPath(relative), source, collection.bytecode)
    return files


def with_suites(collection: Collection) -> dict[str, Entry]:
    """Return the agent and all suites as guest path → entry, for a guest without a harness."""
    suites = suite_files(collection, (test.id for test in collection.tests))
    return agent_files() | {f"{_GUEST_SUITES}/{path}": entry for path, entry in suites.items()}


def _module(guest: PurePosixPath, source: Path, bytecode: Path) -> Iterator[tuple[str, Entry]]:
    """Yield a module's source, for tracebacks, and its code, so that the guest compiles nothing.

    The code was written by Python and pytest themselves and is valid for that source: both check
    its size or hash and its modification time, which is why entries keep times.
    """
    yield str(guest), _file(source)
    for code in compiled_forms(source, bytecode):
        yield str(guest.parent / "__pycache__" / code.name), _file(code)


def _file(path: Path) -> Entry:
    return Entry(path.read_bytes(), mtime=int(path.stat().st_mtime))
