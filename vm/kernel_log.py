# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel's own messages say about its health."""

import re

# A test that passes while one of these is logged is a `splat`. Kept as text, because the guest
# searches its own log with it: lib/bug.c, kernel/panic.c, mm/kasan, kernel/locking/lockdep.c,
# kernel/rcu, kernel/hung_task.c, kernel/watchdog.c, lib/refcount.c, lib/ubsan.c. What the kernel
# reports of a faulty program ("traps: x[9] general protection fault ip:…") is none of them.
SPLAT = (
    r"\bWARNING: |\bBUG: |\bkernel BUG at |\bOops: |\bgeneral protection fault[,:]|"
    r"\bKASAN: |\bKCSAN: |\bUBSAN: |\bKFENCE: |\bBUG at |"
    r"\bINFO: (?:task .* blocked .*for more than|lockdep|trying to register non-static key)|"
    r"\brcu.*detected (?:expedited )?stalls|\brcu: INFO: .*stall|"
    r"\bsoft lockup|\bhard LOCKUP|possible recursive locking|possible circular locking|"
    r"inconsistent lock state|suspicious RCU usage|sleeping function called from|"
    r"refcount_t: |list_(?:add|del) corruption|stack-protector: |double fault"
)

# kernel/panic.c; after it the machine is gone, whatever else is printed.
PANIC = r"Kernel panic - not syncing: (?P<why>.*)"

# Not only at the beginning of a line: a program may have left the console in the middle of one.
_STAMP = re.compile(r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? ")
_SPLAT = re.compile(SPLAT)
_PANIC = re.compile(PANIC)


def is_from_kernel(line: str) -> bool:
    """Tell whether a console line carries the kernel's time stamp."""
    return _STAMP.search(line) is not None


def text_of(line: str) -> str:
    """Return what stands behind the kernel's time stamp, or the whole line if it has none."""
    stamp = _STAMP.search(line)
    return line[stamp.end() :] if stamp else line


def splats(lines: list[str]) -> list[str]:
    """Return the lines of the kernel that report a defect in it."""
    return [line for line in lines if is_from_kernel(line) and _SPLAT.search(line)]


def panic_reason(lines: list[str]) -> str:
    """Return why the kernel panicked, or nothing if it did not."""
    for line in lines:
        if is_from_kernel(line) and (found := _PANIC.search(line)):
            return found["why"].strip()
    return ""
