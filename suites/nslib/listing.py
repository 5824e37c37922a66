# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): one page, or a whole list by pagination. Linux 6.19, commit 76b6f5dfb3fd."""

import ctypes
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from .syscalls import errno_of, listns_raw
from .waiting import wait_until

T = TypeVar("T")

LISTNS_CURRENT_USER = 2**64 - 1
"""user_ns_id that stands for the caller's user namespace (include/uapi/linux/nsfs.h)."""
NS_ID_REQ_SIZE = 32
"""NS_ID_REQ_SIZE_VER0 of struct ns_id_req (include/uapi/linux/nsfs.h)."""
MAX_NR = 1_000_000
"""Largest count that listns accepts (kernel/nstree.c)."""

_NS_ID_REQ = struct.Struct("<IIQIIQ")
_LARGE_PAGE = 1024


class ListingError(AssertionError):
    """The kernel answered in a way that no correct listing allows."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """struct ns_id_req: which namespaces to list, and after which id.

    `types` 0 means all; `owner` 0 means any, else the id of a user namespace or
    LISTNS_CURRENT_USER; the list starts above `cursor`. `tail` follows the structure.
    """

    types: int = 0
    owner: int = 0
    cursor: int = 0
    size: int = NS_ID_REQ_SIZE
    spare: int = 0
    spare2: int = 0
    tail: bytes = b""

    def pack(self) -> bytes:
        """The request as the kernel reads it."""
        fields = (self.size, self.spare, self.cursor, self.types, self.spare2, self.owner)
        return _NS_ID_REQ.pack(*fields) + self.tail


def list_into(request: ListRequest, ids: int, nr: int, flags: int = 0) -> int:
    """The number of ids that one listns call writes to the address `ids`, with room for `nr`."""
    packed = ctypes.create_string_buffer(request.pack())
    return listns_raw(ctypes.addressof(packed), ids, nr, flags)


def list_page(request: ListRequest, nr: int = _LARGE_PAGE, flags: int = 0) -> list[int]:
    """The ids that one listns call with room for `nr` of them returns."""
    ids = (ctypes.c_uint64 * nr)()
    count = list_into(request, ctypes.addressof(ids), nr, flags)
    return ids[:count]


def iterate_pages(request: ListRequest, nr: int) -> Iterator[list[int]]:
    """The pages of a list, each of up to `nr` ids.

    The list ends with a short page, an empty one, or ENOENT: the kernel returns the latter when it
    knows no namespace at all above the cursor (lookup_ns_id_after in kernel/nstree.c).
    """
    while True:
        try:
            page = list_page(request, nr)
        except FileNotFoundError:
            if request.cursor == 0:
                raise
            return
        if page:
            yield page
        if len(page) < nr:
            return
        if page[-1] <= request.cursor:
            raise ListingError(f"page {page[:3]}… does not go beyond the cursor {request.cursor}")
        request = replace(request, cursor=page[-1])


def list_all(
    types: int = 0, owner: int = 0, page_size: int = _LARGE_PAGE, cursor: int = 0
) -> list[int]:
    """All listed ids above `cursor` in the order in which the kernel gives them, by pagination."""
    pages = iterate_pages(ListRequest(types, owner, cursor), page_size)
    return [ns_id for page in pages for ns_id in page]


def undisturbed(look: Callable[[], T]) -> T:
    """The result of `look` from a time in which the list of all namespaces did not change.

    For a real root who compares whole lists: on a machine in use others make and end namespaces.
    """
    results: list[T] = []

    def attempt() -> bool:
        before = list_all()
        results[:] = [look()]
        return list_all() == before

    wait_until(attempt, "time in which no namespace came or went")
    return results[0]


def wait_for_removals() -> None:
    """Wait until no inactive namespace lies below the highest one that is listed to a real root.

    Before 7.3.4 a list ends in front of an inactive namespace ("nstree: don't end listns() at an
    inactive namespace"), and those that ended a moment ago stay until a kernel worker comes.
    """
    wait_until(_is_contiguous, "removal of the namespaces that have ended")


def _is_contiguous() -> bool:
    below = sorted(list_all())[:-1]
    return not any(errno_of(list_page, ListRequest(cursor=ns_id), 1) for ns_id in below)
