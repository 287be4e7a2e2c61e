"""The texts of appctl: the layout that scripts grep, and the truth in them."""

import ast
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.model.conns import (
    ANY_LOCAL,
    ChildSa,
    Desired,
    Ends,
    GuardCounters,
    GuardMode,
    IkeSa,
    InstalledTunnel,
    Observed,
    ObservedGuard,
    ObservedIke,
    Protocol,
    PskAuth,
    Secret,
    TunnelConfig,
    TunnelView,
    Unobserved,
    WantedTunnel,
)
from ovn_ipsec.model.kernel import Kernel, KernelPolicy, KernelState
from ovn_ipsec.model.snapshot import Snapshot, TunnelState
from ovn_ipsec.status.json_report import json_tunnels
from ovn_ipsec.status.report import (
    TunnelTexts,
    ike_unknown,
    render_ipsec_status,
    render_tunnels,
    render_xfrm_policies,
    render_xfrm_states,
)
from ovn_ipsec.status.snapshot import take_snapshot

NAME = "ovn-ab2a7c-0"
LOCAL, REMOTE = "192.168.7.11", "192.168.7.23"
WALL = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
IN_LINE = (
    f'000 #8: "{NAME}-in-1" esp.30da143@{REMOTE} esp.9b00b718@{LOCAL} '
    "Traffic: ESPin=8MB ESPout=0B! ESPmax=0B"
)
VIEW = TunnelView(
    type="geneve",
    local_ip="%defaultroute",
    remote_ip=REMOTE,
    address_family="IPv4",
    skb_mark=None,
    local_cert="/etc/openvswitch/keys/ipsec-cert.pem",
    local_name="2dc40cb7-845e-4326-9d1d-340f9961d76c",
    local_key="/etc/openvswitch/keys/ipsec-privkey.pem",
    remote_cert=None,
    remote_name="ab2a7cc3-15a3-420b-a81f-d066c38b1c02",
    ca_cert="/etc/openvswitch/keys/ipsec-cacert.pem",
    psk_set=False,
    options={},
    ofport=1,
    cfm_fault=None,
)
CONFIG = TunnelConfig(
    protocol=Protocol.UDP,
    port=6081,
    local=LOCAL,
    remote=REMOTE,
    auth=PskAuth(Secret("swordfish")),
    keywords=(),
)
WANTED = WantedTunnel(NAME, VIEW, CONFIG)
OUT_POLICY = KernelPolicy(f"{LOCAL}/32", f"{REMOTE}/32", "udp", 6081, None, "out")
IN_POLICY = KernelPolicy(f"{REMOTE}/32", f"{LOCAL}/32", "udp", None, 6081, "in")
STATE = KernelState(
    REMOTE, LOCAL, 0x9B00B718, KernelPolicy(f"{REMOTE}/32", f"{LOCAL}/32", "udp", None, 6081, "")
)
CHILD = ChildSa(f"{NAME}-in-1", 8, 1, bytes_in=8_000_000, line=IN_LINE)
IKE = ObservedIke(
    running=True,
    version="Libreswan 4.10",
    loaded=frozenset({f"{NAME}-in-1", f"{NAME}-out-1"}),
    children=(CHILD,),
    kernel=Kernel(frozenset({OUT_POLICY, IN_POLICY}), (STATE,)),
)
BOTH_UP = replace(
    IKE,
    children=(CHILD, ChildSa(f"{NAME}-out-1", 9, 1)),
    kernel=Kernel(
        frozenset(
            policy
            for selector in CONFIG.selectors().values()
            for policy in selector.policies(LOCAL, REMOTE)
        ),
        (STATE,),
    ),
)
GUARD = ObservedGuard(True, True, GuardMode.ENFORCE, counters=GuardCounters(3, 4))


def with_policies(ike: ObservedIke, policies: frozenset[KernelPolicy]) -> ObservedIke:
    return replace(ike, kernel=replace(ike.kernel, policies=policies))


def with_states(ike: ObservedIke, states: tuple[KernelState, ...]) -> ObservedIke:
    return replace(ike, kernel=replace(ike.kernel, states=states))


def observed(ike: ObservedIke | Unobserved = IKE) -> Observed:
    return Observed(ike=ike, installed={}, credentials=(), guard=GUARD)


