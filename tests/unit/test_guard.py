"""What rows make of the guard, and how a guard becomes a table and is read back."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovn_ipsec.desired.guard import GENEVE, GuardRules, build_guard
from ovn_ipsec.drivers.nftables_rules import TABLE
from ovn_ipsec.drivers.nftables_text import (
    parse_listing,
    parse_rendering,
    read_guard,
    render_guard,
)
from ovn_ipsec.model.conns import (
    Guard,
    GuardCounters,
    GuardMode,
    GuardPort,
    GuardTuple,
    Protocol,
)
from ovn_ipsec.model.facts import Facts, NodeFact, TunnelFact

UDP, GRE = Protocol.UDP, Protocol.GRE
VXLAN = GuardPort(UDP, 4789)
ZERO = GuardCounters(0, 0)


def row(name: str, type_: str, *, datapath: str = "system", **options: str) -> TunnelFact:
    return TunnelFact(name, type_, options, datapath_type=datapath)


def rules(
    *rows: TunnelFact,
    mode: GuardMode = GuardMode.ENFORCE,
    ports: frozenset[GuardPort] = frozenset(),
    allow: frozenset[GuardPort] = frozenset(),
    offload: bool = False,
    **other_config: str,
) -> GuardRules:
    config = {
        key.replace("_", "-") if key == "hw_offload" else key: value
        for key, value in other_config.items()
    }
    return build_guard(
        Facts(in_sync=True, node=NodeFact(other_config=config), tunnels=rows),
        mode=mode,
        guard_ports=ports,
        allow_plain=allow,
        allow_hw_offload=offload,
    )


def test_without_rows_geneve_is_closed_to_everybody() -> None:
    assert rules().guard == Guard(GuardMode.ENFORCE, frozenset({GENEVE}))


@pytest.mark.parametrize(
    ("tunnel", "closed"),
    [
        (row("t", "vxlan", remote_ip="10.0.0.2", psk="x"), GuardTuple("10.0.0.2", UDP, 4789)),
        (row("t", "gre", remote_ip="fd00:0::2", psk="x"), GuardTuple("fd00::2", GRE, None)),
        (
            row("t", "geneve", remote_ip="10.0.0.2", remote_name="b", dst_port="7000"),
            GuardTuple("10.0.0.2", UDP, 7000),
        ),
        (
            row("t", "stt", remote_ip="::ffff:10.0.0.2", remote_cert=""),
            GuardTuple("10.0.0.2", Protocol.TCP, 7471),
        ),
        (
            row("t", "vxlan", remote_ip="fe80::1%eth0", psk="", local_ip="nonsense"),
            GuardTuple("fe80::1", UDP, 4789),
        ),
    ],
)
def test_row_with_ipsec_closes_its_peer_whatever_else_is_wrong(
    tunnel: TunnelFact, closed: GuardTuple
) -> None:
    assert rules(tunnel).guard.closed_peers == {closed}


@pytest.mark.parametrize("dst_port", ["x", "", "0", "70000", "-1", "500", "4500"])
def test_bad_port_closes_the_usual_one_and_never_ike(dst_port: str) -> None:
    closed = rules(row("t", "vxlan", remote_ip="10.0.0.2", psk="x", dst_port=dst_port))
    ports = {entry.port for entry in closed.guard.closed_peers}
    assert 4789 in ports
    assert not ports & {0, 500, 4500}


@pytest.mark.parametrize("remote_ip", ["flow", "", "peer.example", "10.0.0"])
def test_row_with_ipsec_and_no_address_closes_its_port_to_everybody(remote_ip: str) -> None:
    built = rules(row("t", "vxlan", remote_ip=remote_ip, psk="x"))
    assert VXLAN in built.guard.closed_ports
    assert "udp/4789 is closed to everybody" in built.warnings["t"]


def test_plain_row_with_a_literal_address_exempts_its_tuple_alone() -> None:
    built = rules(
        row("p", "geneve", remote_ip="10.0.0.3", local_ip="10.0.0.1"),
        row("q", "geneve", remote_ip="10.0.0.4", local_ip="flow"),
        row("v", "vxlan", remote_ip="10.0.0.3"),
    )
    assert built.guard.exempt == {
        GuardTuple("10.0.0.3", UDP, 6081, "10.0.0.1"),
        GuardTuple("10.0.0.4", UDP, 6081),
    }


def test_closed_wins_over_a_plain_row_to_the_same_peer() -> None:
    built = rules(
        row("p", "geneve", remote_ip="10.0.0.3"),
        row("t", "geneve", remote_ip="10.0.0.3", local_ip="10.0.0.1", psk="x"),
    )
    assert built.guard.exempt == frozenset()
    assert "another tunnel to 10.0.0.3" in built.warnings["p"]


@pytest.mark.parametrize(
    "options",
    [
        {"remote_ip": "flow"},
        {"remote_ip": "peer"},
        {},
        {"remote_ip": "10.0.0.3", "local_ip": "here"},
    ],
)
def test_plain_row_without_numeric_addresses_exempts_nothing(options: dict[str, str]) -> None:
    built = rules(row("p", "geneve", **options))
    assert built.guard == rules().guard
    assert "stays closed" in built.warnings["p"]


def test_allowed_port_opens_for_a_flow_row_but_not_for_peers_with_ipsec() -> None:
    flow = row("p", "geneve", remote_ip="flow")
    secured = row("t", "geneve", remote_ip="10.0.0.2", psk="x")
    built = rules(flow, secured, allow=frozenset({GENEVE}))
    assert built.guard.closed_ports == frozenset()
    assert built.guard.closed_peers == {GuardTuple("10.0.0.2", UDP, 6081)}
    assert rules(secured, allow=frozenset({GENEVE})).guard.closed_ports == {GENEVE}
    assert rules(flow, allow=frozenset({GENEVE}), ports=frozenset({GENEVE})).guard == rules().guard


def test_peers_of_a_port_that_is_closed_to_everybody_need_no_entries() -> None:
    rows = [row(f"t{n}", "geneve", remote_ip=f"10.0.0.{n}", psk="x") for n in range(1, 50)]
    assert rules(*rows).guard == rules().guard


def test_peers_of_several_ports_are_all_closed_where_one_of_them_is_closed_to_everybody() -> None:
    both = row("a", "geneve", remote_ip="10.0.0.2", psk="x", dst_port="5555x")
    other = row("b", "geneve", remote_ip="10.0.0.3", psk="x", dst_port="5555")
    closed = {GuardTuple("10.0.0.2", UDP, 5555), GuardTuple("10.0.0.3", UDP, 5555)}
    assert rules(both, other).guard.closed_peers == closed


def test_enforce_always_exempts_nothing() -> None:
    built = rules(
        row("p", "geneve", remote_ip="10.0.0.3"),
        row("q", "geneve", remote_ip="flow"),
        mode=GuardMode.ENFORCE_ALWAYS,
        allow=frozenset({GENEVE}),
    )
    assert built.guard == Guard(GuardMode.ENFORCE_ALWAYS, frozenset({GENEVE}))


def test_userspace_datapath_and_offload_are_told_of_rows_with_ipsec() -> None:
    userspace = row("u", "geneve", datapath="netdev", remote_ip="10.0.0.2", psk="x")
    kernel = row("k", "geneve", remote_ip="10.0.0.4", psk="x")
    plain = row("p", "geneve", remote_ip="10.0.0.3", datapath="netdev")
    told = rules(userspace, kernel, plain, hw_offload="true").invalid
    assert told["u"].startswith("userspace datapath: neither IPsec nor guard applies")
    assert told["k"].startswith("hw-offload=true")
    assert "p" not in told
    assert set(rules(userspace, kernel, hw_offload="true", offload=True).invalid) == {"u"}


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("0/1", (0, 1)),
        ("0x10/0xF0", (16, 240)),
        ("7", (7, 0xFFFFFFFF)),
        ("2/1", None),
        ("", None),
        ("1/", None),
        ("99999999999/1", None),
        ("1/1\n", None),
    ],
)
def test_skb_mark_is_read_or_reported(text: str, mark: tuple[int, int] | None) -> None:
    built = rules(ipsec_skb_mark=text)
    assert built.guard.skb_mark == mark
    assert bool(built.problems) == (mark is None)


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(
    lambda address: getattr(address, "ipv4_mapped", None) is None
)
PORTS = st.one_of(
    st.builds(GuardPort, st.sampled_from([UDP, Protocol.TCP]), st.integers(1, 65535)),
    st.just(GuardPort(GRE, None)),
)


@st.composite
def tuples(draw: st.DrawFn) -> GuardTuple:
    port, remote = draw(PORTS), draw(ADDRESSES)
    local = draw(
        st.none()
        | st.ip_addresses(v=remote.version).filter(
            lambda address: getattr(address, "ipv4_mapped", None) is None
        )
    )
    return GuardTuple(str(remote), port.protocol, port.port, None if local is None else str(local))


@st.composite
def marks(draw: st.DrawFn) -> tuple[int, int]:
    mask = draw(st.integers(0, 0xFFFFFFFF))
    return draw(st.integers(0, 0xFFFFFFFF)) & mask, mask


def guards() -> st.SearchStrategy[Guard]:
    return st.builds(
        Guard,
        mode=st.sampled_from([mode for mode in GuardMode if mode is not GuardMode.OFF]),
        closed_ports=st.frozensets(PORTS, max_size=4),
        closed_peers=st.frozensets(tuples(), max_size=6),
        exempt=st.frozensets(tuples(), max_size=6),
        skb_mark=st.none() | marks(),
    )


def listed(guard: Guard, *more: dict[str, object]) -> str:
    """As nft lists it: with handles, and every set and anonymous set in another order."""
    entries = []
    for at, command in enumerate(json.loads(render_guard(guard, ZERO))["nftables"][2:]):
        ((kind, body),) = command["add"].items()
        if "elem" in body:
            body["elem"].reverse()
        entries.append({kind: body | {"handle": at}})
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *entries, *more]})


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(guards())
def test_guard_is_read_back_from_its_table(guard: Guard) -> None:
    assert read_guard(parse_listing(listed(guard))) == guard
    assert parse_rendering(render_guard(guard, GuardCounters(3, 4))) == guard


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(guards(), guards())
def test_different_guards_have_different_tables(one: Guard, other: Guard) -> None:
    same = parse_listing(listed(one)) == parse_listing(listed(other))
    assert same == (one == other)


@pytest.mark.parametrize(
    "foreign",
    [
        {
            "rule": {
                "family": "inet",
                "table": TABLE,
                "chain": "judge_out",
                "expr": [{"accept": None}],
            }
        },
        {
            "set": {
                "family": "inet",
                "table": TABLE,
                "name": "x",
                "type": "ifname",
                "elem": ["eth0"],
            }
        },
        {"chain": {"family": "inet", "table": TABLE, "name": "x"}},
        {"set": {"family": "inet", "table": TABLE, "name": "closed_gre_4", "type": "ipv4_addr"}},
    ],
)
def test_foreign_object_in_the_table_is_noticed(foreign: dict[str, object]) -> None:
    assert read_guard(parse_listing(listed(rules().guard, foreign))) is None


def test_missing_rule_is_noticed() -> None:
    text = listed(rules().guard)
    entries = json.loads(text)["nftables"]
    at = [number for number, entry in enumerate(entries) if "rule" in entry]
    for number in at:
        fewer = entries[:number] + entries[number + 1 :]
        assert read_guard(parse_listing(json.dumps({"nftables": fewer}))) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"nftables": [3]}', '{"nftables": [{"rule": 3}]}']
)
def test_what_is_not_a_listing_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_listing(text)
    with pytest.raises(ValueError):
        parse_rendering(text)


@pytest.mark.parametrize(
    "entry",
    [
        GuardTuple("fd00:0::1", UDP, 1),
        GuardTuple("fe80::1%eth0", UDP, 1),
        GuardTuple("peer", UDP, 1),
        GuardTuple("10.0.0.1", UDP, None),
        GuardTuple("10.0.0.1", GRE, 1),
        GuardTuple("10.0.0.1", UDP, 1, "fd00::1"),
    ],
)
def test_guard_that_no_table_can_say_is_refused(entry: GuardTuple) -> None:
    with pytest.raises(ValueError):
        render_guard(Guard(GuardMode.ENFORCE, frozenset(), frozenset({entry})), ZERO)
