"""Reads captured packets and says what each one is: tunnel in clear, ESP, IKE. Pure."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

GENEVE_PORT = 6081
VXLAN_PORT = 4789
STT_PORT = 7471
TUNNEL_PORTS = frozenset({GENEVE_PORT, VXLAN_PORT, STT_PORT})

_TCP, _UDP, _GRE, _ESP, _AH = 6, 17, 47, 50, 51
_IPV6_FRAGMENT = 44
_IPV6_OPTIONS = (0, 43, 60, 135)  # hop-by-hop, routing, destination, mobility
_MAY_BE_TUNNEL = (_UDP, _TCP, *_IPV6_OPTIONS)
"""Protocols of a later fragment whose first one decides."""
_NATT_PORT = 4500
_IKE_PORT = 500
_GLOBAL_HEADER_BYTES = 24
_RECORD_HEADER_BYTES = 16


class Kind(enum.Enum):
    """What a packet is to someone who looks for tunnel traffic in clear."""

    PLAINTEXT = "plaintext"
    """Geneve, VXLAN, STT or GRE outside ESP, a fragment that may belong to one, or AH, which
    does not encrypt."""
    ESP = "esp"
    """ESP, bare or in UDP."""
    IKE = "ike"
    """IKE, and NAT keepalives."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Packet:
    """What the wire shows of one packet; a fragment is a packet."""

    time_s: float
    """Seconds since the epoch, of the machine that captured it."""
    source_mac: str
    source: str
    destination: str
    protocol: int
    """IP protocol, also known for later fragments."""
    source_port: int | None
    """None where there are no ports, and in later fragments."""
    destination_port: int | None
    fragment_of: int | None
    """IP identification when it is a fragment, first or later."""
    payload: bytes
    """What follows the UDP header, or the IP header for other protocols."""

    @property
    def is_later_fragment(self) -> bool:
        return self.fragment_of is not None and self.source_port is None


