"""The planner against a strict world: what it does to whom, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ovn_ipsec.model.conns import (
    CertificateAuth,
    Credential,
    CredentialKind,
    Desired,
    Guard,
    GuardMode,
    GuardPort,
    InstalledTunnel,
    KernelPolicy,
    ObservedIke,
    Protocol,
    Secret,
    Unobserved,
)
from ovn_ipsec.model.steps import (
    AddConnection,
    DeleteSa,
    DropConnection,
    InitiateConnection,
    InstallCredential,
    RecordConnection,
    RemoveCredential,
    ReplaceConnection,
    SetGuard,
    StartIke,
    Step,
)
from ovn_ipsec.plan import Memory, plan
from ovn_ipsec.plan.planner import INITIATE_WAVE
from tests.unit.world import World, config, desired, with_psk

REVOKED = -1
"""In place of the number of a tunnel's key."""
GUARD = Guard(GuardMode.ENFORCE, frozenset({GuardPort(Protocol.UDP, 6081)}))


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


def test_change_of_a_tunnel_that_is_down_makes_also_the_waiting_end_initiate() -> None:
    world = World(peers_answer=False)
    world.settle(desired(a=config(lead=False, psk="wrong")), 10)
    world.negotiating.clear()
    steps = world.tick(desired(a=config(lead=False)))
    assert [type(step) for step in steps] == [ReplaceConnection, InitiateConnection]


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
    flushed = replace(left, ike=replace(ike, generation="new", children=(), ike_sas=(), states=()))
    assert plan(want, flushed, Memory(), world.now).steps == ()


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


def revoked(want: Desired, name: str) -> Desired:
    tunnel = replace(want.tunnels[name], config=None, problem="is revoked", withdrawn=True)
    return replace(want, tunnels={**want.tunnels, name: tunnel})


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
    world.installed["a"] = InstalledTunnel("a", 2, config().digest)
    assert world.tick(want) == (ReplaceConnection("a", ("a-in-1", "a-out-1"), 2, config()),)
    assert world.settle(want, 30) == []
    assert world.all_up(want)


def test_state_flush_renegotiates_once_after_it_is_confirmed() -> None:
    world, want = World(), desired(a=config(2))
    world.settle(want, 5)
    world.kernel.clear()
    assert world.tick(want) == ()
    assert world.settle(want, 3) == [ReplaceConnection("a", ("a-in-1", "a-out-1"), 1, config(2))]
    assert world.all_up(want)


def test_policy_flush_on_the_waiting_end_is_repaired_by_that_end() -> None:
    world, want = World(), desired(a=config(2, lead=False))
    world.settle(want, 25)
    world.policies.clear()
    (step,) = world.settle(want, 3)
    assert isinstance(step, ReplaceConnection)
    world.settle(want, 10)
    assert world.all_up(want)


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


def test_dead_peer_of_the_lead_costs_no_step_while_pluto_tries() -> None:
    world, want = World(peers_answer=False), desired(a=config())
    world.tick(want)
    assert world.settle(want, 300) == []


def test_lost_child_of_a_waiting_end_that_was_up_is_initiated_within_ten_seconds() -> None:
    world, want = World(), desired(a=config(lead=False))
    world.settle(want, 25)
    for serial in list(world.children):
        world._delete_child(serial)
    assert world.settle(want, 10)
    assert world.all_up(want)


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


def test_failed_observation_of_credentials_plans_no_credential_step() -> None:
    world = World()
    cert = Credential("ovs_cert_cacert", CredentialKind.CA, "pem", "ab")
    want = replace(desired(a=config()), credentials=(cert,))
    observed = replace(world.observe(), credentials=Unobserved("certutil: bad database"))
    steps = plan(want, observed, world.memory, 0.0).steps
    assert steps == (AddConnection("a", 1, config()),)


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


def test_connections_of_the_original_are_adopted_without_reloading() -> None:
    world, conf = World(), config()
    world.load("a", 3, conf)
    tuned = replace(conf, keywords=(("auto", "route"),))
    world.installed["a"] = InstalledTunnel("a", 3, "", tuned)
    children = dict(world.children)
    assert world.tick(desired(a=conf)) == (RecordConnection("a", 3, conf),)
    assert world.settle(desired(a=conf), 30) == []
    assert world.children == children


def test_connections_of_the_original_with_another_psk_are_replaced() -> None:
    world, conf = World(), config()
    world.load("a", 3, with_psk(conf, "old"))
    world.installed["a"] = InstalledTunnel("a", 3, "", with_psk(conf, "old"))
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


def test_credential_that_is_still_in_use_is_asked_for_ever_more_rarely() -> None:
    world, nickname = World(), "ovs_certkey_old"
    used = Credential(nickname, CredentialKind.NODE, "pem", "aa", Secret("k1"))
    world.credentials = {nickname: used}
    world.failing = {nickname}
    steps = world.settle(desired(a=config()), 120)
    assert 5 <= steps.count(RemoveCredential(nickname)) <= 8


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


def test_second_flush_right_after_a_repair_is_looked_at_when_that_one_has_settled() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 5)
    world.policies.clear()
    world.tick(want)
    assert [type(step) for step in world.tick(want, 0.5)] == [ReplaceConnection]
    world.policies.clear()
    assert world.settle(want, 4)
    assert world.all_up(want)


