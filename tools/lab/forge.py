"""Tunnel packets in clear as a third host would forge them: whole Ethernet frames. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address

_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_UDP, _GRE, _FRAGMENT = 17, 47, 44
INNER_PORT = 7777
"""UDP port of what is inside, at both ends."""
EXPERIMENTAL = 0x88B5
"""IEEE 802 local experimental Ethertype 1."""


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def inner_frame(src_mac: str, dst_mac: str, src: str, dst: str, payload: bytes) -> bytes:
    """What a tunnel carries: a UDP datagram over IPv4 in Ethernet."""
    udp = struct.pack("!HHHH", INNER_PORT, INNER_PORT, 8 + len(payload), 0) + payload
    return _mac(dst_mac) + _mac(src_mac) + b"\x08\0" + ipv4(src, dst, _UDP, udp)


def geneve(inner: bytes) -> bytes:
    """RFC 8926 section 3.4, VNI 0."""
    return struct.pack("!BBHI", 0, 0, 0x6558, 0) + inner


def vxlan(inner: bytes) -> bytes:
    """RFC 7348 section 5, VNI 0."""
    return struct.pack("!II", 0x08000000, 0) + inner


def gre(inner: bytes) -> bytes:
    """RFC 2784, transparent Ethernet bridging."""
    return struct.pack("!HH", 0, 0x6558) + inner


def udp(src: str, dst: str, port: int, payload: bytes) -> bytes:
    """With a checksum, which IPv6 demands."""
    length = 8 + len(payload)
    header = struct.pack("!HHHH", 40000, port, length, 0)
    pseudo = ip_address(src).packed + ip_address(dst).packed
    pseudo += (
        struct.pack("!HH", _UDP, length) if ":" not in src else struct.pack("!II", length, _UDP)
    )
    return struct.pack("!HHHH", 40000, port, length, checksum(pseudo + header + payload)) + payload


def ipv4(
    src: str,
    dst: str,
    protocol: int,
    payload: bytes,
    *,
    identification: int = 0,
    offset: int = 0,
    more: bool = False,
) -> bytes:
    """A packet or (``offset`` in bytes) a fragment."""
    flags = (0x2000 if more else 0) | offset // 8
    ends = ip_address(src).packed + ip_address(dst).packed
    number = identification & 0xFFFF
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), number, flags, 64, protocol)
    sum_ = checksum(start + b"\0\0" + ends)
    return start + struct.pack("!H", sum_) + ends + payload


def ipv6(src: str, dst: str, next_header: int, payload: bytes) -> bytes:
    """RFC 8200 section 3."""
    start = struct.pack("!IHBB", 6 << 28, len(payload), next_header, 64)
    return start + ip_address(src).packed + ip_address(dst).packed + payload


def packets(
    src: str,
    dst: str,
    protocol: int,
    payload: bytes,
    fragment_bytes: int | None,
    identification: int = 0x4711,
) -> Iterator[bytes]:
    """The packet, or its fragments (RFC 791; RFC 8200 section 4.5)."""
    pieces = [(0, payload)]
    if fragment_bytes is not None:
        starts = range(0, len(payload), fragment_bytes)
        pieces = [(at, payload[at : at + fragment_bytes]) for at in starts]
    for at, piece in pieces:
        more = at + len(piece) < len(payload)
        if ":" not in src:
            yield ipv4(
                *(src, dst, protocol, piece), identification=identification, offset=at, more=more
            )
        elif fragment_bytes is None:
            yield ipv6(src, dst, protocol, piece)
        else:
            header = struct.pack("!BBHI", protocol, 0, at | more, identification)
            yield ipv6(src, dst, _FRAGMENT, header + piece)


def frames(src_mac: str, dst_mac: str, ip_packets: Iterator[bytes]) -> list[bytes]:
    """Ethernet around IP packets."""
    header = _mac(dst_mac) + _mac(src_mac)
    return [
        header + struct.pack("!H", _ETHERTYPE[packet[0] >> 4]) + packet for packet in ip_packets
    ]


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def experimental_frame(src_mac: str, dst_mac: str, payload: bytes) -> bytes:
    """A frame that is not IP."""
    return _mac(dst_mac) + _mac(src_mac) + struct.pack("!H", EXPERIMENTAL) + payload
