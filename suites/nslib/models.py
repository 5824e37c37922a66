# SPDX-License-Identifier: GPL-2.0-only
"""Which of the released rules the running kernel follows where releases differ."""

from functools import cache

from .ids import current_ids
from .listing import list_all
from .namespaces import NS
from .tasks import Task


def sees_only_its_own() -> bool:
    """Whether the caller's unfiltered list holds exactly the namespaces that it is in."""
    return set(list_all()) == set(current_ids().values())


@cache
def listing_model() -> str:
    """Who may list what: "A" (Linux 6.19.0 to 6.19.8) goes by CAP_SYS_ADMIN in the owner, "B" asks
    for the initial pid namespace too (6.19.9 and 7.0, commit 8d76afe84fa2).

    The probe is a real root in a child pid namespace, which sees everything under A.
    """
    with Task(NS.PID) as task:
        return "B" if task.call(sees_only_its_own) else "A"