def test_duplicate_child_sas_are_deleted_by_the_lead_after_a_while() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 5)
    first = min(s for s, child in world.children.items() if child[0] == "a-in-1")
    world.initiate("a-in-1")
    assert world.settle(want, 8) == []
    assert world.settle(want, 4) == [DeleteSa("a", first)]
    assert world.all_up(want)


def test_traffic_that_only_goes_out_gets_fresh_child_sas_and_then_patience() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 5)
    steps: list[Step] = []
    for second in range(300):
        for serial, child in world.children.items():
            if child[0] == "a-out-1":
                world.bytes[serial] = (0, 5000 * (second + 1))
        steps += world.tick(want, 1.0)
    renewals = [step for step in steps if isinstance(step, InitiateConnection)]
    assert 2 <= len(renewals) <= 4
    assert all(step.renew for step in renewals)


def test_waiting_end_that_answers_the_lead_does_not_cross_it() -> None:
    world, want = World(), desired(a=config(lead=False))
    world.tick(want)
    world.answering = {"a-in-1"}
    assert world.settle(want, 19) == []
    assert [type(step) for step in world.settle(want, 3)] == [InitiateConnection]


def test_child_sa_that_never_comes_over_a_living_ike_sa_makes_the_lead_start_over() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 5)
    world.peers_answer = False
    world.in_touch = {"a-in-1"}
    for serial in list(world.children):
        world._delete_child(serial)
    steps: list[Step] = []
    for _ in range(40):
        steps += world.tick(want, 0.25)
        world.negotiating.clear()
    assert [type(step) for step in steps] == [
        InitiateConnection,
        InitiateConnection,
        ReplaceConnection,
    ]


def test_crowd_of_missing_tunnels_is_initiated_in_waves() -> None:
    world = World(peers_answer=False)
    want = desired(**{f"t{number}": config(number + 2, lead=False) for number in range(50)})
    world.tick(want)
    waves = []
    for _ in range(60):
        steps = world.tick(want, 1.0)
        waves.append(sum(isinstance(step, InitiateConnection) for step in steps))
    assert max(waves) == INITIATE_WAVE
    assert sum(waves) == 50


def test_lead_of_a_crowd_just_loaded_waits_for_their_turns_before_it_asks_again() -> None:
    world = World(peers_answer=False)
    want = desired(**{f"t{number}": config(number + 2) for number in range(30)})
    world.tick(want)
    steps: list[Step] = []
    for _ in range(8):
        world.negotiating.clear()  # of some, pluto has nothing to show at the moment
        steps += world.tick(want, 1.0)
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


def test_two_way_traffic_is_never_renewed() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 5)
    for second in range(200):
        for serial in world.children:
            world.bytes[serial] = (4000 * (second + 1), 5000 * (second + 1))
        assert world.tick(want, 1.0) == ()


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["restart", "down", "delete", "states", "policies", "children", "psk", "drop", "wait"]
            + ["revoke"]
        ),
        st.integers(0, 2),
        st.floats(0.1, 20.0),
    ),
    max_size=12,
)


def _disturb(world: World, want: dict[str, int], event: str, index: int) -> None:
    if event == "restart":
        world.restart_pluto()
    elif event == "down":
        world.running = False
    elif event == "delete" and world.running:
        for name in sorted(world.configs)[index : index + 1]:
            world.delete(name)
    elif event == "states":
        world.kernel.clear()
    elif event == "policies":
        world.policies = {p for p in world.policies if p in _some(world.policies, index)}
    elif event == "children" and world.running:
        for serial in sorted(world.children)[:index]:
            world._delete_child(serial)
    elif event == "psk":
        want[f"t{index}"] = want.get(f"t{index}", 0) + 1
    elif event == "drop":
        want.pop(f"t{index}", None)
    elif event == "revoke":
        want[f"t{index}"] = REVOKED


def _some(policies: set[KernelPolicy], index: int) -> set[KernelPolicy]:
    return set(sorted(policies, key=repr)[:index])


@given(_EVENTS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_disturbance_heals_and_then_nothing_is_touched(
    events: list[tuple[str, int, float]], lead: bool
) -> None:
    world = World()
    psks = {"t0": 0, "t1": 0, "t2": 0}

    def want() -> Desired:
        whole = desired(
            **{
                name: with_psk(config(int(name[1]) + 2, lead=lead), f"psk{psk}")
                for name, psk in psks.items()
            }
        )
        for name in (name for name, psk in psks.items() if psk == REVOKED):
            whole = revoked(whole, name)
        return whole

    for event, index, seconds in events:
        _disturb(world, psks, event, index)
        world.settle(want(), seconds)
    world.settle(want(), 150)
    assert world.all_up(want())
    assert set(world.installed) == {name for name, psk in psks.items() if psk != REVOKED}
    assert world.foreign == {"office-vpn"}
    assert world.settle(want(), 30) == []


def test_gre_tunnel_named_like_a_role_is_not_mistaken_for_another_tunnel() -> None:
    world = World()
    gre = replace(config(3), protocol=Protocol.GRE, port=None)
    want = desired(**{"a": config(2), "b-in": gre})
    world.settle(want, 5)
    assert {"a-in-1", "a-out-1", "b-in-1"} <= set(world.configs)
    assert world.settle(want, 30) == []
    world.delete("b-in-1")
    assert world.settle(want, 3) == [AddConnection("b-in", 1, gre)]
