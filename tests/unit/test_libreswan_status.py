"""pluto's words, recorded from libreswan 4.10 and 5.2 and from ``ip xfrm`` beside it."""

# Recorded texts stay as they were: long lines, white space at their ends.
# ruff: noqa: E501, W291, E101

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.drivers.libreswan_states import StateReader
from ovn_ipsec.drivers.libreswan_status import (
    Dialect,
    parse_connections,
    parse_load_errors,
    parse_version,
)
from ovn_ipsec.drivers.pluto import complaint
from ovn_ipsec.drivers.xfrm import parse_policies
from ovn_ipsec.drivers.xfrm import parse_states as parse_kernel_states
from ovn_ipsec.errors import ObservationError
from ovn_ipsec.model.conns import ChildSa, IkeSa
from ovn_ipsec.model.kernel import KernelPolicy, KernelState

STATUS_4 = """\
000 using kernel interface: xfrm
000 "f-in-1": 10.1.0.1/32:UDP/6081===10.1.0.1...10.1.0.2===10.1.0.2/32:UDP/0-65535; unrouted; eroute owner: #0
000 "f-in-1":     oriented; my_ip=unset; their_ip=unset; my_updown=<disabled>;
000 "a"b-in-1": 10.1.0.1/32:UDP/6081===10.1.0.1...10.1.0.2===10.1.0.2/32:UDP/0-65535; unrouted; eroute owner: #0
000 "one"[2]: 10.1.0.1/32:UDP/0-65535===10.1.0.1...10.1.0.2===10.1.0.2/32:UDP/6081; unrouted; eroute owner: #0
000 "u-in-1": 10.77.0.1/32:UDP/77===10.77.0.1...10.1.0.2===10.1.0.2/32:UDP/0-65535; unrouted; eroute owner: #0
000 "u-in-1":     unoriented; my_ip=unset; their_ip=unset; my_updown=<disabled>;
000 Total IPsec connections: loaded 4, active 0
"""
STATUS_5 = """\
using kernel interface: xfrm
"f-in-1": 10.1.0.1/32/UDP/6081===10.1.0.1...10.1.0.2===10.1.0.2/32/UDP; unrouted-bare-negotiation; my_ip=unset; their_ip=unset;
"f-in-1":   host: oriented; local: 10.1.0.1; remote: 10.1.0.2; established IKE SA: #1;
"v-in-1": 10.1.0.1/32/UDP/80===10.1.0.1[@a b]...10.1.0.2===10.1.0.2/32/UDP; unrouted; my_ip=unset; their_ip=unset;
"u-in-1": 10.77.0.1/32/UDP/77===10.77.0.1...10.1.0.2===10.1.0.2/32/UDP; unoriented; my_ip=unset; their_ip=unset;
"u-in-1":   host: unoriented; left: 10.77.0.1; right: 10.1.0.2;
Total IPsec connections: loaded 3, active 0
"""


def test_loaded_connections_with_quotes_instances_and_no_address_of_ours() -> None:
    four = parse_connections(STATUS_4, Dialect.V4)
    assert four.names == {"f-in-1", 'a"b-in-1', "one", "u-in-1"}
    assert four.unoriented == {"u-in-1"}
    five = parse_connections(STATUS_5, Dialect.V5)
    assert five.names == {"f-in-1", "v-in-1", "u-in-1"}
    assert five.unoriented == {"u-in-1"}


@pytest.mark.parametrize("text", ["", STATUS_4[:300]])
def test_a_status_that_was_cut_short_is_not_an_empty_pluto(text: str) -> None:
    with pytest.raises(ObservationError, match="total"):
        parse_connections(text, Dialect.V4)


