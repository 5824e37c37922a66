# SPDX-License-Identifier: GPL-2.0-only
"""What the harness adds to the guest image: the agent and the suites."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from harness.collect import SUITES, Collection
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


def payload(collection: Collection) -> dict[str, Entry]:
    """Return agent, suites and /init as guest path → entry."""
    init = _INIT.format(python=executable(), packages=GUEST_PACKAGES)
    files = {"init": Entry(init.encode(), 0o755)}
    for source in (_AGENT.parent / "__init__.py", *_AGENT.glob("*.py")):
        target = f"{GUEST_PACKAGES}/harness/{source.relative_to(_AGENT.parent)}"
        files[target + "c"] = Entry(compiled(source, target, optimize=0))
    for name in ("pytest.ini", "catalogue.toml"):
        files[f"{_GUEST_SUITES}/{name}"] = _file(SUITES / name)
    for relative, source in collection.modules().items():
        files |= _module(PurePosixPath(_GUEST_SUITES, relative), source, collection.bytecode)
    return files


def _module(guest: PurePosixPath, source: Path, bytecode: Path) -> Iterator[tuple[str, Entry]]:
    """Yield a module's source, for tracebacks, and its code, so that the guest compiles nothing.

    The code was written by Python and pytest themselves and is valid for that source: both check
    its size or hash and its modification time, which is why the image keeps times.
    """
    yield str(guest), _file(source)
    for code in (bytecode / str(source.parent).lstrip("/")).glob(f"{source.stem}.*.pyc"):
        yield str(guest.parent / "__pycache__" / code.name), _file(code)


def _file(path: Path) -> Entry:
    return Entry(path.read_bytes(), mtime=int(path.stat().st_mtime))
