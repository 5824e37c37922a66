# SPDX-License-Identifier: GPL-2.0-only
"""The kernel configuration that we ask for, beside one that is known to serve."""

from pathlib import Path

import pytest

from vm import kernels

REQUIRED = Path(__file__).parent.parent / "kconfigs/required.config"


def options(config: Path) -> set[str]:
    return {line for line in config.read_text().splitlines() if line.startswith("CONFIG_")}


def test_every_required_option_is_one_that_is_built_in() -> None:
    asked = options(REQUIRED)
    assert asked
    assert all(option.endswith("=y") for option in asked)


@pytest.mark.vm
def test_packaged_kernel_has_what_is_required() -> None:
    config = kernels.newest_without_listns().config
    assert config is not None
    assert options(REQUIRED) - options(config) == set()
