"""Bad rows, files and surroundings: a reason where it belongs, and nothing else disturbed."""

from __future__ import annotations

import json
import time

import pytest

from tests.system.pairs import (
    PSK,
    UP_TIMEOUT_S,
    encrypted_pair,
    sa_serials,
    settle,
    start_closed,
    wait_at_rest,
)
from tools.lab.container import wait_until
from tools.lab.lab import Lab
from tools.lab.node import Node
from tools.lab.pcap import Kind

pytestmark = pytest.mark.system

SECRET = "tell-nobody-this-one"
BAD_ROWS: dict[str, dict[str, str]] = {
    "no-remote": {"psk": SECRET},
    "host-name": {"psk": SECRET, "remote_ip": "node7.example.org"},
    "by-flow": {"psk": SECRET, "remote_ip": "flow"},
    "family": {"psk": SECRET, "remote_ip": "10.9.3.4", "local_ip": "fd09::1"},
    "newline": {"psk": f"{SECRET}\nconn evil", "remote_ip": "10.9.3.5"},
    "updown": {"psk": SECRET, "remote_ip": "10.9.3.6", "ipsec_leftupdown": "touch /tmp/owned"},
    "null-esp": {"psk": SECRET, "remote_ip": "10.9.3.7", "ipsec_esp": "null-sha1"},
    "no-cert": {"remote_name": "some-chassis", "remote_ip": "10.9.3.8"},
}
REASONS = {
    "no-remote": "remote_ip",
    "host-name": "node7.example.org",
    "by-flow": "flow",
    "family": "famil",
    "newline": "psk",
    "updown": "ipsec_leftupdown",
    "null-esp": "ipsec_esp",
    "no-cert": "certificate",
}


def test_each_bad_row_gets_its_reason_and_a_good_tunnel_stays_up(lab: Lab) -> None:
    with encrypted_pair(lab) as pair:
        for name, options in BAD_ROWS.items():
            _add_row(pair.a, name, options)
        _add_row(pair.a, "twin", {"psk": "other", "remote_ip": pair.b.ipv4})
        wait_until(lambda: "twin" in pair.a.appctl("tunnels/show"), 20, "the rows are read")
        settle(2)
        shown = pair.a.appctl("tunnels/show")
        for name, word in {**REASONS, "twin": "tun-b"}.items():
            (line,) = [line for line in shown.splitlines() if f"name: {name} " in line]
            assert "INVALID: " in line
            assert word in line.partition("INVALID: ")[2]
        pair.traffic.wait_flowing(10)
        pair.assert_no_plaintext()
        _assert_secret_nowhere(pair.a, shown)
        assert not pair.a.path("/tmp/owned").exists()


def test_long_and_strange_names_do_not_disturb_others(lab: Lab) -> None:
    with encrypted_pair(lab) as pair:
        for name in ("x" * 300, "../../etc/passwd", "x -rf", 'quo"te', "tab\tnew\nline"):
            _add_row(pair.a, name, {"psk": SECRET, "remote_ip": "10.9.3.9"})
        settle(5)
        pair.traffic.wait_flowing(10)
        assert "x" * 300 in pair.a.appctl("tunnels/show")
        pair.assert_no_plaintext()


def test_missing_ovsdb_is_said_and_waited_for(lab: Lab) -> None:
    (node,) = lab.overlay("a")
    socket = node.path("/run/openvswitch/db.sock")
    hidden = socket.with_name("hidden.sock")
    socket.rename(hidden)
    node.start_pluto()
    node.start_agent()
    wait_until(lambda: "db.sock" in node.appctl("tunnels/show"), 20, "the problem is shown")
    hidden.rename(socket)
    wait_until(
        lambda: "db.sock" not in node.appctl("tunnels/show"), UP_TIMEOUT_S, "OVSDB is found"
    )


