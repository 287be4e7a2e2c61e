"""A hundred tunnels in one OVSDB transaction, half of their peers dead."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import pytest

from tests.system.pairs import PSK, settle, start_closed, wait_at_rest
from tools.bench.tunnels.contenders import OURS, Usage
from tools.lab.container import wait_until
from tools.lab.lab import Lab
from tools.lab.node import Node

pytestmark = [pytest.mark.system, pytest.mark.slow]

ALIVE = [f"10.9.1.{number}" for number in range(1, 51)]
DEAD = [f"10.9.2.{number}" for number in range(1, 51)]
IDLE_S = 39.0  # three of the agent's periods


def test_loads_like_one_addconn_and_idles_with_half_of_the_peers_dead(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    hub, peer, bare = lab.overlay("hub", "peer", "bare")
    batch = "".join(f"addr add {address}/16 dev eth0\n" for address in ALIVE)
    peer.run(["ip", "-batch", "-"], stdin=batch)
    hub.start_pluto()
    start_closed(hub)
    ends: list[tuple[str, str | None]] = [(address, None) for address in ALIVE + DEAD]
    _add_ports(hub, ends)
    settle(5)  # Open vSwitch's own work on a hundred ports is not measured
    _encrypt(hub, ends)
    start = time.time()  # the transaction is committed
    wait_until(
        lambda: _loaded(hub) == 200, 120, "the hub has loaded its connections", interval_s=1
    )
    loaded_s = _loaded_at(hub) - start
    bare.start_pluto()
    floor_s = _floor(hub, bare)
    record_property("loaded_s", round(loaded_s, 2))
    record_property("floor_s", round(floor_s, 2))
    assert loaded_s <= 2 * floor_s + 1
    bare.shutdown_pluto()
    start = time.monotonic()
    peer.start_pluto()
    start_closed(peer)
    _add_ports(peer, [(hub.ipv4, address) for address in ALIVE])
    _encrypt(peer, [(hub.ipv4, address) for address in ALIVE])
    wait_until(lambda: hub.sa_count() >= 200, 180, "the living peers are encrypted", interval_s=1)
    record_property("half_up_s", round(time.monotonic() - start, 2))
    wait_at_rest(hub, children=100, timeout_s=240)
    settle(20)
    usage = Usage(hub, OURS)
    settle(IDLE_S)
    share, rss_mb = usage.core_share(), usage.rss_mb()
    record_property("idle_core_share", round(share, 4))
    record_property("rss_mb", round(rss_mb))
    assert rss_mb < 60
    assert share < 0.02


def _add_ports(node: Node, ends: list[tuple[str, str | None]]) -> None:
    """Tunnel ports without IPsec: (remote address, local address or None)."""
    words: list[str] = []
    for number, (remote, local) in enumerate(ends):
        name = f"t{number}"
        words += ["--", "add-port", "br0", name, "--", "set", "port", name, "protected=true"]
        words += ["--", "set", "interface", name, "type=geneve", f"options:remote_ip={remote}"]
        words += [f"options:key={number}"]
        if local is not None:
            words += [f"options:local_ip={local}"]
    node.vsctl("--no-wait", *words[1:])


def _encrypt(node: Node, ends: list[tuple[str, str | None]]) -> None:
    """Ask for IPsec on all of them in one transaction."""
    words: list[str] = []
    for number in range(len(ends)):
        words += ["--", "set", "interface", f"t{number}", f'options:psk="{PSK}"']
        # Cheap for the emulated core: with the default group it needs minutes for fifty peers.
        words += ["options:ipsec_ike=aes_gcm256-sha2_256-dh31"]
    node.vsctl("--no-wait", *words[1:])


def _loaded(node: Node) -> int:
    """As pluto's log has it: to ask pluto would keep it from loading."""
    return node.pluto_log().count(": added IKEv2 connection")


def _loaded_at(node: Node) -> float:
    """When the last connection was loaded (seconds since the epoch), as pluto's log has it."""
    added = [line for line in node.pluto_log().splitlines() if ": added IKEv2 connection" in line]
    stamp = added[-1].split(': "')[0]
    year = datetime.now().astimezone().year
    return datetime.strptime(f"{year} {stamp}", "%Y %b %d %H:%M:%S.%f").astimezone().timestamp()


def _floor(hub: Node, bare: Node) -> float:
    """One addconn of the hub's connections on a node whose pluto has nothing else to do."""
    files = sorted(hub.path("/etc/ipsec.d/ovn-ipsec").glob("*.conf"))
    text = "".join(path.read_text() for path in files).replace(hub.ipv4, bare.ipv4)
    names = [line.split()[1] for line in text.splitlines() if line.startswith("conn t")]
    bare.write_file("/etc/floor.conf", text, 0o600)
    argv = ["/usr/libexec/ipsec/addconn", "--config", "/etc/floor.conf"]
    start = time.time()
    bare.run([*argv, "--ctlsocket", "/run/pluto/pluto.ctl", *names], timeout_s=120)
    wait_until(lambda: _loaded(bare) == len(names) == 200, 60, "all is loaded")
    return _loaded_at(bare) - start
