"""The planner against a strict world: which connections it loads, replaces and drops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ovn_ipsec.model.conns import (
    CertificateAuth,
    InstalledTunnel,
    Protocol,
    TunnelConfig,
    Unobserved,
)
from ovn_ipsec.model.steps import (
    AddConnection,
    DropConnection,
    RecordConnection,
    ReplaceConnection,
)
from ovn_ipsec.plan import plan
from tests.unit.world import World, config, desired, revoked, with_psk


def gre(peer: int) -> TunnelConfig:
    return replace(config(peer), protocol=Protocol.GRE, port=None)


def test_new_tunnel_is_added_once_and_planning_again_plans_nothing() -> None:
    world, want = World(), desired(tun0=config())
    assert world.tick(want) == (AddConnection("tun0", 1, config()),)
    assert world.tick(want) == ()
    assert world.settle(want, 60) == []


def test_restarted_agent_finds_everything_in_place_and_plans_nothing() -> None:
    world, want = World(), desired(tun0=config(), tun1=config(3, lead=False))
    world.settle(want, 30)
    restarted = World()
    restarted.__dict__.update(world.__dict__ | {"memory": type(world.memory)()})
    assert restarted.settle(want, 60) == []


def test_changed_psk_replaces_only_that_tunnel_under_the_next_version() -> None:
    world = World()
    world.settle(desired(a=config(2), b=config(3)), 5)
    steps = world.tick(desired(a=with_psk(config(2), "new"), b=config(3)))
    assert steps == (ReplaceConnection("a", ("a-in-1", "a-out-1"), 2, with_psk(config(2), "new")),)


def test_removed_row_is_dropped_only_when_every_source_has_reported() -> None:
    world = World()
    world.settle(desired(a=config(2), b=config(3)), 5)
    gone = desired(a=config(2))
    assert world.tick(replace(gone, complete=False)) == ()
    assert world.tick(gone) == (DropConnection("b", ("b-in-1", "b-out-1")),)


def test_tunnel_that_lost_its_certificate_keeps_its_connections() -> None:
    world = World()
    world.settle(desired(a=config()), 5)
    assert world.settle(desired(a=None), 30) == []
    assert world.is_up("a-in-1")


def test_port_renamed_in_ovsdb_is_dropped_before_its_successor_is_loaded() -> None:
    world = World()
    world.settle(desired(old=config()), 5)
    steps = world.tick(desired(new=config()))
    assert [type(step) for step in steps] == [DropConnection, AddConnection]
    world.settle(desired(new=config()), 10)
    assert world.all_up(desired(new=config()))


def test_gre_tunnel_named_like_a_role_is_not_mistaken_for_another_tunnel() -> None:
    world = World()
    want = desired(**{"a": config(2), "b-in": gre(3)})
    world.settle(want, 5)
    assert {"a-in-1", "a-out-1", "b-in-1"} <= set(world.configs)
    assert world.settle(want, 30) == []
    world.delete("b-in-1")
    assert world.settle(want, 3) == [AddConnection("b-in", 1, gre(3))]


@pytest.mark.parametrize("first", ["x", "x-in", "x-out"])
@pytest.mark.parametrize("make", [config, gre])
def test_tunnel_named_like_half_of_another_comes_and_goes_alone(
    make: Callable[[int], TunnelConfig], first: str
) -> None:
    tunnels = {"x": make(2), "x-in": make(3), "x-out": make(4)}
    for what in ("gone", "changed"):
        world, both = World(), desired(**tunnels)
        world.settle(both, 60)
        assert world.all_up(both)
        others = {name: conf for name, conf in tunnels.items() if name != first}
        children = {child for child in world.children.values() if child[1] != tunnels[first]}
        own = {first: with_psk(tunnels[first], "other")} if what == "changed" else {}
        want = desired(**others, **own)
        assert {getattr(step, "tunnel", "") for step in world.settle(want, 60)} == {first}
        assert children <= set(world.children.values())
        assert world.all_up(want)


@pytest.mark.parametrize("make", [config, gre])
def test_foreign_connection_with_a_name_of_ours_stays_and_its_version_is_not_used(
    make: Callable[[int], TunnelConfig],
) -> None:
    world, want = World(), desired(vpn=make(2))
    world.foreign = {"vpn-1", "vpn-in-1"}  # the world refuses to have them touched
    world.settle(want, 60)
    assert world.installed["vpn"].version == 2
    world.foreign |= {"vpn-3", "vpn-out-3"}
    world.tick(want)
    want = desired(vpn=with_psk(make(2), "other"))
    world.settle(want, 60)
    assert world.installed["vpn"].version == 4
    assert world.all_up(want)
    world.settle(desired(), 60)
    assert world.installed == {} and world.configs == {}


def test_tunnel_that_turns_from_geneve_to_gre_and_back_leaves_nothing_of_what_it_was() -> None:
    world = World()
    world.settle(desired(x=config(2)), 60)
    assert world.settle(desired(x=gre(2)), 60) == [
        ReplaceConnection("x", ("x-in-1", "x-out-1"), 2, gre(2))
    ]
    assert world.settle(desired(x=config(2)), 60) == [
        ReplaceConnection("x", ("x-2",), 3, config(2))
    ]
    assert set(world.configs) == {"x-in-3", "x-out-3"}


def test_what_an_agent_that_was_killed_had_yet_to_delete_goes_whatever_its_role() -> None:
    for left in ("x-1", "x-in-1", "x-out-1"):
        world, want = World(), desired(x=config(2))
        world.foreign = {"x-7", "x-in-7"}
        world.load("x", 2, config(2))
        world.configs[left] = (config(2), "in")
        world.installed["x"] = InstalledTunnel(
            *("x", 2, config(2).digest, config(2)), replaced=frozenset({left})
        )
        assert world.tick(want) == (ReplaceConnection("x", (left,), 2, config(2)),)
        assert world.settle(want, 60) == []
        world.configs[left] = (config(2), "in")
        world.installed["x"] = replace(world.installed["x"], replaced=frozenset({left}))
        world.looked = None
        world.settle(desired(), 1)
        assert world.configs == {}


def test_pair_whose_file_is_lost_is_replaced_and_half_of_one_is_nobodys() -> None:
    world, want = World(), desired(**{"x": config(2), "y-in": gre(3), "y-out": gre(4)})
    world.settle(want, 60)
    del world.installed["x"]
    assert world.tick(want) == (ReplaceConnection("x", ("x-in-1", "x-out-1"), 2, config(2)),)
    world.settle(want, 60)
    # Two of a pair, but of two tunnels that have their records.
    more = desired(**{"x": config(2), "y-in": gre(3), "y-out": gre(4), "y": config(5)})
    assert world.settle(more, 60) == [AddConnection("y", 2, config(5))]
    assert world.all_up(more)


def test_kept_connections_of_a_row_that_cannot_be_had_stay_beside_a_tunnel_of_their_name() -> None:
    world = World()
    world.settle(desired(x=config(2)), 60)
    kept = set(world.children)
    both = desired(**{"x": None, "x-in": gre(3)})
    assert world.settle(both, 60) == [AddConnection("x-in", 2, gre(3))]
    world.settle(desired(x=None), 60)
    assert set(world.children) == kept


def test_connection_deleted_behind_our_back_is_loaded_again_alone() -> None:
    world, want = World(), desired(a=config(2), b=config(3))
    world.settle(want, 5)
    world.delete("a-out-1")
    assert world.settle(want, 5) == [AddConnection("a", 1, config(2))]
    assert world.all_up(want)


def test_old_version_left_by_a_crash_is_replaced_together_with_the_new_one() -> None:
    world, want = World(), desired(a=config())
    world.load("a", 1, with_psk(config(), "old"))
    world.load("a", 2, config())
    world.installed["a"] = InstalledTunnel("a", 2, config().digest, config())
    assert world.tick(want) == (ReplaceConnection("a", ("a-in-1", "a-out-1"), 2, config()),)
    assert world.settle(want, 30) == []
    assert world.all_up(want)


def test_withdrawn_tunnel_loses_its_connections_and_nothing_else_happens() -> None:
    world, want = World(), desired(a=config(2), b=config(3))
    world.settle(want, 30)
    gone = revoked(want, "b")
    assert world.tick(gone) == (DropConnection("b", ("b-in-1", "b-out-1")),)
    assert world.settle(gone, 300) == []
    assert set(world.installed) == {"a"}
    assert {name for name, _conf, _role in world.children.values()} == {"a-in-1", "a-out-1"}


def test_withdrawn_tunnel_comes_back_when_the_peer_is_admitted_again() -> None:
    world, want = World(), desired(a=config(2), b=config(3, lead=False))
    world.settle(want, 30)
    world.settle(revoked(want, "b"), 100)
    assert world.tick(want) == (AddConnection("b", 1, config(3, lead=False)),)
    world.settle(want, 60)
    assert world.all_up(want)


def test_withdrawn_tunnel_that_was_never_installed_needs_no_step() -> None:
    world = World()
    assert world.settle(revoked(desired(a=config()), "a"), 30) == []


def test_failed_withdrawal_is_tried_again() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 30)
    world.failing.add("a")
    gone = revoked(want, "a")
    assert len(world.settle(gone, 5)) >= 2
    world.failing.clear()
    world.settle(gone, 60)
    assert world.installed == {} and world.children == {}


def test_connections_of_the_original_are_adopted_without_reloading() -> None:
    world, conf = World(), config()
    world.load("a", 3, conf)
    tuned = replace(conf, keywords=(("auto", "route"),))
    world.installed["a"] = InstalledTunnel("a", 3, "", tuned, config=tuned)
    children = dict(world.children)
    assert world.tick(desired(a=conf)) == (RecordConnection("a", 3, conf),)
    assert world.settle(desired(a=conf), 30) == []
    assert world.children == children


def test_lost_key_is_written_again_and_its_connections_stay() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 60)
    children = dict(world.children)
    (record,) = world.installed.values()
    world.installed["a"] = replace(record, keyless=True)
    assert world.tick(want) == (RecordConnection("a", record.version, config()),)
    assert world.settle(want, 30) == []
    assert world.children == children


def test_connections_of_the_original_with_another_psk_are_replaced() -> None:
    world, conf = World(), config()
    world.load("a", 3, with_psk(conf, "old"))
    old = with_psk(conf, "old")
    world.installed["a"] = InstalledTunnel("a", 3, "", old, config=old)
    steps = world.tick(desired(a=conf))
    assert steps == (ReplaceConnection("a", ("a-in-3", "a-out-3"), 4, conf),)


def test_one_change_to_every_tunnel_is_applied_in_waves() -> None:
    world = World()
    world.settle(desired(**{f"t{i}": config(i + 2) for i in range(25)}), 5)
    want = desired(**{f"t{i}": with_psk(config(i + 2), "new") for i in range(25)})
    assert len(world.tick(want)) == 10
    assert world.tick(want) == ()
    assert len(world.tick(want, 1.0)) == 10
    assert len(world.tick(want, 1.0)) == 5


def test_failing_tunnel_backs_off_and_others_go_on() -> None:
    world, want = World(), desired(bad=config(2), good=config(3))
    world.failing = {"bad"}
    steps = world.settle(want, 120)
    assert world.is_up("good-in-1")
    tries = [step for step in steps if getattr(step, "tunnel", "") == "bad"]
    assert 5 <= len(tries) <= 8
    assert world.memory.error_of("bad") == "it does not work"
    world.failing.clear()
    world.settle(want, 61)
    assert world.is_up("bad-in-1")
    assert world.memory.error_of("bad") is None


def test_change_that_cannot_be_loaded_backs_off_on_the_waiting_end_too() -> None:
    world, old, new = World(), config(lead=False), config(lead=False, psk="new")
    world.settle(desired(a=old), 20)
    world.failing = {"a"}
    steps = world.settle(desired(a=new), 120)
    assert 5 <= len([step for step in steps if isinstance(step, ReplaceConnection)]) <= 8
    assert world.memory.error_of("a") == "it does not work"
    world.failing.clear()
    world.settle(desired(a=new), 61)
    assert world.all_up(desired(a=new)) and world.memory.error_of("a") is None


def test_certificate_tunnel_is_not_replaced_for_what_an_unread_nss_seems_to_lack() -> None:
    world = World()
    auth = CertificateAuth("left", "right", "ovs_certkey_left")
    same = replace(config(2), auth=auth, keywords=(("rightca", "%same"),))
    other = replace(same, keywords=(("rightca", "%any"),))
    world.settle(desired(a=same, b=config(3)), 5)
    unread = replace(world.observe(), credentials=Unobserved("database is locked"))
    want = desired(a=other, b=with_psk(config(3), "new"))
    steps = plan(want, unread, world.memory, world.now).steps
    assert [step.tunnel for step in steps if isinstance(step, ReplaceConnection)] == ["b"]
    assert len(world.tick(want)) == 2
