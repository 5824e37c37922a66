# SPDX-License-Identifier: GPL-2.0-only
"""unshare(CLONE_NEWTIME): who enters the new time namespace, and when (time_namespaces(7))."""

from collections.abc import Callable
from errno import EACCES, EINVAL
from pathlib import Path

import pytest
from nslib import NS, Idle, Task, errno_of, ns_name, ns_names, replace_by_program, unshare

pytestmark = pytest.mark.needs("time_ns")

NO_OFFSET = "monotonic 0 0\n"


@pytest.mark.behaviour("SNS-50")
def test_only_the_children_are_in_an_unshared_time_namespace(joiner: Task) -> None:
    before = ns_names(joiner.pid)
    joiner.call(unshare, NS.TIME)
    new = ns_name("time_for_children", joiner.pid)
    assert new != before["time"]
    assert ns_names(joiner.pid) == before | {"time_for_children": new}
    assert joiner.call(_errno_of_offset) == 0
    with joiner.spawn() as child:
        assert ns_names(child.pid) == before | {"time": new, "time_for_children": new}
        assert child.call(_errno_of_offset) == EACCES
    assert joiner.call(_errno_of_offset) == EACCES
    assert ns_name(NS.TIME, joiner.pid) == before["time"]


def _errno_of_offset() -> int:
    return errno_of(Path("/proc/self/timens_offsets").write_text, NO_OFFSET)


@pytest.mark.behaviour("SNS-50")
def test_child_that_shares_memory_is_not_in_it(
    joiner: Task, observe: Callable[[str, object], None]
) -> None:
    answer = joiner.call(_names_of_sharer)
    observe("errno", 0 if isinstance(answer, dict) else answer)
    if answer != EINVAL:  # as until Linux 6.2, before a child could move by exec
        assert isinstance(answer, dict)
        assert answer["time"] == ns_name(NS.TIME)
        assert answer["time_for_children"] == ns_name("time_for_children", joiner.pid)


def _names_of_sharer() -> dict[str, str] | int:
    """Names of a child that shares memory after unshare(), or the errno of its creation."""
    unshare(NS.TIME)
    try:
        with Idle() as child:
            return ns_names(child.pid)
    except OSError as error:
        return error.errno or 0


@pytest.mark.behaviour("SNS-50")
def test_exec_enters_it(joiner: Task, observe: Callable[[str, object], None]) -> None:
    joiner.call(unshare, NS.TIME)
    new = ns_name("time_for_children", joiner.pid)
    replace_by_program(joiner)
    assert ns_name("time_for_children", joiner.pid) == new != ns_name(NS.TIME)
    entered = ns_name(NS.TIME, joiner.pid) == new
    observe("entered", entered)
    if not entered:
        assert ns_name(NS.TIME, joiner.pid) == ns_name(NS.TIME)
        with Task() as other:  # Old kernels refused to share memory, for want of this.
            assert other.call(_names_of_sharer) == EINVAL
