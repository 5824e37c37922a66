# SPDX-License-Identifier: GPL-2.0-only
"""The race explorer: its search on simulated windows, its actors on the running kernel."""

import os
import random
from collections.abc import Callable, Iterator
from errno import EBADF

import pytest
from nslib import NS, ns_name
from nslib.acting import Meeting
from nslib.actors import Actor
from nslib.races import Campaign
from nslib.shots import (
    EXIT,
    SYS_CLOSE,
    SYS_UNSHARE,
    WAIT_FOR_CHILD,
    Act,
    Arena,
    Call,
    Step,
    enter,
    program,
)
from nslib.stage import Stage
from nslib.windows import Band, Search, band, overlap

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")
BAD_FD = 10**6


def searched(
    place: float, noise: float, attempts: int, *, strays: float = 0.0
) -> tuple[Search, list[int]]:
    """A search for a flip at a lead, which noise moves about; and the leads that it tried.

    That of `strays` of the attempts becomes quite another one.
    """
    chance = random.Random(2)  # noqa: S311 - noise, no secret
    search, leads = Search(seed=1), list[int]()
    for _ in range(attempts):
        leads.append(lead := search.lead())
        if chance.random() < strays:
            lead += round(chance.uniform(-1e6, 1e6))
        search.learn(lead, lead < place + chance.gauss(0, noise))
    return search, leads


class TestSearch:
    @pytest.mark.parametrize("place", [0, 300, -41_000, 700_000])
    @pytest.mark.parametrize("noise", [10, 3000])
    def test_finds_the_flip(self, place: int, noise: int) -> None:
        search, leads = searched(place, noise, 300)
        assert search.sampling
        assert abs(search.flip - place) < 4 * noise + 400
        near = [lead for lead in leads[100:] if abs(lead - place) < 4 * noise + 800]
        assert len(near) > 100

    @pytest.mark.parametrize("strays", [0.1, 0.5])
    def test_strays_do_not_mislead(self, strays: float) -> None:
        search, leads = searched(-9000, 500, 400, strays=strays)
        assert abs(search.flip + 9000) < 2500
        assert sum(abs(lead + 9000) < 4000 for lead in leads[200:]) > 100

    def test_width_is_that_of_the_noise(self) -> None:
        widths = [searched(5000, noise, 600)[0].width for noise in (20, 500, 10_000)]
        assert widths == sorted(widths)
        assert 200 < widths[1] < 5000

    def test_starts_again_when_the_flip_has_moved(self) -> None:
        search, _ = searched(1000, 10, 200)
        for _ in range(200):
            lead = search.lead()
            search.learn(lead, lead < 90_000)
        assert abs(search.flip - 90_000) < 2000

    def test_same_seed_same_leads(self) -> None:
        assert searched(700, 50, 100)[1] == searched(700, 50, 100)[1]

    def test_stays_within_bounds_where_there_is_no_flip(self) -> None:
        assert abs(searched(1e12, 1, 500)[0].flip) <= 1e8


class TestBand:
    def test_clear_cut(self) -> None:
        samples = [(lead, lead < 50) for lead in range(100)]
        assert band(samples) == Band(50, 50)
        assert overlap(samples) < 0

    def test_both_outcomes_in_the_middle(self) -> None:
        samples = [(lead, lead < 40 or (lead < 60 and lead % 2 == 0)) for lead in range(100)]
        found = band(samples)
        assert 38 <= found.low < 45
        assert 55 < found.high <= 62
        assert overlap(samples[35:65]) > 0

    def test_a_stray_sample_does_not_widen_it(self) -> None:
        samples = [(lead, lead < 50) for lead in range(100)] * 3
        samples += [(lead, True) for lead in range(50, 60)] + [(10**9, True)]
        assert band(samples).high < 100

    def test_share(self) -> None:
        assert Band(1, 3).share([0, 1, 2, 4]) == 0.5
        assert Band(1, 3).share([]) == 0


