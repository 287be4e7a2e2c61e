"""The cluster for terminals and programs. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ovn_ipsec.status.overview import PeerRow, render_age
from ovn_ipsec.web.model import MEANINGS, SIGNS, TROUBLED, Cluster, PairState, Standing, summary

MOST_DRAWN = 40
"""With more nodes the matrix is wider than terminals are."""


def render_text(cluster: Cluster) -> str:
    """Matrix, what is wrong, summary."""
    lines: list[str] = []
    if len(cluster.nodes) <= MOST_DRAWN:
        lines += [*_matrix(cluster), ""]
    lines += _wrong(cluster)
    lines.append(summary(cluster))
    return "\n".join(lines) + "\n"


def render_json(cluster: Cluster) -> str:
    """Everything, a line of JSON. A pair that is not listed has no tunnel that is known."""
    names = [node.name for node in cluster.nodes]
    value: dict[str, Any] = {
        "at": cluster.at.isoformat(),
        "all_encrypted": cluster.all_encrypted,
        "summary": summary(cluster),
        "nodes": [
            {
                "name": node.name,
                "standing": node.standing.name.lower(),
                "error": node.error,
                "answered_at": None if node.answered_at is None else node.answered_at.isoformat(),
                "guard": node.view.guard if node.view else None,
                "pluto": node.view.pluto if node.view else None,
                "certificate_until": _iso(node.view.certificate_until if node.view else None),
                "ca_until": _iso(node.view.ca_until if node.view else None),
                "plaintext_met": sum(node.view.drops) if node.view and node.view.drops else None,
                "problems": list(node.view.overview.problems) if node.view else [],
            }
            for node in cluster.nodes
        ],
        "pairs": [
            {
                "nodes": [names[one], names[other]],
                "state": str(pair.state),
                "tunnels": [[asdict(row) for row in rows] for rows in pair.rows],
            }
            for (one, other), pair in sorted(cluster.pairs.items())
        ],
    }
    return json.dumps(value) + "\n"


def _iso(moment: Any) -> str | None:
    return None if moment is None else str(moment.isoformat())


def _matrix(cluster: Cluster) -> Iterator[str]:
    nodes = cluster.nodes
    wide = max((len(node.name) for node in nodes), default=0)
    yield " " * (wide + 3) + "".join(f"{number:>3}" for number in range(1, len(nodes) + 1))
    for number, node in enumerate(nodes):
        signs = (
            "  –" if other == number else f"  {SIGNS[cluster.state(number, other)]}"
            for other in range(len(nodes))
        )
        yield f"{number + 1:>2} {node.name:<{wide}}{''.join(signs)}"
    yield ""
    yield ", ".join(f"{SIGNS[state]} {state}" for state in PairState)


def _wrong(cluster: Cluster) -> Iterator[str]:
    for node in cluster.nodes:
        if node.standing in (Standing.SILENT, Standing.OLD):
            age = ""
            if node.answered_at is not None:
                seconds = (cluster.at - node.answered_at).total_seconds()
                age = f" (last known state is {render_age(seconds)} old)"
            yield f"{node.name} {node.standing}{age}{': ' if node.error else ''}{node.error}"
        for problem in node.view.overview.problems if node.view and node.fresh else ():
            yield f"{node.name}: {problem}"
    for (one, other), pair in sorted(cluster.pairs.items()):
        if pair.state in TROUBLED:
            names = (cluster.nodes[one].name, cluster.nodes[other].name)
            yield f"{SIGNS[pair.state]} {names[0]} and {names[1]}: {MEANINGS[pair.state]}"
            for name, rows in zip(names, pair.rows, strict=True):
                yield from (_end(name, row) for row in rows if not row.encrypted)


def _end(name: str, row: PeerRow) -> str:
    remedy = f" -> {row.remedy}" if row.remedy else ""
    return f"    {name}: {row.tunnel} {row.state}: {row.cause or 'no cause known'}{remedy}"
