"""A node of a CA-signed cluster gets another certificate while its tunnels carry traffic."""

from __future__ import annotations

import time

from tools.bench.tunnels.contenders import Contender
from tools.bench.tunnels.stage import STATES_OF_A_TUNNEL, soon
from tools.lab.identity import KEYS, install_identity
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pki import Authority, Pair

_OBSERVED_S = 40.0
"""Long enough for connections that are made anew, and for what pluto tries again."""


def measure_certificate(
    lab: Lab, contender: Contender, peers: int, limit_s: float
) -> dict[str, float]:
    """Seconds until pluto has the new certificate and all SAs are there; datagrams lost.

    Key and certificate come at new paths, which is the only change that every monitor notices.
    Raises TimeoutError after ``limit_s``.
    """
    authority = Authority.create()
    hub, *others = lab.overlay("hub", *(f"p{number}" for number in range(peers)))
    for node in (hub, *others):
        install_identity(node, authority.issue(node.name), authority)
        contender.launch(node)
    with lab.traffic(hub, others[0]) as traffic:
        for other in others:
            hub.add_tunnel(f"t-{other.name}", other.ipv4, remote_name=other.name)
            other.add_tunnel("t-hub", hub.ipv4, remote_name=hub.name)
        needed = STATES_OF_A_TUNNEL * peers
        soon(lambda: hub.sa_count() >= needed, limit_s, "tunnels up")
        traffic.wait_flowing(limit_s)
        time.sleep(_OBSERVED_S)
        negotiated = _negotiations(hub)
        renewed = authority.issue(hub.name)
        start = time.monotonic()
        _replace(hub, renewed)
        serial = f"{renewed.certificate.serial_number:x}"
        soon(
            lambda: _listed(hub, serial) and hub.sa_count() >= needed,
            limit_s,
            "the new certificate in pluto, all SAs",
        )
        took_s = time.monotonic() - start
        time.sleep(_OBSERVED_S)
        return {
            "replaced_s": round(took_s, 2),
            "lost": traffic.lost(start),
            "negotiations": _negotiations(hub) - negotiated,
        }


def _replace(node: Node, renewed: Pair) -> None:
    names = (f"{KEYS}/renewed-cert.pem", f"{KEYS}/renewed-privkey.pem")
    certificate, key = (node.path(name) for name in names)
    renewed.write(certificate, key)
    settings = [f"other_config:certificate={names[0]}", f"other_config:private_key={names[1]}"]
    node.vsctl("--no-wait", "set", "Open_vSwitch", ".", *settings)


def _listed(node: Node, serial: str) -> bool:
    # Not there while a monitor restarts it.
    return serial in node.whack("--listcerts", check=False).lower().replace(":", "")


def _negotiations(node: Node) -> int:
    """IKE SAs that the node's pluto ever authenticated."""
    return node.pluto_log().count("established IKE SA; authenticated")
