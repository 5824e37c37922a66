# SPDX-License-Identifier: GPL-2.0-only
"""Scenery for file handles."""

from collections.abc import Iterator

import pytest
from nslib import NS, Held, NsHandle, configured_types, encode_handle, hold_each, release


@pytest.fixture
def of_every_type() -> Iterator[dict[NS, Held]]:
    """A new namespace of every type that the kernel has."""
    kinds = configured_types()
    held = dict(zip(kinds, hold_each(kinds), strict=True))
    yield held
    release(held.values())


@pytest.fixture
def handles(of_every_type: dict[NS, Held]) -> dict[NS, NsHandle]:
    """Their handles."""
    return {kind: encode_handle(held.fd).handle for kind, held in of_every_type.items()}


@pytest.fixture
def handle() -> Iterator[NsHandle]:
    """The handle of a new uts namespace, which lives as long as the test."""
    [held] = hold_each([NS.UTS])
    yield encode_handle(held.fd).handle
    release([held])
