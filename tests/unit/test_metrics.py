"""Metrics: true to the snapshot, growing counters, bounded label sets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ovn_ipsec.agent.tally import Tally
from ovn_ipsec.drivers.xfrm import read_errors
from ovn_ipsec.model.causes import Cause, CauseCode
from ovn_ipsec.model.conns import GuardCounters, GuardMode, OwnCertificate
from ovn_ipsec.model.snapshot import (
    ActiveConnection,
    GuardStatus,
    IkeStatus,
    Snapshot,
    Stale,
    Subject,
    TunnelState,
    TunnelStatus,
)
from ovn_ipsec.model.work import Work
from ovn_ipsec.settings import ReadyWhen
from ovn_ipsec.status.metrics import MOST_PEERS, render_metrics
from ovn_ipsec.status.probes import Probes
from tests.control_fake import VIEW, FakeAgent

WALL = datetime(2026, 1, 2, tzinfo=UTC)
MADE_S = int(WALL.timestamp()) - 3600
SILENT = Cause(CauseCode.PEER_SILENT, "no answer", "look")


def up(name: str, *, bytes_in: int = 100, add_time: int = MADE_S, spi_in: int = 1) -> TunnelStatus:
    active = ActiveConnection(f"{name}-1", "", bytes_in, 50, add_time, spi_in)
    return TunnelStatus(name, 1, TunnelState.CONFIGURED, VIEW, connections=(active,))


def down(name: str) -> TunnelStatus:
    return TunnelStatus(
        name, 1, TunnelState.CONFIGURED, VIEW, missing=(f"{name}-1",), cause=SILENT
    )


def node(*tunnels: TunnelStatus) -> Snapshot:
    return Snapshot(
        5.0,
        WALL,
        complete=True,
        tunnels=tunnels,
        ike=IkeStatus(True, "4.10", 5.0),
        guard=GuardStatus(True, True, GuardMode.ENFORCE, GuardCounters(7, 8), 5.0),
        certificate=OwnCertificate("n", WALL, ca_not_after=WALL),
    )


def samples(snapshot: Snapshot) -> dict[str, float]:
    """Sample name with its labels -> value, read back by Prometheus's own parser."""
    found = {}
    for family in text_string_to_metric_families(render_metrics(snapshot, 9.0).decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("ovn_ipsec_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found


def test_numbers_are_those_of_the_snapshot() -> None:
    told = samples(node(up("a"), up("b"), down("c")))
    expected = {
        "tunnels{state=encrypted}": 2,
        "tunnels{state=down}": 1,
        "tunnels{state=invalid}": 0,
        "tunnels_not_up{cause=peer-silent}": 1,
        "tunnels_not_up{cause=mtu}": 0,
        "snapshot_age_seconds": 4,
        "oldest_sa_age_seconds": 3600,
        "pluto_up": 1,
        "pluto_info{version=4.10}": 1,
        "guard_intact": 1,
        "plaintext_packets_total{action=dropped,direction=out}": 7,
        "plaintext_packets_total{action=dropped,direction=in}": 8,
        "certificate_expiry_timestamp_seconds{kind=ca}": WALL.timestamp(),
        "tunnel_up{peer=192.0.2.2,tunnel=a}": 1,
        "tunnel_up{peer=192.0.2.2,tunnel=c}": 0,
    }
    assert {name: told.get(name) for name in expected} == expected


def test_series_per_peer_end_where_there_are_many() -> None:
    few = samples(node(*(up(f"t{n}") for n in range(MOST_PEERS))))
    many = samples(node(*(up(f"t{n}") for n in range(MOST_PEERS + 1))))
    assert any("tunnel=" in name for name in few)
    assert not any("tunnel=" in name for name in many)
    assert many["tunnels{state=encrypted}"] == MOST_PEERS + 1
    assert len(many) < 200


def test_audit_mode_says_that_packets_passed() -> None:
    audit = GuardStatus(True, True, GuardMode.AUDIT, GuardCounters(1, 0), 5.0)
    told = samples(replace(node(), guard=audit))
    assert told["plaintext_packets_total{action=passed,direction=out}"] == 1
    assert told["guard_mode{mode=audit}"] == 1


def test_a_guard_that_is_wanted_off_is_told_as_such_once_its_table_is_gone() -> None:
    gone = GuardStatus(present=False, intact=False, mode=None, counters=None, read_at_s=5.0)
    off = replace(node(), guard_wanted=GuardMode.OFF)
    assert samples(replace(off, guard=gone))["guard_mode{mode=off}"] == 1
    assert samples(off)["guard_mode{mode=off}"] == 0
    lost = replace(node(), guard=gone, guard_wanted=GuardMode.ENFORCE)
    assert samples(lost)["guard_mode{mode=off}"] == 0


@pytest.mark.parametrize("subject", Subject)
def test_pluto_is_down_for_its_own_silence_alone(subject: Subject) -> None:
    told = samples(replace(node(), stale=(Stale(subject, "no answer", None),)))
    assert told["pluto_up"] == (subject is not Subject.IKE)


def test_nothing_known_is_rendered_too() -> None:
    told = samples(Snapshot(0.0, WALL))
    assert (told["pluto_up"], told["guard_intact"], told["complete"]) == (0, 0, 0)


def test_bytes_grow_over_rekeys_and_what_was_there_first_is_not_counted() -> None:
    tally = Tally()
    tally.note_tick(node(up("a", bytes_in=1000)), 0.1, {})
    grown = tally.note_tick(node(up("a", bytes_in=1500)), 0.1, {})
    assert (grown.bytes_in, grown.rekeys) == (500, 0)
    fresh = tally.note_tick(node(up("a", bytes_in=30, spi_in=2)), 0.3, {})
    assert (fresh.bytes_in, fresh.rekeys) == (530, 1)
    again = tally.note_tick(node(up("a", bytes_in=10, spi_in=2)), 0.1, {})
    assert again.bytes_in == 530
    assert (again.ticks.count, again.ticks.longest_s) == (4, 0.3)
    assert again.ticks.total_s == pytest.approx(0.6)


def test_clock_that_is_set_is_no_rekey() -> None:
    tally = Tally()
    for made_s in (MADE_S, MADE_S + 60):
        work = tally.note_tick(node(up("a", bytes_in=1000, add_time=made_s)), 0.1, {})
    assert (work.bytes_in, work.rekeys) == (0, 0)


def test_failure_is_counted_when_it_begins() -> None:
    tally = Tally()
    for snapshot in (node(up("a")), node(down("a")), node(down("a")), node(up("a"))):
        tally.note_tick(snapshot, 0.1, {})
    work = tally.note_tick(node(down("a")), 0.1, {"XfrmInNoStates": 3})
    assert work.failures == {"peer-silent": 2}
    told = samples(replace(node(), work=work))
    assert told["failures_total{cause=peer-silent}"] == 2
    assert told["xfrm_errors_total{reason=XfrmInNoStates}"] == 3


def test_metrics_are_a_page_of_the_health_server() -> None:
    class Agent(FakeAgent):
        def last_progress_s(self) -> float:
            return 0.0

    agent = Agent(node(up("a")))
    status, media_type, body = Probes(agent, ReadyWhen.ANSWERING, 1.0).answer("/metrics", 9.0)
    assert (status, agent.wanted) == (HTTPStatus.OK, 1)
    assert media_type.startswith("text/plain; version=0.0.4")
    assert 'ovn_ipsec_tunnels{state="encrypted"} 1.0' in body


def test_kernels_counters_are_read_and_their_absence_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "xfrm_stat"
    assert read_errors(file) == {}
    file.write_text("XfrmInError             \t0\nXfrmInNoStates\t12\n")
    assert read_errors(file) == {"XfrmInError": 0, "XfrmInNoStates": 12}


@given(st.text(), st.integers(0, 2**63), st.integers(0, 2**63))
def test_whatever_a_row_is_called_prometheus_reads_it(name: str, inn: int, out: int) -> None:
    active = (ActiveConnection("c", "", inn, out, MADE_S),)
    odd = TunnelStatus(name, 1, TunnelState.CONFIGURED, VIEW, connections=active)
    told = samples(replace(node(odd), work=Work(bytes_in=inn)))
    assert told["tunnels{state=encrypted}"] == 1
