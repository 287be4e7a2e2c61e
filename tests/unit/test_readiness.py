"""When a node is ready, and what it says when it is not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from ovn_ipsec.model.conns import (
    ChildSa,
    Desired,
    Guard,
    GuardMode,
    IkeSa,
    InstalledTunnel,
    Observed,
    ObservedGuard,
    ObservedIke,
    OwnCertificate,
    TunnelConfig,
    Unobserved,
    WantedTunnel,
    connection_name,
)
from ovn_ipsec.model.evidence import Evidence, Failure, Symptom
from ovn_ipsec.model.kernel import Kernel, KernelState
from ovn_ipsec.model.snapshot import Snapshot
from ovn_ipsec.settings import ReadyWhen
from ovn_ipsec.status.causes import diagnose
from ovn_ipsec.status.readiness import (
    PATIENCE_S,
    PeerState,
    Readiness,
    json_readiness,
    readiness,
    render_readiness,
    started,
)
from ovn_ipsec.status.snapshot import redate, take_snapshot
from tests.unit.world import config, wanted

WALL = datetime(2026, 1, 2, tzinfo=UTC)
GUARD = ObservedGuard(present=True, intact=True, mode=GuardMode.ENFORCE)
CERTIFICATE = OwnCertificate("node-1", datetime(2031, 1, 1, tzinfo=UTC))


def tunnel(number: int) -> WantedTunnel:
    conf = config(number % 250 + 1)
    made = wanted(f"ovn-{number}", conf)
    return replace(made, view=replace(made.view, remote_ip=conf.remote))


def names(number: int) -> tuple[str, ...]:
    return tuple(connection_name(f"ovn-{number}", role, 1) for role in ("in", "out"))


class Node:
    """A node's life, one look at a time."""

    def __init__(self, *tunnels: WantedTunnel) -> None:
        self.desired = Desired(
            tunnels={one.name: one for one in tunnels},
            guard=Guard(GuardMode.ENFORCE, frozenset()),
            complete=True,
            certificate=CERTIFICATE,
        )
        self.guard: ObservedGuard | Unobserved = GUARD
        self.now_s = 100.0
        self.snapshot: Snapshot | None = None
        self.records = {
            one.name: InstalledTunnel(one.name, 1, one.config.digest, one.config)
            for one in tunnels
            if one.config
        }
        self.evidence = Evidence()

    def look(self, ike: ObservedIke | Unobserved, after_s: float = 1.0) -> Readiness:
        self.now_s += after_s
        self.snapshot = take_snapshot(
            self.desired,
            self.observed(ike),
            records=self.records,
            errors={},
            previous=self.snapshot,
            now_s=self.now_s,
            wall=WALL,
        )
        self.snapshot = diagnose(self.snapshot, self.evidence)
        return self.verdict()

    def observed(self, ike: ObservedIke | Unobserved) -> Observed:
        return Observed(ike=ike, installed={}, credentials=(), guard=self.guard)

    def log(self, number: int, symptom: Symptom) -> None:
        """What pluto's log tells of a tunnel at the next look, a second later."""
        failure = Failure(symptom, "", self.now_s + 1)
        self.evidence = Evidence({f"ovn-{number}": failure})

    def verdict(self, when: ReadyWhen = ReadyWhen.ANSWERING) -> Readiness:
        assert self.snapshot is not None
        return readiness(self.snapshot, self.now_s, when)


def pluto(
    up: Iterable[int] = (),
    loaded: Iterable[int] = (),
    sas: Iterable[IkeSa] = (),
    states: Iterable[KernelState] = (),
) -> ObservedIke:
    children = [
        ChildSa(name, serial, 1)
        for serial, name in enumerate(name for number in up for name in names(number))
    ]
    known = frozenset(name for number in (*up, *loaded) for name in names(number))
    policies = frozenset(
        policy
        for number in up
        for conf in [config(number % 250 + 1)]
        for selector in conf.selectors().values()
        for policy in selector.policies(conf.local, conf.remote)
    )
    return ObservedIke(
        running=True,
        loaded=known,
        children=tuple(children),
        ike_sas=tuple(sas),
        kernel=Kernel(policies, tuple(states)),
    )


