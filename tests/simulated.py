"""Statuses of whole clusters, in the agent's own JSON, for the cluster view."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ovn_ipsec.model.causes import Cause, CauseCode
from ovn_ipsec.model.conns import GuardCounters, GuardMode, OwnCertificate
from ovn_ipsec.model.snapshot import ActiveConnection, GuardStatus, TunnelState, TunnelStatus
from ovn_ipsec.status.json_report import json_tunnels
from ovn_ipsec.web.merge import read_status
from ovn_ipsec.web.model import NodeReport
from tests.control_fake import VIEW, make_snapshot

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
SILENT = Cause(CauseCode.PEER_SILENT, "the peer does not answer IKE", "check that it is up")


def address(number: int) -> str:
    return f"192.0.{number // 250}.{number % 250 + 1}"


def name(number: int) -> str:
    return f"node-{number}"


def tunnel(own: int, peer: int, *, up: bool = True) -> TunnelStatus:
    view = replace(VIEW, local_ip=address(own), remote_ip=address(peer), remote_name=name(peer))
    names = (f"tun-{peer}-in-1", f"tun-{peer}-out-1")
    if not up:
        return TunnelStatus(
            f"tun-{peer}", 1, TunnelState.CONFIGURED, view, missing=names, cause=SILENT
        )
    made = int(time.time()) - 60
    active = tuple(ActiveConnection(each, "line", 1000, 2000, made) for each in names)
    return TunnelStatus(
        f"tun-{peer}", 1, TunnelState.CONFIGURED, view, connections=active, ike_up=True
    )


def status(
    own: int,
    peers: Mapping[int, bool],
    *,
    mode: GuardMode = GuardMode.ENFORCE,
    drops: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """What node ``own`` tells; ``peers``: number -> encrypted."""
    snapshot = make_snapshot(0)
    now_s = snapshot.taken_at_s
    told = json_tunnels(
        replace(
            snapshot,
            tunnels=tuple(tunnel(own, peer, up=up) for peer, up in peers.items()),
            guard=GuardStatus(True, True, mode, GuardCounters(*drops), now_s),
            certificate=OwnCertificate(
                name(own), NOW + timedelta(days=41, hours=1), None, NOW + timedelta(days=400)
            ),
        ),
        now_s,
    )
    assert told is not None
    return dict(told)


def report(own: int, peers: Mapping[int, bool], **more: Any) -> NodeReport:
    return NodeReport(name(own), address(own), read_status(status(own, peers, **more)), NOW)


def full_mesh(count: int, down: Collection[frozenset[int]] = ()) -> list[NodeReport]:
    """Everybody has a tunnel to everybody; ``down``: pairs that are not encrypted."""
    (sample,) = status(0, {1: True})["tunnels"]
    (broken,) = status(0, {1: False})["tunnels"]
    reports = []
    for own in range(count):
        told = status(own, {})
        for peer in range(count):
            if peer == own:
                continue
            made = broken if frozenset((own, peer)) in down else sample
            config = {
                **made["config"],
                "local_ip": address(own),
                "remote_ip": address(peer),
                "remote_name": name(peer),
            }
            told["tunnels"].append({**made, "config": config})
        reports.append(NodeReport(name(own), address(own), read_status(told), NOW))
    return reports
