"""verify's own eyes against the kernel: policies over netlink, packets on a wire."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovn_ipsec.drivers.xfrm import parse_policies
from tests.contract.two_plutos import Pluto, TwoPlutos

pytestmark = pytest.mark.contract

PROBE = """
import json, sys, threading, time, socket
from ovn_ipsec.verify.kernel import read_addresses, read_policies, read_states
from ovn_ipsec.verify.capture import capture
peer = sys.argv[1]
def send():
    time.sleep(0.5)
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(3):
        plain.sendto(b"geneve", (peer, 6081))
    esp = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
    for _ in range(2):
        esp.sendto(b"spi.seq.data", (peer, 0))
threading.Thread(target=send).start()
captured = capture({peer}, {6081}, 1.5)
told = {f"{flow.kind.value} {'out' if flow.sent else 'in'}": n
        for flow, n in captured.counts.items()}
print(json.dumps({"counts": told, "policies": sorted(map(repr, read_policies())),
                  "states": len(read_states()), "addresses": sorted(read_addresses()),
                  "lost": captured.lost}))
"""

# Geneve packets to an address, some in a burst, and what a busy node sends besides.
CAPTURE = """
import json, sys, threading, time, socket
from ovn_ipsec.verify import capture as eyes
from ovn_ipsec.verify.kernel import read_addresses
room, peers, target, burst, noise = json.loads(sys.argv[1])
if room is not None:
    eyes._ROOM_BYTES = room
family = socket.AF_INET6 if ":" in target else socket.AF_INET
def send(port, count, pause_s):
    time.sleep(0.5)
    out = socket.socket(family, socket.SOCK_DGRAM)
    for _ in range(count):
        out.sendto(b"x" * 40, (target, port))
        if pause_s:
            time.sleep(pause_s)
threads = [threading.Thread(target=send, args=each)
           for each in [(6081, burst, 0), (6081, 10, 0.05), (9, noise, 0)]]
# What waits for the neighbour's address is not sent, and soon dropped.
socket.socket(family, socket.SOCK_DGRAM).sendto(b"", (target, 9))
for each in threads:
    each.start()
captured = eyes.capture(peers, {6081}, 3.0, read_addresses())
for each in threads:
    each.join()
print(json.dumps({"counts": [[*flow._replace(kind=flow.kind.value), n]
                             for flow, n in captured.counts.items()], "lost": captured.lost}))
"""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoPlutos]:
    with TwoPlutos(tmp_path) as plutos:
        yield plutos


def test_policies_and_packets_are_seen_as_they_are(two: TwoPlutos) -> None:
    left, right = two.ends
    ip = [*left.enter, "ip", "xfrm", "policy"]
    selectors = [
        f"src {left.address}/32 dst {right.address}/32 proto udp dport 7081 dir out",
        f"src {right.address}/32 dst {left.address}/32 proto udp sport 7081 dir in",
        "src 2001:db8::1/128 dst 2001:db8::/64 proto gre dir out",
    ]
    for selector in selectors:
        template = "tmpl proto esp mode transport level use"
        subprocess.run([*ip, "add", *selector.split(), *template.split()], check=True)
    done = subprocess.run(
        [*left.enter, sys.executable, "-c", PROBE, right.address],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["counts"]["plain out"] == 3
    assert told["counts"]["esp out"] == 2
    listed = subprocess.run([*ip, "list"], capture_output=True, text=True, check=True).stdout
    assert told["policies"] == sorted(map(repr, parse_policies(listed)))
    assert len(told["policies"]) == len(selectors)
    assert told["lost"] == 0
    links = json.loads(subprocess.check_output([*left.enter, "ip", "-json", "addr"]))
    addresses = {each["local"] for link in links for each in link["addr_info"]}
    assert left.address in addresses
    assert set(told["addresses"]) == addresses


def capture(
    end: Pluto, target: str, *peers: str, burst: int = 0, noise: int = 0, room: int | None = None
) -> dict[str, Any]:
    """What is seen of ten Geneve packets to this address, and more."""
    words = json.dumps([room, peers, target, burst, noise])
    argv = [*end.enter, sys.executable, "-c", CAPTURE, words]
    told: dict[str, Any] = json.loads(subprocess.check_output(argv, timeout=60))
    return told


@pytest.mark.parametrize("spelled", ["FD00::2", "fd00:0:0::2"])
def test_packets_to_a_peer_are_seen_however_its_row_spells_the_address(
    two: TwoPlutos, spelled: str
) -> None:
    left, right = two.ends
    for end, address in ((left, "fd00::1/64"), (right, "fd00::2/64")):
        words = ["addr", "add", address, "nodad", "dev", "eth0"]
        subprocess.run([*end.enter, "ip", *words], check=True)
    assert capture(left, "fd00::2", spelled)["counts"] == [["fd00::2", "plain", True, 6081, 10]]


def test_packets_in_clear_are_seen_whoever_gets_them(two: TwoPlutos) -> None:
    left, right = two.ends
    told = capture(left, right.address, "192.0.2.200")
    assert told["counts"] == [[right.address, "plain", True, 6081, 10]]


def test_other_traffic_crowds_out_no_tunnel_packet(two: TwoPlutos) -> None:
    left, right = two.ends
    told = capture(left, right.address, right.address, noise=20000, room=0)
    assert told == {"counts": [[right.address, "plain", True, 6081, 10]], "lost": 0}


def test_packets_that_came_too_fast_are_told(two: TwoPlutos) -> None:
    left, right = two.ends
    told = capture(left, right.address, right.address, burst=5000, room=0)
    assert told["lost"] > 0
    assert told["lost"] + told["counts"][0][-1] == 5010


def test_room_for_a_burst_is_enough_for_all_of_it(two: TwoPlutos) -> None:
    left, right = two.ends
    told = capture(left, right.address, right.address, burst=10000)
    assert told == {"counts": [[right.address, "plain", True, 6081, 10010]], "lost": 0}
