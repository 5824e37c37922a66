# SPDX-License-Identifier: GPL-2.0-only
"""Which kernels keep which promise: python docs/matrix.py RUN.JSON > docs/matrix.md."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import catalogue
from harness.catalogue import Behaviour
from harness.results import KernelResult, Outcome, RunResult, from_json

_MARKS = {Outcome.PASS: "·", Outcome.SKIP: " "}


def of_behaviour(kernel: KernelResult, behaviour: str) -> Outcome | None:
    """Return the most severe outcome of a behaviour's tests that are no skip; SKIP if all are."""
    outcomes = [test.outcome for test in kernel.tests if behaviour in test.behaviours]
    asserted = [outcome for outcome in outcomes if outcome is not Outcome.SKIP]
    return max(asserted or outcomes, key=lambda outcome: outcome.severity, default=None)


def page(run: RunResult, behaviours: Mapping[str, Behaviour]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# What released kernels do"
    yield ""
    yield f"{len(behaviours)} behaviours on {len(run.kernels)} kernels (`docs/matrix.py`)."
    yield ""
    yield "| kernel | pass | skip | fail |"
    yield "|---|---:|---:|---:|"
    for kernel in run.kernels:
        counts = [sum(test.outcome is outcome for test in kernel.tests)
                  for outcome in (Outcome.PASS, Outcome.SKIP)]  # fmt: skip
        bad = sum(test.outcome.bad for test in kernel.tests)
        yield f"| {kernel.release} | {counts[0]} | {counts[1]} | {bad} |"
    yield ""
    yield "## Behaviours that are not the same everywhere"
    yield ""
    yield "A dot: the promise is kept; a word: it is not; nothing: the kernel lacks the feature."
    yield ""
    names = [kernel.spec.removeprefix("debian:") for kernel in run.kernels]
    yield f"| behaviour | {' | '.join(names)} | promise | fixed by |"
    yield f"|---|{':-:|' * len(names)}---|---|"
    for name, behaviour in behaviours.items():
        outcomes = [of_behaviour(kernel, name) for kernel in run.kernels]
        if len(set(outcomes)) > 1:
            marks = [_MARKS.get(one, one.value) if one else " " for one in outcomes]
            yield f"| {name} | {' | '.join(marks)} | {behaviour.sentence} | {_fix(behaviour)} |"


def _fix(behaviour: Behaviour) -> str:
    fix = behaviour.fix
    if fix is None:
        return ""
    return " ".join(filter(None, [fix.commit[:12], ", ".join(fix.releases), fix.cve]))


if __name__ == "__main__":
    found = from_json(Path(sys.argv[1]).read_text())
    print("\n".join(page(found, catalogue.load())))
