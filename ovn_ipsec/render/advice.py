"""What to say about a cluster network: MTU, and what the manifest asks for that is elsewhere."""

from __future__ import annotations

from dataclasses import replace

from ovn_ipsec.render.model import ClusterNetwork, Encapsulation, Mode, Problem
from ovn_ipsec.render.mtu import (
    USUAL_UNDERLAYS,
    Underlay,
    largest_pod_mtu,
    likely_underlay,
    packet_size,
)

MTU_PATH = "spec.defaultNetwork.ovnKubernetesConfig.mtu"


def judge_mtu(network: ClusterNetwork, underlay_mtu: int | None, *, ipv6: bool) -> list[Problem]:
    """The problem with an MTU whose packets do not fit; none without MTU or without IPsec.

    Without `underlay_mtu` the usual one that the MTU was most likely chosen for is taken.
    """
    if network.mtu is None or network.mode is Mode.DISABLED:
        return []
    always = network.encapsulation is Encapsulation.ALWAYS
    guessed = likely_underlay(network.mtu)
    underlay = Underlay(underlay_mtu or guessed, ipv6=ipv6, nat_traversal=always)
    largest = largest_pod_mtu(underlay)
    if network.mtu <= largest:
        return []
    size = packet_size(network.mtu, underlay)
    message = (
        f"{network.mtu} is too large: a full packet is {size} bytes in ESP ({underlay.name()}), "
        f"and the underlay takes {underlay.mtu}; give at most {largest}"
    )
    if underlay_mtu is None:
        message += ", or the underlay's MTU with --underlay-mtu"
    return [Problem(network.mtu_line, MTU_PATH, message)]


def advice(network: ClusterNetwork, underlay_mtu: int | None) -> list[str]:
    """Lines for whoever installs the cluster."""
    lines = [_mode_line(network.mode)]
    if network.mode is Mode.DISABLED:
        return lines
    lines.append("Largest MTU for pods:")
    for mtu in (underlay_mtu,) if underlay_mtu else USUAL_UNDERLAYS:
        plain = Underlay(mtu)
        kinds = [plain, replace(plain, nat_traversal=True)]
        kinds += [replace(kind, ipv6=True) for kind in kinds]
        sizes = "; ".join(f"{kind.name()} {largest_pod_mtu(kind)}" for kind in kinds)
        lines.append(f"  underlay {mtu}: {sizes}")
    if network.mtu is None:
        lines.append(
            "The manifest sets no mtu, so the platform chooses: see that it is not larger."
        )
    if network.encapsulation is Encapsulation.ALWAYS:
        lines.append(
            "encapsulation: Always is a setting of OVN's, not of the nodes: "
            "ovn-nbctl set nb_global . options:ipsec_encapsulation=true"
        )
    if network.hybrid_overlay:
        lines.append(
            "hybridOverlayConfig: VXLAN tunnels to nodes without OVN are not encrypted by IPsec."
        )
    return lines


def _mode_line(mode: Mode) -> str:
    if mode is Mode.DISABLED:
        return "IPsec is disabled: nothing but the namespace is rendered."
    if mode is Mode.EXTERNAL:
        return "IPsec with the libreswan of the hosts: it has to run there."
    return "IPsec with libreswan in the pods: no other may run on the hosts."