def left_over(number: int) -> KernelState:
    conf = tunnel(number).config
    assert isinstance(conf, TunnelConfig)
    return KernelState(conf.remote, conf.local, 0x1000 + number)


def trying(number: int) -> IkeSa:
    return IkeSa(names(number)[0], None, False, initiator=True)


def test_node_is_ready_when_all_is_up() -> None:
    verdict = Node(tunnel(1), tunnel(2)).look(pluto(up=(1, 2)))
    assert (verdict.ready, verdict.reasons) == (True, ())
    assert len(verdict.named(PeerState.ENCRYPTED)) == 2


def test_silent_chassis_is_named_and_holds_up_nobody_but_an_installation() -> None:
    node = Node(tunnel(1), tunnel(2))
    assert not node.look(pluto(up=(1,), loaded=(2,), sas=[trying(2)])).ready
    verdict = node.look(pluto(up=(1,), loaded=(2,), sas=[trying(2)]), after_s=4)
    assert verdict.ready
    assert node.snapshot is not None
    assert "silent: ovn-2 (10.0.0.3)" in render_readiness(verdict, node.snapshot)
    assert not node.verdict(ReadyWhen.ALL).ready


def test_chassis_that_loses_power_makes_nobody_unready() -> None:
    node = Node(tunnel(1), tunnel(2))
    assert node.look(pluto(up=(1, 2))).ready
    # DPD has found it dead: IKE and child SAs are gone, and it takes a while to ask again.
    assert node.look(pluto(up=(1,), loaded=(2,)), after_s=30).ready
    assert node.look(pluto(up=(1,), loaded=(2,)), after_s=50).ready
    for _ in range(5):
        for _ in range(3):
            assert node.look(pluto(up=(1,), loaded=(2,), sas=[trying(2)]), after_s=4).ready
        # pluto gives up, and is told to try again 5 minutes later.
        assert node.look(pluto(up=(1,), loaded=(2,)), after_s=300).ready


def test_peer_that_refuses_is_not_taken_for_silent() -> None:
    node = Node(tunnel(1), tunnel(2))
    for _ in range(20):
        # What is seen of an attempt, if at all: it ends before the next look.
        assert not node.look(pluto(up=(1,), loaded=(2,), sas=[trying(2)]), after_s=20).ready
        assert not node.look(pluto(up=(1,), loaded=(2,)), after_s=1).ready
    assert node.verdict().named(PeerState.UNCLEAR)
    # Also when it worked before: a certificate that no peer accepts any more.
    assert node.look(pluto(up=(1, 2))).ready
    node.look(pluto(up=(1,), loaded=(2,)))
    assert not node.look(pluto(up=(1,), loaded=(2,)), after_s=70).ready


def test_peer_that_answers_and_is_not_encrypted_makes_the_node_unready() -> None:
    for sa in (
        IkeSa(names(2)[0], 7, True),
        IkeSa(names(2)[0], None, False, initiator=False),
        IkeSa(names(2)[0], None, False, initiator=True, replied=True),
    ):
        node = Node(tunnel(1), tunnel(2))
        verdict = node.look(pluto(up=(1,), loaded=(2,), sas=[sa]))
        assert not verdict.ready
        assert "1 tunnel answers IKE and is not encrypted: ovn-2" in verdict.reasons[0]
        # Between two attempts there is no IKE SA to see.
        verdict = node.look(pluto(up=(1,), loaded=(2,)), after_s=20)
        assert verdict.named(PeerState.ANSWERING)
        node.look(pluto(up=(1,), loaded=(2,), sas=[trying(2)]), after_s=60)
        assert node.look(pluto(up=(1,), loaded=(2,), sas=[trying(2)]), after_s=4).ready


def test_peer_that_was_silent_and_now_refuses_by_the_log_is_not_silent_any_more() -> None:
    node = Node(tunnel(1), tunnel(2))
    dead = pluto(up=(1,), loaded=(2,), sas=[trying(2)])
    gone = pluto(up=(1,), loaded=(2,))
    node.look(dead)
    assert node.look(dead, after_s=10).ready
    node.log(2, Symptom.REJECTED)
    verdict = node.look(gone)
    assert verdict.named(PeerState.ANSWERING)
    # Nor later: the silence was before the refusal.
    assert node.look(gone, after_s=90).named(PeerState.UNCLEAR)
    # Until it is silent again, and without power.
    node.evidence = Evidence()
    node.look(dead, after_s=100)
    assert node.look(dead, after_s=4).ready


