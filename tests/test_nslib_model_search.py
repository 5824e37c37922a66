# SPDX-License-Identifier: GPL-2.0-only
"""Sequences of operations: what the rules foretell, and the search for what a kernel, here a
simulated one, does otherwise."""

import subprocess
import sys
from errno import EINVAL
from pathlib import Path
from typing import Any, cast

import pytest
from nslib import LINKS, NS
from nslib.model import plays
from nslib.model import search as search_module
from nslib.model.calls import Answer
from nslib.model.campaigns import Campaign
from nslib.model.lifetimes import active
from nslib.model.listings import (
    WRAPPING_CURSOR,
    Page,
    Request,
    page,
)
from nslib.model.operations import Operation
from nslib.model.phrases import leave_file, look_past, revive
from nslib.model.plays import Play, Player
from nslib.model.queries import NO_OWNER, START
from nslib.model.records import recorded, replayable
from nslib.model.repertoire import (
    OPERATIONS,
    Clone,
    Close,
    Exit,
    List,
    MakeSocket,
    Open,
    Reap,
    Receive,
    Send,
    Setns,
    Unshare,
)
from nslib.model.replays import foretell
from nslib.model.rules import Disagreement
from nslib.model.search import Search, search
from nslib.model.stage import Stage
from nslib.model.worlds import Namespace, World

from tests.mirror import Mirror, open_link

USER, PID = LINKS.index("user"), LINKS.index("pid")


class TestForetelling:
    def test_steps(self) -> None:
        sequence = [
            Clone(0, NS.USER | NS.NET), Close(3, 3), open_link(0, 1, NS.NET), Exit(1), Reap(1),
            List(0, NS.NET, NO_OWNER, START, 0, 100), Setns(0, 2, NS.UTS),
        ]  # fmt: skip
        steps = foretell(sequence)
        assert [one.operation for one in steps] == [sequence[0], *sequence[2:]]
        assert steps[0].line == "t1 = clone(USER|NET) by t0"
        assert [one.active for one in steps] == [("user8", "net9")] * 6
        assert [one.errno for one in steps] == [0, 0, 0, 0, 0, EINVAL]
        assert [one.page for one in steps[4:]] == [Page((7, 19)), None]


def test_phrase_looks_past_what_is_inactive() -> None:
    last = foretell(look_past(NS.USER, 0))[-1]
    assert last.line == "listns(types all, owner any, cursor net9 - 1, nr 100) by t0"
    assert last.active == ("user10", "uts11", "ipc12")
    assert last.page == Page((20, 21, 22))


def test_nothing_but_the_search_loads_hypothesis() -> None:
    modules = "campaigns, phrases, records, repertoire, replays, stage"
    code = f"import sys; from nslib.model import {modules}; sys.exit('hypothesis' in sys.modules)"
    suites = str(Path(__file__).parents[1] / "suites")
    done = subprocess.run([sys.executable, "-c", code], cwd=suites, check=False)
    assert done.returncode == 0


def forgets_owners(world: World) -> set[Namespace]:
    """What is active if nothing keeps an owner."""
    in_use = {one for task in world.unreaped() for one in (task.user, task.pid)}
    return {one for one in active(world) if one.kind != NS.USER or one in in_use}


def forgets_zombies(world: World) -> set[Namespace]:
    """What is active if a user namespace went with the exit of its task."""
    lost = {task.user for task in world.unreaped() if task.is_zombie}
    return active(world) - {one for one in lost if not one.is_permanent}


def shows_sockets(world: World) -> set[Namespace]:
    """What is active if a socket kept its namespace active."""
    files = [file for task in world.living() for file in task.files.values()]
    return active(world) | {file.of for file in files}


def wraps_around(world: World, caller: Any, request: Request) -> Page:
    """A list that starts over at the largest cursor."""
    cursor = 0 if request.cursor == WRAPPING_CURSOR else request.cursor
    demanded = page(world, caller, Request(request.types, request.owner, cursor, request.nr))[0]
    return Page(demanded.ids, frozenset((min(demanded.errnos),)))


