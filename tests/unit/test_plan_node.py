"""The planner against a strict world: what is no single tunnel's: pluto, credentials, guard."""

from __future__ import annotations

from dataclasses import replace

from ovn_ipsec.model.conns import (
    Credential,
    CredentialKind,
    Guard,
    GuardMode,
    GuardPort,
    Protocol,
    Secret,
    Unobserved,
)
from ovn_ipsec.model.steps import (
    AddConnection,
    InitiateConnection,
    InstallCredential,
    RemoveCredential,
    SetGuard,
    StartIke,
)
from ovn_ipsec.plan import plan
from tests.unit.world import World, config, desired

GUARD = Guard(GuardMode.ENFORCE, frozenset({GuardPort(Protocol.UDP, 6081)}))


def test_pluto_that_is_down_is_started_and_reloads_nothing_twice() -> None:
    world, want = World(), desired(a=config(), b=config(3, lead=False))
    world.settle(want, 20)
    world.running = False
    steps = world.settle(want, 10)
    assert [type(step) for step in steps] == [StartIke, InitiateConnection]
    assert world.all_up(want)


def test_pluto_that_somebody_else_restarts_is_not_started_a_second_time() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 20)
    world.running = False
    assert world.settle(want, 2) == []
    world.running = True
    assert StartIke not in [type(step) for step in world.settle(want, 10)]


def test_failed_observation_of_pluto_plans_guard_but_no_tunnel_step() -> None:
    world = World()
    want = replace(desired(a=config()), guard=GUARD)
    observed = replace(world.observe(), ike=Unobserved("whack: no answer"))
    assert plan(want, observed, world.memory, 0.0).steps == (SetGuard(GUARD),)


def test_guard_that_was_flushed_is_restored_before_anything_else() -> None:
    world = World()
    want = replace(desired(a=config()), guard=GUARD)
    world.settle(want, 5)
    world.guard = None
    assert world.tick(want) == (SetGuard(GUARD),)


def test_renewed_certificate_is_installed_and_connections_are_left_alone() -> None:
    world = World()
    old = Credential("ovs_certkey_n1", CredentialKind.NODE, "pem", "aa", Secret("k1"))
    new = Credential("ovs_certkey_n1", CredentialKind.NODE, "pem2", "bb", Secret("k2"))
    want = desired(a=config())
    world.settle(replace(want, credentials=(old,)), 5)
    assert world.tick(replace(want, credentials=(new,))) == (InstallCredential(new),)
    assert world.tick(replace(want, credentials=(new,))) == ()


def test_credential_without_file_stays_while_kept_and_foreign_ones_always() -> None:
    world = World()
    ours = Credential("ovs_certkey_n1", CredentialKind.NODE, "pem", "aa", Secret("k1"))
    theirs = Credential("office", CredentialKind.NODE, "pem", "cc", Secret("k3"))
    world.credentials = {"ovs_certkey_n1": ours, "office": theirs}
    kept = replace(desired(), keep_credentials=frozenset({"ovs_certkey_n1"}))
    assert world.tick(kept) == ()
    assert world.tick(desired()) == (RemoveCredential("ovs_certkey_n1"),)
    assert world.tick(desired()) == ()


def test_credential_that_is_still_in_use_is_asked_for_ever_more_rarely() -> None:
    world, nickname = World(), "ovs_certkey_old"
    used = Credential(nickname, CredentialKind.NODE, "pem", "aa", Secret("k1"))
    world.credentials = {nickname: used}
    world.failing = {nickname}
    steps = world.settle(desired(a=config()), 120)
    assert 5 <= steps.count(RemoveCredential(nickname)) <= 8


def test_failed_observation_of_credentials_plans_no_credential_step() -> None:
    world = World()
    cert = Credential("ovs_cert_cacert", CredentialKind.CA, "pem", "ab")
    want = replace(desired(a=config()), credentials=(cert,))
    observed = replace(world.observe(), credentials=Unobserved("certutil: bad database"))
    steps = plan(want, observed, world.memory, 0.0).steps
    assert steps == (AddConnection("a", 1, config()),)


def test_failure_that_has_come_right_by_itself_is_not_shown_for_ever() -> None:
    key = Secret("key")
    credential = Credential("ovs_certkey_a", CredentialKind.NODE, "pem", "aa", key)
    want = replace(desired(), credentials=(credential,))
    world = World()
    world.failing.add("")  # steps that name no tunnel
    world.tick(want)
    assert world.memory.node_errors()
    world.credentials["ovs_certkey_a"] = credential
    world.tick(want)
    assert not world.memory.node_errors()
