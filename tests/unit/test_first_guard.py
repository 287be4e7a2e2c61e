"""Which guard an agent begins with, and what it makes of an nft that lists another one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ovn_ipsec.agent.first_guard import first_guard
from ovn_ipsec.drivers.nftables import Nftables
from ovn_ipsec.drivers.nftables_text import render_guard
from ovn_ipsec.model.conns import Guard, GuardCounters, GuardMode, GuardPort, GuardTuple, Protocol
from ovn_ipsec.model.steps import SetGuard

GENEVE = GuardPort(Protocol.UDP, 6081)
VXLAN = GuardPort(Protocol.UDP, 4789)
CLOSED = Guard(GuardMode.ENFORCE, frozenset({GENEVE}))
LAST = Guard(
    GuardMode.ENFORCE,
    frozenset({GENEVE}),
    exempt=frozenset({GuardTuple("10.0.0.9", Protocol.UDP, 6081)}),
)
NFT = """#!/bin/sh
case "$*" in
"-j -f -") cat > {root}/transaction ;;
"-j -n list table inet ovn_ipsec") [ -e {root}/listing ] || exit 1; cat {root}/listing ;;
"-j -n list counters table inet ovn_ipsec") [ -e {root}/listing ] || exit 1; cat {root}/listing ;;
"list tables inet") [ ! -e {root}/listing ] || echo "table inet ovn_ipsec" ;;
*) echo "unknown: $*" >&2; exit 99 ;;
esac
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    nft = tmp_path / "nft"
    nft.write_text(NFT.format(root=tmp_path))
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "state" / "guard.json"


def first(kept: Path) -> Guard:
    return first_guard(Nftables(kept), GuardMode.AUDIT, frozenset({VXLAN}))


def as_an_older_version_wrote_it() -> str:
    """The same sets and comments, with one rule fewer and another priority."""
    commands = json.loads(render_guard(LAST, GuardCounters(0, 0)))["nftables"]
    kept = [c for c in commands if c.get("add", {}).get("rule", {}).get("chain") != "own_out"]
    for command in kept:
        if "prio" in (chain := command.get("add", {}).get("chain", {})):
            chain["prio"] = 0
    assert len(kept) < len(commands)
    return json.dumps({"nftables": kept})


def test_node_that_never_had_a_guard_starts_as_the_operator_chose(kept: Path) -> None:
    assert first(kept) == Guard(GuardMode.AUDIT, frozenset({GENEVE, VXLAN}))


def test_guard_that_another_version_kept_is_still_the_last_known(kept: Path) -> None:
    kept.parent.mkdir()
    kept.write_text(as_an_older_version_wrote_it())
    assert first(kept) == LAST


@pytest.mark.parametrize("text", ["", '{"nftables": [', '{"nftables": []}', "[]", "\x00"])
def test_last_guard_that_cannot_be_read_closes_instead_of_only_counting(
    kept: Path, text: str
) -> None:
    kept.parent.mkdir()
    kept.write_text(text)
    assert first(kept) == Guard(GuardMode.ENFORCE, frozenset({GENEVE, VXLAN}))


def test_table_of_ours_that_somebody_changed_is_not_opened_by_a_start(kept: Path) -> None:
    (kept.parent.parent / "listing").write_text('{"nftables": []}')
    assert first(kept).mode is GuardMode.ENFORCE


@pytest.mark.parametrize(
    ("live", "stored", "begins"),
    [
        ("audit", "enforce", "enforce"),
        ("audit", "enforce-always", "enforce-always"),
        ("audit", "audit", "audit"),
        ("audit", None, "audit"),
        ("enforce", "enforce-always", "enforce"),
        ("enforce", "audit", "enforce"),
    ],
)
def test_table_in_force_goes_on_unless_it_only_counts_where_the_last_guard_closed(
    kept: Path, monkeypatch: pytest.MonkeyPatch, live: str, stored: str | None, begins: str
) -> None:
    in_force = Guard(GuardMode(live), frozenset({GENEVE}))
    monkeypatch.setattr(Nftables, "live_guard", lambda _: in_force)
    if stored is not None:
        kept.parent.mkdir()
        kept.write_text(render_guard(replace(LAST, mode=GuardMode(stored)), GuardCounters(0, 0)))
    assert first(kept).mode is GuardMode(begins)


def test_table_that_nft_lists_otherwise_is_no_success_to_be_repeated_at_once(kept: Path) -> None:
    listing = kept.parent.parent / "listing"
    listing.write_text('{"nftables": []}')
    (outcome,) = Nftables(kept).apply([SetGuard(CLOSED)])
    assert "lists it otherwise" in (outcome.error or "")
    assert kept.exists(), "it is in force, and must be known after a reboot"