class TestProgram:
    def test_marks_the_shot_and_the_end(self) -> None:
        script = program([Call(1), Call(2)], Call(3), [Call(4)])
        steps = (Step * script.length).from_buffer_copy(script.image)
        assert [step.number for step in steps] == [1, 2, 3, 4]
        assert [step.act for step in steps] == [Act.NONE, Act.NONE, Act.SHOT, Act.LAST]
        assert script.shot == 2

    def test_arguments_are_whole_registers(self) -> None:
        step = Step.from_buffer_copy(Call(1, (-1, 2**63)).pack())
        assert list(step.args) == [2**64 - 1, 2**63, 0, 0, 0, 0]


@pytest.fixture(params=[True, False], ids=["machine", "python"])
def meeting(request: pytest.FixtureRequest) -> Meeting:
    """Where actors in machine code meet, and those in Python."""
    if request.param and os.uname().machine != "x86_64":
        pytest.skip("needs x86-64")
    return Meeting(Arena(), spin=request.param)


@needs_root
class TestActor:
    def test_makes_its_calls(self, meeting: Meeting) -> None:
        arena = Arena()
        actor = Actor(arena, program(enter(arena, NS.UTS, 2)), meeting)
        actor.prepare()
        actor.start()
        actor.wait_over()
        assert ns_name(NS.UTS, actor.pid) != ns_name(NS.UTS)
        assert ns_name(NS.USER, actor.pid) != ns_name(NS.USER)
        actor.end()
        with pytest.raises(ProcessLookupError):
            os.kill(actor.pid or BAD_FD, 0)

    def test_failure_is_an_error(self, meeting: Meeting) -> None:
        actor = Actor(Arena(), program([Call(SYS_CLOSE, (BAD_FD,)), Call(SYS_UNSHARE)]), meeting)
        actor.prepare()
        actor.start()
        with pytest.raises(OSError, match="in step 0") as caught:
            actor.wait_over()
        assert caught.value.errno == EBADF
        actor.end()

    def test_makes_another(self, meeting: Meeting) -> None:
        arena = Arena()
        child = Actor(arena, program([EXIT]), meeting)
        parent = Actor(arena, program([child.making, WAIT_FOR_CHILD]), meeting)
        child.prepare()
        parent.prepare()
        parent.start()
        parent.wait_over()
        child.end()
        parent.end()


@needs_root
@pytest.mark.parametrize("one_cpu", [False, True])
class TestCampaign:
    @pytest.fixture(autouse=True)
    def cpus(self, one_cpu: bool) -> Iterator[None]:
        """On one of the CPUs, or on all."""
        before = os.sched_getaffinity(0)
        if one_cpu:
            os.sched_setaffinity(0, {min(before)})
        yield
        os.sched_setaffinity(0, before)

    @staticmethod
    def closing(stage: Stage) -> Callable[[], str]:
        """An attempt of two actors that close the same fd."""
        one = stage.actor([], Call(SYS_CLOSE), far=True)
        other = stage.actor([], Call(SYS_CLOSE))

        def attempt() -> str:
            fd = os.open("/dev/null", os.O_RDONLY)
            one.aim(0, fd)
            other.aim(0, fd)
            stage.race(one, other)
            assert sorted([one.result, other.result]) == [-EBADF, 0]
            return "first" if one.result == 0 else "second"

        return attempt

    def test_reaches_both_sides(self, one_cpu: bool) -> None:
        processors = os.sched_getaffinity(0)
        with Stage() as stage:
            campaign = Campaign(stage, early=["first"])
            attempt = self.closing(stage)
            campaign.run(attempt, 0.5)
            # A busy machine may take much longer to find the window.
            for _ in range(60):
                if not campaign.report().reached:
                    campaign.run(attempt, 0.5)
            report = campaign.report()
        assert stage.spins != one_cpu
        assert report.reached
        assert report.outcomes.keys() == {"first", "second"}
        assert report.attempts == sum(report.outcomes.values()) > 20
        assert 0 < report.fixed <= report.attempts / 10
        assert 0 <= report.inside <= 1
        assert report.observation()["attempts_per_second"] == pytest.approx(
            report.attempts / report.seconds, abs=0.1
        )
        assert os.sched_getaffinity(0) == processors

    def test_one_side_is_missing(self, one_cpu: bool) -> None:
        with Stage() as stage:
            campaign = Campaign(stage, early=["x"])
            campaign.run(self.closing(stage), 0.1)
            assert not campaign.report().reached
            assert stage.spins != one_cpu
