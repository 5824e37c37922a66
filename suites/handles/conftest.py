# SPDX-License-Identifier: GPL-2.0-only
"""Scenery for file handles."""

from collections.abc import Iterator

import pytest
from nslib import (
    NS,
    Held,
    NsHandle,
    configured_types,
    encode_handle,
    hold_each,
    ns_link,
    opened,
    release,
)


@pytest.fixture
def of_every_type() -> Iterator[dict[NS, Held]]:
    """A new namespace of every type that the kernel has."""
    kinds = configured_types()
    held = dict(zip(kinds, hold_each(kinds), strict=True))
    yield held
    release(held.values())


@pytest.fixture
def new_handles(of_every_type: dict[NS, Held]) -> dict[NS, NsHandle]:
    """Their handles."""
    return {kind: encode_handle(held.fd).handle for kind, held in of_every_type.items()}


@pytest.fixture
def own_handles() -> dict[NS, NsHandle]:
    """The handles of the namespaces that the test is in: as good as any for forging, and cheap."""
    handles = {}
    for kind in configured_types():
        with opened(ns_link(kind)) as fd:
            handles[kind] = encode_handle(fd).handle
    return handles


@pytest.fixture
def handle() -> Iterator[NsHandle]:
    """The handle of a new uts namespace, which lives as long as the test."""
    [held] = hold_each([NS.UTS])
    yield encode_handle(held.fd).handle
    release([held])