STATES_4 = """\
000 #3: "tun-in-1":500 STATE_V2_ESTABLISHED_CHILD_SA (established Child SA); REKEY in 27943s; REPLACE in 28796s; newest; eroute owner; IKE SA #1; idle;
000 #3: "tun-in-1" esp.9458ab3c@10.9.0.2 esp.bbc946@10.9.0.1 Traffic: ESPin=23KB ESPout=0B ESPmax=2^63B
000 #1: "tun-in-1":500 STATE_V2_ESTABLISHED_IKE_SA (established IKE SA); REKEY in 27783s; REPLACE in 28798s; newest; idle;
000 #9: "d-in-1":500 STATE_V2_PARENT_I1 (sent IKE_SA_INIT request); RETRANSMIT in 0s; idle;
000 #9: pending CHILD SA for "d-in-1"
"""
TRAFFIC_4 = """\
006 #3: "tun-in-1", type=ESP, add_time=1795309122, inBytes=24795, outBytes=7, maxBytes=2^63B, id='10.9.0.2'
"""
STATES_5 = """\
#12: "d-in-1":500 IKE_SA_INIT_I (sent IKE_SA_INIT request); RETRANSMIT in 0s; idle;
#12: pending Child SA for "d-in-1"
#1: "f-in-1":500 ESTABLISHED_IKE_SA (established IKE SA); REKEY in 27715s; REPLACE in 28795s; newest; idle;
#2: "f-in-1":500 NEW_CHILD_I1 (sent CREATE_CHILD_SA request for new IPsec SA); eroute owner; idle;
"""


def test_established_and_negotiating_sas_of_4() -> None:
    children, ikes = StateReader(Dialect.V4).read(STATES_4 + TRAFFIC_4)
    assert children == (
        ChildSa(
            connection="tun-in-1",
            serial=3,
            ike_serial=1,
            spi_in=0xBBC946,
            spi_out=0x9458AB3C,
            bytes_in=24795,
            bytes_out=7,
            add_time=1795309122,
            line='000 #3: "tun-in-1" esp.9458ab3c@10.9.0.2 esp.bbc946@10.9.0.1'
            " Traffic: ESPin=23KB ESPout=0B ESPmax=2^63B",
        ),
    )
    assert ikes == (IkeSa("d-in-1", None, False, initiator=True), IkeSa("tun-in-1", 1, True))


UP_5 = """\
#1: "tun-in-1":500 ESTABLISHED_IKE_SA (established IKE SA); REKEY in 28043s; REPLACE in 28799s; newest; idle;
#2: "tun-in-1":500 ESTABLISHED_CHILD_SA (established Child SA); REKEY in 27730s; REPLACE in 28799s; newest; eroute owner; IKE SA #1; idle;
#2: "tun-in-1" esp.6cd4efca@10.9.0.2 esp.92705736@10.9.0.1 Traffic: ESPin=2KB ESPout=0B ESPmax=2^63B 
"""
TRAFFIC_5 = """\
#2: "tun-in-1", type=ESP, add_time=1795318066, inBytes=3249, outBytes=0, maxBytes=2^63B, id='10.9.0.2'
"""


def test_established_sas_of_5() -> None:
    (child,), ikes = StateReader(Dialect.V5).read(UP_5 + TRAFFIC_5)
    assert (child.serial, child.ike_serial) == (2, 1)
    assert (child.spi_in, child.spi_out) == (0x92705736, 0x6CD4EFCA)
    assert (child.bytes_in, child.bytes_out, child.add_time) == (3249, 0, 1795318066)
    assert child.line.startswith('000 #2: "tun-in-1" esp.6cd4efca@10.9.0.2 ')
    assert ikes == (IkeSa("tun-in-1", 1, True),)


def test_a_child_that_is_being_negotiated_is_not_up_in_5() -> None:
    children, ikes = StateReader(Dialect.V5).read(STATES_5)
    assert children == ()
    assert ikes == (IkeSa("d-in-1", None, False, initiator=True), IkeSa("f-in-1", 1, True))


NAMES = st.sampled_from(["a", 'a "b"', "a (b", 'a":500 STATE_V2_PARENT_I1 (b', "a, type=ESP"])
SAS = st.lists(
    st.tuples(
        st.integers(1, 4),
        NAMES,
        st.sampled_from(["ESTABLISHED_CHILD_SA", "ESTABLISHED_IKE_SA", "PARENT_I1", "PARENT_I2"]),
        *[st.integers(1, 3)] * 5,
    ),
    unique_by=lambda sa: sa[0],
)


def said_by_4(sas: list[tuple[int, str, str, int, int, int, int, int]]) -> str:
    lines = []
    for serial, name, state, parent, timer, spi, count, hour in sas:
        head = f'000 #{serial}: "{name}'
        about = f"(about); REKEY in {timer}s; newest; IKE SA #{parent}; idle;"
        lines.append(f'{head}":500 STATE_V2_{state} {about}')
        if "CHILD" in state:
            lines.append(f'{head}" esp.{spi}@10.9.0.2 esp.{spi}@10.9.0.1 Traffic: ESPin={count}B ')
            counted = f"add_time={hour * 3600}, inBytes={count}, outBytes=0"
            lines.append(f'006 #{serial}: "{name}", type=ESP, {counted}, maxBytes=2^63B')
    return "".join(f"{line}\n" for line in lines)


