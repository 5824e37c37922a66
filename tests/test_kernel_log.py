# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from vm import kernel_log

CONSOLES = Path(__file__).parent / "data" / "consoles"

# What the kernel says of a defect of its own, in all its forms.
DEFECTS = [
    # kernel/panic.c, __warn: since 6.19, and before
    "WARNING: kernel/nscommon.c:223 at __ns_ref_active_put+0x7e/0x90, CPU#0: init/43",
    "WARNING: CPU: 1 PID: 97 at fs/nsfs.c:512 nsfs_evict+0x2c/0x40",
    # lib/bug.c
    "kernel BUG at fs/nsfs.c:512!",
    # kernel/sched/core.c
    "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:585",
    "BUG: scheduling while atomic: init/97/0x00000002",
    # arch/x86/mm/fault.c, arch/x86/kernel/traps.c
    "BUG: unable to handle page fault for address: ffffc90000a7d000",
    "Oops: Oops: 0002 [#1] SMP NOPTI",
    "general protection fault: 0000 [#1] SMP",
    "general protection fault, maybe for address 0x1: 0000 [#1] PREEMPT SMP NOPTI",
    "traps: PANIC: double fault, error_code: 0x0",
    # mm
    "BUG: Bad page state in process init  pfn:103b0c",
    "BUG: KFENCE: use-after-free read in nsfs_evict+0x9c/0xb0",
    "BUG: KCSAN: data-race in do_exit / do_listns",
    # lib/ubsan.c, lib/refcount.c, lib/list_debug.c
    "UBSAN: array-index-out-of-bounds in kernel/nstree.c:101:14",
    "refcount_t: underflow; use-after-free.",
    "list_del corruption. prev->next should be ffff888103b0c0a8, but was dead000000000122.",
    "slab kmalloc-64: list_add corruption",
    # kernel/locking/lockdep.c
    "WARNING: possible recursive locking detected",
    "WARNING: suspicious RCU usage",
    "WARNING: inconsistent lock state",
    "INFO: trying to register non-static key.",
    "INFO: lockdep is turned off.",
    # kernel/rcu/tasks.h, kernel/rcu/tree_stall.h, kernel/hung_task.c
    "INFO: rcu_tasks detected stalls on tasks:",
    "rcu: INFO: rcu_sched self-detected stall on CPU",
    "INFO: task kworker/u8:1:35 blocked in I/O wait for more than 122 seconds.",
    # kernel/panic.c, __stack_chk_fail
    "Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: do_listns+0x4a0",
]
HARMLESS = [
    "Linux version 7.3.4 (root@vm) (gcc (Debian 12.2.0-14) 12.2.0) #6 SMP PREEMPT",
    "traps: init[101] general protection fault ip:55d0c3a1e139 sp:7ffd1f0b6a30 error:0 in libc.so",
    "init[105]: segfault at 0 ip 00007fd1a72e0219 sp 00007ffc619ab158 error 4 in libc.so.6",
    "Out of memory: Killed process 102 (init) total-vm:866312kB, anon-rss:839312kB",
    "process '/init' started with executable stack",
    "x86/mm: Checked W+X mappings: passed, no W+X pages found.",
    "rcu: Hierarchical RCU implementation.",
    "debugging of BUG and WARNING is on",
]


def stamped(text: str) -> str:
    return f"[   12.345678] {text}"


class TestSplats:
    @pytest.mark.parametrize("text", DEFECTS)
    def test_defect(self, text: str) -> None:
        assert kernel_log.splats([stamped(text)]) == [stamped(text)]

    @pytest.mark.parametrize("text", HARMLESS)
    def test_what_is_none(self, text: str) -> None:
        assert kernel_log.splats([stamped(text)]) == []

    @pytest.mark.parametrize("text", DEFECTS)
    def test_what_a_program_prints_is_none(self, text: str) -> None:
        assert kernel_log.splats([text]) == []

    @pytest.mark.parametrize(
        ("log", "first_lines"),
        [
            ("clean", []),
            ("frozen", []),
            ("out-of-memory", []),
            (
                "warning",
                ["WARNING: kernel/nscommon.c:223 at", *["WARNING: ./include/linux/ns_"] * 2],
            ),
            ("oops", ["BUG: kernel NULL pointer", "Oops: Oops: 0000 [#1]"]),
            ("protection-fault", ["Oops: general protection fault, probably for"]),
            ("kasan", ["BUG: KASAN: slab-use-after-free in nsfs_evict"]),
            ("lockdep", ["WARNING: possible circular locking dependency detected"]),
            ("hung-task", ["INFO: task init:97 blocked for more than"]),
            (
                "rcu-stall",
                [
                    "rcu: INFO: rcu_preempt self-detected stall on CPU",
                    "rcu: INFO: rcu_preempt detected stalls on",
                    "rcu: INFO: rcu_preempt detected expedited stalls on",
                ],
            ),
            ("soft-lockup", ["watchdog: BUG: soft lockup - CPU#1", "watchdog: CPU0: Watchdog"]),
        ],
    )
    def test_of_a_recorded_console(self, log: str, first_lines: list[str]) -> None:
        lines = (CONSOLES / f"{log}.log").read_text().splitlines()
        texts = [kernel_log.text_of(line) for line in kernel_log.splats(lines)]
        assert len(texts) == len(first_lines)
        for text, beginning in zip(texts, first_lines, strict=True):
            assert text.startswith(beginning)


class TestStamp:
    @pytest.mark.parametrize(
        "line",
        [
            "[    0.000000] Linux version 7.3.4",
            "[12345.678901] late",
            "[    7.001112][   T97] with CONFIG_PRINTK_CALLER",
            "[    7.001112][    C0] in an interrupt",
            "Password: [   12.345678] behind what a program has printed",
        ],
    )
    def test_line_of_the_kernel(self, line: str) -> None:
        assert kernel_log.is_from_kernel(line)

    @pytest.mark.parametrize(
        "line", ["", "[12] no", "[1.5] no", "Poking KASLR using RDRAND RDTSC...", "[   12.345678]x"]
    )
    def test_line_of_something_else(self, line: str) -> None:
        assert not kernel_log.is_from_kernel(line)

    @pytest.mark.parametrize(
        ("line", "text"),
        [
            ("[    7.001112][   T97] traps: x", "traps: x"),
            ("login: [   12.345678] behind", "behind"),
            ("no stamp", "no stamp"),
        ],
    )
    def test_text_without_it(self, line: str, text: str) -> None:
        assert kernel_log.text_of(line) == text


class TestPanicReason:
    @pytest.mark.parametrize(
        ("log", "reason"),
        [
            ("panic", "sysrq triggered crash"),
            ("init-killed", "Attempted to kill init! exitcode=0x0000000b"),
            ("no-root", "VFS: Unable to mount root fs on unknown-block(0,0)"),
            ("oops", ""),
            ("clean", ""),
        ],
    )
    def test_of_a_recorded_console(self, log: str, reason: str) -> None:
        assert kernel_log.panic_reason((CONSOLES / f"{log}.log").read_text().splitlines()) == reason

    def test_of_a_program_that_prints_the_words(self) -> None:
        assert kernel_log.panic_reason(["Kernel panic - not syncing: not really"]) == ""
