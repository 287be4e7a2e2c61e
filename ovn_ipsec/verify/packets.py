"""Tells tunnel packets in clear from ESP by their headers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

UDP, GRE, ESP, FRAGMENT = 17, 47, 50, 44
NAT_T = 4500


class Kind(Enum):
    """What a packet between two nodes is."""

    ESP = "esp"
    PLAIN = "plain"
    """A tunnel packet in clear."""


class Packet(NamedTuple):
    """What there is to know of one."""

    kind: Kind
    source: str
    destination: str
    port: int | None = None
    """To which one in clear goes; None: ESP or GRE."""


class Flow(NamedTuple):
    """What packets are counted by."""

    peer: str
    kind: Kind
    sent: bool
    port: int | None = None
    """As of ``Packet``."""


@dataclass(slots=True)
class Captured:
    """What was seen, and how much was not."""

    counts: Counter[Flow] = field(default_factory=Counter)
    lost: int = 0
    """Packets that came faster than they were counted."""


def canonical(text: str) -> str:
    """The one spelling of an address, as packets and the kernel show it; else the text."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return text
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def classify(packet: bytes, ports: Collection[int]) -> Packet | None:
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
        if protocol == FRAGMENT:
            first = int.from_bytes(packet[42:44], "big") & 0xFFF8 == 0
            size, protocol = 48, packet[40]
    else:
        return None
    told = _kind(protocol, packet[size:] if first else b"", ports)
    if told is None:
        return None
    kind, port = told
    return Packet(kind, str(ip_address(ends[0])), str(ip_address(ends[1])), port)


def _kind(protocol: int, payload: bytes, ports: Collection[int]) -> tuple[Kind, int | None] | None:
    if protocol == ESP:
        return Kind.ESP, None
    if protocol == GRE:
        return Kind.PLAIN, None
    if protocol != UDP or len(payload) < 8:
        return None
    source, destination = (int.from_bytes(payload[n : n + 2], "big") for n in (0, 2))
    if NAT_T in (source, destination):
        # RFC 3948: four zero bytes mark IKE, a single byte keeps the way open.
        return (Kind.ESP, None) if len(payload) > 12 and any(payload[8:12]) else None
    return (Kind.PLAIN, destination) if destination in ports else None
