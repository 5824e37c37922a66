# SPDX-License-Identifier: GPL-2.0-only
"""The last test of each suite (see conftest.py): whatever the others did, the lists are right.

On a quiet system listns must show exactly the namespaces that tasks, nsfs files, mounts, and what
they own imply (nslib.oracle). A count that a test has spoilt shows here, if not in that test: one
too low hides a namespace in use, one too high shows one that nobody uses.
"""

import pytest
from nslib import active_ids, list_all, undisturbed, visible

pytestmark = pytest.mark.needs("active_refs", "id_handles")


@pytest.mark.behaviour("LNS-PRM-01")
def test_visible_namespaces_are_those_that_are_used_mounted_or_owned() -> None:
    implied, listed = undisturbed(lambda: (active_ids(), list_all()))
    assert listed == implied
    assert visible(*implied) == set(implied)
