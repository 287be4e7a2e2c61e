"""``ovn-ipsec verify --probe``: packets through real tunnels of every kind, and back."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest

from tests.system.pairs import PSK, UP_TIMEOUT_S, start_closed
from tools.lab.container import PROJECT, wait_until
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind

pytestmark = pytest.mark.system

KINDS = ("geneve", "vxlan", "gre")
ENVIRONMENT = {"PYTHONPATH": str(PROJECT)}


def verify(*flags: str) -> list[str]:
    return [sys.executable, "-m", "ovn_ipsec.cli", "verify", "--json", "--probe", *flags]


def checks(said: str) -> dict[str, tuple[bool, str]]:
    """Name -> whether it passed, and the reason."""
    return {check["name"]: (check["ok"], check["reason"]) for check in json.loads(said)["checks"]}


def run(node: Node) -> tuple[int, dict[str, tuple[bool, str]]]:
    done = node.attempt(verify("--seconds=8"), environment=ENVIRONMENT, timeout_s=120)
    assert done.returncode in (0, 3), done.stdout
    return done.returncode, checks(done.stdout)


def all_up(node: Node) -> bool:
    argv = [sys.executable, "-m", "ovn_ipsec.cli", "status", "--cached"]
    return node.attempt(argv, environment=ENVIRONMENT).returncode == 0


def test_probes_go_out_as_esp_and_come_back_only_from_a_peer_that_probes_too(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    for node in (a, b):
        node.start_pluto()
        start_closed(node, "--no-restart-ike-daemon")
    since = lab.wire.mark()
    for one, other in ((a, b), (b, a)):
        for kind in KINDS:
            one.add_tunnel(f"{kind}-{other.name}", other.ipv4, kind, psk=PSK)
    for node in (a, b):
        wait_until(partial(all_up, node), 3 * UP_TIMEOUT_S, "all is up", interval_s=1)

    into_overlay = {kind: b.received_packets(f"{kind}-a") for kind in KINDS}
    code, told = run(a)
    # Some thirteen were sent, and the overlay is quiet but for its neighbour discovery.
    for kind, before in into_overlay.items():
        assert b.received_packets(f"{kind}-a") - before < 5
    assert code == 3
    for kind in KINDS:
        passed, reason = told.pop(f"probe {kind}-b")
        assert not passed
        assert "left as ESP" in reason and "none came back" in reason
    assert [name for name, (passed, _) in told.items() if not passed] == []

    mark = lab.wire.mark()
    peer = b.popen(verify("--seconds=90"), stdout=subprocess.PIPE, environment=ENVIRONMENT)
    probing = 2 * len(KINDS)
    wait_until(
        lambda: lab.wire.count(Kind.ESP, since=mark) >= probing, 60, "b probes", interval_s=1
    )
    code, told = run(a)
    assert code == 0, told
    for kind in KINDS:
        assert "came back through it" in told[f"probe {kind}-b"][1]

    rule = "chain i {\n type filter hook input priority -10\n meta l4proto esp drop\n}"
    a.nft("-f", "-", ruleset=f"table inet lost {{\n{rule}\n}}\n")
    code, told = run(a)
    a.nft("delete", "table", "inet", "lost")
    assert code == 3
    assert all("none came back" in told[f"probe {kind}-b"][1] for kind in KINDS)

    heard, _ = peer.communicate(timeout=240)
    assert "came back through it" in checks(heard)["probe geneve-a"][1]
    assert lab.wire.packets(Kind.PLAINTEXT, since=since) == []
