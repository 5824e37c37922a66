# SPDX-License-Identifier: GPL-2.0-only
"""listns(2) on a kernel that does not have it."""

from errno import ENOSYS

import pytest
from nslib import ListRequest, errno_of, has_feature, list_page


@pytest.mark.behaviour("LNS-ARG-38")
def test_kernel_without_the_call_says_so() -> None:
    if has_feature("listns"):
        pytest.skip("this kernel has listns")
    assert errno_of(list_page, ListRequest()) == ENOSYS
