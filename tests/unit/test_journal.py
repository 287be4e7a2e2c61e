"""What the log says of a change that concerns many tunnels at once."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from ovn_ipsec.agent.journal import LINES_AT_ONCE, Journal
from ovn_ipsec.model.snapshot import Snapshot, TunnelState, TunnelStatus


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
