"""Writes the reference pages that are made from code: ``python -m tools.reference``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ovn_ipsec.desired.options import FORBIDDEN, PREFIX, TABLE
from ovn_ipsec.model.causes import CauseCode
from ovn_ipsec.model.conns import GuardCounters, GuardMode, OwnCertificate
from ovn_ipsec.model.enrolment import Enrolment, EnrolmentState
from ovn_ipsec.model.snapshot import (
    ActiveConnection,
    GuardStatus,
    Snapshot,
    TunnelState,
    TunnelStatus,
)
from ovn_ipsec.model.work import Work
from ovn_ipsec.status.metrics import render_metrics
from tools.commands import Command, authority_commands, node_commands
from tools.manual import authority_page, completion, node_page

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"

_HEAD = """# The `ipsec_*` options of a tunnel

`ovs-vsctl set interface NAME options:ipsec_KEY=VALUE` tunes the tunnel's libreswan connections.
With OVN, `ipsec_*` options of the northbound database reach every tunnel this way. Only what is
listed here has an effect; this page is made from the agent's own table.

A value that does not fit leaves the default and is shown as a warning, unless marked **strict**:
then the tunnel is INVALID, because the default could be weaker than what was asked for. An unknown
word is a warning.

| option | meaning | accepts | |
|---|---|---|---|
"""
_FORBIDDEN = """
`ipsec_forceencaps=yes`, which OVN writes, means `ipsec_encapsulation=yes`.

## Words that make a tunnel INVALID

Everything that begins with `left`, `right`, `modecfg` or `xauth`, and:

| option | why |
|---|---|
"""


def render_options() -> str:
    """docs/options.md."""
    rows = []
    for option in TABLE:
        names = ", ".join(f"`{PREFIX}{name}`" for name in (option.key, *option.aliases))
        strict = "strict" if option.strict else ""
        rows.append(f"| {names} | {option.meaning} | {option.accepts} | {strict} |\n")
    refused = [f"| `{PREFIX}{key}` | {why} |\n" for key, why in sorted(FORBIDDEN.items())]
    return _HEAD + "".join(rows) + _FORBIDDEN + "".join(refused)


def render_settings(groups: Sequence[Sequence[Command]]) -> str:
    """docs/settings.md."""
    lines = [
        "# Every command and setting",
        "",
        "Made from the parsers that read the command lines; `--help` and the man pages "
        "`ovn-ipsec(8)` and `ovn-ipsec-ca(8)` say the same. Options of a tunnel are in "
        "[options.md](options.md).",
    ]
    for command in (command for group in groups for command in group):
        places = "".join(f" {one.value}" for one in command.arguments if not one.names)
        lines += ["", f"## `{' '.join(command.words)}{places}`", ""]
        lines += [_cell(command.description)] if command.description else []
        options = [one for one in command.arguments if one.names or one.help]
        if options:
            lines += ["", "| | |", "|---|---|"]
        for one in options:
            value = f" {one.value}" if one.names and one.value else ""
            names = ", ".join(one.names) or one.value
            lines.append(f"| `{names}{value}` | {_cell(one.help or ', '.join(one.choices))} |")
        lines += ["", _cell(command.epilog)] if command.epilog else []
    return "\n".join(lines) + "\n"


def render_metric_list() -> str:
    """docs/metric-list.md: every family of a node that has something to tell in each."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    active = ActiveConnection("t-in-1", "", 0, 0, 0)
    snapshot = Snapshot(
        0.0,
        now,
        tunnels=(TunnelStatus("t", 1, TunnelState.CONFIGURED, None, connections=(active,)),),
        work=Work(xfrm_errors={"XfrmInNoStates": 0}),
        guard=GuardStatus(True, True, GuardMode.ENFORCE, GuardCounters(0, 0), 0.0),
        certificate=OwnCertificate("node", now, None, now),
        enrolment=Enrolment(EnrolmentState.OK, now),
    )
    lines = [
        "# Every metric",
        "",
        "Made from what the agent tells; see [metrics.md](metrics.md).",
        "",
    ]
    lines += ["| metric | type | labels | |", "|---|---|---|---|"]
    for family in text_string_to_metric_families(render_metrics(snapshot, 0.0).decode()):
        labels = sorted({label for sample in family.samples for label in sample.labels})
        name = family.name + ("_total" if family.type == "counter" else "")
        words = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{name}` | {family.type} | {words} | {_cell(family.documentation)} |")
    codes = ", ".join(f"`{code}`" for code in CauseCode)
    lines += ["", f"Values of `cause`: {codes}. What they mean: [causes.md](causes.md)."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """One line of a table; what looks like an element is text."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def pages() -> dict[Path, str]:
    """Every file that is made from code, with its content."""
    groups = (node_commands(), authority_commands())
    share = PROJECT / "share"
    return {
        DOCS / "options.md": render_options(),
        DOCS / "settings.md": render_settings(groups),
        DOCS / "metric-list.md": render_metric_list(),
        share / "man/man8/ovn-ipsec.8": node_page(groups[0]),
        share / "man/man8/ovn-ipsec-ca.8": authority_page(groups[1]),
        # bash-completion looks for a file by the program's name.
        share / "bash-completion/completions/ovn-ipsec": completion(groups),
        share / "bash-completion/completions/ovn-ipsec-ca": completion(groups),
    }


def main() -> None:
    """Write every page."""
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
