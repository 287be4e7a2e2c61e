"""Tables and plots of a measurement, for docs/benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_PHASES = (
    ("loaded_s", "configuration to all connections loaded, s"),
    ("up_s", "configuration to all child SAs up, s"),
    ("one_more_s", "one more peer, all alive, s"),
    ("one_more_own_cpu_s", "CPU of the monitor alone until then, s"),
    ("one_more_half_dead_s", "one more peer, half of all dead, s"),
    ("one_changed_s", "one peer's secret changed, s"),
    ("one_less_s", "one peer removed, s"),
    ("restart_s", "monitor restarted, true status again, s"),
    ("restart_commands", "commands that pluto got because of that"),
    ("bulk_cpu_s", "CPU of the monitor and its children until all is up, s"),
    ("idle_core_share", "idle, all alive, share of a core"),
    ("idle_half_dead_core_share", "idle, half dead, share of a core"),
    ("rss_mb", "memory of the monitor, MB"),
    ("pluto_cpu_s", "CPU of pluto and its children until all is up, s"),
    ("pluto_rss_mb", "memory of pluto, MB"),
    ("rekeys_in_fullest_minute", "child SAs that rekey in the fullest minute"),
)
_PLOTS = (
    ("loaded_s", "all connections loaded (s)"),
    ("up_s", "all child SAs up (s)"),
    ("one_more_half_dead_s", "one more peer, half dead (s)"),
    ("idle_half_dead_core_share", "idle, half dead (share of a core)"),
)


@dataclass(frozen=True, slots=True)
class _Part:
    """What is measured beside the hub, and how its table looks."""

    name: str
    title: str
    column: str
    """A row's column heading, as a format of its fields."""
    lines: Sequence[tuple[str, str]]


_PARTS = (
    _Part(
        "answers",
        "Answers to `tunnels/show` and `ipsec/status`, one of each a second, while all come up",
        "{contender}, {peers} peers",
        (
            ("query_median_s", "median, s"),
            ("query_p99_s", "p99, s"),
            ("queries", "questions answered"),
            ("up_s", "all child SAs up, s"),
        ),
    ),
    _Part(
        "limits",
        "What one more tunnel costs Open vSwitch and pluto, whoever keeps the others up",
        "{peers} tunnels",
        (
            ("row_s", "Open vSwitch takes a changed row, s"),
            ("keys_s", "pluto reads its keys anew, s"),
            ("nothing_s", "a command that asks pluto nothing, s"),
        ),
    ),
    _Part(
        "mesh",
        "A full mesh, all agents started at once",
        "{peers} nodes",
        (
            ("up_s", "until every pair is encrypted, s"),
            ("extra_states", "states beyond the needed ones, 20 s later"),
        ),
    ),
    _Part(
        "certificate",
        "A node's certificate replaced, 20 datagrams a second each way",
        "{contender}",
        (
            ("replaced_s", "until pluto has it and all SAs are there, s"),
            ("lost", "datagrams lost"),
            ("negotiations", "IKE SAs negotiated because of it"),
        ),
    ),
    _Part(
        "churn",
        "5,000 unrelated interfaces, 100 changes a second",
        "{contender}",
        (
            ("still_core_share", "without changes, share of a core"),
            ("churn_core_share", "with changes, share of a core"),
            ("changes_per_s", "changes a second that the database took"),
            ("rss_mb", "memory, MB"),
        ),
    ),
    _Part(
        "data-plane",
        "What one tunnel carries",
        "{contender}",
        (("mbit_s", "TCP, Mbit/s"), ("packets_s", "datagrams of 64 bytes a second")),
    ),
)


def write_report(results: Sequence[Path], docs: Path, command: str) -> None:
    """Write what was measured, in one run or several, as tunnels.json, tunnels.md, tunnels.png."""
    docs.mkdir(parents=True, exist_ok=True)
    runs = [json.loads(each.read_text()) for each in results]
    measured = runs[-1] | {"rows": [row for run in runs for row in run["rows"]]}
    (docs / "tunnels.json").write_text(json.dumps(measured, indent=1) + "\n")
    (docs / "tunnels.md").write_text(render_report(measured, command))
    plot_hubs(measured["rows"], docs / "tunnels.png")
    plot_rekeys(measured["rows"], docs / "rekeys.png")