@given(st.lists(SAS, max_size=4))
def test_what_was_said_before_changes_nothing_of_what_is_read_now(
    replies: list[list[tuple[int, str, str, int, int, int, int, int]]],
) -> None:
    reader = StateReader(Dialect.V4)
    for sas in replies:
        reply = said_by_4(sas)
        assert reader.read(reply) == StateReader(Dialect.V4).read(reply)


def test_time_of_an_sa_that_wavers_by_a_second_is_as_pluto_said_it_first() -> None:
    reader = StateReader(Dialect.V4)

    def made_at(said: int) -> int | None:
        reply = (STATES_4 + TRAFFIC_4).replace("add_time=1795309122", f"add_time={said}")
        ((child,), _) = reader.read(reply)
        return child.add_time

    assert [made_at(100), made_at(99), made_at(101), made_at(100)] == [100, 100, 100, 100]
    assert [made_at(4000), made_at(4001)] == [4000, 4000], "the clock was set"


def test_why_a_connection_was_not_loaded() -> None:
    said = (
        '"m-in-1": added IKEv2 connection\n'
        "\"m-out-1\": failed to add connection: left certificate 'x' not found in the NSS database\n"
        "while loading 'n-1': duplicate key 'ike' in conn n-1\n"
    )
    assert parse_load_errors(said) == {
        "m-out-1": "left certificate 'x' not found in the NSS database",
        "n-1": "duplicate key 'ike' in conn n-1",
    }
    assert complaint('loading secrets from "/a"\nno such option\n') == "no such option"


def test_the_version_decides_the_dialect() -> None:
    assert parse_version("Libreswan 4.10\n") == ("4.10", Dialect.V4)
    assert parse_version("Libreswan 5.2\n") == ("5.2", Dialect.V5)
    for other in ("Linux strongSwan U5.9.8/K6.1", "Libreswan 3.32", ""):
        with pytest.raises(ObservationError, match="libreswan 4"):
            parse_version(other)


POLICIES = """\
src 10.9.0.1/32 dst 10.9.0.2/32 proto udp sport 6081 
	dir out priority 1753280 ptype main 
	tmpl src 0.0.0.0 dst 0.0.0.0
		proto esp reqid 16389 mode transport
src fd09::1/128 dst fd09::2/128 proto gre 
	dir in priority 1753280 ptype main 
	tmpl src :: dst ::
		proto esp reqid 16393 mode transport
src 0.0.0.0/0 dst 0.0.0.0/0 
	socket in priority 0 ptype main 
"""
STATES = """\
src 10.9.0.2 dst 10.9.0.1
	proto esp spi 0x00bbc946 reqid 16389 mode transport
	replay-window 0 flag esn
	anti-replay esn context:
	 seq-hi 0x0, seq 0x0, oseq-hi 0x0, oseq 0x0
	sel src 10.9.0.2/32 dst 10.9.0.1/32 proto udp dport 6081 
src 10.9.0.1 dst 10.9.0.9
	proto esp spi 0x00000000 reqid 0 mode transport
	replay-window 0 
	sel src 10.9.0.1/32 dst 10.9.0.9/32 proto udp sport 5 dport 6081 
"""


def test_kernel_policies_of_every_family_and_protocol_but_not_of_sockets() -> None:
    assert list(parse_policies(POLICIES)) == [
        KernelPolicy("10.9.0.1/32", "10.9.0.2/32", "udp", 6081, None, "out"),
        KernelPolicy("fd09::1/128", "fd09::2/128", "gre", None, None, "in"),
    ]


def test_kernel_states_with_their_selectors() -> None:
    first, larval = parse_kernel_states(STATES)
    assert first == KernelState(
        "10.9.0.2",
        "10.9.0.1",
        0xBBC946,
        KernelPolicy("10.9.0.2/32", "10.9.0.1/32", "udp", None, 6081, ""),
    )
    assert larval.spi == 0
