# SPDX-License-Identifier: GPL-2.0-only
"""How long tests that explore may go on, and the seed of what they choose by chance.

The harness passes on what its user asked for (--race-seconds, --model-seconds, --seed).
"""

import os

DEFAULT_SECONDS = 60.0


def budget(kind: str) -> float:
    """Seconds of wall time, not scaled, for all tests of a `kind` together: race or model."""
    return float(os.environ.get(f"NSCONFORM_{kind.upper()}_SECONDS", DEFAULT_SECONDS))


def seed() -> int:
    """The seed of the run; 0 if none was given, so that runs repeat each other."""
    return int(os.environ.get("NSCONFORM_SEED", "0"))