def snapshot(
    *wanted: WantedTunnel,
    ike: ObservedIke | Unobserved = IKE,
    versions: Mapping[str, int] | None = None,
    ends: Ends = CONFIG,
    errors: Mapping[str, str] | None = None,
    previous: Snapshot | None = None,
    now_s: float = 100.0,
) -> Snapshot:
    return take_snapshot(
        Desired(tunnels={one.name: one for one in wanted}, complete=True),
        observed(ike),
        records={
            name: InstalledTunnel(name, version, "", ends)
            for name, version in ({NAME: 1} if versions is None else versions).items()
        },
        errors=errors or {},
        previous=previous,
        now_s=now_s,
        wall=WALL,
    )


def shown(taken: Snapshot, now_s: float = 101.0, name: str | None = None) -> str:
    text = render_tunnels(taken, now_s, name)
    assert text is not None
    return text


def test_configured_tunnel_is_shown_in_the_layout_of_the_original() -> None:
    expected = f"""\
Interface name: {NAME} v1 (CONFIGURED)
  Tunnel Type:    geneve
  Local IP:       %defaultroute
  Remote IP:      192.168.7.23
  Address Family: IPv4
  SKB mark:       None
  Local cert:     /etc/openvswitch/keys/ipsec-cert.pem
  Local name:     2dc40cb7-845e-4326-9d1d-340f9961d76c
  Local key:      /etc/openvswitch/keys/ipsec-privkey.pem
  Remote cert:    None
  Remote name:    ab2a7cc3-15a3-420b-a81f-d066c38b1c02
  CA cert:        /etc/openvswitch/keys/ipsec-cacert.pem
  PSK:            None
  Custom Options: {{}}
  Ofport:         1
  CFM state:      Disabled
  Not up:         {NAME}-out-1
Kernel policies installed:
  src 192.168.7.11/32 dst 192.168.7.23/32 proto udp sport 6081
Kernel security associations installed:
  sel src 192.168.7.23/32 dst 192.168.7.11/32 proto udp dport 6081
IPsec connections that are active:
  {IN_LINE}

Node:
  State read:     1.0 s ago
  IKE daemon:     running (Libreswan 4.10)
  Guard:          enforce
  Guard drops:    out 3, in 4 (packets without IPsec)
"""
    assert shown(snapshot(WANTED)) == expected


def test_no_tunnels_on_a_healthy_node_is_the_original_sentence_alone() -> None:
    assert shown(snapshot(versions={})) == "No tunnels configured with IPsec\n"


def test_no_tunnels_while_pluto_cannot_be_read_says_so() -> None:
    text = shown(snapshot(versions={}, ike=Unobserved("whack: no answer within 5 s")))
    assert text.startswith("No tunnels configured with IPsec\nNode:\n")
    assert "never read: whack: no answer within 5 s" in text


def test_psk_is_shown_as_set_and_its_value_nowhere() -> None:
    wanted = replace(WANTED, view=replace(VIEW, psk_set=True))
    taken = snapshot(wanted)
    text = shown(taken)
    assert "  PSK:            set\n" in text
    assert "swordfish" not in text + repr(taken) + str(json_tunnels(taken, 101.0))


def test_invalid_tunnel_is_shown_with_its_reason_and_what_still_works_for_it() -> None:
    wanted = WantedTunnel(NAME, VIEW, None, problem="certificate expired on 2026-01-01")
    text = shown(snapshot(wanted))
    assert f"Interface name: {NAME} v1 (INVALID: certificate expired on 2026-01-01)\n" in text
    assert f"  {IN_LINE}\n" in text


def test_states_follow_what_is_wanted_and_installed() -> None:
    new = replace(WANTED, name="new")
    bad = WantedTunnel("bad", VIEW, None, problem="no remote_ip")
    taken = snapshot(WANTED, new, bad, versions={NAME: 1, "gone": 7})
    assert {status.name: (status.state, status.version) for status in taken.tunnels} == {
        NAME: (TunnelState.CONFIGURED, 1),
        "new": (TunnelState.INIT, 0),
        "bad": (TunnelState.INVALID, 0),
        "gone": (TunnelState.REMOVED, 7),
    }
    assert "Interface name: gone v7 (REMOVED)\nKernel policies" in shown(taken)


