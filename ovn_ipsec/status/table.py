"""Draws the overview with rich: a table per node, in colour only on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ovn_ipsec.status.overview import Overview, PeerRow, render_age, render_bytes, summary

WIDE = 120
"""From so many columns on, cipher and full names fit."""
MOST_CAUSES = 20
_STYLES = {"encrypted": "green", "down": "red", "invalid": "red", "no input": "yellow"}


def render(overview: Overview, width: int, *, problems_only: bool) -> RenderableType:
    """The whole answer. Without ``problems_only`` every tunnel has a line."""
    rows = overview.troubled if problems_only else overview.rows
    parts: list[RenderableType] = []
    if rows:
        parts += [_table(rows, width), Text()]
    parts += _causes(overview.troubled)
    parts += [Text(f"node: {problem}", style="red") for problem in overview.problems]
    parts += [Text(f"note: {note}", style="yellow") for note in overview.notes]
    parts.append(Text(summary(overview), style="green" if overview.all_encrypted else "red"))
    return Group(*parts)


def _table(rows: Iterable[PeerRow], width: int) -> Table:
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name, most in (("CHASSIS", 10), ("ADDRESS", 15), ("TUNNEL", 12)):
        table.add_column(name, no_wrap=True, max_width=None if wide else most)
    table.add_column("STATE", no_wrap=True)
    table.add_column("IKE", no_wrap=True)
    table.add_column("SA", no_wrap=True)
    if wide:
        table.add_column("CIPHER", no_wrap=True)
    for name in ("AGE", "REKEY", "IN", "OUT"):
        table.add_column(name, no_wrap=True, justify="right")
    for row in rows:
        cells = [row.peer or "-", row.address, row.tunnel]
        cells += [row.state, "up" if row.ike_up else "-", _children(row)]
        cells += [row.cipher] if wide else []
        cells += [render_age(row.age_s), render_age(row.rekey_s)]
        cells += [render_bytes(row.bytes_in), render_bytes(row.bytes_out)]
        styles = {3: _STYLES.get(row.state, "")}
        # Text, not str: names may hold what rich takes for markup.
        table.add_row(*(Text(cell, style=styles.get(n, "")) for n, cell in enumerate(cells)))
    return table


def _children(row: PeerRow) -> str:
    """Child SAs for what the peer begins and for what this node begins."""
    return f"{row.inbound}+{row.outbound}"


def _causes(rows: tuple[PeerRow, ...]) -> list[RenderableType]:
    """Like causes together: a certificate that is missing makes all tunnels invalid at once."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        # Causes name the peer's address; without it, equal ones are equal.
        text = row.cause.replace(row.address, "the peer") if row.address else row.cause
        groups.setdefault((text.replace(row.tunnel, "..."), row.remedy), []).append(row.tunnel)
    shown: list[RenderableType] = []
    for (text, remedy), tunnels in list(groups.items())[:MOST_CAUSES]:
        named = tunnels[0] if len(tunnels) == 1 else f"{len(tunnels)} tunnels ({tunnels[0]}, ...)"
        shown.append(Text(f"{named}: {text or 'no cause known'}"))
        if remedy:
            shown.append(Text(f"  -> {remedy}"))
    if len(groups) > MOST_CAUSES:
        shown.append(Text(f"{len(groups) - MOST_CAUSES} more causes: see --json"))
    if shown:
        shown.append(Text())
    return shown
