"""Tells tunnel packets in clear from ESP by their headers. Pure."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from ipaddress import ip_address

_UDP, _GRE, _ESP, _FRAGMENT = 17, 47, 50, 44
_NAT_T = 4500


class Kind(Enum):
    """What a packet between two nodes is."""

    ESP = "esp"
    PLAIN = "plain"
    """A tunnel packet in clear."""


def classify(packet: bytes, ports: Collection[int]) -> tuple[Kind, str, str] | None:
    """What an IP packet is, from whom and to whom; None: neither tunnel nor ESP."""
    if len(packet) < 20:
        return None
    version = packet[0] >> 4
    if version == 4:
        size, protocol = (packet[0] & 15) * 4, packet[9]
        ends = packet[12:16], packet[16:20]
        first = int.from_bytes(packet[6:8], "big") & 0x1FFF == 0
    elif version == 6 and len(packet) >= 48:
        size, protocol = 40, packet[6]
        ends = packet[8:24], packet[24:40]
        first = True
        if protocol == _FRAGMENT:
            first = int.from_bytes(packet[42:44], "big") & 0xFFF8 == 0
            size, protocol = 48, packet[40]
    else:
        return None
    kind = _kind(protocol, packet[size:] if first else b"", ports)
    return None if kind is None else (kind, str(ip_address(ends[0])), str(ip_address(ends[1])))


def _kind(protocol: int, payload: bytes, ports: Collection[int]) -> Kind | None:
    if protocol == _ESP:
        return Kind.ESP
    if protocol == _GRE:
        return Kind.PLAIN
    if protocol != _UDP or len(payload) < 8:
        return None
    source, destination = (int.from_bytes(payload[n : n + 2], "big") for n in (0, 2))
    if _NAT_T in (source, destination):
        # RFC 3948: four zero bytes mark IKE, a single byte keeps the way open.
        return Kind.ESP if len(payload) > 12 and any(payload[8:12]) else None
    return Kind.PLAIN if destination in ports else None