def test_unreadable_pluto_shows_last_known_state_with_reason_and_age() -> None:
    good = snapshot(WANTED, now_s=100.0)
    stale = snapshot(WANTED, ike=Unobserved("whack: exit 1"), previous=good, now_s=110.0)
    later = snapshot(WANTED, ike=Unobserved("whack: exit 1"), previous=stale, now_s=143.0)
    text = shown(later, now_s=143.5)
    assert f"  {IN_LINE}\n" in text
    assert "src 192.168.7.11/32 dst 192.168.7.23/32" in text
    assert "  Stale:          IKE daemon and kernel SAs: read 43.5 s ago: whack: exit 1\n" in text


def test_unreadable_pluto_from_the_start_is_unknown_never_an_empty_answer() -> None:
    taken = snapshot(WANTED, ike=Unobserved("whack: exit 1"))
    assert ike_unknown(taken) == "whack: exit 1"
    assert ike_unknown(snapshot(WANTED)) is None


def test_up_needs_every_connection_of_the_installed_version() -> None:
    assert snapshot(WANTED, ike=BOTH_UP).tunnels[0].up
    assert not snapshot(WANTED).tunnels[0].up
    assert not snapshot(WANTED, ike=BOTH_UP, versions={NAME: 2}).tunnels[0].up


@pytest.mark.parametrize("problem", [None, "certificate expired"])
@pytest.mark.parametrize("lacking", sorted(BOTH_UP.kernel.policies, key=repr))
@pytest.mark.parametrize("local", [LOCAL, ANY_LOCAL])
def test_connection_whose_policy_was_flushed_is_not_up_whatever_pluto_says(
    problem: str | None, lacking: KernelPolicy, local: str
) -> None:
    wanted = replace(WANTED, config=None if problem else CONFIG, problem=problem)
    ends = replace(CONFIG, local=local)
    assert snapshot(wanted, ike=BOTH_UP, ends=ends).tunnels[0].encrypted
    role = "in" if lacking in (IN_POLICY, OUT_POLICY) else "out"
    ike = with_policies(BOTH_UP, BOTH_UP.kernel.policies - {lacking})
    status = snapshot(wanted, ike=ike, ends=ends).tunnels[0]
    assert status.missing == (f"{NAME}-{role}-1",)
    assert not status.encrypted
    flushed = snapshot(wanted, ike=with_policies(BOTH_UP, frozenset()), ends=ends).tunnels[0]
    assert flushed.missing == (f"{NAME}-in-1", f"{NAME}-out-1")


def test_policies_of_either_family_are_those_of_the_tunnel() -> None:
    six = replace(CONFIG, local="fd00::11", remote="fd00:0::23")
    wanted = replace(WANTED, config=None, problem="certificate expired")
    policies = frozenset(
        policy
        for selector in six.selectors().values()
        for policy in selector.policies("fd00::11", "fd00::23")
    )
    ike = with_policies(BOTH_UP, policies)
    assert snapshot(wanted, ike=ike, ends=six).tunnels[0].encrypted
    assert not snapshot(wanted, ike=BOTH_UP, ends=six).tunnels[0].encrypted


def test_invalid_tunnel_is_encrypted_only_while_all_that_it_keeps_is_up() -> None:
    invalid = WantedTunnel(NAME, VIEW, None, problem="certificate expired on 2026-01-01")
    up = snapshot(invalid, ike=BOTH_UP)
    assert up.tunnels[0].encrypted
    half = snapshot(invalid).tunnels[0]
    assert half.missing == (f"{NAME}-out-1",)
    assert not half.encrypted
    gone = snapshot(invalid, ike=replace(BOTH_UP, children=(), loaded=frozenset()))
    assert gone.tunnels[0].unloaded == (f"{NAME}-in-1", f"{NAME}-out-1")
    assert not gone.tunnels[0].encrypted
    unread = snapshot(invalid, ike=Unobserved("whack: exit 1"), previous=snapshot(invalid))
    assert not unread.tunnels[0].encrypted
    new = snapshot(invalid, ike=BOTH_UP, versions={})
    assert (new.tunnels[0].encrypted, new.tunnels[0].missing) == (False, ())
    withdrawn = snapshot(replace(invalid, withdrawn=True))
    assert withdrawn.tunnels[0].missing == ()