class PcapStream:
    """Takes a capture file as it grows, and gives the packets that are complete."""

    def __init__(self) -> None:
        self._pending = b""
        self._byte_order = ""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that `data` completes; frames that are not IP are left out.

        ValueError if this is not a classic pcap of Ethernet frames with microseconds.
        """
        self._pending += data
        if not self._byte_order and not self._read_header():
            return
        position = 0
        while len(self._pending) - position >= _RECORD_HEADER_BYTES:
            seconds, micros, size, _ = struct.unpack_from(
                f"{self._byte_order}IIII", self._pending, position
            )
            start = position + _RECORD_HEADER_BYTES
            if len(self._pending) < start + size:
                break
            packet = parse_frame(self._pending[start : start + size], seconds + micros / 1e6)
            if packet is not None:
                yield packet
            position = start + size
        self._pending = self._pending[position:]

    def _read_header(self) -> bool:
        if len(self._pending) < _GLOBAL_HEADER_BYTES:
            return False
        magic = self._pending[:4]
        if magic == b"\xd4\xc3\xb2\xa1":
            self._byte_order = "<"
        elif magic == b"\xa1\xb2\xc3\xd4":
            self._byte_order = ">"
        else:
            raise ValueError(f"not a pcap file with microseconds: it begins with {magic.hex()}")
        (link_type,) = struct.unpack_from(f"{self._byte_order}I", self._pending, 20)
        if link_type != 1:
            raise ValueError(f"link type {link_type} is not Ethernet")
        self._pending = self._pending[_GLOBAL_HEADER_BYTES:]
        return True


def parse_frame(frame: bytes, time_s: float) -> Packet | None:
    """The IP packet in an Ethernet frame, or None if there is none."""
    if len(frame) < 14:
        return None
    mac = frame[6:12].hex(":")
    ether_type = int.from_bytes(frame[12:14])
    if ether_type == 0x0800:
        return _parse_ipv4(frame[14:], time_s, mac)
    if ether_type == 0x86DD:
        return _parse_ipv6(frame[14:], time_s, mac)
    return None


def classify(packets: Iterable[Packet], tunnel_ports: frozenset[int]) -> list[Kind]:
    """The kind of each packet, in order.

    A later fragment has the kind of its first fragment. Of several first fragments under one
    identification, plaintext wins, and a fragment whose first one was not seen counts as
    plaintext if it is of a protocol that carries tunnels.
    """
    listed = list(packets)
    firsts: dict[tuple[str, str, int], Kind] = {}
    for packet in listed:
        key = _datagram(packet)
        if key is not None and not packet.is_later_fragment:
            kind = _kind(packet, tunnel_ports)
            if firsts.get(key) is not Kind.PLAINTEXT:
                firsts[key] = kind
    kinds = []
    for packet in listed:
        key = _datagram(packet)
        if key is not None and packet.is_later_fragment and packet.protocol in _MAY_BE_TUNNEL:
            kinds.append(firsts.get(key, Kind.PLAINTEXT))
        else:
            kinds.append(_kind(packet, tunnel_ports))
    return kinds


def _datagram(packet: Packet) -> tuple[str, str, int] | None:
    """What the fragments of one datagram have in common.

    Not the protocol: behind IPv6 options only the first fragment shows the real one.
    """
    if packet.fragment_of is None:
        return None
    return packet.source, packet.destination, packet.fragment_of


def _kind(packet: Packet, tunnel_ports: frozenset[int]) -> Kind:
    """Of a packet that is whole or a first fragment; its ports decide."""
    if packet.protocol == _ESP:
        return Kind.ESP
    if packet.protocol in (_GRE, _AH):
        return Kind.PLAINTEXT
    if packet.protocol not in (_UDP, _TCP):
        return Kind.OTHER
    ports = {packet.source_port, packet.destination_port}
    if ports & tunnel_ports:
        return Kind.PLAINTEXT
    if packet.protocol == _TCP:
        return Kind.OTHER
    if _NATT_PORT in ports:
        # RFC 3948: IKE after a marker of four zero bytes, keepalives of one byte, else ESP.
        is_ike = packet.payload[:4] == bytes(4) or len(packet.payload) <= 1
        return Kind.IKE if is_ike else Kind.ESP
    return Kind.IKE if _IKE_PORT in ports else Kind.OTHER


def _parse_ipv4(data: bytes, time_s: float, mac: str) -> Packet | None:
    if len(data) < 20:
        return None
    header_bytes = (data[0] & 0x0F) * 4
    total = int.from_bytes(data[2:4])
    flags_offset = int.from_bytes(data[6:8])
    offset, more = flags_offset & 0x1FFF, bool(flags_offset & 0x2000)
    packet = Packet(
        time_s,
        mac,
        str(IPv4Address(data[12:16])),
        str(IPv4Address(data[16:20])),
        data[9],
        None,
        None,
        int.from_bytes(data[4:6]) if offset or more else None,
        data[header_bytes : total or None],
    )
    return packet if offset else _with_ports(packet)


def _parse_ipv6(data: bytes, time_s: float, mac: str) -> Packet | None:
    if len(data) < 40:
        return None
    protocol, position = data[6], 40
    identification: int | None = None
    offset = 0
    while position + 8 <= len(data):
        if protocol in _IPV6_OPTIONS and not offset:
            protocol, position = data[position], position + (data[position + 1] + 1) * 8
        elif protocol == _IPV6_FRAGMENT and identification is None:
            field = int.from_bytes(data[position + 2 : position + 4])
            offset = field >> 3
            identification = int.from_bytes(data[position + 4 : position + 8])
            protocol, position = data[position], position + 8
        else:
            break
    source, destination = str(IPv6Address(data[8:24])), str(IPv6Address(data[24:40]))
    packet = Packet(
        time_s,
        mac,
        source,
        destination,
        protocol,
        None,
        None,
        identification,
        data[position : 40 + int.from_bytes(data[4:6])],
    )
    return packet if offset else _with_ports(packet)


def _with_ports(packet: Packet) -> Packet:
    if packet.protocol not in (_TCP, _UDP) or len(packet.payload) < 4:
        return packet
    source, destination = struct.unpack_from("!HH", packet.payload)
    payload = packet.payload[8:] if packet.protocol == _UDP else packet.payload
    return replace(packet, source_port=source, destination_port=destination, payload=payload)
