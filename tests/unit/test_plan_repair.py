"""The planner against a strict world: what was up and broke is repaired, what is whole is left."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ovn_ipsec.model.conns import Desired
from ovn_ipsec.model.kernel import KernelPolicy
from ovn_ipsec.model.steps import DeleteSa, InitiateConnection, ReplaceConnection, Step
from tests.unit.world import World, config, desired, revoked, with_psk

REVOKED = -1
"""In place of the number of a tunnel's key."""


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


def test_second_flush_right_after_a_repair_is_looked_at_when_that_one_has_settled() -> None:
    world, want = World(), desired(a=config())
    world.settle(want, 5)
    world.policies.clear()
    world.tick(want)
    assert [type(step) for step in world.tick(want, 0.5)] == [ReplaceConnection]
    world.policies.clear()
    assert world.settle(want, 4)
    assert world.all_up(want)


def test_lost_child_of_a_waiting_end_that_was_up_is_initiated_within_ten_seconds() -> None:
    world, want = World(), desired(a=config(lead=False))
    world.settle(want, 25)
    for serial in list(world.children):
        world._delete_child(serial)
    assert world.settle(want, 10)
    assert world.all_up(want)


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
            + ["revoke", "fail"]
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
    elif event == "fail":  # whatever is done for it, until the next time
        world.failing ^= {f"t{index}"}


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
    world.failing.clear()
    world.settle(want(), 150)
    assert world.all_up(want())
    assert not world.memory.retries
    assert set(world.installed) == {name for name, psk in psks.items() if psk != REVOKED}
    assert world.foreign == {"office-vpn"}
    assert world.settle(want(), 30) == []
