# SPDX-License-Identifier: GPL-2.0-only
"""What tests that explore are told: races, and sequences of operations chosen by chance."""

from dataclasses import dataclass

from harness.guest.wire import Message

# A run leaves these suites out unless they are named: they take minutes, the others seconds.
LONG_SUITES = frozenset(("model", "races", "stress"))


@dataclass(frozen=True)
class Exploration:
    """Seconds for all tests of a kind together, and the seed of what they choose by chance."""

    race_seconds: float = 60.0
    model_seconds: float = 60.0
    seed: int = 0

    def message(self) -> Message:
        """Return it as the guest is told."""
        budgets = {"race": self.race_seconds, "model": self.model_seconds}
        return {"budgets": budgets, "seed": self.seed}
