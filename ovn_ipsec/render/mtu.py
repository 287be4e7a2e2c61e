"""How large a pod's packet may be so that its ESP packet fits the underlay: pure arithmetic.

The derivation is in docs/kubernetes.md. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

_IPV4 = 20
_IPV6 = 40
_UDP = 8
_GENEVE = 8
_GENEVE_OVN_OPTION = 8
"""OVN's logical ports: class 0x0102, a 4-byte header and 4 bytes (RFC 8926, 3.5)."""
_ETHERNET = 14
_ESP_HEADER = 8
"""SPI and sequence number (RFC 4303, 2)."""
_GCM_IV = 8
"""Explicit part of the nonce (RFC 4106, 3.1)."""
_GCM_ICV = 16
_ESP_TRAILER = 2
"""Pad length and next header, which end at a multiple of 4 (RFC 4303, 2.4)."""
_ESP_ALIGNMENT = 4

USUAL_UNDERLAYS = (1500, 9000)


@dataclass(frozen=True, slots=True)
class Underlay:
    """What carries the ESP packets."""

    mtu: int
    ipv6: bool = False
    nat_traversal: bool = False
    """ESP in UDP (RFC 3948)."""

    def name(self) -> str:
        family = "IPv6" if self.ipv6 else "IPv4"
        return f"{family}{', ESP in UDP' if self.nat_traversal else ''}"


def packet_size(pod_mtu: int, underlay: Underlay) -> int:
    """Size of the IP packet on the underlay that carries a pod's packet of `pod_mtu`."""
    protected = _UDP + _GENEVE + _GENEVE_OVN_OPTION + _ETHERNET + pod_mtu
    padded = -(-(protected + _ESP_TRAILER) // _ESP_ALIGNMENT) * _ESP_ALIGNMENT
    return _outside(underlay) + padded


def largest_pod_mtu(underlay: Underlay) -> int:
    """The largest pod MTU whose packets pass unfragmented."""
    padded = (underlay.mtu - _outside(underlay)) // _ESP_ALIGNMENT * _ESP_ALIGNMENT
    return padded - _ESP_TRAILER - _UDP - _GENEVE - _GENEVE_OVN_OPTION - _ETHERNET


def likely_underlay(pod_mtu: int) -> int:
    """The usual underlay that a pod MTU was most likely chosen for."""
    return next((mtu for mtu in USUAL_UNDERLAYS if pod_mtu <= mtu), USUAL_UNDERLAYS[-1])


def _outside(underlay: Underlay) -> int:
    header = _IPV6 if underlay.ipv6 else _IPV4
    header += _UDP if underlay.nat_traversal else 0
    return header + _ESP_HEADER + _GCM_IV + _GCM_ICV
