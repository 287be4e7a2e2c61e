"""The pages, as HTML. Pure; every text that comes from a node is escaped here and nowhere else.

They work without scripts: what unfolds is a ``details`` element, what leads on is a link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from ovn_ipsec.status.overview import PeerRow, render_age, render_bytes
from ovn_ipsec.web.chart import draw
from ovn_ipsec.web.matrix import draw_matrix
from ovn_ipsec.web.model import (
    MEANINGS,
    SIGNS,
    TROUBLED,
    Cluster,
    Node,
    Pair,
    PairState,
    Standing,
    summary,
)

MOST_PROBLEMS = 20
_TEXT_MOST = 500
_MET = "Tunnel packets without IPsec that the guards met"


def front(cluster: Cluster, bars: Sequence[int]) -> str:
    """The cluster: what is wrong, the matrix, the nodes, the drops."""
    kind = "good" if cluster.all_encrypted else "bad"
    sign = "✓" if cluster.all_encrypted else "✗"
    parts = [
        '<a class="skip" href="#nodes">Skip the matrix</a>',
        "<h1>Who is encrypted to whom</h1>",
        f'<p class="{kind}">{sign} {escape(summary(cluster))}.</p>',
        f'<p>As of {_moment(cluster.at)}. <a href="/">Look again</a></p>',
        _problems(cluster),
        "<h2>Pairs of nodes</h2>",
        draw_matrix(cluster),
        _legend(),
        '<h2 id="nodes" tabindex="-1">Nodes</h2>',
        _nodes(cluster),
        "<h2>Plaintext</h2>",
        draw(bars, _MET),
    ]
    return _page("ovn-ipsec", parts)


def node_page(cluster: Cluster, number: int, bars: Sequence[int]) -> str:
    """One node: what it says of itself, and its pairs."""
    node = cluster.nodes[number]
    rows = []
    for other, peer in enumerate(cluster.nodes):
        if other == number:
            continue
        state = cluster.state(number, other)
        if state is not PairState.ABSENT:
            rows.append(
                f'<tr><th scope="row"><a href="/pair/{node.key}/{peer.key}">{_name(peer)}</a></th>'
                f'<td class="{state}">{SIGNS[state]} {escape(MEANINGS[state])}</td></tr>'
            )
    table = (
        '<table><caption>Its pairs</caption><thead><tr><th scope="col">Peer</th>'
        f'<th scope="col">State</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    parts = [_home(), f'<h1 class="words">{_name(node)}</h1>', _facts(cluster, node)]
    parts += [draw(bars, f"{_MET[:-11]}guard met"), table]
    return _page(node.name, parts)


def pair_page(cluster: Cluster, one: int, other: int) -> str:
    """Both sides' view of a pair, and why it is as it is."""
    first, second = sorted((one, other))
    nodes = (cluster.nodes[first], cluster.nodes[second])
    state = cluster.state(first, second)
    pair = cluster.pairs.get((first, second)) or Pair(state, ((), ()))
    title = f"{nodes[0].name} and {nodes[1].name}"
    parts = [
        _home(),
        f'<h1 class="words">{_name(nodes[0])} and {_name(nodes[1])}</h1>',
        f'<p class="{state}">{SIGNS[state]} {escape(MEANINGS[state])}</p>',
    ]
    for node, peer, rows in zip(nodes, reversed(nodes), pair.rows, strict=True):
        parts.append(
            f'<h2 class="words"><a href="/node/{node.key}">{_name(node)}</a> says</h2>'
            f"<p>{_standing(cluster, node)}</p>"
        )
        parts += [_tunnel(row) for row in rows]
        if not rows and node.view is not None:
            parts.append(f"<p>It has no tunnel with IPsec to {_name(peer)}.</p>")
    return _page(title, parts)


def missing_page() -> str:
    """What is asked for is not, or no longer, there."""
    return _page("Not there", [_home(), "<h1>No such page</h1><p>The node may be gone.</p>"])


def _page(title: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(_cut(title))}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/style.css"></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _home() -> str:
    return '<p><a href="/">The whole cluster</a></p>'


