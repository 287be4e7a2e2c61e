"""The log tells changes, once each, in the words that scripts wait for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ovn_ipsec.agent.journal import Journal
from ovn_ipsec.model.snapshot import ActiveConnection, Snapshot, TunnelState, TunnelStatus
from ovn_ipsec.model.steps import InitiateConnection, Outcome, StartIke
from tests.unit.world import config, wanted

UP = TunnelStatus(
    name="tun0",
    version=1,
    state=TunnelState.CONFIGURED,
    view=wanted("tun0", config()).view,
    connections=(
        ActiveConnection("tun0-in-1", "", 0, 0),
        ActiveConnection("tun0-out-1", "", 0, 0),
    ),
)
DOWN = replace(UP, connections=(), missing=("tun0-in-1", "tun0-out-1"))


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ovn_ipsec")


def snapshot(*tunnels: TunnelStatus, at: float = 0.0, problems: tuple[str, ...] = ()) -> Snapshot:
    return Snapshot(at, datetime(2026, 1, 1, tzinfo=UTC), tunnels=tunnels, problems=problems)


def test_life_of_a_tunnel_is_told_in_the_words_that_scripts_wait_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal()
    for tunnels in ((DOWN,), (DOWN,), (UP,), (UP,), (DOWN,), ()):
        journal.note_snapshot(snapshot(*tunnels))
    assert caplog.messages == [
        "Tunnel tun0 appeared in OVSDB",
        "Tunnel tun0 is encrypted",
        "Connections for all(1) configured tunnels are Up.",
        "Connection for port tun0 is not active, need to reconcile",
        "Tunnel tun0 disappeared from OVSDB",
    ]


def test_invalid_tunnel_whose_sas_work_is_not_called_inactive(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal()
    journal.note_snapshot(snapshot(UP))
    caplog.clear()
    invalid = replace(UP, state=TunnelState.INVALID, reason="certificate expired; renew it")
    journal.note_snapshot(snapshot(invalid))
    assert caplog.messages == ["Tunnel tun0 is invalid: certificate expired; renew it"]


def test_initiation_of_a_tunnel_long_down_is_told_as_bringing_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal()
    journal.note_snapshot(snapshot(DOWN, at=100.0))
    caplog.clear()
    step = InitiateConnection("tun0", ("tun0-in-1",), "it is not up")
    journal.note_steps([Outcome(step)], 114.0)
    journal.note_steps([Outcome(step)], 115.0)
    assert caplog.messages == [
        "Tunnel tun0: initiating, it is not up",
        "Bringing up ipsec connection tun0-in-1",
    ]


def test_failure_is_told_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    for error in ("port 500 is taken", "port 500 is taken", "no answer", None, "no answer"):
        journal.note_steps([Outcome(StartIke(), error)], 0.0)
    assert caplog.messages == [
        "port 500 is taken",
        "no answer",
        "Started the IKE daemon",
        "no answer",
    ]


def test_many_changes_at_once_are_one_line_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    many = [replace(UP, name=f"t{number:03}") for number in range(50)]
    journal.note_snapshot(snapshot(*(replace(DOWN, name=tunnel.name) for tunnel in many)))
    caplog.clear()
    journal.note_snapshot(snapshot(*many))
    assert caplog.messages == [
        "50 tunnels are encrypted (t000, t001, t002, ...)",
        "Connections for all(50) configured tunnels are Up.",
    ]
