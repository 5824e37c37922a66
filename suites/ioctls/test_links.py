# SPDX-License-Identifier: GPL-2.0-only
"""The links in /proc/PID/ns (fs/proc/namespaces.c)."""

import os
import stat
import threading

import pytest
from nslib import LINKS, NS, Task, configured_types, ns_link, opened


def expected_links() -> list[str]:
    """The links of the types that the kernel has, in alphabetical order."""
    links = {name for kind in configured_types() for name in (kind.link, kind.child_link)}
    assert links <= set(LINKS)
    return sorted(links)


@pytest.mark.behaviour("IOC-29")
def test_every_type_has_its_links(stranger: Task) -> None:
    for folder in (
        "/proc/self/ns",
        f"/proc/self/task/{threading.get_native_id()}/ns",
        f"/proc/{stranger.pid}/ns",
    ):
        assert sorted(os.listdir(folder)) == expected_links()


@pytest.mark.behaviour("IOC-29", "IOC-30")
def test_link_reads_as_type_and_inode_number(stranger: Task) -> None:
    for pid in ("self", stranger.pid):
        for name in expected_links():
            link = ns_link(name, pid)
            kind = NS[name.removesuffix("_for_children").upper()].link
            assert str(link.readlink()) == f"{kind}:[{link.stat().st_ino}]"


@pytest.mark.behaviour("IOC-30")
def test_link_leads_to_the_file_of_the_namespace(stranger: Task) -> None:
    for name in expected_links():
        link = ns_link(name, stranger.pid)
        assert stat.S_ISLNK(link.lstat().st_mode)
        with opened(link) as fd:
            assert os.path.samestat(link.stat(), os.fstat(fd)), name
            assert stat.S_ISREG(link.stat().st_mode)
            assert not os.path.samestat(link.lstat(), os.fstat(fd)), name


@pytest.mark.behaviour("IOC-30")
def test_inode_number_tells_namespaces_apart(stranger: Task) -> None:
    for kind in configured_types():
        ours, theirs = ns_link(kind).stat(), ns_link(kind, stranger.pid).stat()
        assert ours.st_dev == theirs.st_dev
        assert ours.st_ino != theirs.st_ino, kind.name
        assert os.path.samestat(ours, ns_link(kind, os.getppid()).stat()), kind.name