def test_absent_pluto_is_said_and_the_guard_stands(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    start_closed(a, "--no-restart-ike-daemon")
    since = lab.wire.mark()
    with lab.traffic(a, b):
        a.add_tunnel("tun-b", b.ipv4, psk=PSK)
        wait_until(lambda: "tun-b" in a.appctl("tunnels/show"), 20, "the row is read")
        settle(2)
    assert "not running" in a.appctl("tunnels/show")
    assert lab.wire.count(Kind.PLAINTEXT, since=since, src=a.ipv4) == 0


def test_read_only_configuration_directory_is_said_and_leaves_no_partial_file(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    a.start_pluto()
    a.run(["mount", "-t", "tmpfs", "-o", "ro", "none", "/etc/ipsec.d"])
    a.start_agent()
    a.add_tunnel("tun-b", b.ipv4, psk=PSK)
    wait_until(lambda: "Last error" in a.appctl("tunnels/show"), 20, "the error is shown")
    shown = a.appctl("tunnels/show")
    assert "/etc/ipsec.d" in shown
    assert a.run(["ls", "-A", "/etc/ipsec.d"]).strip() == ""
    a.run(["mount", "-o", "remount,rw", "/etc/ipsec.d"])
    wait_until(lambda: "Last error" not in a.appctl("tunnels/show"), 60, "it recovers")


def test_keys_that_are_lost_while_the_agent_is_dead_are_written_again(lab: Lab) -> None:
    with encrypted_pair(lab) as pair:
        node = pair.a
        node.kill_agent(9)
        keys = node.path("/etc/ipsec.d/ovn-ipsec/all.tunnels.secrets")
        keys.unlink()
        node.whack("--rereadsecrets")
        before = sa_serials(node)
        node.start_agent(*node.agent_flags)
        wait_until(keys.exists, 20, "the keys are there again")
        assert wait_at_rest(pair.a, pair.b)["a"] == before
        for name in ("tun-b-in-1", "tun-b-out-1"):
            node.whack("--name", name, "--terminate")
        pair.heals_within(UP_TIMEOUT_S, time.monotonic())
        pair.assert_no_plaintext()


def test_full_disk_leaves_no_partial_file_and_recovers(lab: Lab) -> None:
    a, b = lab.overlay("a", "b")
    a.start_pluto()
    a.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", "/etc/ipsec.d"])
    a.run(["sh", "-c", "head -c 4096 /dev/zero > /etc/ipsec.d/ballast"])
    a.start_agent()
    a.add_tunnel("tun-b", b.ipv4, psk=PSK)
    wait_until(lambda: "Last error" in a.appctl("tunnels/show"), 20, "the error is shown")
    left = a.run(["find", "/etc/ipsec.d", "-type", "f"]).split()
    assert left == ["/etc/ipsec.d/ballast"]
    a.run(["mount", "-o", "remount,size=1m", "/etc/ipsec.d"])
    wait_until(lambda: "Last error" not in a.appctl("tunnels/show"), 60, "it recovers")


def test_port_500_of_a_foreign_program_is_named(lab: Lab) -> None:
    (node,) = lab.overlay("a")
    squatter = node.listen(node.ipv4, 500)
    try:
        node.start_agent()
        wait_until(lambda: "500" in node.appctl("tunnels/show"), 30, "the reason is shown")
        assert "not running" in node.appctl("tunnels/show")
    finally:
        squatter.close()


def _add_row(node: Node, name: str, options: dict[str, str]) -> None:
    pairs = [f"options:{key}={json.dumps(value)}" for key, value in options.items()]
    words = ["add-port", "br0", name, "--", "set", "interface", name, "type=geneve", *pairs]
    node.vsctl("--no-wait", *words)


def _assert_secret_nowhere(node: Node, shown: str) -> None:
    assert SECRET not in shown
    for name, text in node.logs().items():
        if "ovs-vswitchd" not in name and "ovsdb" not in name:
            assert SECRET not in text, f"{name} has the secret"
    for path in node.path("/etc").rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o077 and "openvswitch" not in path.parts:
            assert SECRET not in path.read_text(errors="replace"), f"{path} is readable"
