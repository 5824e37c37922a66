# SPDX-License-Identifier: GPL-2.0-only
"""Visible: what the active reference count of a namespace means to user space. Linux 6.19.

A namespace is visible, that is, listed to a real root and openable by a handle of its id, as long
as a task uses it, an open or mounted nsfs file refers to it, or it owns a visible one (commit
3a18f809184b).
"""

from errno import ESTALE

from .handles import open_id
from .ids import id_behind
from .listing import ListingError, list_all
from .waiting import wait_until


def visible(*ids: int) -> set[int]:
    """Which of the namespaces with these ids are visible.

    For a real root. Raises ListingError where the list and the handles disagree.
    """
    listed = set(ids).intersection(list_all())
    opened = {one for one in ids if _opens(one)}
    if listed != opened:
        raise ListingError(f"of {ids} listed are {listed}, opened by handle {opened}")
    return listed


def wait_until_invisible(*ids: int) -> None:
    """Wait until none of the namespaces is visible; for what ends asynchronously.

    Raises TimeoutError if that takes long.
    """
    # Not by visible(): what ends between its two looks would seem to be listed only.
    wait_until(lambda: not set(ids).intersection(list_all()), f"end of namespaces {ids}")
    if left := visible(*ids):
        raise ListingError(f"namespaces {left} are visible again")


def _opens(ns_id: int) -> bool:
    try:
        found = id_behind(open_id(ns_id))
    except OSError as error:
        if error.errno != ESTALE:
            raise
        return False
    if found != ns_id:
        raise ListingError(f"the handle of {ns_id} opens {found}")
    return True
