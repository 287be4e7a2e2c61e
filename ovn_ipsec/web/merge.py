"""From what nodes say to the matrix. Pure.

A node speaks for its own end alone, and under the name by which it was reached: what its status
says of its own name counts only where it was reached over loopback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from ovn_ipsec.status.overview import OLD_AFTER_S, PeerRow, build_overview, one_line
from ovn_ipsec.web.model import (
    Cluster,
    Node,
    NodeReport,
    NodeView,
    Pair,
    PairState,
    Standing,
)

MOST_NODES = 1000
"""Rows and columns at most: any node may name any number of peers."""
_NAME_MOST = 100
_WITH_SAS = ("encrypted", "no input")
_DIGITS = re.compile(r"([0-9]{1,18})")


def read_status(status: Mapping[str, Any]) -> NodeView:
    """What the JSON of ``/status`` says. What is absent or of another kind is unknown."""
    node = _mapping(status.get("node"))
    certificate, guard = _mapping(node.get("certificate")), _mapping(node.get("guard"))
    ike = _mapping(node.get("ike"))
    tunnels = status.get("tunnels")
    configs = [
        _mapping(_mapping(tunnel).get("config"))
        for tunnel in (tunnels if isinstance(tunnels, list) else ())
    ]
    ends = {_address(config.get("local_ip")) for config in configs}
    intact = guard.get("present") is True and guard.get("intact") is True
    pluto = one_line(ike.get("version")) or "runs"
    age = node.get("age_s")
    return NodeView(
        name=_name(certificate.get("name")),
        addresses=frozenset(ends - {""}),
        overview=build_overview(status),
        age_s=float(age) if isinstance(age, int | float) else 0.0,
        guard=one_line(guard.get("mode")) if intact else "",
        pluto=pluto if ike.get("running") is True else "",
        certificate_until=_moment(certificate.get("not_after")),
        ca_until=_moment(certificate.get("ca_not_after")),
        drops=_drops(guard),
    )


def merge(reports: Sequence[NodeReport], now: datetime) -> Cluster:
    """The matrix of all nodes that were asked and all that those tell of."""
    nodes: dict[str, Node] = {}
    for report in reports:
        name = report.name or (report.view.name if report.view else "") or report.address
        nodes.setdefault(name, _node(name, report))
    by_address = _addresses(reports, nodes)
    by_name = {name.lower(): name for name in nodes}
    left_out: set[str] = set()
    ends: dict[tuple[str, str], list[PeerRow]] = {}
    for name, node in list(nodes.items()):
        for row in node.view.overview.rows if node.view else ():
            peer = by_name.get(row.peer.lower()) if row.peer else None
            peer = peer or by_address.get(_address(row.address))
            if peer is None:
                peer = _name(row.peer or row.address)
                if not peer or len(nodes) >= MOST_NODES:
                    left_out.add(peer)
                    continue
                nodes[peer] = Node(peer, Standing.UNASKED)
                by_name[peer.lower()] = peer
                if row.address:
                    by_address.setdefault(_address(row.address), peer)
            if peer != name:
                ends.setdefault((name, peer), []).append(row)
    ordered = sorted(nodes.values(), key=lambda node: _natural(node.name))
    return Cluster(now, tuple(ordered), _pairs(ordered, ends), len(left_out))


def _node(name: str, report: NodeReport) -> Node:
    view = report.view
    if report.error or view is None:
        standing = Standing.SILENT
    else:
        standing = Standing.OLD if view.age_s > OLD_AFTER_S else Standing.ANSWERS
    return Node(name, standing, view, report.answered_at, one_line(report.error))


def _addresses(reports: Iterable[NodeReport], nodes: Mapping[str, Node]) -> dict[str, str]:
    """Address -> node. Where a node was reached weighs more than what nodes say."""
    reached: dict[str, str] = {}
    told: dict[str, str] = {}
    for report in reports:
        name = report.name or (report.view.name if report.view else "") or report.address
        address = _address(report.address)
        if address and not ip_address(address).is_loopback:
            reached.setdefault(address, name)
        for end in sorted(report.view.addresses) if report.view else ():
            told.setdefault(end, name)
    return {end: name for end, name in (told | reached).items() if name in nodes}


def _pairs(
    nodes: Sequence[Node], ends: Mapping[tuple[str, str], Sequence[PeerRow]]
) -> dict[tuple[int, int], Pair]:
    place = {node.name: number for number, node in enumerate(nodes)}
    pairs: dict[tuple[int, int], Pair] = {}
    for one, other in ends:
        first, second = sorted((place[one], place[other]))
        if (first, second) in pairs:
            continue
        names = (nodes[first].name, nodes[second].name)
        rows = (tuple(ends.get(names, ())), tuple(ends.get((names[1], names[0]), ())))
        state = judge((nodes[first], nodes[second]), rows)
        pairs[first, second] = Pair(state, rows)
    return pairs


def judge(
    nodes: tuple[Node, Node], rows: tuple[Sequence[PeerRow], Sequence[PeerRow]]
) -> PairState:
    """The state of a pair: only what is fresh counts; a node without a tunnel says no."""
    told = [(node, own) for node, own in zip(nodes, rows, strict=True) if node.fresh]
    says = [bool(own) and all(row.encrypted for row in own) for _, own in told]
    if not told:
        return PairState.UNKNOWN
    if all(says):
        return PairState.ENCRYPTED if len(says) == len(nodes) else PairState.ONE_SIDED
    if any(_lets_pass(node, own) for node, own in told):
        return PairState.OPEN
    if any(says):
        return PairState.DISAGREE
    return PairState.DOWN if any(own for _, own in told) else PairState.UNKNOWN


def _lets_pass(node: Node, rows: Sequence[PeerRow]) -> bool:
    """Packets of some of its tunnels may leave in clear."""
    closed = node.view is not None and node.view.closed
    return not closed and any(row.state not in _WITH_SAS for row in rows)


def _drops(guard: Mapping[str, Any]) -> tuple[int, int] | None:
    out, inbound = guard.get("dropped_out"), guard.get("dropped_in")
    if isinstance(out, int) and isinstance(inbound, int) and out >= 0 and inbound >= 0:
        return out, inbound
    return None


def _name(value: object) -> str:
    return one_line(value)[:_NAME_MOST]


def _natural(name: str) -> list[tuple[int, str]]:
    """node-2 before node-10."""
    parts = _DIGITS.split(name)
    return [(int(part), "") if part.isascii() and part.isdigit() else (0, part) for part in parts]


def _address(value: object) -> str:
    """In its one canonical spelling; empty when it is none."""
    try:
        return str(ip_address(str(value)))
    except ValueError:
        return ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo else None
