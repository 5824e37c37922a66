# SPDX-License-Identifier: GPL-2.0-only
"""The vocabulary of the suites, against the running kernel."""

import ctypes
import errno
import os

import pytest
from nslib import (
    FEATURES,
    LINKS,
    NS,
    PINNABLE,
    UNMAPPED_ADDRESS,
    ListingError,
    ListRequest,
    NsHandle,
    Task,
    active_ids,
    current_ids,
    encode_handle,
    errno_of,
    guarded_room,
    has_feature,
    hold,
    hold_each,
    holding_together,
    id_of,
    ioctl_u64,
    iterate_pages,
    list_all,
    list_page,
    listing_model,
    listns_raw,
    ns_id,
    ns_link,
    open_handle,
    open_id,
    open_ns,
    open_owner,
    opened,
    own_ids,
    owned,
    owner_id_of,
    peek,
    pinned,
    poke,
    probe_all,
    read_ids,
    release,
    type_of,
    wait_until,
)
from nslib import listing as listing_module
from nslib.ioctls import NS_GET_ID

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")
needs_nsid = pytest.mark.skipif(not has_feature("nsid"), reason="needs NS_GET_ID (Linux 6.18)")
needs_handles = pytest.mark.skipif(
    not has_feature("nsfs_handles"), reason="needs nsfs file handles (Linux 6.18)"
)
needs_listns = pytest.mark.skipif(not has_feature("listns"), reason="needs listns (Linux 6.19)")
pytestmark = needs_root


def _count_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a glob would open more)


class TestNamespaces:
    def test_links_exist(self) -> None:
        assert sorted(LINKS) == sorted(os.listdir("/proc/self/ns"))  # noqa: PTH208

    def test_type_and_link_agree(self) -> None:
        for kind in NS:
            with owned(open_ns(kind)) as fd:
                assert type_of(fd) == kind

    def test_all_is_the_union(self) -> None:
        assert len(list(NS)) == 8
        assert sum(NS) == int(NS.ALL) == 0x7E020080

    def test_child_link(self) -> None:
        assert [kind.child_link for kind in (NS.PID, NS.TIME, NS.NET)] == [
            "pid_for_children",
            "time_for_children",
            "net",
        ]


@needs_nsid
class TestIds:
    def test_same_by_every_path(self) -> None:
        with Task(NS.UTS) as task, owned(task.fetch(open_ns, NS.UTS)) as fd:
            assert ioctl_u64(fd, NS_GET_ID) == ns_id(NS.UTS, task.pid) == task.call(ns_id, NS.UTS)

    def test_current_ids_of_a_task(self) -> None:
        with Task(NS.ALL) as task:
            assert not set(task.call(current_ids).values()) & set(current_ids().values())

    def test_own_ids_ascend(self) -> None:
        assert own_ids() == sorted(current_ids().values())
        assert own_ids(NS.USER, NS.NET) == sorted(set(own_ids()) - {ns_id(NS.USER), ns_id(NS.NET)})

    def test_owner(self) -> None:
        with Task(NS.USER | NS.NET) as task, owned(task.fetch(open_ns, NS.NET)) as fd:
            assert owner_id_of(fd) == ns_id(NS.USER, task.pid)
            with owned(open_owner(fd)) as owner:
                assert type_of(owner) == NS.USER


@needs_nsid
class TestHolding:
    @pytest.mark.parametrize("kind", list(NS), ids=lambda kind: kind.link)
    def test_one_of_each_type(self, kind: NS) -> None:
        with Task() as task:
            before = task.call(current_ids)
            held = task.call(hold, kind)
            assert task.call(current_ids) == before
            assert task.call(type_of, held.fd) == kind
            assert task.call(id_of, held.fd) == held.id not in before.values()

    def test_many(self) -> None:
        with Task(NS.USER | NS.UTS) as task:
            held = task.call(hold_each, [NS.UTS] * 50)
            assert len({one.id for one in held}) == 50
            task.call(release, held)

    def test_made_together(self) -> None:
        with holding_together(NS.USER | NS.UTS) as held:
            assert held.keys() == {NS.USER, NS.UTS}
            assert {kind: type_of(one.fd) for kind, one in held.items()} == {k: k for k in held}
            assert owner_id_of(held[NS.UTS].fd) == held[NS.USER].id
        with pytest.raises(OSError, match=f"{errno.EBADF}"):
            os.fstat(held[NS.UTS].fd)