def test_refusal_right_after_the_loss_of_a_tunnel_is_no_loss_of_power() -> None:
    node = Node(tunnel(1), tunnel(2))
    assert node.look(pluto(up=(1, 2))).ready
    gone = pluto(up=(1,), loaded=(2,))
    assert node.look(gone).ready
    # It boots, and does not know its connections yet.
    node.log(2, Symptom.OFFER_REFUSED)
    assert node.look(gone).ready
    node.log(2, Symptom.ISSUER_UNKNOWN)
    assert not node.look(gone).ready
    assert node.look(pluto(up=(1, 2))).ready
    # That is over: what the log said before counts no more.
    node.evidence = Evidence()
    assert node.look(gone).ready


def test_peers_of_before_the_restart_are_waited_for() -> None:
    node = Node(tunnel(1), tunnel(2))
    # pluto is new and has no SA, the kernel has those of the pluto before.
    states = [left_over(1), left_over(2)]
    assert not node.look(pluto(loaded=(1, 2), states=states)).ready
    verdict = node.look(pluto(up=(1,), loaded=(2,)), after_s=20)
    assert "was encrypted before the restart and is not: ovn-2" in verdict.reasons[0]
    assert node.look(pluto(up=(1, 2))).ready


def test_peer_that_died_during_the_restart_is_waited_for_some_minutes() -> None:
    node = Node(tunnel(1), tunnel(2))
    node.look(pluto(loaded=(1, 2), states=[left_over(1), left_over(2)]))
    assert not node.look(pluto(up=(1,), loaded=(2,)), after_s=PATIENCE_S - 10).ready
    dead = pluto(up=(1,), loaded=(2,), sas=[trying(2)])
    node.look(dead, after_s=10)
    assert node.look(dead, after_s=10).ready


def test_node_that_gets_nobody_back_after_the_restart_never_becomes_ready() -> None:
    node = Node(tunnel(1), tunnel(2))
    node.look(pluto(loaded=(1, 2), states=[left_over(1), left_over(2)]))
    assert not node.look(pluto(loaded=(1, 2)), after_s=10 * PATIENCE_S).ready


def test_connections_that_pluto_lacks_and_rows_that_cannot_be_had_make_unready() -> None:
    node = Node(tunnel(1), tunnel(2), wanted("ovn-3", None, "ipsec_esp: null is refused"))
    verdict = node.look(pluto(up=(1,)))
    assert verdict.reasons == (
        "1 tunnel not loaded: ovn-2 (10.0.0.3)",
        "1 tunnel cannot be configured: ovn-3 (10.0.0.2): ipsec_esp: null is refused",
    )


def test_peer_of_a_row_that_cannot_be_had_is_encrypted_only_while_the_kernel_has_its_sas() -> None:
    node = Node(tunnel(1), tunnel(2))
    assert node.look(pluto(up=(1, 2))).ready
    row = replace(tunnel(2), config=None, problem="no certificate")
    node.desired = replace(node.desired, tunnels={**node.desired.tunnels, "ovn-2": row})
    assert len(node.look(pluto(up=(1, 2))).named(PeerState.ENCRYPTED)) == 2
    flushed = replace(pluto(up=(1, 2)), kernel=pluto(up=(1,)).kernel)
    verdict = node.look(flushed)
    assert verdict.reasons == ("1 tunnel cannot be configured: ovn-2 (10.0.0.3): no certificate",)
    assert node.snapshot is not None
    assert json_readiness(verdict, node.snapshot, node.now_s)["unencrypted"] == ["ovn-2"]


def test_peer_that_is_revoked_is_not_waited_for() -> None:
    revoked = replace(wanted("ovn-2", None, "peer node-2 is revoked"), withdrawn=True)
    assert Node(tunnel(1), revoked).look(pluto(up=(1,))).ready