def test_tunnels_whose_names_end_like_a_role_are_told_apart() -> None:
    gre = replace(CONFIG, protocol=Protocol.GRE, port=None)
    ends = {"x": gre, "x-in": replace(gre, remote="192.168.7.24")}
    (selector,) = gre.selectors().values()
    foreign = ChildSa("x-out-1", 20, 1)
    ike = ObservedIke(
        running=True,
        loaded=frozenset({"x-1", "x-in-1", "x-out-1"}),
        children=(ChildSa("x-1", 8, 1), ChildSa("x-in-1", 9, 1), foreign),
        ike_sas=(IkeSa("x-1", 7, True), IkeSa("x-in-1", None, False)),
        kernel=Kernel(
            frozenset(
                policy
                for conf in ends.values()
                for policy in selector.policies(conf.local, conf.remote)
            )
        ),
    )
    taken = take_snapshot(
        Desired(tunnels={n: WantedTunnel(n, VIEW, c) for n, c in ends.items()}, complete=True),
        observed(ike),
        records={name: InstalledTunnel(name, 1, "", conf) for name, conf in ends.items()},
        errors={},
        previous=None,
        now_s=1.0,
        wall=WALL,
    )
    own = {s.name: [active.name for active in s.connections] for s in taken.tunnels}
    assert own == {"x": ["x-1"], "x-in": ["x-in-1"]}
    assert [status.encrypted for status in taken.tunnels] == [True, True]
    assert [(s.ike_up, s.negotiating) for s in taken.tunnels] == [(True, False), (False, True)]


def test_connection_whose_states_were_flushed_is_not_up_whatever_pluto_says() -> None:
    out = ChildSa(f"{NAME}-out-1", 9, 1, spi_in=0xABC, spi_out=0xDEF)
    both = replace(BOTH_UP, children=(replace(CHILD, spi_in=STATE.spi), out))
    flushed = snapshot(WANTED, ike=both)
    assert flushed.tunnels[0].missing == (f"{NAME}-out-1",)
    unread = snapshot(WANTED, ike=Unobserved("whack: exit 1"), previous=flushed)
    assert not unread.tunnels[0].up
    there = (KernelState(REMOTE, LOCAL, 0xABC), KernelState(LOCAL, REMOTE, 0xDEF))
    assert snapshot(WANTED, ike=with_states(both, (STATE, *there))).tunnels[0].up
    elsewhere = (there[0], KernelState(LOCAL, "192.0.2.9", 0xDEF))  # SPIs are the receiver's own
    assert not snapshot(WANTED, ike=with_states(both, (STATE, *elsewhere))).tunnels[0].up


def test_rekey_with_two_child_sas_lists_the_connection_once_with_the_newest() -> None:
    newer = replace(CHILD, serial=12, line=IN_LINE.replace("#8", "#12"), spi_in=0xBEEF)
    taken = snapshot(WANTED, ike=replace(IKE, children=(newer, CHILD)))
    (active,) = taken.tunnels[0].connections
    assert (active.line, active.spi_in) == (newer.line, newer.spi_in)


def test_foreign_connections_and_policies_are_in_nobodys_block() -> None:
    foreign = ChildSa("office-1", 99, 98, line='000 #99: "office-1" ...')
    other_port = replace(OUT_POLICY, sport=4789)
    there = with_policies(IKE, IKE.kernel.policies | {other_port})
    ike = replace(there, children=(CHILD, foreign))
    taken = snapshot(WANTED, ike=ike)
    assert "office-1" not in shown(taken) + render_ipsec_status(taken, 101.0)
    assert "4789" not in shown(taken)
    assert "4789" in render_xfrm_policies(taken, 101.0)


def test_guard_that_only_counts_does_not_claim_to_drop() -> None:
    taken = snapshot(WANTED)
    assert taken.guard is not None
    audit = replace(taken, guard=replace(taken.guard, mode=GuardMode.AUDIT))
    assert "  Guard counted:  out 3, in 4 (packets without IPsec, let pass)\n" in shown(audit)
    assert "Guard drops" not in shown(audit)


