# SPDX-License-Identifier: GPL-2.0-only
"""What the search for the window of a race is worth: python -m bench.races [KERNEL].

Exit status 1 if the share of attempts inside the window is less than 20 times that of attempts
with fixed timing, in any of three campaigns. Each tenth attempt of a campaign is made without a
lead: both calls follow the barrier at once, as in a loop that hopes. These and the others meet the
same guest and the same noise. An attempt is inside if the time between the starts of its two calls,
by the TSC, lies in the range in which both outcomes were seen (nslib.windows.band); the range is
that of the explorer's attempts. Where no fixed attempt was inside, one is assumed to have been.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 600.0  # of which the campaigns get their shares
_CAMPAIGNS = (
    "test_exiting_target.py::test_target_exits[1]",
    "test_handles.py::test_last_task_exits_and_is_reaped[itself]",
    "test_handles.py::test_last_mount_is_removed[itself]",
)
_LIMIT = 20.0


@dataclass(frozen=True)
class Shares:
    """Shares of attempts inside the window of a campaign, those with fixed timing apart."""

    campaign: str
    attempts: int
    inside: float
    fixed: int
    inside_fixed: float

    @property
    def factor(self) -> float:
        """How many times the one share is the other."""
        return self.inside / max(self.inside_fixed, 1 / self.fixed)


def main(spec: str = "debian:newest") -> int:
    """Measure, print, return the exit status."""
    with tempfile.TemporaryDirectory(prefix="nsconform-bench-") as folder:
        measured = _measure(spec, Path(folder))
    for one in measured:
        print(
            f"{one.campaign}: of {one.attempts} attempts {one.inside:.1%} inside, of {one.fixed} "
            f"with fixed timing {one.inside_fixed:.1%}: {one.factor:.0f} times "
            f"(at least {_LIMIT:.0f})"
        )
    return 0 if all(one.factor >= _LIMIT for one in measured) else 1


def _measure(spec: str, folder: Path) -> list[Shares]:
    argv = [sys.executable, "-m", "harness", "run", spec, "--accel", "tcg", "--retries", "0"]
    argv += ["--suite", "races", "--race-seconds", str(_SECONDS), "--results", str(folder)]
    names = {campaign.split("::")[1].partition("[")[0] for campaign in _CAMPAIGNS}
    argv += ["-k", f"({' or '.join(sorted(names))}) and (itself or 1)"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=False)
    run = json.loads((folder / "latest" / "run.json").read_text())
    tests = {test["id"]: test for kernel in run["kernels"] for test in kernel["tests"]}
    return [_shares(name, tests[f"races/{name}"]["observations"]["race"]) for name in _CAMPAIGNS]


def _shares(campaign: str, race: dict[str, float]) -> Shares:
    return Shares(
        campaign,
        int(race["attempts"] - race["fixed"]),
        race["inside"],
        int(race["fixed"]),
        race["inside_fixed"],
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
