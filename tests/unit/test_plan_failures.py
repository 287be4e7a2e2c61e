"""The planner against a strict world: what a step that failed delays, and how long it is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from ovn_ipsec.model.causes import Cause, CauseCode
from ovn_ipsec.model.conns import Credential, CredentialKind, Desired
from ovn_ipsec.model.evidence import Evidence, Failure, Symptom
from ovn_ipsec.model.steps import (
    AddConnection,
    DeleteSa,
    DropConnection,
    InitiateConnection,
    InstallCredential,
    Listen,
    Outcome,
    ReplaceConnection,
    StartIke,
)
from ovn_ipsec.plan import plan, plan_changes, remember
from ovn_ipsec.status.causes import diagnose
from ovn_ipsec.status.snapshot import take_snapshot
from tests.unit.world import World, config, desired, revoked, with_psk

WANT = desired(a=config())
BAD = desired(a=with_psk(config(), "bad"))


def backing_off(*, loaded: bool) -> World:
    """``a`` cannot be loaded as ``BAD`` wants it, for so long that its next try is far off.

    ``loaded``: its former connections are up.
    """
    world = World()
    if loaded:
        world.settle(WANT, 30)
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


def test_corrected_certificate_does_not_wait_for_the_bad_ones_next_try() -> None:
    world = World()
    world.settle(WANT, 30)
    bad, good = (Credential("ovs_cert_ca", CredentialKind.CA, "pem", mark) for mark in ("b", "g"))
    memory = remember(world.memory, [Outcome(InstallCredential(bad), "it is none")], world.now)
    observed = world.observe()
    for wanted, due in ((bad, ()), (good, (InstallCredential(good),))):
        want = replace(WANT, credentials=(wanted,))
        assert plan(want, observed, memory, world.now).steps == due


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
    world = backing_off(loaded=True)
    assert world.settle(WANT, 30) == []
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
    world = World()
    world.settle(WANT, 30)
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


def not_initiated() -> World:
    """``a`` was up, is down, and its initiation has just failed; others may bring it up."""
    world = World()
    world.settle(WANT, 30)
    world.lose_sas()
    world.failing = {"a"}
    assert {type(step) for step in world.settle(WANT, 3)} == {InitiateConnection}
    world.failing = set()
    world.peers_answer = False
    return world


def come_up(world: World) -> None:
    for name in tuple(world.configs):
        world.come_up(name)


def test_failed_initiation_is_told_of_its_tunnel_and_not_of_the_node() -> None:
    world = not_initiated()
    assert world.memory.error_of("a") == "it does not work"
    assert world.memory.node_errors() == ()


def test_failed_initiation_is_forgotten_when_somebody_else_has_brought_the_tunnel_up() -> None:
    world = not_initiated()
    come_up(world)
    assert world.tick(WANT) == ()
    assert world.memory.error_of("a") is None


def test_failed_initiation_is_forgotten_when_pluto_initiates_by_itself() -> None:
    world = not_initiated()
    world.negotiating = {"a-in-1", "a-out-1"}
    assert world.tick(WANT) == ()
    assert world.memory.error_of("a") is None


def test_failed_initiation_is_forgotten_when_the_nodes_address_is_gone() -> None:
    world = not_initiated()
    world.unoriented = {"a-in-1", "a-out-1"}
    world.tick(WANT)
    assert world.memory.error_of("a") is None


def test_failed_initiation_is_told_until_the_next_one() -> None:
    world = not_initiated()
    assert world.tick(WANT, 0.1) == ()
    assert world.memory.error_of("a") == "it does not work"
    assert world.settle(WANT, 10)
    assert world.memory.error_of("a") is None


def cause_of_a(world: World) -> Cause | None:
    error = world.memory.error_of("a")
    snapshot = take_snapshot(
        WANT,
        world.observe(),
        records=world.installed,
        errors={"a": error} if error else {},
        previous=None,
        now_s=world.now,
        wall=datetime(2026, 1, 2, tzinfo=UTC),
    )
    failures = {"a": Failure(Symptom.SILENT, "", world.now)}
    return diagnose(snapshot, Evidence(failures=failures)).tunnels[0].cause


def test_old_failure_does_not_hide_that_the_peer_is_silent_now() -> None:
    world = not_initiated()
    cause = cause_of_a(world)
    assert cause is not None and cause.code is CauseCode.STEP_FAILED
    come_up(world)
    world.settle(WANT, 60)
    assert cause_of_a(world) is None
    world.lose_sas()
    world.tick(WANT)
    cause = cause_of_a(world)
    assert cause is not None and cause.code is CauseCode.PEER_SILENT


def test_failed_load_is_forgotten_when_somebody_else_has_loaded_it() -> None:
    world = World()
    world.settle(WANT, 30)
    world.delete("a-in-1")
    world.failing = {"a"}
    world.settle(WANT, 300)
    world.load("a", 1, config())
    assert world.tick(WANT, 0.1) == ()
    assert world.memory.error_of("a") is None


def test_failed_repair_is_told_while_the_kernel_lacks_what_it_should_have() -> None:
    world = World()
    world.settle(WANT, 30)
    world.failing = {"a"}
    world.kernel.clear()
    steps = world.settle(WANT, 300)
    assert {type(step) for step in steps} == {ReplaceConnection}
    assert world.memory.error_of("a") == "it does not work"
    world.failing = set()
    world.settle(WANT, 61)
    assert world.all_up(WANT) and world.memory.error_of("a") is None


def test_failed_deletion_of_a_duplicate_is_told_until_there_is_none() -> None:
    world = World()
    world.settle(WANT, 30)
    first = min(s for s, child in world.children.items() if child[0] == "a-in-1")
    world.initiate("a-in-1")
    world.failing = {"a"}
    assert world.settle(WANT, 15) == [DeleteSa("a", first)]
    world.tick(WANT, 0.1)
    assert world.memory.error_of("a") == "it does not work"
    world._delete_child(first)
    world.tick(WANT)
    assert world.memory.error_of("a") is None


def test_failed_start_of_pluto_is_forgotten_when_it_runs() -> None:
    world = World()
    world.running = False
    world.failing = {""}
    assert StartIke() in world.settle(WANT, 10)
    assert world.memory.step_error("ike") == "it does not work"
    assert world.memory.node_errors() == ("it does not work",)
    world.running = True
    world.tick(WANT)
    assert world.memory.step_error("ike") is None and world.memory.node_errors() == ()


def not_listening() -> World:
    """An address has come, and pluto cannot be told of it."""
    world = World()
    world.settle(WANT, 30)
    world.unoriented = {"a-in-1", "a-out-1"}
    world.failing = {""}
    assert Listen() in world.settle(WANT, 120)
    assert world.memory.node_errors() == ("it does not work",)
    return world


def test_failed_listen_is_forgotten_when_every_address_is_there() -> None:
    world = not_listening()
    world.unoriented = set()
    world.tick(WANT)
    assert world.memory.node_errors() == ()


def test_failed_listen_does_not_delay_the_start_of_a_pluto_that_has_gone() -> None:
    world = not_listening()
    world.running = False
    world.failing = set()
    assert StartIke() in world.settle(WANT, 4)
    assert world.memory.node_errors() == ()
