# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) to a cgroup namespace: paths are seen from its root."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from nslib import NS, Task, errno_of_joining, ns_name, unshare, wait_until

pytestmark = pytest.mark.needs("cgroup_ns", "cgroup2")


@pytest.fixture
def own_cgroup() -> Iterator[Path]:
    """The directory of a new cgroup at the top of the cgroup v2 hierarchy."""
    path = _cgroup_root() / f"nsconform-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        wait_until(lambda: not (path / "cgroup.procs").read_text(), "emptiness of the cgroup")
        path.rmdir()


def _cgroup_root() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return Path(fields[4])
    raise FileNotFoundError("cgroup v2 is not mounted")


def path_of_cgroup(pid: int | str = "self") -> str:
    """The cgroup v2 path of a task as the caller sees it (cgroups(7))."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    [path] = [line[3:] for line in lines if line.startswith("0::")]
    return path


@pytest.mark.behaviour("SNS-36")
def test_paths_are_seen_from_the_root_of_the_joined_namespace(
    own_cgroup: Path, joiner: Task
) -> None:
    where = path_of_cgroup(joiner.pid)
    with Task() as target:
        (own_cgroup / "cgroup.procs").write_text(f"{target.pid}")
        target.call(unshare, NS.CGROUP)
        there = path_of_cgroup(target.pid)
        assert (where, there) == (path_of_cgroup(), f"/{own_cgroup.name}")
        assert errno_of_joining(joiner, target, NS.CGROUP) == 0
        assert ns_name(NS.CGROUP, joiner.pid) == ns_name(NS.CGROUP, target.pid)
        assert joiner.call(path_of_cgroup) == f"/{os.path.relpath(where, there)}"
        assert joiner.call(path_of_cgroup, target.pid) == target.call(path_of_cgroup) == "/"
        # The task stays where it is.
        assert path_of_cgroup(joiner.pid) == where


@pytest.mark.behaviour("SNS-36")
def test_own_namespace_changes_nothing(joiner: Task) -> None:
    before = joiner.call(path_of_cgroup), ns_name(NS.CGROUP, joiner.pid)
    assert errno_of_joining(joiner, joiner, NS.CGROUP) == 0
    assert (joiner.call(path_of_cgroup), ns_name(NS.CGROUP, joiner.pid)) == before
