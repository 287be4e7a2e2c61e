"""The staged roll-out: whatever order nodes hear and answer in, nothing is cut or left open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import ovs.stream
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.cluster.databases import Northbound, Southbound
from ovn_ipsec.cluster.report import (
    WAITING_MOST,
    Report,
    make_report,
    parse_report,
    render_report,
    same,
)
from ovn_ipsec.cluster.rollout import RollOut
from ovn_ipsec.cluster.settings import (
    ClusterSettings,
    FollowSettings,
    parse_cluster_arguments,
    southbound_of,
)
from ovn_ipsec.cluster.stages import (
    OLD_AFTER_S,
    Cluster,
    ClusterNode,
    Done,
    Goal,
    GuardStage,
    SetGuard,
    SetIpsec,
    Wait,
    lacks,
    next_step,
)
from ovn_ipsec.errors import ClusterError, SettingsError

NAMES = ("node-a", "node-b", "node-c")


@dataclass
class PlayedNode:
    """Hears, acts and reports, each when the test lets it."""

    name: str
    heard: tuple[str, bool] = ("", False)
    guard: str = "enforce"
    options: bool = False
    encrypted: bool = False
    report: Report | None = None

    def hear(self, cluster: PlayedCluster) -> None:
        self.heard = (cluster.guard or "", cluster.ipsec)

    def obey(self, cluster: PlayedCluster) -> None:
        self.guard = self.heard[0] or "enforce"

    def tunnel(self, cluster: PlayedCluster) -> None:
        """ovn-controller hears by itself."""
        self.options = cluster.ipsec
        self.encrypted = False

    def negotiate(self, cluster: PlayedCluster) -> None:
        self.encrypted = self.options and all(node.options for node in cluster.nodes)

    def tell(self, cluster: PlayedCluster) -> None:
        peers = len(NAMES) - 1
        others = tuple(name for name in NAMES if name != self.name)
        self.report = Report(
            stage=self.heard[0],
            ipsec=self.heard[1],
            guard=self.guard,
            asking=peers if self.options else 0,
            plain=0 if self.options else peers,
            wanted=peers if self.options else 0,
            encrypted=peers if self.encrypted else 0,
            waiting=() if self.encrypted or not self.options else others,
            problem="",
            at_s=1000.0,
        )


@dataclass
class PlayedCluster:
    """Three nodes with a tunnel between any two."""

    ipsec: bool = False
    guard: GuardStage | None = None
    nodes: list[PlayedNode] = field(default_factory=lambda: [PlayedNode(n) for n in NAMES])

    def seen(self) -> Cluster:
        nodes = tuple(ClusterNode(n.name, f"host-{n.name}", n.report) for n in self.nodes)
        return Cluster(self.ipsec, self.guard, nodes)

    def step(self, goal: Goal) -> bool:
        """Take the next step; whether the goal is reached."""
        step = next_step(goal, self.seen(), 1000.0)
        if isinstance(step, SetGuard):
            if step.stage is GuardStage.ENFORCE:
                assert all(node.encrypted for node in self.nodes), "a guard would cut plaintext"
            if step.stage is None:
                assert not any(node.options for node in self.nodes)
            self.guard = step.stage
        elif isinstance(step, SetIpsec):
            assert all(node.guard == "audit" for node in self.nodes), "a guard would cut plaintext"
            self.ipsec = step.on
        return isinstance(step, Done)

    def settle(self) -> None:
        for act in ("hear", "obey", "tunnel", "negotiate", "tell"):
            for node in self.nodes:
                getattr(node, act)(self)

    def reach(self, goal: Goal) -> None:
        for _ in range(10):
            if self.step(goal):
                return
            self.settle()
        pytest.fail(f"{goal} is not reached")


ACTS = st.tuples(
    st.integers(0, len(NAMES) - 1),
    st.sampled_from(("hear", "obey", "tunnel", "negotiate", "tell", "enable", "disable")),
)


@given(st.lists(ACTS, max_size=120), st.sampled_from(Goal))
def test_no_order_of_events_cuts_traffic_and_any_interruption_can_be_gone_on_from(
    acts: list[tuple[int, str]], goal: Goal
) -> None:
    cluster = PlayedCluster()
    wanted = goal
    for number, act in acts:
        if act in ("enable", "disable"):
            # Somebody may change their mind, but not between a node's deed and its report.
            if wanted is not Goal(act):
                cluster.settle()
                wanted = Goal(act)
            cluster.step(wanted)
        else:
            getattr(cluster.nodes[number], act)(cluster)
    cluster.settle()
    cluster.reach(goal)
    assert cluster.ipsec is (goal is Goal.ENABLE)
    cluster.settle()
    assert all(node.guard == "enforce" for node in cluster.nodes)
    assert all(node.encrypted is cluster.ipsec for node in cluster.nodes)


def test_steps_come_in_the_order_that_is_documented() -> None:
    def steps(cluster: PlayedCluster, goal: Goal) -> Iterator[object]:
        for _ in range(10):
            step = next_step(goal, cluster.seen(), 1000.0)
            if not isinstance(step, Wait):
                yield step
            cluster.step(goal)
            cluster.settle()

    cluster = PlayedCluster()
    audit, enforce = SetGuard(GuardStage.AUDIT), SetGuard(GuardStage.ENFORCE)
    assert list(dict.fromkeys(steps(cluster, Goal.ENABLE))) == [
        audit,
        SetIpsec(on=True),
        enforce,
        Done(),
    ]
    assert list(dict.fromkeys(steps(cluster, Goal.DISABLE))) == [
        audit,
        SetIpsec(on=False),
        SetGuard(None),
        Done(),
    ]


def test_enabling_what_somebody_has_enabled_by_hand_opens_no_guard() -> None:
    cluster = PlayedCluster(ipsec=True)
    assert next_step(Goal.ENABLE, cluster.seen(), 1000.0) == SetGuard(GuardStage.ENFORCE)


def test_enabling_what_is_enabled_and_closed_is_not_done_before_all_is_encrypted() -> None:
    cluster = PlayedCluster(ipsec=True, guard=GuardStage.ENFORCE)
    for act in ("hear", "obey", "tunnel", "tell"):
        for node in cluster.nodes:
            getattr(node, act)(cluster)
    waiting = "2 of 2 tunnels are not encrypted: to node-b, node-c"
    assert held_up(cluster)["node-a"] == waiting
    cluster.reach(Goal.ENABLE)
    assert all(node.encrypted for node in cluster.nodes)


def held_up(cluster: PlayedCluster, *ignored: str, now_s: float = 1000.0) -> dict[str, str]:
    step = next_step(Goal.ENABLE, cluster.seen(), now_s, ignored)
    return dict(step.lacking) if isinstance(step, Wait) else {}


def test_node_that_holds_it_up_is_named_with_the_reason_and_can_be_left_out() -> None:
    cluster = PlayedCluster()
    cluster.step(Goal.ENABLE)
    cluster.settle()
    silent = cluster.nodes[2]
    silent.report = None
    assert held_up(cluster) == {
        "node-c": "has not reported; does `ovn-ipsec cluster follow` run there?"
    }
    silent.tell(cluster)
    assert silent.report is not None
    silent.report = replace(silent.report, guard="enforce")
    assert "without --guard-follow" in held_up(cluster)["node-c"]
    assert held_up(cluster, now_s=1000.0 + 2 * OLD_AFTER_S)["node-a"].startswith("reported 30 min")
    assert held_up(cluster, "host-node-c") == {}

    cluster.ipsec = True
    cluster.settle()
    for node in cluster.nodes[:2]:
        assert node.report is not None
        node.report = replace(node.report, encrypted=1, waiting=("node-c",))
    silent.report = None
    assert held_up(cluster)["node-a"] == "1 of 2 tunnels are not encrypted: to node-c"
    step = next_step(Goal.ENABLE, cluster.seen(), 1000.0, ["node-c"])
    assert step == SetGuard(GuardStage.ENFORCE)


class PlayedNorthbound(Northbound):
    def __init__(self) -> None:
        super().__init__("unix:/nb")
        self.wishes: list[object] = []

    def stage(self) -> tuple[bool, GuardStage | None]:
        return False, GuardStage.AUDIT

    def set_guard(self, stage: GuardStage | None) -> None:
        self.wishes.append(stage)

    def set_ipsec(self, on: bool) -> None:
        self.wishes.append(on)


class WithoutChassis(Southbound):
    def nodes(self) -> tuple[ClusterNode, ...]:
        return ()


@pytest.mark.parametrize("goal", Goal)
def test_southbound_database_without_chassis_is_an_error_and_nothing_is_set(goal: Goal) -> None:
    northbound, said = PlayedNorthbound(), list[str]()
    roll_out = RollOut(northbound, WithoutChassis("tcp:10.0.0.6:6642"), lambda: 0.0, said.append)
    error = "OVSDB tcp:10.0.0.6:6642: OVN_Southbound has no chassis; give this cluster's by --sb"
    looks = iter((False, False, True))
    with pytest.raises(ClusterError, match=error):
        roll_out.reach(goal, lambda: next(looks), lambda _: None)
    assert len(said) == 1 and said[0].startswith(error), "told at once, while it is waited for"
    with pytest.raises(ClusterError, match=error):
        roll_out.status()
    assert northbound.wishes == []


def test_tunnels_beyond_those_that_are_named_are_not_taken_for_ignored_ones() -> None:
    names = tuple(f"node-{number}" for number in range(WAITING_MOST))
    report = Report("audit", True, "audit", 30, 0, 30, 5, names, "", 1000.0)
    node = ClusterNode("node-x", "", report)
    others = tuple(ClusterNode(name, "", replace(report, waiting=())) for name in names)
    cluster = Cluster(ipsec=True, guard=GuardStage.AUDIT, nodes=(node, *others))
    assert lacks(node, cluster, 1000.0, names).startswith("25 of 30 tunnels are not encrypted")


READY = {
    "guard": "audit",
    "tunnels": {"wanted": 2, "encrypted": 1, "revoked": 0},
    "unencrypted": ["node-c"],
    "read": {"ovn-b": "10.0.0.2", "ovn-c": "10.0.0.3"},
    "age_s": 3.5,
}
TUNNELS = {
    "ovn-b": {"remote_name": "node-b", "remote_ip": "10.0.0.2"},
    "ovn-c": {"remote_name": "node-c", "remote_ip": "10.0.0.3"},
    "ovn-d": {"remote_ip": "10.0.0.4"},
}


def test_report_is_made_of_ovns_tunnels_and_the_agents_answer() -> None:
    report = make_report(("audit", True), TUNNELS, READY, 7.0)
    assert (report.asking, report.plain, report.wanted, report.encrypted) == (2, 1, 2, 1)
    assert (report.guard, report.waiting, report.problem) == ("audit", ("node-c",), "")
    assert "does not answer" in make_report(("", False), TUNNELS, None, 7.0).problem
    assert "another version" in make_report(("", False), TUNNELS, {"x": 1}, 7.0).problem
    hangs = make_report(("audit", True), TUNNELS, READY | {"age_s": 75.0}, 7.0)
    assert "has not looked" in hangs.problem


@pytest.mark.parametrize(
    "read",
    [
        {},
        {"ovn-b": "10.0.0.2"},
        {"ovn-b": "10.0.0.2", "psk-1": "10.0.0.3", "psk-2": "10.0.0.8"},
        {"ovn-b": "10.0.0.2", "ovn-c": "10.0.0.9"},
    ],
    ids=["none", "one", "as many of somebody else's", "one as it was before"],
)
def test_tunnel_of_ovn_that_the_agent_has_not_read_is_not_counted_as_encrypted(
    read: dict[str, str],
) -> None:
    counts = {"wanted": 3, "encrypted": 3, "revoked": 0}
    answer = READY | {"tunnels": counts, "unencrypted": [], "read": read}
    report = make_report(("audit", True), TUNNELS, answer, 7.0)
    assert report.problem == "the agent has not read all tunnels yet"


def test_tunnels_of_somebody_else_and_to_revoked_peers_hold_nothing_up() -> None:
    """What is revoked is read, and not wanted."""
    counts = {"wanted": 2, "encrypted": 2, "revoked": 1}
    read = {"ovn-b": "10.0.0.2", "ovn-c": "10.0.0.3", "psk-1": "10.0.0.8"}
    answer = READY | {"tunnels": counts, "unencrypted": [], "read": read}
    assert make_report(("audit", True), TUNNELS, answer, 7.0).problem == ""


def test_guard_that_cannot_be_read_holds_the_step_up_and_one_that_is_off_does_not() -> None:
    """It may be enforcing, and then IPsec would cut the tunnels."""

    def step(guard: str | None) -> object:
        plain = {"ovn-b": {"remote_ip": "10.0.0.9"}}
        report = make_report(("audit", False), plain, READY | {"guard": guard}, 1000.0)
        cluster = Cluster(False, GuardStage.AUDIT, (ClusterNode("node-a", "", report),))
        return next_step(Goal.ENABLE, cluster, 1000.0)

    assert step("off") == step("audit") == SetIpsec(on=True)
    unknown = step(None)
    assert isinstance(unknown, Wait)
    assert dict(unknown.lacking)["node-a"].startswith("its guard cannot be read")


@given(
    st.builds(
        Report,
        stage=st.sampled_from(("", "audit", "enforce")),
        guard=st.text("abc-", max_size=20),
        asking=st.integers(0, 1000),
        plain=st.integers(0, 1000),
        wanted=st.integers(0, 1000),
        encrypted=st.integers(0, 1000),
        waiting=st.lists(st.text("abc-", max_size=60), max_size=WAITING_MOST).map(tuple),
        problem=st.text("abc ", max_size=100),
        at_s=st.floats(0, 1e10),
    )
)
def test_report_is_read_as_it_was_written(report: Report) -> None:
    read = parse_report(render_report(report))
    assert read == report
    assert same(report, replace(report, at_s=report.at_s + 1))


@given(st.text() | st.from_regex(r'\{"stage":.*\}', fullmatch=True))
def test_what_is_no_report_is_none(text: str) -> None:
    assert parse_report(text) is None


def test_settings_of_the_command() -> None:
    said = parse_cluster_arguments(
        ["enable", "--nb=tcp:10.0.0.5:6641", "--ignore=a", "--ignore=b"]
    )
    assert isinstance(said, ClusterSettings)
    assert (said.sb, said.ignored, said.timeout_s) == ("tcp:10.0.0.5:6642", ("a", "b"), 600)
    both = "ssl:10.0.0.5:6641,ssl:10.0.0.6:6641"
    assert southbound_of(both) == "ssl:10.0.0.5:6642,ssl:10.0.0.6:6642"
    assert southbound_of("unix:/run/ovn/ovnnb_db.sock") == "unix:/run/ovn/ovnsb_db.sock"
    follow = parse_cluster_arguments(["follow", "unix:x", "--agent=127.0.0.1:9180"])
    assert isinstance(follow, FollowSettings) and follow.agent == ("127.0.0.1", 9180)
    for argv, reason in (
        (["enable", "--nb=unix:/x"], "--sb: cannot be told"),
        (["enable", "--nb=10.0.0.5", "--sb=unix:/x"], "--nb: '10.0.0.5'"),
        (["status", "--nb=tcp:1:6641", "--timeout=0"], "--timeout"),
        (["status", "--nb=ssl:1:6641", "--certificate=/c"], "or none of them"),
        (["follow", "x", "--agent=10.0.0.1:1"], "--agent: 10.0.0.1 is not a loopback"),
    ):
        with pytest.raises(SettingsError, match=reason):
            parse_cluster_arguments(argv)


def test_keys_of_an_ssl_remote_that_are_not_there_are_a_named_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may come later: a follower must outlive it."""
    southbound = Southbound("ssl:127.0.0.1:9")
    with pytest.raises(ClusterError, match="CA certificate cannot be used.*check the files"):
        southbound.heard()
    for name in ("ca_cert", "certificate", "private_key"):
        monkeypatch.setattr(ovs.stream.Stream, f"_SSL_{name}_file", str(tmp_path / name))
    with pytest.raises(ClusterError, match="No such file.*check the files"):
        southbound.heard()
