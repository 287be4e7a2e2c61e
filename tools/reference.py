"""Writes the reference pages that are made from code: ``python -m tools.reference``."""

from __future__ import annotations

from pathlib import Path

from ovn_ipsec.desired.options import FORBIDDEN, PREFIX, TABLE

DOCS = Path(__file__).parents[1] / "docs"

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


def main() -> None:
    """Write every page."""
    (DOCS / "options.md").write_text(render_options())


if __name__ == "__main__":
    main()