@needs_handles
class TestHandles:
    def test_round_trip(self) -> None:
        with opened(ns_link(NS.NET)) as fd:
            handle = encode_handle(fd).handle
            assert handle == NsHandle(id_of(fd), NS.NET, os.fstat(fd).st_ino)
            with owned(open_handle(handle)) as again:
                assert os.fstat(again).st_ino == os.fstat(fd).st_ino

    def test_forged_handle_is_stale(self) -> None:
        assert errno_of(open_handle, NsHandle(2**64 - 1, NS.NET, 1)) == errno.ESTALE

    @pytest.mark.skipif(not has_feature("id_handles"), reason="needs Linux 6.19")
    def test_id_alone(self) -> None:
        with owned(open_id(ns_id(NS.NET))) as fd:
            assert type_of(fd) == NS.NET


class TestPins:
    @pytest.mark.parametrize("kind", PINNABLE, ids=lambda kind: kind.link)
    def test_pin_outlasts_the_task(self, kind: NS) -> None:
        with Task(NS.ALL) as task, pinned(task, kind) as fd:
            task.reap()
            os.fstat(fd)
            if has_feature("listns"):
                assert list_all() == active_ids()


class TestMemory:
    def test_guard_page_faults(self) -> None:
        with guarded_room() as room, opened("/dev/zero") as zero:
            length = ctypes.c_size_t(16)
            read = ctypes.CDLL(None, use_errno=True).read
            address = room.place_at_end(bytes(8))
            assert read(zero, ctypes.c_void_p(address), length) == 8
            assert read(zero, ctypes.c_void_p(room.end), length) == -1
            assert ctypes.get_errno() == errno.EFAULT

    def test_read_only_room(self) -> None:
        with guarded_room() as room, opened("/proc/version") as source:
            room.make_read_only()
            read = ctypes.CDLL(None, use_errno=True).read
            assert read(source, ctypes.c_void_p(room.start), ctypes.c_size_t(1)) == -1
            assert ctypes.get_errno() == errno.EFAULT

    def test_peek_poke_and_ids(self) -> None:
        with guarded_room() as room:
            poke(room.start + 1, (7).to_bytes(8, "little") * 2)
            assert read_ids(room.start + 1, 2) == [7, 7]
            assert peek(room.start, 2) == b"\0\7"


class TestFeatures:
    def test_every_feature_has_an_answer(self) -> None:
        assert probe_all().keys() == FEATURES.keys()

    def test_probing_leaves_nothing_open(self) -> None:
        before = _count_fds()
        for feature in FEATURES.values():
            feature.probe()
        assert _count_fds() == before


class TestWaiting:
    def test_gives_the_value(self) -> None:
        answers = iter([0, 0, 3])
        assert wait_until(lambda: next(answers), "answer") == 3

    def test_names_what_did_not_come(self) -> None:
        with pytest.raises(TimeoutError, match="no miracle within"):
            wait_until(lambda: False, "miracle", 0.01)


class TestPaging:
    """Against a scripted kernel."""

    def _script(self, monkeypatch: pytest.MonkeyPatch, *pages: list[int] | int) -> None:
        answers = iter(pages)

        def answer(_request: ListRequest, _nr: int) -> list[int]:
            page = next(answers)
            if isinstance(page, int):
                raise OSError(page, os.strerror(page))
            return page

        monkeypatch.setattr(listing_module, "list_page", answer)

    @pytest.mark.parametrize("end", [[5], [], errno.ENOENT])
    def test_each_way_to_end(self, monkeypatch: pytest.MonkeyPatch, end: list[int] | int) -> None:
        self._script(monkeypatch, [1, 2], [3, 4], end)
        assert list_all(page_size=2)[:4] == [1, 2, 3, 4]

    def test_endless_list_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._script(monkeypatch, [1, 2], [1, 2])
        with pytest.raises(ListingError, match="beyond the cursor 2"):
            list_all(page_size=2)

    def test_other_errors_are_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._script(monkeypatch, [1, 2], errno.EINVAL)
        with pytest.raises(OSError, match="Invalid"):
            list_all(page_size=2)

    def test_request_as_the_kernel_reads_it(self) -> None:
        packed = ListRequest(types=NS.NET, owner=3, cursor=5, spare=1, spare2=2, tail=b"x").pack()
        assert len(packed) == 33
        assert packed.hex() == "200000000100000005000000000000000000004002000000030000000000000078"


@needs_listns
class TestListing:
    def test_pages_make_the_list(self) -> None:
        with Task(NS.USER | NS.UTS) as task:
            task.call(hold_each, [NS.UTS] * 10)
            whole = list_all()
            assert [one for page in iterate_pages(ListRequest(), 3) for one in page] == whole
            assert whole == active_ids()

    def test_one_page(self) -> None:
        assert list_page(ListRequest(types=NS.USER), 1) == [3]

    def test_raw_call(self) -> None:
        assert errno_of(listns_raw, UNMAPPED_ADDRESS, 0, 0, 0) == errno.EFAULT

    def test_model_is_known(self) -> None:
        assert listing_model() in ("A", "B")
