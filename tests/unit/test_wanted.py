"""What the sources ask for, over time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast

import pytest

from ovn_ipsec.agent.wanted import ROUTE_SETTLE_S, STILL_CLOSED_S, Wanted
from ovn_ipsec.desired.build import Policy
from ovn_ipsec.model.conns import (
    Desired,
    Guard,
    GuardMode,
    GuardPort,
    GuardTuple,
    Protocol,
)
from ovn_ipsec.model.facts import TunnelFact
from ovn_ipsec.sources.certificates import CertificateFiles
from tests.unit.test_agent_loop import Addresses, Ovsdb

VXLAN = GuardTuple("192.0.2.2", Protocol.UDP, 4789)
ROW = TunnelFact("v", "vxlan", {"remote_ip": VXLAN.remote, "psk": "a key of sixteen"})
PLAIN = replace(ROW, options={"remote_ip": VXLAN.remote})
NOWHERE = replace(ROW, name="w", options={"remote_ip": "flow", "psk": "a key of sixteen"})


class Clock:
    """Moves time.monotonic() on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.later_s = 0.0
        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + self.later_s)


class Node:
    """Wanted, with OVSDB's rows as they are set."""

    def __init__(self) -> None:
        self.ovsdb = Ovsdb()
        self.guard: Guard | None = None
        self.wanted = Wanted(
            cast("Any", self.ovsdb), CertificateFiles(), cast("Any", Addresses()), Policy()
        )

    def build(self, *rows: TunnelFact) -> Desired:
        self.ovsdb.tunnels = rows
        self.ovsdb.run()
        desired = self.wanted.build({}, (), self.guard)
        self.guard = desired.guard
        return desired

    def closed(self, *rows: TunnelFact) -> frozenset[GuardTuple]:
        guard = self.build(*rows).guard
        assert guard is not None
        return guard.closed_peers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_what_a_row_closed_stays_closed_for_a_while_after_the_row_has_gone(clock: Clock) -> None:
    node = Node()
    assert node.closed(ROW) == {VXLAN}
    clock.later_s += 2 * STILL_CLOSED_S  # the row is there all the time
    assert node.closed(ROW) == {VXLAN}
    moved = replace(ROW, options={**ROW.options, "remote_ip": "192.0.2.3"})
    assert node.closed(moved) == {VXLAN, replace(VXLAN, remote="192.0.2.3")}
    assert node.closed() == {VXLAN, replace(VXLAN, remote="192.0.2.3")}
    clock.later_s += STILL_CLOSED_S + 1
    assert node.closed() == frozenset()


def test_row_that_gave_ipsec_up_opens_its_tuple_at_once(clock: Clock) -> None:
    node = Node()
    assert node.closed(ROW) == {VXLAN}
    assert node.closed(PLAIN) == frozenset()


def test_port_that_a_row_closed_to_everybody_stays_closed_for_a_while(clock: Clock) -> None:
    port = GuardPort(Protocol.UDP, 4789)
    node = Node()
    for rows in ((NOWHERE,), ()):
        guard = node.build(*rows).guard
        assert guard is not None
        assert port in guard.closed_ports
    plain = node.build(PLAIN).guard
    assert plain is not None
    assert VXLAN in plain.exempt
    clock.later_s += STILL_CLOSED_S + 1
    opened = node.build(PLAIN).guard
    assert opened is not None
    assert port not in opened.closed_ports


def test_what_the_last_run_had_closed_stays_closed_after_a_restart(clock: Clock) -> None:
    node = Node()
    node.guard = Guard(
        GuardMode.ENFORCE, frozenset({GuardPort(Protocol.UDP, 8472)}), frozenset({VXLAN})
    )
    guard = node.build().guard
    assert guard is not None
    assert guard.closed_peers == {VXLAN}
    assert guard.closed_ports == {GuardPort(Protocol.UDP, 6081)}  # no option asks for the other
    clock.later_s += STILL_CLOSED_S + 1
    assert node.closed() == frozenset()


def test_route_that_changes_before_ovsdb_answers_asks_for_one_look(clock: Clock) -> None:
    node = Node()
    node.ovsdb.in_sync = False
    node.wanted.routes_changed()
    clock.later_s += ROUTE_SETTLE_S
    node.build()
    assert node.wanted.routes_due_at_s is None
