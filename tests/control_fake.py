"""An agent as the control socket sees it, for tests: it answers, counts, and can be slow."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

from ovn_ipsec.model.conns import GuardMode, TunnelView
from ovn_ipsec.model.snapshot import (
    ActiveConnection,
    GuardStatus,
    IkeStatus,
    Snapshot,
    TunnelState,
    TunnelStatus,
)

VIEW = TunnelView(
    type="geneve",
    local_ip="%defaultroute",
    remote_ip="192.0.2.2",
    address_family="IPv4",
    skb_mark=None,
    local_cert=None,
    local_name=None,
    local_key=None,
    remote_cert=None,
    remote_name=None,
    ca_cert=None,
    psk_set=True,
    options={},
    ofport=1,
    cfm_fault=None,
)


def make_snapshot(tunnels: int = 1, *, ike_known: bool = True) -> Snapshot:
    now_s = time.monotonic()
    return Snapshot(
        taken_at_s=now_s,
        taken_at=datetime.now(UTC),
        complete=True,
        tunnels=tuple(
            TunnelStatus(
                f"tun{number}",
                1,
                TunnelState.CONFIGURED,
                VIEW,
                connections=(ActiveConnection(f"tun{number}-out-1", "000 #2: up", 1, 2),),
            )
            for number in range(tunnels)
        ),
        ike=IkeStatus(True, "Libreswan 4.10", now_s) if ike_known else None,
        guard=GuardStatus(True, True, GuardMode.ENFORCE, None, now_s),
    )


class FakeAgent:
    """Implements ``AgentControl``. ``tick`` is set by the test when a tick is to end."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.current = snapshot or make_snapshot()
        self.tick = threading.Event()
        self.wanted = 0
        self.exits: list[bool] = []

    def snapshot(self) -> Snapshot:
        return self.current

    def want_fresh(self) -> None:
        self.wanted += 1

    def request_refresh(self, timeout_s: float) -> bool:
        return self.tick.wait(timeout_s)

    def request_exit(self, cleanup: bool) -> None:
        self.exits.append(cleanup)
