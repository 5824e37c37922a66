# SPDX-License-Identifier: GPL-2.0-only
"""Which tests there are: pytest's own collection, made in a process of its own, remembered."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from harness.results import TestResult
from vm.cache import atomic_path, held_dir
from vm.errors import ConfigError

SUITES = Path(__file__).parent.parent / "suites"


@dataclass(frozen=True)
class Collection:
    """The tests of the suites in `suites`, and where the compiled form of their modules lies.

    `generated` is what their dataclasses compile (harness.guest.generated).
    """

    tests: tuple[TestResult, ...]
    suites: Path
    bytecode: Path
    generated: bytes

    def modules(self) -> dict[str, Path]:
        """Return every module that the guest needs, by its path relative to the suites."""
        return {
            str(source.relative_to(top)): source
            for top in (SUITES, self.suites)
            for source in sorted(top.rglob("*.py"))
            if top == self.suites or source.parent.name == "nslib"
        }


def collect(expression: str = "", suites: Path = SUITES) -> Collection:
    """Return the tests that match pytest's -k `expression`, all if it is empty, in their order.

    Another folder than our own can take the place of `suites`; nslib is there for its tests too.
    Compiling the suites, with the asserts that pytest rewrites, is a side effect of collecting
    them. Raises ConfigError when a test file cannot be imported or the expression is wrong.
    """
    suites = suites.resolve()
    if not suites.is_dir():
        raise ConfigError(f"{suites}: no folder of suites")
    folder = held_dir("suites", _digest(suites))
    answer = folder / f"tests-{hashlib.sha256(expression.encode()).hexdigest()[:16]}.json"
    # One for all states of all suites: pytest itself is compiled to it too, which takes seconds.
    bytecode = held_dir("suites", "bytecode")
    if not answer.exists():
        options = ["-k", expression] if expression else []
        _drop_stale(_sources(suites), bytecode)
        _ask_pytest(suites, answer, ["-c", str(SUITES / "pytest.ini"), *options], bytecode)
    known = json.loads(answer.read_text())
    tests = tuple(_planned(**test) for test in known["tests"])
    return Collection(tests, suites, bytecode, base64.b64decode(known["generated"]))


def _sources(suites: Path) -> list[Path]:
    ours = [*SUITES.rglob("*.py"), *SUITES.glob("*.toml"), *SUITES.glob("*.ini")]
    return sorted({*ours, *suites.rglob("*.py")})


def _digest(suites: Path) -> str:
    """Name the state of the suites; times count, because compiled modules refer to them."""
    parts = [sys.version, version("pytest"), str(suites), Path(__file__).read_text()]
    for source in _sources(suites):
        status = source.stat()
        parts.append(f"{source} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_size}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _drop_stale(sources: Iterable[Path], bytecode: Path) -> None:
    """Remove the compiled form of what has changed since it was compiled.

    Python and pytest tell by a source's size and by its time in seconds, which an edit can leave as
    they were; nobody can set the time of the inode's last change.
    """
    for source in sources:
        for code in compiled_forms(source, bytecode):
            if code.stat().st_mtime_ns <= source.stat().st_ctime_ns:
                code.unlink(missing_ok=True)


def compiled_forms(source: Path, bytecode: Path) -> Iterable[Path]:
    """Return the files below `bytecode` in which Python and pytest keep a module's code."""
    return (bytecode / str(source.parent).lstrip("/")).glob(f"{source.stem}.*.pyc")


def _planned(id: str, behaviours: list[str]) -> TestResult:  # noqa: A002 - the field's name
    return TestResult(id, id.split("/", 1)[0], tuple(behaviours))


def _ask_pytest(suites: Path, answer: Path, options: list[str], bytecode: Path) -> None:
    with atomic_path(answer) as unfinished:
        argv = [sys.executable, "-m", "harness.collector", str(suites), str(unfinished), *options]
        environment = os.environ | {"PYTHONPYCACHEPREFIX": str(bytecode)}
        # Settings of whoever calls us; the first would keep the compiled form from being written.
        for setting in ("PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS"):
            environment.pop(setting, None)
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, cwd=SUITES.parent, check=False
        )
        if done.returncode != 0:
            raise ConfigError(f"the suites cannot be collected: {_why(done.stdout + done.stderr)}")


def _why(output: str) -> str:
    """Pick the lines that tell most from what a failed pytest has printed: file and error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return "pytest printed nothing"
    headings = [n for n, line in enumerate(lines[:-1]) if " ERROR collecting " in line]
    errors = [line[2:].strip() for line in lines if line.startswith("E ")]
    if headings:
        file = lines[headings[-1]].strip("_ ").removeprefix("ERROR collecting ")
        return f"{file}: {errors[-1] if errors else lines[headings[-1] + 1]}"
    complaints = [line for line in lines if line.startswith(("ERROR: ", "INTERNALERROR> "))]
    return complaints[-1].partition(" ")[2].strip() if complaints else lines[-1]
