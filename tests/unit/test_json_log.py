"""State changes as JSON lines: each once, with what a machine needs to know."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ovn_ipsec.agent.journal import LINES_AT_ONCE, Journal
from ovn_ipsec.agent.json_log import JsonFormatter
from ovn_ipsec.commands.log import set_up_agent_log
from ovn_ipsec.errors import SettingsError
from ovn_ipsec.model.causes import Cause, CauseCode
from ovn_ipsec.model.snapshot import ActiveConnection, Snapshot, TunnelState, TunnelStatus
from ovn_ipsec.settings import LogFormat, Settings
from tests.control_fake import VIEW

SILENT = Cause(CauseCode.PEER_SILENT, "192.0.2.2 does not answer IKE", "check it")
REFUSED = Cause(CauseCode.PEER_NOT_LISTENING, "192.0.2.2 refuses", "start pluto")
WAITING = Cause(CauseCode.NEGOTIATING, "negotiating", "wait")


class Log:
    """What the journal writes, as a machine reads it."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(JsonFormatter())
        self.journal = Journal()

    def events(self, *tunnels: TunnelStatus, causes: tuple[Cause, ...] = ()) -> list[Any]:
        """The events of one more snapshot."""
        self._stream.truncate(0)
        self._stream.seek(0)
        now = datetime(2026, 1, 2, tzinfo=UTC)
        self.journal.note_snapshot(Snapshot(0.0, now, tunnels=tunnels, causes=causes))
        lines = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        assert all(line["time"] and line["level"] and line["message"] for line in lines)
        return [line for line in lines if "event" in line]


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    logger = logging.getLogger("ovn_ipsec")
    level = logger.level
    logger.addHandler(made.handler)
    logger.setLevel(logging.INFO)
    yield made
    logger.removeHandler(made.handler)
    logger.setLevel(level)


def up(name: str = "t") -> TunnelStatus:
    active = (ActiveConnection(f"{name}-1", "", 1, 1),)
    return TunnelStatus(name, 1, TunnelState.CONFIGURED, VIEW, connections=active)


def down(cause: Cause, name: str = "t") -> TunnelStatus:
    return TunnelStatus(name, 1, TunnelState.CONFIGURED, VIEW, missing=(f"{name}-1",), cause=cause)


def test_each_change_of_a_tunnel_is_one_event(log: Log) -> None:
    assert log.events(down(WAITING)) == []
    (event,) = log.events(down(SILENT))
    assert (event["event"], event["tunnel"], event["cause"]) == (
        "tunnel-cause",
        "t",
        "peer-silent",
    )
    assert event["level"] == "warning" and "check it" in event["message"]
    (event,) = log.events(up())
    assert (event["event"], event["tunnel"]) == ("tunnel-encrypted", "t")
    names = [event["event"] for event in log.events(down(SILENT))]
    assert names == ["tunnel-down", "tunnel-cause"]


def test_causes_that_take_turns_are_told_once_until_the_tunnel_is_up(log: Log) -> None:
    seen = [
        event["cause"]
        for cause in (SILENT, REFUSED, WAITING, SILENT, REFUSED)
        for event in log.events(down(cause))
    ]
    assert seen == ["peer-silent", "peer-not-listening"]


def test_many_tunnels_with_one_cause_are_one_line(log: Log) -> None:
    many = [down(SILENT, f"t{number}") for number in range(LINES_AT_ONCE + 1)]
    (event,) = log.events(*many)
    assert len(event["tunnels"]) == LINES_AT_ONCE + 1


def test_problem_of_the_node_begins_and_ends(log: Log) -> None:
    guard = Cause(CauseCode.GUARD_ABSENT, "no guard", "wait")
    (began,) = log.events(causes=(guard,))
    assert (began["event"], began["cause"]) == ("node-problem", "guard-absent")
    assert log.events(causes=(replace(guard),)) == []
    (ended,) = log.events()
    assert ended["event"] == "node-problem-over"


def test_name_of_a_row_forges_no_line(log: Log) -> None:
    (event,) = log.events(down(SILENT, 'x\n{"event":"node-problem-over"}'))
    assert event["event"] == "tunnel-cause"


def test_json_and_detach_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="--detach"):
        set_up_agent_log(Settings("unix:x", log_format=LogFormat.JSON), detach=True)
