"""The planner against a strict world: which end initiates what is down, when and how often."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from ovn_ipsec.model.conns import Desired, ObservedIke
from ovn_ipsec.model.steps import AddConnection, InitiateConnection, ReplaceConnection, Step
from ovn_ipsec.plan import Memory, plan
from ovn_ipsec.plan.planner import INITIATE_WAVE
from ovn_ipsec.plan.tunnel import (
    CROWD,
    FALLBACK_RECOVERY_S,
    JITTER_S,
    LEAD_RETRY_LAST_S,
    PROGRESS_S,
)
from tests.unit.world import World, config, desired


def test_change_of_a_tunnel_that_is_down_makes_also_the_waiting_end_initiate() -> None:
    world = World(peers_answer=False)
    world.settle(desired(a=config(lead=False, psk="wrong")), 10)
    world.negotiating.clear()
    steps = world.tick(desired(a=config(lead=False)))
    assert [type(step) for step in steps] == [ReplaceConnection, InitiateConnection]


def test_last_one_of_a_crowd_waits_for_the_others_no_longer_than_they_need() -> None:
    world = World(peers_answer=False)
    names = [f"t{number}" for number in range(CROWD)]
    want = desired(**{name: config(number + 2, lead=False) for number, name in enumerate(names)})
    world.tick(want)
    for connection in tuple(world.configs):
        world.come_up(connection)
    world.settle(want, 60)
    world.lose_sas()
    world.settle(want, 2)
    for name in names[1:]:
        for role in ("in", "out"):
            world.come_up(f"{name}-{role}-1")
    lost_at = world.now - 2
    assert world.tick(want) == ()
    assert world.wake_at is not None
    steps = world.tick(want, world.wake_at - world.now)
    while not steps and world.wake_at is not None:
        steps = world.tick(want, world.wake_at - world.now)
    assert [type(step) for step in steps] == [InitiateConnection]
    assert world.now - lost_at < FALLBACK_RECOVERY_S + JITTER_S + 1


def test_waiting_end_initiates_at_once_when_an_earlier_pluto_left_its_states() -> None:
    world, want = World(), desired(a=config(lead=False))
    world.settle(want, 5)
    for name in tuple(world.configs):
        world.come_up(name)  # the lead has asked
    world.settle(want, 30)
    observed = world.observe()
    ike = observed.ike
    assert isinstance(ike, ObservedIke)
    left = replace(observed, ike=replace(ike, generation="new", children=(), ike_sas=()))
    made = plan(want, left, Memory(), world.now)
    assert [type(step) for step in made.steps] == [InitiateConnection]
    stateless = replace(ike.kernel, states=())
    flushed = replace(
        left, ike=replace(ike, generation="new", children=(), ike_sas=(), kernel=stateless)
    )
    assert plan(want, flushed, Memory(), world.now).steps == ()


def test_waiting_end_gives_the_lead_fifteen_seconds_then_steps_in() -> None:
    world, want = World(), desired(a=config(lead=False))
    assert [type(s) for s in world.settle(want, 14.5)] == [AddConnection]
    steps = world.settle(want, 3)
    assert steps == [
        InitiateConnection("a", ("a-in-1", "a-out-1"), "the designated initiator stays silent")
    ]


def test_waiting_end_with_a_dead_lead_initiates_ever_more_rarely() -> None:
    world, want = World(peers_answer=False), desired(a=config(lead=False))
    counts = []
    for _ in range(4):
        steps: list[Step] = []
        for _ in range(1200):
            steps += world.tick(want, 0.5)
            world.negotiating.clear()
        counts.append(len(steps))
    assert counts[-1] <= 3
    assert counts[0] >= counts[-1]


def test_waiting_end_that_answers_the_lead_does_not_cross_it() -> None:
    world, want = World(), desired(a=config(lead=False))
    world.tick(want)
    world.answering = {"a-in-1"}
    assert world.settle(want, 19) == []
    assert [type(step) for step in world.settle(want, 3)] == [InitiateConnection]


def test_dead_peer_of_the_lead_costs_no_step_while_pluto_tries() -> None:
    world, want = World(peers_answer=False), desired(a=config())
    world.tick(want)
    assert world.settle(want, 300) == []


def test_crowd_of_missing_tunnels_is_initiated_in_waves() -> None:
    world = World(peers_answer=False)
    want = desired(**{f"t{number}": config(number + 2, lead=False) for number in range(50)})
    world.tick(want)
    waves = []
    for _ in range(80):
        steps = world.tick(want, 1.0)
        waves.append(sum(isinstance(step, InitiateConnection) for step in steps))
    assert max(waves) == INITIATE_WAVE
    assert sum(waves) == 50


def dead_crowd(count: int) -> tuple[World, Desired]:
    """As many leads of peers that are gone, each of which pluto has given up for the moment."""
    world = World(peers_answer=False)
    want = desired(**{f"t{number}": config(number + 2) for number in range(count)})
    world.tick(want)
    for _ in range(20):
        world.negotiating.clear()
        world.tick(want, 10.0)
    return world, want


@pytest.mark.parametrize(("count", "wave"), [(50, INITIATE_WAVE), (400, 20)])
def test_peers_that_are_gone_are_tried_in_turn_at_looks_that_come_anyhow(
    count: int, wave: int
) -> None:
    world, want = dead_crowd(count)
    tried: Counter[str] = Counter()
    for _ in range(300 // 12):
        world.negotiating.clear()
        steps = world.look(want, 11.0)
        assert world.wake_at is None
        assert len(steps) <= wave
        world.negotiating.clear()
        assert world.look(want, 1.0) == (), "what came of it is looked at"
        tried.update(step.tunnel for step in steps if isinstance(step, InitiateConnection))
    assert len(tried) == count and max(tried.values()) - min(tried.values()) <= 1


def test_as_soon_as_one_of_a_crowd_comes_up_the_others_are_tried_at_their_times() -> None:
    world, want = dead_crowd(50)
    world.peers_answer = True
    world.negotiating.clear()
    assert world.look(want, 11.0)
    back_at = world.now
    world.look(want, 0.1)
    assert world.wake_at is not None and world.wake_at < world.now + 1
    while not world.all_up(want):
        assert world.wake_at is not None, "somebody is woken for them"
        world.look(want, max(world.wake_at - world.now, 0.1))
        assert world.now - back_at < 1.25 * LEAD_RETRY_LAST_S + 5.0


def test_when_one_of_a_crowd_came_up_and_no_more_do_the_others_are_tried_once_more() -> None:
    world = World(peers_answer=False)
    want = desired(**{f"t{number}": config(number + 2) for number in range(50)})
    world.settle(want, 45)
    for role in ("in", "out"):
        world.come_up(f"t0-{role}-1")
    came_up_at, tried = world.now, set()
    world.wake_at = world.now  # the kernel tells
    while world.now < came_up_at + PROGRESS_S + 5.0:
        world.negotiating.clear()
        pause_s = min(world.wake_at or math.inf, world.now + 11.0) - world.now
        steps = world.look(want, max(pause_s, 0.1))
        tried |= {step.tunnel for step in steps if isinstance(step, InitiateConnection)}
    assert len(tried) == 49


@pytest.mark.parametrize("missing_s", [45.0, 200.0])
@pytest.mark.parametrize(("count", "patient"), [(CROWD - 1, False), (CROWD, True)])
def test_nobody_is_woken_for_a_crowd_that_is_gone(
    count: int, missing_s: float, *, patient: bool
) -> None:
    world = World(peers_answer=False)
    want = desired(**{f"t{number}": config(number + 2, lead=False) for number in range(count)})
    world.settle(want, missing_s)
    for _ in range(2):
        world.negotiating.clear()
        world.tick(want)
    assert (world.wake_at is None) == patient


def test_rows_that_cannot_be_had_make_no_crowd_of_peers_that_are_gone() -> None:
    world = World(peers_answer=False)
    confs = {f"t{number}": config(number + 2) for number in range(CROWD + 1)}
    world.settle(desired(**confs), 200)
    want = desired(t0=confs.pop("t0"), **dict.fromkeys(confs))
    for _ in range(3):
        world.negotiating.clear()
        world.tick(want, 1.0)
    assert world.wake_at is not None


def test_crowd_of_missing_tunnels_has_a_pause_after_each_wave() -> None:
    world = World(peers_answer=False)
    want = desired(**{f"t{number}": config(number + 2, lead=False) for number in range(25)})
    world.tick(want)
    first = world.tick(want, 24.0)
    assert len(first) == INITIATE_WAVE
    assert world.tick(want, 0.1) == ()
    assert world.wake_at is not None
    assert len(world.tick(want, world.wake_at - world.now)) == INITIATE_WAVE


@pytest.mark.parametrize("followed", [False, True])
def test_lead_of_a_crowd_just_loaded_waits_for_their_turns_before_it_asks_again(
    *, followed: bool
) -> None:
    world = World(peers_answer=False)
    want = desired(**{f"t{number}": config(number + 2) for number in range(30)})
    if followed:  # rows that come after the first look
        world.tick(desired())
    world.tick(want)
    steps: list[Step] = []
    for seconds in (3.0, 1.0, 1.0, 1.0, 1.0, 1.0):  # the first look may come late
        world.negotiating.clear()  # of some, pluto has nothing to show at the moment
        steps += world.tick(want, seconds)
    assert steps == []
    for _ in range(8):
        world.negotiating.clear()
        steps += world.tick(want, 1.0)
    assert {type(step) for step in steps} == {InitiateConnection}


def test_while_others_of_a_crowd_come_up_a_missing_tunnel_is_not_asked_for_again() -> None:
    world = World(peers_answer=False)
    want = desired(**{f"t{number}": config(number + 2, lead=False) for number in range(30)})
    world.tick(want)
    steps: list[Step] = []
    for number in range(20):  # the leads come one by one, two seconds apart
        for role in ("in", "out"):
            world.come_up(f"t{number}-{role}-1")
        steps += world.tick(want, 2.0)
    assert steps == []
    steps = world.settle(want, 40)
    assert {type(step) for step in steps} == {InitiateConnection}