def _problems(cluster: Cluster) -> str:
    silent = [node for node in cluster.nodes if node.standing in (Standing.SILENT, Standing.OLD)]
    items = [
        f'<li><a href="/node/{node.key}">{_name(node)}</a>: {_standing(cluster, node)}</li>'
        for node in silent[:MOST_PROBLEMS]
    ]
    order = list(PairState)
    bad = sorted(
        (order.index(pair.state), place)
        for place, pair in cluster.pairs.items()
        if pair.state in TROUBLED
    )
    for _, place in bad[:MOST_PROBLEMS]:
        one, other = (cluster.nodes[number] for number in place)
        pair = cluster.pairs[place]
        cause = next((row.cause for rows in pair.rows for row in rows if row.cause), "")
        why = cause or MEANINGS[pair.state]
        items.append(
            f'<li class="words"><a href="/pair/{one.key}/{other.key}">'
            f"{SIGNS[pair.state]} {_name(one)} and {_name(other)}</a>: {escape(_cut(why))}</li>"
        )
    more = max(0, len(silent) - MOST_PROBLEMS) + max(0, len(bad) - MOST_PROBLEMS)
    if more:
        items.append(f"<li>{more} more: see below</li>")
    return f"<h2>What is wrong</h2><ul>{''.join(items)}</ul>" if items else ""


def _legend() -> str:
    lines = "".join(
        f'<li><span class="key {state}" aria-hidden="true">{SIGNS[state]}</span> '
        f"{escape(MEANINGS[state])}</li>"
        for state in PairState
    )
    return f"<details open><summary>What the signs mean</summary><ul>{lines}</ul></details>"


def _nodes(cluster: Cluster) -> str:
    heads = (
        "Node",
        "Standing",
        "Encrypted",
        "Guard",
        "pluto",
        "Certificate",
        "CA",
        "Met in clear",
    )
    rows = []
    for node in cluster.nodes:
        view = node.view
        cells = [_standing(cluster, node)]
        if view is not None:
            overview = view.overview
            cells += [
                f"{overview.encrypted} of {len(overview.rows)} tunnels",
                escape(view.guard or "absent or unknown"),
                escape(view.pluto or "does not run"),
                _days(view.certificate_until, cluster.at),
                _days(view.ca_until, cluster.at),
                "unknown" if view.drops is None else f"{sum(view.drops)} packets",
            ]
        cells += [""] * (len(heads) - 1 - len(cells))
        rows.append(
            f'<tr><th scope="row"><a href="/node/{node.key}">{_name(node)}</a></th>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return (
        '<div class="wide"><table><caption>What each says of itself, or said last</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _facts(cluster: Cluster, node: Node) -> str:
    facts = [("Standing", _standing(cluster, node))]
    view = node.view
    if view is not None:
        overview = view.overview
        facts += [
            ("Tunnels", f"{overview.encrypted} of {len(overview.rows)} encrypted"),
            ("Guard", escape(view.guard or "absent or unknown")),
            ("pluto", escape(view.pluto or "does not run")),
            ("Certificate", _days(view.certificate_until, cluster.at)),
            ("CA certificate", _days(view.ca_until, cluster.at)),
        ]
        if view.drops is not None:
            facts.append(("Met in clear", f"{view.drops[0]} going out, {view.drops[1]} coming in"))
        wrong = [*overview.problems, *overview.notes]
        facts += [("Problem", escape(_cut(text))) for text in wrong[:MOST_PROBLEMS]]
    lines = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in facts)
    return f'<dl class="words">{lines}</dl>'


def _tunnel(row: PeerRow) -> str:
    facts = [("State", row.state), ("Peer", f"{row.peer or 'no name'}, {row.address}")]
    if row.cause:
        facts.append(("Cause", row.cause))
    if row.remedy:
        facts.append(("Remedy", row.remedy))
    facts += [
        ("IKE SA", "up" if row.ike_up else "none"),
        ("Child SAs", f"{row.inbound} that the peer began, {row.outbound} that it began itself"),
        ("Cipher", row.cipher or "not read"),
        ("Age of the oldest SA", render_age(row.age_s) or "none"),
        ("Traffic", f"{render_bytes(row.bytes_in)} in, {render_bytes(row.bytes_out)} out"),
    ]
    lines = "".join(f"<dt>{term}</dt><dd>{escape(_cut(text))}</dd>" for term, text in facts)
    return (
        f'<details open class="words"><summary>Tunnel {escape(_cut(row.tunnel))}: '
        f"{escape(row.state)}</summary><dl>{lines}</dl></details>"
    )


def _standing(cluster: Cluster, node: Node) -> str:
    text = str(node.standing)
    if node.answered_at is not None and not node.fresh:
        age_s = (cluster.at - node.answered_at).total_seconds()
        text += f"; what is shown is {render_age(age_s)} old"
    elif node.standing is Standing.SILENT:
        text += ", and never has"
    if node.error:
        text += f": {node.error}"
    return escape(_cut(text))


def _days(until: datetime | None, now: datetime) -> str:
    if until is None:
        return "unknown"
    days = (until - now).days
    return "✗ expired" if days < 0 else f"{days} days left"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _name(node: Node) -> str:
    return escape(_cut(node.name))


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_MOST else text[:_TEXT_MOST] + "…"