def test_each_thing_that_is_wrong_with_the_node_is_told() -> None:
    def reasons(node: Node, ike: ObservedIke | Unobserved = pluto(up=(1,))) -> str:  # noqa: B008 (a constant)
        verdict = node.look(ike)
        assert not verdict.ready
        return " ".join(verdict.reasons)

    node = Node(tunnel(1))
    node.guard = ObservedGuard(present=False, intact=False)
    assert "guard: absent" in reasons(node)
    node.guard = Unobserved("nft is gone")
    assert "guard: its table cannot be read" in reasons(node)
    node.guard = replace(GUARD, mode=GuardMode.AUDIT)
    assert "guard: audit instead of enforce" in reasons(node)

    node = Node(tunnel(1))
    assert "IKE daemon: does not answer: no answer within 10 s" in reasons(
        node, Unobserved("no answer within 10 s")
    )
    assert "IKE daemon: not running" in reasons(node, ObservedIke(running=False))

    node = Node(tunnel(1))
    expired = OwnCertificate(None, WALL, "certificate 'c.pem' expired; renew it")
    node.desired = replace(node.desired, certificate=expired)
    assert "own certificate: certificate 'c.pem' expired" in reasons(node)


def test_guard_that_is_switched_off_is_not_missed() -> None:
    node = Node(tunnel(1))
    node.desired = replace(node.desired, guard=Guard(GuardMode.OFF, frozenset()))
    node.guard = ObservedGuard(present=False, intact=False)
    assert node.look(pluto(up=(1,))).ready


def test_guard_is_told_as_off_only_where_its_table_was_read_and_is_absent() -> None:
    node = Node(tunnel(1))

    def told(guard: ObservedGuard | Unobserved) -> object:
        node.guard = guard
        verdict = node.look(pluto(up=(1,)))
        assert node.snapshot is not None
        return json_readiness(verdict, node.snapshot, node.now_s)["guard"]

    assert told(Unobserved("not read yet")) is None
    assert told(ObservedGuard(present=False, intact=False)) == "off"
    assert told(GUARD) == "enforce"
    assert told(replace(GUARD, intact=False)) is None
    assert told(Unobserved("nft is gone")) is None, "what it was last says nothing of now"
    assert told(replace(GUARD, mode=GuardMode.AUDIT)) == "audit"


def test_old_snapshot_is_not_ready() -> None:
    node = Node(tunnel(1))
    assert node.look(pluto(up=(1,))).ready
    node.now_s += 300
    assert "last looked at 300 s ago" in node.verdict().reasons[0]
    assert node.snapshot is not None
    node.snapshot = redate(node.snapshot, node.observed(pluto(up=(1,))), node.now_s, WALL)
    assert node.verdict().ready


def test_started_is_when_sources_have_reported_and_pluto_has_been_read() -> None:
    node = Node(tunnel(1))
    whole = node.desired
    node.desired = Desired(problems=("OVSDB unix:db: no such socket",))
    node.look(pluto())
    assert node.snapshot is not None
    assert "OVSDB unix:db: no such socket" in started(node.snapshot)
    node.desired = whole
    node.look(Unobserved("no answer"))
    assert started(node.snapshot) == ("IKE daemon and kernel SAs: no answer",)
    node.look(pluto(loaded=(1,), states=[left_over(1)]))
    assert started(node.snapshot) == ()
    # What was there before is what the first look that worked has seen.
    assert node.verdict().named(PeerState.LOST)


def test_body_for_500_peers_is_bounded_and_one_line_per_statement() -> None:
    tunnels = [tunnel(number) for number in range(500)]
    evil = wanted("ovn-x\nready", None, "x" * 10_000)
    node = Node(*tunnels, evil)
    verdict = node.look(pluto(loaded=range(250), up=range(400, 500)))
    assert node.snapshot is not None
    text = render_readiness(verdict, node.snapshot)
    assert len(text) < 8000 and "and 140 more" in text
    assert [line for line in text.splitlines() if line.startswith("ready")] == []
    value = json_readiness(verdict, node.snapshot, node.now_s)
    read = value.pop("read")
    assert isinstance(read, dict) and len(read) == 501, "each row, for who has to know all"
    assert read["ovn-1"] == "10.0.0.2"
    assert len(json.dumps(value)) < 8000
    assert value["tunnels"] == {
        "wanted": 501,
        "revoked": 0,
        "encrypted": 100,
        "silent": 0,
        "unclear": 250,
        "answering": 0,
        "lost": 0,
        "not_loaded": 150,
        "invalid": 1,
    }