def render_report(measured: dict[str, Any], command: str) -> str:
    """The page. Everything in it is from the measurement."""
    rows: list[Row] = measured["rows"]
    versions = ", ".join(f"{name} {value}" for name, value in measured["versions"].items())
    parts = [
        "# What the agent costs, and its originals\n",
        f"`{command}`\n",
        f"{versions}. Seconds are the lab's, whose clock counts instructions: compare within a "
        "table. Each contender has the same hub, peers and cheap key exchange, in turn; `floor` "
        "is one `addconn` of all connections and nobody who watches. Where half of all are "
        "dead, as many dead peers stand beside those that the table counts.\n",
        "![time and load by number of peers](tunnels.png)\n",
        "![rekeys by the minute](rekeys.png)\n",
    ]
    for peers in sorted({row["peers"] for row in rows if row["part"] == "hub"}):
        chosen = [row for row in rows if row["part"] == "hub" and row["peers"] == peers]
        parts.append(f"## {peers} peers\n\n{_table(chosen, _PHASES)}")
        parts += _given_up(chosen)
    for part in _PARTS:
        parts += _section([row for row in rows if row["part"] == part.name], part)
    return "\n".join(parts)


def _section(rows: Sequence[Row], part: _Part) -> list[str]:
    if not rows:
        return []
    named = [row | {"contender": part.column.format(**row)} for row in rows]
    return [f"## {part.title}\n\n{_table(named, part.lines)}", *_given_up(named)]


def _given_up(rows: Iterable[Row]) -> list[str]:
    return [
        f"`{row['contender']}` gave up: {_cell(row['gave_up'])}\n"
        for row in rows
        if row["gave_up"]
    ]


def _table(rows: Sequence[Row], lines: Sequence[tuple[str, str]]) -> str:
    names = [str(row["contender"]) for row in rows]
    text = f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}\n"
    for key, title in lines:
        if any(key in row["values"] for row in rows):
            cells = [_number(row["values"].get(key)) for row in rows]
            text += f"| {title} | {' | '.join(cells)} |\n"
    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _cell(text: str) -> str:
    return text.splitlines()[0].replace("|", "\\|")


def plot_rekeys(rows: Sequence[Row], target: Path) -> None:
    """When a hub's child SAs are rekeyed, minute by minute, where it has the most peers."""
    # Only who measures needs it: the extra "bench".
    from matplotlib.figure import Figure

    hubs = [row for row in rows if row.get("rekeys_due_s")]
    if not hubs:
        return
    chosen = max(hubs, key=lambda row: (row["contender"] == "ovn-ipsec", int(row["peers"])))
    minutes = [due / 60 for due in chosen["rekeys_due_s"]]
    figure = Figure(figsize=(10, 3), layout="constrained")
    ax = figure.subplots()
    ax.hist(minutes, bins=range(int(min(minutes)), int(max(minutes)) + 2))
    ax.set(
        title=f"rekeys of {len(minutes)} child SAs ({chosen['contender']}, all set up at once)",
        xlabel="minutes after the set-up",
        ylabel="rekeys a minute",
    )
    figure.savefig(target, dpi=90)


def plot_hubs(rows: Sequence[Row], target: Path) -> None:
    """One picture per quantity, logarithmic both ways."""
    # Only who measures needs it: the extra "bench".
    from matplotlib.figure import Figure

    hubs = [row for row in rows if row["part"] == "hub"]
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2).flat
    for ax, (key, title) in zip(axes, _PLOTS, strict=True):
        for number, name in enumerate(sorted({row["contender"] for row in hubs})):
            points = sorted(
                (row["peers"], row["values"][key])
                for row in hubs
                if row["contender"] == name and row["values"].get(key)
            )
            if points:
                # The same colour in every picture, also where somebody else has no points.
                color = f"C{number}"
                ax.plot(*zip(*points, strict=True), marker="o", color=color, label=name)
        ax.set(title=title, xlabel="peers", xscale="log", yscale="log")
        ax.grid(visible=True, which="both", alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(target, dpi=90)