class TestSearch:
    def found(self, monkeypatch: pytest.MonkeyPatch, mirror: Mirror, campaign: Campaign) -> Search:
        mirror.install(monkeypatch)
        monkeypatch.setattr(search_module, "SHRINK_SECONDS", 6.0)
        return search(campaign, cast(Stage, mirror), 2.0, 0)

    def test_finds_nothing_where_all_is_right(self, monkeypatch: pytest.MonkeyPatch) -> None:
        campaign = Campaign(dict.fromkeys(OPERATIONS, 1) | {revive: 1, leave_file: 1})
        result = self.found(monkeypatch, Mirror(), campaign)
        assert not result.findings
        assert result.plays > 5
        assert result.operations > 20

    def test_shortest_sequence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        campaign = Campaign({Clone: 2, Unshare: 1, Exit: 2, Reap: 1, Open: 1, leave_file: 1})
        result = self.found(monkeypatch, Mirror(forgets_zombies), campaign)
        assert [*result.findings] == ["active"]
        assert result.findings["active"].play.lines == ["t1 = clone(USER) by t0", "t1 exits"]
        message = str(result.findings["active"])
        assert "active: active are {}; the rule demands {user8}" in message
        assert "__ns_ref_active_get" in message

    def test_part_of_a_phrase(self, monkeypatch: pytest.MonkeyPatch) -> None:
        campaign = Campaign({revive: 1})
        play = self.found(monkeypatch, Mirror(shows_sockets), campaign).findings["active"].play
        assert [type(one) for one in play.operations] == [Clone, MakeSocket, Send, Receive, Exit]

    def test_cursor_that_wraps_around(self, monkeypatch: pytest.MonkeyPatch) -> None:
        campaign = Campaign({Clone: 1, List: 3})
        found = self.found(monkeypatch, Mirror(ask=wraps_around), campaign).findings
        assert [*found] == ["no wrap around"]
        assert [type(one) for one in found["no wrap around"].play.operations] == [List]

    def test_end_where_a_task_is_stuck(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mirror = Mirror()
        mirror.install(monkeypatch)
        original = mirror.perform

        def perform(operation: Operation, world: World, stage: object) -> Answer:
            if isinstance(operation, Exit):
                raise TimeoutError("t1 does not end")
            return original(operation, world, stage)

        monkeypatch.setattr(plays, "perform", perform)
        result = search(Campaign({Clone: 1, Exit: 1}), cast(Stage, mirror), 20.0, 0)
        assert [*result.findings] == ["progress"]
        assert result.findings["progress"].message == "t1 does not end"
        assert "exits" in result.findings["progress"].play.lines[-1]

    def test_replay_disagrees_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mirror = Mirror(forgets_owners)
        mirror.install(monkeypatch)
        sequence = [
            Clone(0, NS.USER | NS.UTS), open_link(0, 1, NS.UTS), Exit(1), Reap(1),
        ]  # fmt: skip
        replay = replayable(recorded(sequence))
        with pytest.raises(
            Disagreement, match=r"active are {uts9}; the rule demands {user8, uts9}"
        ):
            Player(cast(Stage, mirror)).play(replay, Play())

    def test_same_seed_same_sequences(self, monkeypatch: pytest.MonkeyPatch) -> None:
        campaign = Campaign(dict.fromkeys(OPERATIONS, 1))
        assert self.begun(monkeypatch, campaign) == self.begun(monkeypatch, campaign)

    def begun(self, monkeypatch: pytest.MonkeyPatch, campaign: Campaign) -> list[list[str]]:
        """The first few sequences that are played, which are not without content."""
        mirror, played = Mirror(), []
        mirror.install(monkeypatch)
        original = Player.play

        def record(self: Player, operations: Any, done: Play) -> None:
            original(self, operations, done)
            played.append(done.lines)

        with monkeypatch.context() as patched:
            patched.setattr(Player, "play", record)
            search(campaign, cast(Stage, mirror), 0.7, 3)
        few: list[list[str]] = played[:6]
        assert any(few)
        return few
