"""The planner against a strict world: what a step that failed delays, and how long it is told."""

from __future__ import annotations

from dataclasses import replace

from ovn_ipsec.model.conns import Desired
from ovn_ipsec.model.steps import AddConnection, DropConnection, ReplaceConnection
from ovn_ipsec.plan import plan_changes
from tests.unit.world import World, config, desired, revoked, with_psk

BAD = desired(a=with_psk(config(), "bad"))


def backing_off(*, loaded: bool) -> World:
    """``a`` cannot be loaded as ``BAD`` wants it, for so long that its next try is far off.

    ``loaded``: its former connections are up.
    """
    world = World()
    if loaded:
        world.settle(desired(a=config()), 30)
    world.failing = {"a"}
    world.settle(BAD, 300)
    world.failing = set()
    assert world.memory.error_of("a") == "it does not work"
    assert world.tick(BAD, 1.0) == ()
    return world


def test_revoked_peer_is_dropped_at_once_though_its_replacement_has_failed() -> None:
    world = backing_off(loaded=True)
    assert world.tick(revoked(BAD, "a")) == (DropConnection("a", ("a-in-1", "a-out-1")),)
    assert not world.children


def test_renamed_port_is_dropped_before_its_successor_though_its_replacement_has_failed() -> None:
    world = backing_off(loaded=True)
    renamed = desired(b=config())
    steps = world.tick(renamed)
    assert [type(step) for step in steps] == [DropConnection, AddConnection]
    assert world.settle(renamed, 100) == []
    assert world.all_up(renamed)


def test_corrected_row_does_not_wait_for_the_bad_ones_next_try() -> None:
    good = with_psk(config(), "good")
    assert backing_off(loaded=False).tick(desired(a=good)) == (AddConnection("a", 1, good),)
    (step,) = backing_off(loaded=True).tick(desired(a=good))
    assert isinstance(step, ReplaceConnection)


def test_corrected_row_that_fails_too_is_tried_again_soon_and_then_ever_more_rarely() -> None:
    world = backing_off(loaded=False)
    world.failing = {"a"}
    good = desired(a=with_psk(config(), "good"))
    assert len(world.tick(good)) == 1
    assert world.tick(good) == ()
    assert len(world.tick(good, 1.0)) == 1
    assert world.tick(good, 1.0) == ()


def test_row_that_is_taken_back_is_as_if_it_had_never_failed() -> None:
    world, before = backing_off(loaded=True), desired(a=config())
    assert world.settle(before, 30) == []
    assert world.memory.error_of("a") is None
    (step,) = world.tick(BAD)
    assert isinstance(step, ReplaceConnection)


def test_port_that_is_deleted_and_added_again_is_tried_at_once() -> None:
    world = backing_off(loaded=False)
    assert world.tick(Desired(complete=True)) == ()
    assert world.tick(BAD) == (AddConnection("a", 1, with_psk(config(), "bad")),)


def test_the_same_when_rows_are_only_followed() -> None:
    world = backing_off(loaded=False)
    gone = Desired(complete=True)
    made = plan_changes(gone, BAD.tunnels, world.observe(), world.memory, world.now)
    assert made.steps == ()
    again = plan_changes(BAD, gone.tunnels, world.observe(), made.memory, world.now)
    assert again.steps == (AddConnection("a", 1, with_psk(config(), "bad")),)


def test_error_shown_is_of_what_is_wanted_now() -> None:
    world = backing_off(loaded=True)
    world.tick(desired(a=None))
    assert world.memory.error_of("a") is None
    world = backing_off(loaded=True)
    world.failing = {"a"}
    world.tick(revoked(BAD, "a"))
    assert world.memory.error_of("a") == "it does not work"
    world.failing = set()
    world.settle(revoked(BAD, "a"), 60)
    assert world.memory.error_of("a") is None


def test_drop_that_fails_backs_off_and_delays_no_load() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 30)
    world.failing = {"a"}
    steps = world.settle(Desired(complete=True), 120)
    assert 5 <= len(steps) <= 8
    world.failing = set()
    other = desired(a=with_psk(config(), "other"))
    (step,) = world.tick(other)
    assert isinstance(step, ReplaceConnection)


def test_failures_of_many_changes_are_not_kept() -> None:
    world = World()
    world.failing = {"a", *(f"t{number}" for number in range(50))}
    for number in range(50):
        world.tick(desired(a=with_psk(config(), str(number)), **{f"t{number}": config(3)}), 0.5)
    assert len(world.memory.retries) == 2
    world.tick(Desired(complete=True))
    assert not world.memory.retries


def test_row_of_which_only_the_status_has_changed_waits_for_its_next_try() -> None:
    world = backing_off(loaded=False)
    tunnel = BAD.tunnels["a"]
    same = replace(BAD, tunnels={"a": replace(tunnel, view=replace(tunnel.view, ofport=9))})
    assert world.tick(same) == ()
