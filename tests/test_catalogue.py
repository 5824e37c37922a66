# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness.catalogue import Behaviour, Fix, load
from vm.errors import ConfigError

EXAMPLE = """
[behaviours.LNS-PAG-13]
sentence = "An inactive namespace directly after the cursor does not end the walk."
source = "lookup_ns_id_after()"
since = "6.19"
fix = { title = "nstree: go on", commit = "8d76afe84fa2", releases = ["7.3.4"], cve = "CVE-1-2" }

[behaviours.LNS-ARG-01]
sentence = "Any flag is EINVAL."
source = "listns()"
since = "6.19"
waived = "not observable"
"""


def test_entries_become_behaviours(tmp_path: Path) -> None:
    (tmp_path / "catalogue.toml").write_text(EXAMPLE)
    assert load(tmp_path / "catalogue.toml") == {
        "LNS-PAG-13": Behaviour(
            "LNS-PAG-13",
            "An inactive namespace directly after the cursor does not end the walk.",
            "lookup_ns_id_after()",
            "6.19",
            Fix("nstree: go on", "8d76afe84fa2", ("7.3.4",), "CVE-1-2"),
        ),
        "LNS-ARG-01": Behaviour(
            "LNS-ARG-01", "Any flag is EINVAL.", "listns()", "6.19", waived="not observable"
        ),
    }


def test_the_catalogue_of_the_suites_is_readable() -> None:
    catalogue = load()
    assert catalogue["LNS-PAG-13"].fix is not None
    assert all(behaviour.sentence and behaviour.since for behaviour in catalogue.values())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it is not a catalogue"),
        ("behaviours = 3", "it is not a catalogue"),
        ("behaviours = {", "not a readable catalogue"),
        ("[behaviours]\nLNS-ARG-01 = 3", "behaviours.LNS-ARG-01: expected dict, found 3"),
        (EXAMPLE.replace('since = "6.19"\nfix', "fix"), "LNS-PAG-13: since is missing"),
        (EXAMPLE.replace('["7.3.4"]', '"7.3.4"'), "fix: releases: expected list, found '7.3.4'"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "catalogue.toml").write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load(tmp_path / "catalogue.toml")
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "catalogue.toml")
