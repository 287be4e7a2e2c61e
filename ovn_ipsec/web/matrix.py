"""The N x N table. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ovn_ipsec.web.model import MEANINGS, SIGNS, Cluster, PairState

MOST_CELLS_ALONE = 40
"""With more nodes, neighbours of one state that is no trouble share a cell, which leads to the
node's page: 300 nodes have 90000 pairs, and nobody tabs through those."""
_ALONE = frozenset({PairState.OPEN, PairState.DOWN, PairState.DISAGREE})


def draw_matrix(cluster: Cluster) -> str:
    """A row and a column for each node. Columns have numbers, rows number and name."""
    nodes = cluster.nodes
    if not nodes:
        return "<p>No node is known.</p>"
    columns = "".join(
        f'<th scope="col"><abbr title="{escape(node.name)}">{number}</abbr></th>'
        for number, node in enumerate(nodes, 1)
    )
    rows = "".join(_row(cluster, number) for number in range(len(nodes)))
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Matrix of pairs">'
        '<table class="matrix"><caption>Row and column: two nodes. A sign leads to what both '
        "say</caption>"
        f'<colgroup><col class="name"><col class="pair" span="{len(nodes)}"></colgroup>'
        f'<thead><tr><th scope="col">Node</th>{columns}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(cluster: Cluster, number: int) -> str:
    node = cluster.nodes[number]
    name = escape(node.name)
    cells = "".join(_cell(cluster, number, *run) for run in _runs(cluster, number))
    return (
        f'<tr><th scope="row"><a href="/node/{node.key}" title="{name}">{number + 1} {name}</a>'
        f"</th>{cells}</tr>"
    )


def _runs(cluster: Cluster, number: int) -> Iterator[tuple[PairState | None, int, int]]:
    """State, first column, how many columns; None is the node itself."""
    count = len(cluster.nodes)
    alone = count <= MOST_CELLS_ALONE
    begin = 0
    while begin < count:
        state = None if begin == number else cluster.state(number, begin)
        end = begin + 1
        if not (alone or state is None or state in _ALONE):
            while end < count and end != number and cluster.state(number, end) is state:
                end += 1
        yield state, begin, end - begin
        begin = end


def _cell(cluster: Cluster, number: int, state: PairState | None, column: int, span: int) -> str:
    if state is None:
        return '<td class="self">–</td>'
    node, peer = cluster.nodes[number], cluster.nodes[column]
    if span > 1:
        return (
            f'<td class="{state}" colspan="{span}"><a href="/node/{node.key}" '
            f'aria-label="{span} peers: {escape(MEANINGS[state])}">{SIGNS[state]} {span}</a></td>'
        )
    if state is PairState.ABSENT:
        return f'<td class="{state}">{SIGNS[state]}</td>'
    words = escape(f"{node.name} and {peer.name}: {MEANINGS[state]}")
    return (
        f'<td class="{state}"><a href="/pair/{node.key}/{peer.key}" title="{words}" '
        f'aria-label="{words}">{SIGNS[state]}</a></td>'
    )
