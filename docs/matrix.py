# SPDX-License-Identifier: GPL-2.0-only
"""Which kernels keep which promise: python docs/matrix.py RUN.JSON… > docs/matrix.md."""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness import catalogue
from harness.catalogue import Behaviour
from harness.results import KernelResult, Outcome, from_json

_MARKS = {Outcome.PASS: "·", Outcome.SKIP: " "}


def of_behaviour(kernel: KernelResult, behaviour: str) -> Outcome | None:
    """Return the most severe outcome of a behaviour's tests that are no skip; SKIP if all are."""
    outcomes = [test.outcome for test in kernel.tests if behaviour in test.behaviours]
    asserted = [outcome for outcome in outcomes if outcome is not Outcome.SKIP]
    return max(asserted or outcomes, key=lambda outcome: outcome.severity, default=None)


def by_release(kernel: KernelResult) -> list[int]:
    """Return the numbers of a kernel's release, to sort by."""
    return [int(number) for number in re.findall(r"\d+", kernel.release)[:3]]


def page(kernels: Sequence[KernelResult], behaviours: Mapping[str, Behaviour]) -> Iterator[str]:
    """Yield the lines of the page."""
    outcomes = {name: [of_behaviour(kernel, name) for kernel in kernels] for name in behaviours}
    names = [kernel.spec.removeprefix("debian:") for kernel in kernels]
    yield "# What released kernels do"
    yield ""
    yield f"{len(behaviours)} behaviours on {len(kernels)} kernels (`docs/matrix.py`)."
    yield ""
    yield from _counts(kernels)
    yield ""
    yield "## Promises that some kernels break"
    yield ""
    yield "A dot: the promise is kept; a word: it is not; nothing: the kernel lacks the feature."
    yield ""
    yield from _broken(names, outcomes, behaviours)
    yield ""
    yield "## Promises by the first of these kernels that makes them"
    yield ""
    for kernel_name, made in zip(names, _first_made(outcomes, len(kernels)), strict=True):
        yield f"* {kernel_name}: {', '.join(made) or 'none'}"


def _counts(kernels: Sequence[KernelResult]) -> Iterator[str]:
    yield "| kernel | pass | skip | fail |"
    yield "|---|---:|---:|---:|"
    for kernel in kernels:
        tests = Counter(test.outcome for test in kernel.tests)
        bad = sum(test.outcome.bad for test in kernel.tests)
        yield f"| {kernel.release} | {tests[Outcome.PASS]} | {tests[Outcome.SKIP]} | {bad} |"


def _broken(
    names: Sequence[str],
    outcomes: Mapping[str, Sequence[Outcome | None]],
    behaviours: Mapping[str, Behaviour],
) -> Iterator[str]:
    yield f"| behaviour | {' | '.join(names)} | promise | fixed by |"
    yield f"|---|{':-:|' * len(names)}---|---|"
    for name, found in outcomes.items():
        if any(outcome and outcome.bad for outcome in found):
            marks = [_MARKS.get(one, one.value) if one else " " for one in found]
            behaviour = behaviours[name]
            yield f"| {name} | {' | '.join(marks)} | {behaviour.sentence} | {_fix(behaviour)} |"


def _first_made(
    outcomes: Mapping[str, Sequence[Outcome | None]], kernels: int
) -> Sequence[Sequence[str]]:
    """Return for each kernel the behaviours that it has and those before it do not."""
    made: list[list[str]] = [[] for _ in range(kernels)]
    for name, found in outcomes.items():
        having = [i for i, one in enumerate(found) if one not in (None, Outcome.SKIP)]
        if having:
            made[having[0]].append(name)
    return made


def _fix(behaviour: Behaviour) -> str:
    fix = behaviour.fix
    if fix is None:
        return ""
    return " ".join(filter(None, [fix.commit[:12], ", ".join(fix.releases), fix.cve]))


if __name__ == "__main__":
    runs = [from_json(Path(file).read_text(), file) for file in sys.argv[1:]]
    # A later run of a kernel takes the place of an earlier one.
    found = {kernel.spec: kernel for run in runs for kernel in run.kernels}
    print("\n".join(page(sorted(found.values(), key=by_release), catalogue.load())))
