"""What the tap takes a packet for: a wrong answer here would make every scenario worthless."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.lab import forge
from tools.lab.pcap import TUNNEL_PORTS, Kind, Packet, PcapStream, classify, parse_frame

A, B = "02:09:00:00:00:01", "02:09:00:00:00:02"
V4 = ("10.9.0.1", "10.9.0.2")
V6 = ("fd09::1", "fd09::2")
INNER = forge.inner_frame(A, B, "10.77.0.1", "10.77.0.2", b"x" * 200)


def _parsed(ip_packets: Iterator[bytes]) -> list[Packet]:
    parsed = [parse_frame(frame, 1.5) for frame in forge.frames(A, B, ip_packets)]
    assert None not in parsed
    return [packet for packet in parsed if packet is not None]


def _kinds(
    ends: tuple[str, str], protocol: int, body: bytes, cut: int | None = None
) -> list[Kind]:
    return classify(_parsed(forge.packets(*ends, protocol, body, cut)), TUNNEL_PORTS)


def _udp(ends: tuple[str, str], port: int, body: bytes) -> bytes:
    return forge.udp(*ends, port, body)


@pytest.mark.parametrize("ends", [V4, V6])
@pytest.mark.parametrize(
    ("port", "body", "kind"),
    [
        (6081, forge.geneve(INNER), Kind.PLAINTEXT),
        (4789, forge.vxlan(INNER), Kind.PLAINTEXT),
        (500, b"spi" * 20, Kind.IKE),
        (4500, bytes(4) + b"ike" * 20, Kind.IKE),
        (4500, b"\xff", Kind.IKE),
        (4500, b"\x01\x02\x03\x04" + b"esp" * 20, Kind.ESP),
        (53, b"query", Kind.OTHER),
    ],
)
def test_udp_by_port(ends: tuple[str, str], port: int, body: bytes, kind: Kind) -> None:
    assert _kinds(ends, 17, _udp(ends, port, body)) == [kind]


@pytest.mark.parametrize("ends", [V4, V6])
@pytest.mark.parametrize(
    ("protocol", "kind"),
    [(50, Kind.ESP), (47, Kind.PLAINTEXT), (51, Kind.PLAINTEXT), (1, Kind.OTHER)],
)
@pytest.mark.parametrize("cut", [None, 64])
def test_other_protocols_whole_and_in_fragments(
    ends: tuple[str, str], protocol: int, kind: Kind, cut: int | None
) -> None:
    kinds = _kinds(ends, protocol, b"b" * 200, cut)
    assert set(kinds) == {kind}
    assert len(kinds) == (4 if cut else 1)


@pytest.mark.parametrize("ends", [V4, V6])
def test_every_fragment_of_a_tunnel_packet_is_plaintext(ends: tuple[str, str]) -> None:
    kinds = _kinds(ends, 17, _udp(ends, 6081, forge.geneve(INNER)), 64)
    assert len(kinds) > 3
    assert set(kinds) == {Kind.PLAINTEXT}


@given(st.data(), st.sampled_from([V4, V6]))
def test_fragments_have_the_kind_of_the_first_in_any_order(
    data: st.DataObject, ends: tuple[str, str]
) -> None:
    harmless = _parsed(forge.packets(*ends, 17, _udp(ends, 53, b"q" * 200), 64))
    packets = data.draw(st.permutations(harmless))
    assert set(classify(packets, TUNNEL_PORTS)) == {Kind.OTHER}


@pytest.mark.parametrize("ends", [V4, V6])
def test_later_fragment_without_its_first_counts_as_plaintext(ends: tuple[str, str]) -> None:
    harmless = _parsed(forge.packets(*ends, 17, _udp(ends, 53, b"q" * 200), 64))
    assert set(classify(harmless[1:], TUNNEL_PORTS)) == {Kind.PLAINTEXT}


def test_plaintext_wins_when_one_identification_is_used_twice() -> None:
    harmless = _parsed(forge.packets(*V4, 17, _udp(V4, 53, b"q" * 200), 64))
    tunnel = _parsed(forge.packets(*V4, 17, _udp(V4, 6081, forge.geneve(INNER)), 64))
    assert {packet.fragment_of for packet in harmless + tunnel} == {harmless[0].fragment_of}
    kinds = classify([tunnel[0], harmless[0], *harmless[1:]], TUNNEL_PORTS)
    assert kinds[0] is Kind.PLAINTEXT
    assert set(kinds[2:]) == {Kind.PLAINTEXT}


def test_port_of_a_scenario_counts() -> None:
    packets = _parsed(forge.packets(*V4, 17, _udp(V4, 7000, forge.geneve(INNER)), None))
    assert classify(packets, TUNNEL_PORTS) == [Kind.OTHER]
    assert classify(packets, TUNNEL_PORTS | {7000}) == [Kind.PLAINTEXT]


def test_options_before_the_udp_header_hide_nothing() -> None:
    body = struct.pack("!BB", 17, 0) + b"\x01\x04\0\0\0\0" + _udp(V6, 6081, forge.geneve(INNER))
    assert _kinds(V6, 60, body) == [Kind.PLAINTEXT]
    assert set(_kinds(V6, 60, body, 64)) == {Kind.PLAINTEXT}


def test_packet_tells_where_it_is_from() -> None:
    [packet] = _parsed(forge.packets(*V6, 17, _udp(V6, 6081, b"abc"), None))
    assert (packet.time_s, packet.source_mac) == (1.5, A)
    assert (packet.source, packet.destination, packet.destination_port) == (*V6, 6081)
    assert packet.payload == b"abc"


@given(st.integers(1, 60))
def test_stream_gives_the_same_packets_however_it_is_cut(step: int) -> None:
    frames = forge.frames(A, B, forge.packets(*V4, 17, _udp(V4, 6081, b"y" * 100), 64))
    frames.insert(1, b"\xff" * 12 + b"\x08\x06" + bytes(28))  # ARP is no IP packet
    capture = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for number, frame in enumerate(frames):
        capture += struct.pack("<IIII", number, 250_000, len(frame), len(frame)) + frame
    stream = PcapStream()
    pieces = [capture[at : at + step] for at in range(0, len(capture), step)]
    packets = list(itertools.chain.from_iterable(stream.feed(piece) for piece in pieces))
    assert [packet.time_s for packet in packets] == [0.25, 2.25]
    assert [packet.is_later_fragment for packet in packets] == [False, True]


@pytest.mark.parametrize(
    "header",
    [b"\x0a\x0d\x0d\x0a" + bytes(20), struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)],
)
def test_other_capture_formats_are_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match="not"):
        list(PcapStream().feed(header))
