# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong, in words for the user: one line each, naming the cause and the remedy."""


class NsconformError(Exception):
    """Root of all expected errors; `str()` of it is the line that the user sees."""


class ConfigError(NsconformError):
    """The request cannot be served as it stands (exit status 2)."""


class BootError(NsconformError):
    """A kernel or its virtual machine did not come up (no verdict, exit status 3)."""


class SnapshotError(NsconformError):
    """A snapshot of a guest cannot be saved or used; a cold boot takes its place."""
