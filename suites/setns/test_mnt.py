# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) to a mount namespace: root and working directory afterwards."""

import os
from pathlib import Path

import pytest
from nslib import NS, Task, ns_name, opened, setns


@pytest.mark.behaviour("SNS-29")
@pytest.mark.parametrize("others", [NS.NONE, NS.UTS], ids=["alone", "with_uts"])
def test_root_and_directory_are_the_root_of_the_namespace(others: NS, joiner: Task) -> None:
    with Task(NS.MNT | others) as target:
        root = target.call(_mount_of, "/")
        joiner.call(os.chdir, "/sys")
        joiner.call(os.chroot, "/dev")
        joiner.call(setns, joiner.give(target.pidfd), NS.MNT | others)
        assert ns_name(NS.MNT, joiner.pid) == ns_name(NS.MNT, target.pid)
        assert [joiner.call(_mount_of, path) for path in ("/", ".", "..")] == [root] * 3
        links = "/proc/self/root", "/proc/self/cwd"
        assert [joiner.call(os.readlink, link) for link in links] == ["/", "/"]


@pytest.mark.behaviour("SNS-29")
def test_own_namespace_file_resets_root_and_directory(joiner: Task) -> None:
    root = joiner.call(_mount_of, "/")
    fd = joiner.call(os.open, "/proc/self/ns/mnt", os.O_RDONLY)
    joiner.call(os.chdir, "/sys")
    joiner.call(os.chroot, "/dev")
    assert os.readlink(f"/proc/{joiner.pid}/root") == "/dev"
    joiner.call(setns, fd, NS.MNT)
    assert [joiner.call(_mount_of, path) for path in ("/", ".")] == [root] * 2


def _mount_of(path: str) -> str:
    """Id of the mount that a path leads to, and the inode there."""
    with opened(path) as fd:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        return f"{info.partition('mnt_id:')[2].split()[0]}:{os.fstat(fd).st_ino}"
