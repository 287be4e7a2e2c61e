"""Rows that changed are followed by what was seen before; the rest is left to the whole plan."""

from __future__ import annotations

from dataclasses import replace

from ovn_ipsec.model.conns import Credential, CredentialKind, Desired, Unobserved
from ovn_ipsec.model.steps import (
    AddConnection,
    DropConnection,
    InstallCredential,
    RecordConnection,
    ReplaceConnection,
    Step,
)
from ovn_ipsec.plan import Memory, Plan, plan_changes
from ovn_ipsec.plan.planner import REPLACE_WAVE
from tests.unit.world import World, config, desired, with_psk


def changes(world: World, before: Desired, want: Desired, memory: Memory | None = None) -> Plan:
    return plan_changes(want, before.tunnels, world.observe(), memory or world.memory, world.now)


def settled(**tunnels: int) -> tuple[World, Desired]:
    """A world in which these tunnels, name to peer, are up."""
    world = World()
    want = desired(**{name: config(peer) for name, peer in tunnels.items()})
    world.settle(want, 30)
    return world, want


def test_new_changed_and_removed_rows_are_followed_and_lost_sas_left_alone() -> None:
    world, before = settled(kept=2, changed=3, removed=4)
    world.kernel.clear()  # the whole plan sees to that
    changed = with_psk(config(3), "other")
    want = desired(kept=config(2), changed=changed, new=config(5))
    assert changes(world, before, want).steps == (
        DropConnection("removed", ("removed-in-1", "removed-out-1")),
        AddConnection("new", 1, config(5)),
        ReplaceConnection("changed", ("changed-in-1", "changed-out-1"), 2, changed),
    )


def test_rows_that_did_not_change_are_not_looked_at() -> None:
    world, before = settled(t0=2, t1=3)
    world.delete("t0-in-1")
    made = changes(world, before, desired(t0=config(2), t1=config(3)))
    assert made.steps == ()
    assert made.memory.tunnels == world.memory.tunnels


def test_what_has_been_followed_is_remembered_as_just_loaded() -> None:
    world, before = settled(t0=2)
    want = desired(t0=config(2), t1=config(3))
    made = changes(world, before, want)
    assert made.memory.tunnels["t1"].down_since == world.now
    assert made.memory.tunnels["t0"] == world.memory.tunnels["t0"]
    assert changes(world, want, desired(t1=config(3)), made.memory).memory.tunnels.keys() == {"t1"}


def test_row_whose_name_a_foreign_connection_has_gets_a_higher_version() -> None:
    world, before = settled(t0=2)
    world.foreign.add("t1-in-7")
    assert changes(world, before, desired(t0=config(2), t1=config(3))).steps == (
        AddConnection("t1", 8, config(3)),
    )


def test_row_that_failed_waits_for_its_next_try() -> None:
    world, before = settled(t0=2)
    world.failing.add("t1")
    want = desired(t0=config(2), t1=config(3))
    world.tick(want)
    assert changes(world, before, want).steps == ()
    other = desired(t0=config(2), t1=with_psk(config(3), "other"))
    assert [type(step) for step in changes(world, want, other).steps] == [AddConnection]
    world.now += 60
    assert [type(step) for step in changes(world, before, want).steps] == [AddConnection]


def test_more_changes_of_tunnels_in_use_than_a_wave_are_left_for_later() -> None:
    names = {f"t{number}": number + 2 for number in range(REPLACE_WAVE + 3)}
    world, before = settled(**names)
    want = desired(
        **{name: with_psk(config(peer), "other") for name, peer in names.items()},
        new=config(200),
    )
    made = changes(world, before, want)
    kinds = [type(step) for step in made.steps]
    assert kinds == [AddConnection] + [ReplaceConnection] * REPLACE_WAVE
    assert changes(world, before, want, made.memory).steps == (
        AddConnection("new", 1, config(200)),
    )


def test_while_credentials_are_due_or_unknown_nothing_is_followed() -> None:
    world, before = settled(t0=2)
    ca = Credential("ovs_cert_ca", CredentialKind.CA, "PEM", "f" * 64)
    want = replace(desired(t0=config(2), t1=config(3)), credentials=(ca,))
    assert changes(world, before, want).steps == ()
    assert any(isinstance(step, InstallCredential) for step in world.tick(want))
    want = replace(desired(t0=config(2), t1=config(3), t2=config(4)), credentials=(ca,))
    assert changes(world, before, want).steps == (AddConnection("t2", 1, config(4)),)
    unknown = replace(world.observe(), credentials=Unobserved("NSS is away"))
    assert plan_changes(want, before.tunnels, unknown, world.memory, world.now).steps == ()


def test_while_rows_or_records_are_unknown_nothing_is_followed() -> None:
    world, before = settled(t0=2)
    assert changes(world, before, Desired()).steps == ()
    seen = replace(world.observe(), installed=Unobserved("the directory is away"))
    want = desired(t0=config(2), t1=config(3))
    assert plan_changes(want, before.tunnels, seen, world.memory, world.now).steps == ()


def test_new_row_of_a_tunnel_that_the_original_left_is_recorded_not_loaded_again() -> None:
    world, before = settled(t0=2, t1=3)
    record = world.installed["t1"]
    world.installed["t1"] = replace(record, config=config(3))
    steps: tuple[Step, ...] = changes(
        world, desired(t0=config(2)), desired(t0=config(2), t1=config(3))
    ).steps
    assert steps == (RecordConnection("t1", 1, config(3)),)
    assert before.tunnels.keys() == {"t0", "t1"}
