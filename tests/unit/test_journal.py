"""What the log says of a change that concerns many tunnels at once."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ovn_ipsec.agent.journal import LINES_AT_ONCE, Journal
from ovn_ipsec.model.snapshot import ActiveConnection, Snapshot, TunnelState, TunnelStatus


def snapshot(count: int, reason: str | None) -> Snapshot:
    state = TunnelState.INVALID if reason else TunnelState.CONFIGURED
    tunnels = tuple(
        TunnelStatus(f"t{i:03}", 1, state, None, reason=reason, missing=("x",))
        for i in range(count)
    )
    return Snapshot(0.0, datetime(2026, 1, 1, tzinfo=UTC), complete=True, tunnels=tunnels)


@pytest.mark.parametrize(("count", "lines"), [(LINES_AT_ONCE, LINES_AT_ONCE), (500, 1)])
def test_missing_certificate_is_told_once_for_a_great_many_tunnels(
    caplog: pytest.LogCaptureFixture, count: int, lines: int
) -> None:
    journal = Journal()
    journal.note_snapshot(snapshot(count, None))
    with caplog.at_level(logging.WARNING):
        journal.note_snapshot(snapshot(count, "no certificate"))
        journal.note_snapshot(snapshot(count, "no certificate"))
    assert len(caplog.records) == lines
    assert all("no certificate" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("count", "lines"), [(LINES_AT_ONCE, LINES_AT_ONCE), (5 * LINES_AT_ONCE + 1, 6)]
)
def test_log_has_the_words_that_scripts_wait_for_with_the_name_of_each_of_many_tunnels(
    caplog: pytest.LogCaptureFixture, count: int, lines: int
) -> None:
    journal = Journal()
    with caplog.at_level(logging.INFO):
        journal.note_snapshot(snapshot(count, None))
        journal.note_snapshot(snapshot(0, None))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 * lines
    for number in range(count):
        assert sum(f"Tunnel t{number:03} appeared in OVSDB" in line for line in said) == 1
        assert sum(f"Tunnel t{number:03} disappeared from OVSDB" in line for line in said) == 1


def test_withdrawn_tunnel_is_told_in_one_line_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    active = (ActiveConnection("t-in-1", "", 0, 0),)
    up = TunnelStatus("t", 1, TunnelState.CONFIGURED, None, connections=active)
    reason = "interface t: peer b is revoked; no connection is kept"
    gone = TunnelStatus("t", 0, TunnelState.INVALID, None, reason=reason, withdrawn=True)
    journal = Journal()
    before = snapshot(0, None)
    journal.note_snapshot(replace(before, tunnels=(up,)))
    with caplog.at_level(logging.INFO):
        for tunnel in (replace(gone, connections=active), gone, gone):
            journal.note_snapshot(replace(before, tunnels=(tunnel,)))
    assert [record.getMessage() for record in caplog.records] == [f"Tunnel t is invalid: {reason}"]