def test_guard_that_is_gone_or_changed_is_told_even_without_tunnels() -> None:
    taken = snapshot(versions={})
    assert taken.guard is not None
    gone = replace(taken, guard=replace(taken.guard, present=False))
    changed = replace(taken, guard=replace(taken.guard, intact=False))
    assert "  Guard:          absent\n" in shown(gone)
    assert "  Guard:          enforce, changed by somebody else\n" in shown(changed)


def test_last_error_and_warnings_stand_among_the_fields() -> None:
    wanted = replace(WANTED, warnings=("ipsec_foo: unknown, ignored",))
    text = shown(snapshot(wanted, errors={NAME: "addconn: exit code 1"}))
    assert "  Warning:        ipsec_foo: unknown, ignored\n" in text
    assert "  Last error:     addconn: exit code 1\n" in text
    assert text.index("Last error") < text.index("Kernel policies installed:")


def test_one_tunnel_by_name_and_an_unknown_name() -> None:
    other = replace(WANTED, name="other")
    taken = snapshot(WANTED, other)
    assert shown(taken, name="other").count("Interface name:") == 1
    assert render_tunnels(taken, 101.0, "nobody") is None
    assert json_tunnels(taken, 101.0, "nobody") is None


def test_texts_kept_for_the_next_answer_are_those_of_the_tunnels_as_they_are_now() -> None:
    texts = TunnelTexts()
    other = replace(WANTED, name="other")
    for taken in (
        snapshot(WANTED, other),
        snapshot(WANTED, other, errors={NAME: "addconn: exit code 1"}),
        snapshot(WANTED),
        snapshot(WANTED, replace(other, warnings=("ipsec_foo: unknown, ignored",))),
    ):
        assert render_tunnels(taken, 101.0, texts=texts) == shown(taken)


def test_dict_answers_are_python_literals() -> None:
    taken = snapshot(WANTED)
    assert ast.literal_eval(render_ipsec_status(taken, 101.0)) == {NAME: {f"{NAME}-in-1": IN_LINE}}
    assert ast.literal_eval(render_xfrm_policies(taken, 101.0)) == {
        LOCAL: ["src 192.168.7.23/32 dst 192.168.7.11/32 proto udp dport 6081"],
        REMOTE: ["src 192.168.7.11/32 dst 192.168.7.23/32 proto udp sport 6081"],
    }
    line = "sel src 192.168.7.23/32 dst 192.168.7.11/32 proto udp dport 6081"
    assert ast.literal_eval(render_xfrm_states(taken, 101.0)) == {LOCAL: [line], REMOTE: [line]}
    assert render_ipsec_status(snapshot(versions={}), 101.0) == "{}\n"


def test_old_dict_answer_states_its_age_and_stays_a_literal() -> None:
    text = render_ipsec_status(snapshot(WANTED), 160.0)
    assert text.endswith("# read 60.0 s ago\n")
    assert list(ast.literal_eval(text)) == [NAME]


@pytest.mark.parametrize(
    ("local", "remote"), [("fd00::11", "fd00::23"), ("fd00:0::11", "FD00::23")]
)
def test_ipv6_policies_match_whatever_the_spelling(local: str, remote: str) -> None:
    config = replace(CONFIG, local=local, remote=remote)
    policy = KernelPolicy("fd00::11/128", "fd00::23/128", "udp", None, 6081, "out")
    taken = snapshot(replace(WANTED, config=config), ike=with_policies(IKE, frozenset({policy})))
    assert taken.tunnels[0].policies == (policy,)


@given(text=st.text(max_size=60))
def test_no_value_from_ovsdb_can_add_a_line(text: str) -> None:
    view = replace(VIEW, type=text, local_ip=text, remote_name=text, options={text: text})
    wanted = WantedTunnel(NAME, view, None, problem=text or "x", warnings=(text,))
    plain = WantedTunnel(NAME, VIEW, None, problem="x", warnings=("w",))
    errors = {NAME: text}
    assert len(shown(snapshot(wanted, errors=errors)).splitlines()) == len(
        shown(snapshot(plain, errors=errors | {NAME: "e"})).splitlines()
    )
