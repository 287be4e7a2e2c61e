"""In the place of ovs-monitor-ipsec: started by ovs-ctl, taking over from it, handing back."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.system.pairs import UP_TIMEOUT_S, encrypted_pair, sa_serials, settle
from tools.lab.container import PROJECT, wait_until
from tools.lab.lab import Lab
from tools.lab.monitor import ORIGINAL
from tools.lab.node import Node
from tools.lab.pcap import Kind
from tools.lab.traffic import Traffic

pytestmark = pytest.mark.system

SHARE = "/tmp/share"
PLAIN_PSK = "no quotes in this key"


def test_ovs_ctl_stops_and_starts_the_agent_and_nothing_goes_in_clear(lab: Lab) -> None:
    with encrypted_pair(lab) as pair:
        pair.a.kill_agent()
        _install_as_original(pair.a)
        shown = _ovs_ctl(pair.a, "--ike-daemon=libreswan", "start-ovs-ipsec")
        # ovs-ctl of Open vSwitch 3.5 has a line of its own.
        said = shown.replace("Starting ovs-monitor-ipsec.\n", "")
        assert said == "", "the agent prints nothing on stdout"
        assert "tun-b" in pair.a.appctl("tunnels/show")
        pair.traffic.wait_flowing(UP_TIMEOUT_S)
        _ovs_ctl(pair.a, "stop-ovs-ipsec")
        wait_until(lambda: "tun-b" not in pair.a.whack("--status"), 20, "connections removed")
        assert "ovn_ipsec" in pair.a.nft("list", "tables")
        settle(2)
        pair.assert_no_plaintext()
        _ovs_ctl(pair.a, "--ike-daemon=libreswan", "start-ovs-ipsec")
        pair.traffic.wait_flowing(UP_TIMEOUT_S)
        pair.assert_no_plaintext()
        _ovs_ctl(pair.a, "stop-ovs-ipsec")


def test_strongswan_is_refused_with_the_remedy_and_the_guard_is_applied(lab: Lab) -> None:
    (node,) = lab.overlay("a")
    _install_as_original(node)
    argv = [f"{SHARE}/scripts/ovs-ctl", "--ike-daemon=strongswan", "start-ovs-ipsec"]
    done = node.attempt(argv, environment={"OVS_PKGDATADIR": SHARE})
    assert done.returncode != 0
    assert "--ike-daemon=libreswan" in done.stdout
    assert "ovn_ipsec" in node.nft("list", "tables")


def test_agent_takes_over_from_the_original_and_hands_back(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    lab.connect(a, b, psk=PLAIN_PSK)
    with lab.traffic(a, b) as traffic:
        _start_originals(a, b, traffic)
        names, serials, start = _loaded(a), sa_serials(a), time.monotonic()
        a.kill_all(signal.SIGTERM, ORIGINAL)
        a.start_agent("--no-restart-ike-daemon")
        taken = lab.wire.mark()
        settle(5)
        assert _loaded(a) == names, "versions and names are kept"
        assert serials <= sa_serials(a), "no SA is touched"
        assert traffic.lost(start) == 0
        for name in names:
            assert name.rpartition("-")[0] in a.appctl("tunnels/show") or "tun-b" in name
        assert lab.wire.count(Kind.PLAINTEXT, since=taken, src=a.ipv4) == 0
        a.appctl("exit", "--no-cleanup")
        wait_until(lambda: a.agent_pid() is None, 15, "the agent ends")
        back = lab.wire.mark()
        a.start_original_monitor()
        traffic.wait_flowing(120)
        assert lab.wire.count(Kind.PLAINTEXT, since=back, src=a.ipv4) == 0, "the guard stands"


def _start_originals(a: Node, b: Node, traffic: Traffic) -> None:
    """Two originals with a whole tunnel and nothing under way.

    Both initiate at once, which in one of four runs leaves libreswan 4.10 with half of a tunnel
    for good: exchanges that cross end in a timeout, and nobody asks again.
    """
    for _ in range(8):
        for node in (a, b):
            node.kill_all(signal.SIGTERM, ORIGINAL)
            node.start_original_monitor()
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: _undisturbed(a, b, traffic), 40, "the originals come to rest")
            return
    pytest.fail("the originals do not encrypt both ways")


def _undisturbed(a: Node, b: Node, traffic: Traffic) -> bool:
    start = time.monotonic()
    settle(10)
    shown = "".join(node.whack("--showstates") for node in (a, b))
    open_states = [line for line in shown.splitlines() if "STATE_" in line and "ESTAB" not in line]
    return not open_states and traffic.lost(start) == 0


def _install_as_original(node: Node) -> None:
    """Our program under the original's file name, as a package would install it."""
    node.run(["cp", "-a", "/usr/share/openvswitch", SHARE])
    venv = Path(sys.executable).parent.parent
    node.write_file(
        f"{SHARE}/scripts/ovs-monitor-ipsec",
        f"#!/bin/sh\nexport PYTHONPATH={PROJECT} VIRTUAL_ENV={venv}\n"
        f'exec {sys.executable} -m ovn_ipsec.cli agent "$@"\n',
        0o755,
    )


def _ovs_ctl(node: Node, *arguments: str) -> str:
    script = 'exec "$0" "$@" 2>/dev/null'
    argv = ["sh", "-c", script, f"{SHARE}/scripts/ovs-ctl", *arguments]
    return node.run(argv, environment={"OVS_PKGDATADIR": SHARE}, timeout_s=90)


def _loaded(node: Node) -> set[str]:
    status = node.whack("--status")
    return {line.split('"')[1] for line in status.splitlines() if '000 "tun-' in line}
